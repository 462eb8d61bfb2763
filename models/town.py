"""`dgent.models.town` under the name that a checkout uses."""

from __future__ import annotations

from dgent.models.town import Citizen, CitizenConversation, ConversationTurn

__all__ = ["Citizen", "CitizenConversation", "ConversationTurn"]
