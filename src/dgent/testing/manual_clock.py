"""A clock that moves when it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ManualClock:
    """Unix seconds that stand still until `advance`; pass it as the `clock` of a store.

    Attributes:
        followers: are told each new time, so that the clock of a server can be kept at the same.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self.followers: list[Callable[[float], None]] = []

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    @property
    def now(self) -> float:
        """The time; set it to any other."""
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        self._now = now
        for follow in self.followers:
            follow(now)

    def advance(self, seconds: float) -> None:
        """Let time pass, or go back."""
        self.now += seconds
