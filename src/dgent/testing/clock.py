"""A clock that moves when it is told to."""

from __future__ import annotations


class ManualClock:
    """Unix seconds that stand still until `advance`; pass it as the `clock` of a store."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
