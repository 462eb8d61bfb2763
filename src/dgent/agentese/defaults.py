"""Which of the shipped tables agents may read, unless their umwelt says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dgent.models import (
    BrainSetting,
    Citizen,
    CitizenConversation,
    ConversationTurn,
    Crystal,
    GardenerSession,
    GardenIdea,
    GardenPlot,
)

if TYPE_CHECKING:
    from dgent.models import Base

# Not the tables of self.grow, by which an agent would judge itself, and not the tag index, which follows its crystals.
AGENT_TABLES: Final[tuple[type[Base], ...]] = (
    Crystal,
    BrainSetting,
    Citizen,
    CitizenConversation,
    ConversationTurn,
    GardenPlot,
    GardenerSession,
    GardenIdea,
)
"""The models that a storage registers when it opens."""
