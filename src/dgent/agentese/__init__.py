"""Agent paths: `self.data.*` is agent memory, `self.data.table.*` the typed tables, both within what was granted."""

from __future__ import annotations

from dgent.agentese.default_tables import AGENT_TABLES, promoted
from dgent.agentese.resolver import Resolver
from dgent.agentese.umwelt import Grant, Right, Umwelt

__all__ = ["AGENT_TABLES", "Grant", "Resolver", "Right", "Umwelt", "promoted"]
