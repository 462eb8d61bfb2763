"""What a program does with both tracks at once: the Brain, the Town and the Gardener."""

from __future__ import annotations

from dgent.services.brain import Brain, NewCrystal
from dgent.services.gardener import Gardener
from dgent.services.repair import RepairReport
from dgent.services.town import NewTurn, Resumed, Town

__all__ = ["Brain", "Gardener", "NewCrystal", "NewTurn", "RepairReport", "Resumed", "Town"]
