"""`dgent.models.brain` under the name that a checkout uses."""

from __future__ import annotations

from dgent.models.brain import BrainSetting, Crystal, CrystalTag

__all__ = ["BrainSetting", "Crystal", "CrystalTag"]
