"""The schemas that D-gent itself declares."""

from __future__ import annotations

from dgent.crystal.schemas.brain import BrainCrystal, BrainSettingCrystal
from dgent.crystal.schemas.trail import Trail, TrailStep
from dgent.crystal.schemas.witness import WitnessMark, WitnessTrust

__all__ = ["BrainCrystal", "BrainSettingCrystal", "Trail", "TrailStep", "WitnessMark", "WitnessTrust"]
