"""Compare and swap: change one datum so that no other writer's change is lost, by the verbs that every store has."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, TypeVar

from dgent.exceptions import StateConflict, VersionConflict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.datum import Datum
    from dgent.store import StateBackend

T = TypeVar("T")

ATTEMPTS: Final = 64
"""How often a change is tried before it is given up."""
_LONGEST_PAUSE: Final = 0.05  # seconds


async def swap(
    store: StateBackend,
    id: str,
    change: Callable[[Datum | None], Awaitable[tuple[Datum | None, T]]],
    *,
    attempts: int = ATTEMPTS,
) -> T:
    """Put what `change` makes of the live datum, and return what else it gives; again when another writer was first.

    What expires does so when it would have: a change moves no time to live.

    `change` takes the live datum, or None, and gives the next one, or None to leave it, and a result. It runs once for
    each attempt, and exactly once where nobody else writes. What it raises ends the swap with nothing written.

    Raises:
        StateConflict: others were first each time; it carries both versions.
    """
    for attempt in range(1, attempts + 1):
        live = await store.get(id)
        fresh, result = await change(live)
        if fresh is None:
            return result
        try:
            await store.put(fresh, expect=0 if live is None else live.version, ttl="keep")
        except VersionConflict as conflict:
            if attempt == attempts:
                raise StateConflict(id, conflict.expected, conflict.actual, attempts) from None
        else:
            return result
        await pause(attempt)
    raise ValueError(f"attempts is {attempts}: try at least once")


async def pause(attempt: int, longest: float = _LONGEST_PAUSE) -> None:
    """Wait for a random time, longer at each attempt, so that writers who met do not meet again."""
    await asyncio.sleep(random.uniform(0, min(0.001 * 2**attempt, longest)))  # noqa: S311  # spreads writers
