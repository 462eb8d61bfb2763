"""One state in one store: loaded, saved, and changed so that no writer's change is lost."""

# changing   one task of each event loop has this agent's lock for that loop (`PriorityLock`), while `step` runs and
#            until the state is stored
# waiting    the others of that loop, in order: a cancelled one is passed over, and changes nothing
# outrun     another agent of this state, on another loop or in another process, was first, or `save` was: `step` runs
#            again from the new state, under the lock
#
# A cancel of the task that changes ends `step`, or the put, which is done whole or not at all; the lock is passed on.
# Whatever else an agent does takes no lock.

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from dgent.agents.priority_lock import PriorityLock
from dgent.agents.state_codec import StateCodec, codec_of
from dgent.compare_and_swap import ATTEMPTS, compare_and_swap
from dgent.exceptions import DatumNotFound, InvalidState, ReentrantInvoke
from dgent.store import DgentProtocol, StateBackend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.datum import Datum

S = TypeVar("S")
T = TypeVar("T")


class Saved(NamedTuple, Generic[S]):
    """A state as it was saved: `state` is None, and `deleted` true, where somebody deleted the datum."""

    version: int
    saved_at: float
    state: S | None
    deleted: bool = False


class DataAgent(Generic[S]):
    """Keep one state in a datum, or in a row of a typed table.

    Args:
        backend: any `DgentProtocol`; a `TableAdapter` keeps the state as a row, whose version column guards it.
        state_type: what the state is: JSON values, a dataclass, a pydantic model, or a mapped class in its table.
        id: of the datum or the row.
        initial_state: the state until one is saved; else None where the type takes it, else `state_type()`.
        attempts: how often a change is tried when other writers are first.

    Raises:
        InvalidState: the initial state or the type cannot be stored.
        CapabilityMissing: the store compares no versions.
    """

    def __init__(
        self,
        backend: StateBackend,
        state_type: type[S],
        *,
        id: str = "state",
        initial_state: S | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        if not isinstance(backend, StateBackend):
            raise InvalidState(
                f"{type(backend).__name__} keeps no datums: pass storage.memory, or another DgentProtocol"
            )
        self.backend, self.id, self.attempts = backend, id, attempts
        self._codec: StateCodec[S] = codec_of(backend, state_type, id, {"type": "state"})
        self._initial = None if initial_state is None else self._codec.encode(initial_state, None)
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, PriorityLock] = WeakKeyDictionary()

    async def load(self) -> S:
        """Return the state as it is now, an object of its own at each call."""
        return self._state_in(await self.backend.get(self.id))

    async def save(self, state: S, *, expect: int | None = None) -> int:
        """Store a state and return its version; without `expect` the last writer wins.

        A datum that expires does so when it would have.

        Raises:
            VersionConflict: another version than `expect` (0: none) is live.
            InvalidState: it cannot be stored.
        """
        live = await self.backend.get(self.id)
        stored = await self.backend.put(self._codec.encode(state, live), expect=expect, ttl="keep")
        return stored.version

    async def history(self, limit: int = 1000) -> list[Saved[S]]:
        """Return the last `limit` states that were saved, oldest first.

        Raises:
            CapabilityMissing: the store keeps no history.
        """
        revisions = await self._store().history(self.id, limit=limit)
        return [
            Saved(each.version, each.stored_at, None, deleted=True)
            if each.datum is None
            else Saved(each.version, each.stored_at, self._codec.decode(each.datum))
            for each in revisions
        ]

    async def at(self, version: int) -> S:
        """Return the state that was saved as `version`; 0 is the initial one.

        Raises:
            DatumNotFound: there is no such version.
            CapabilityMissing: the store keeps no history.
        """
        if version == 0:
            return self._state_in(None)
        datum = await self.backend.get(self.id, version=version)
        if datum is None:
            raise DatumNotFound(f"{self.id!r} has no version {version}: history() lists those that it has")
        return self._codec.decode(datum)

    async def change(self, step: Callable[[S], Awaitable[tuple[T, S]]]) -> T:
        """Replace the state by what `step` makes of it, and return what else it gives.

        Changes that wait in one event loop go one after the other. Where another thread or process was first, `step`
        runs again from the new state, so what it does besides may happen more than once.

        Raises:
            StateConflict: others were first each time.
            ReentrantInvoke: called from inside of `step`.
            InvalidState: the new state cannot be stored; the one that was there stays.
        """

        async def made(live: Datum | None) -> tuple[Datum | None, T]:
            result, state = await step(self._state_in(live))
            fresh = self._codec.encode(state, live)
            unchanged = fresh.content == (live or self._first()).content
            return (None if unchanged else fresh), result

        lock = self._locks.setdefault(asyncio.get_running_loop(), PriorityLock())
        if lock.inside():
            raise ReentrantInvoke(
                f"the state {self.id!r} is being changed right here: return the new state, or use another namespace"
            )
        return await lock.run(
            partial(compare_and_swap, self.backend, self.id, attempts=self.attempts), made, first=True
        )

    def _state_in(self, datum: Datum | None) -> S:
        return self._codec.decode(datum or self._first())

    def _first(self) -> Datum:
        """Return the initial state as a datum, so that each load makes a state of its own."""
        if self._initial is None:
            self._initial = self._codec.encode(self._codec.default(), None)
        return self._initial

    def _store(self) -> DgentProtocol:
        if not isinstance(self.backend, DgentProtocol):
            raise InvalidState(f"{type(self.backend).__name__} has no verb history")
        return self.backend
