"""How long to wait before the next try: longer each time, up to a bound, and never as long as somebody else."""

from __future__ import annotations

import random
from typing import Final

_MOST_DOUBLINGS: Final = 30  # beyond every bound, and far from what a float cannot hold


class Backoff:
    """The pauses of one loop of tries, in seconds: doubled each time, each a random part of that.

    Args:
        first: the longest that the first pause can be.
        longest: the longest that any can be.
        least: the part of a pause that is not left to chance. Where few wait for something to come back, a half; where
            many fight for one thing, nothing, so that those who met do not meet again.
    """

    def __init__(self, first: float, longest: float, *, least: float = 0.5) -> None:
        self._first, self._longest, self._least = first, longest, least
        self._tries = 0

    @property
    def bound(self) -> float:
        """The longest that the next pause can be."""
        return min(self._first * 2.0**self._tries, self._longest)

    def pause(self) -> float:
        """Return how long to wait now."""
        bound = self.bound
        self._tries = min(self._tries + 1, _MOST_DOUBLINGS)
        return bound * random.uniform(self._least, 1)  # noqa: S311  # spreads those who wait, and is no secret

    def reset(self) -> None:
        """Begin anew: it worked."""
        self._tries = 0
