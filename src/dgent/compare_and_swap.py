"""Compare and swap: change one datum so that no other writer's change is lost, by the verbs that every store has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from dgent.exceptions import InvalidInput, StateConflict, VersionConflict
from dgent.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.datum import Datum
    from dgent.store import StateBackend

T = TypeVar("T")

ATTEMPTS: Final = 64
"""How often a change is tried before it is given up."""
_FIRST_PAUSE: Final = 0.002  # seconds
_LONGEST_PAUSE: Final = 0.05


async def compare_and_swap(
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
        InvalidInput: there is to be no attempt.
    """
    backoff = after_conflict()
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
        await asyncio.sleep(backoff.pause())
    raise InvalidInput(f"attempts is {attempts!r}: try at least once")


def after_conflict() -> Backoff:
    """Return the pauses of writers who met, so that they do not meet again."""
    return Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, least=0)
