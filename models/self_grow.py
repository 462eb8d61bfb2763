"""`dgent.models.self_grow` under the name that a checkout uses."""

from __future__ import annotations

from dgent.models.self_grow import STATUS, GrowthBudget, GrowthProposal, NurseryEntry, RollbackToken

__all__ = ["STATUS", "GrowthBudget", "GrowthProposal", "NurseryEntry", "RollbackToken"]
