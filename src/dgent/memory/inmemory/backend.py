"""The backend that forgets at the end of the process: for tests, for caches, and as the last link of a chain."""

# A verb is one step on its caller's thread: under the lock of the state it is planned and shown, then listeners are
# told without that lock, so of two threads the second one's may be told first. Nothing is awaited in it, so no cancel
# splits it. `close` takes no lock: a verb that has the state ends on it, and a later one is refused, as in a child of a
# fork.

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from dgent.capabilities import Capabilities
from dgent.datum_id import uuid7
from dgent.exceptions import StoreClosed
from dgent.limits import Limits
from dgent.memory.change import Change, OnChange, announce, changes_of
from dgent.memory.inmemory.resident_backend import ResidentBackend
from dgent.memory.inmemory.store_state import Clock, StoreState
from dgent.validation import check_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dgent.memory.change import Change
    from dgent.memory.inmemory.store_state import Doomed
    from dgent.operations import Operation
    from dgent.store import Outcomes


class MemoryBackend(ResidentBackend):
    """Datums in memory, safe between tasks and threads; the same verbs and laws as every other backend."""

    name = "memory"
    priority = 100
    capabilities = Capabilities(durable=False, transactions=False, shared=False, indexed=False)

    def __init__(
        self,
        namespace: str = "default",
        *,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        clock: Clock = time.time,
        on_change: OnChange | None = None,
    ) -> None:
        self.namespace, self.limits = check_namespace(namespace), limits
        self._on_change = on_change
        self._shared = _SharedState(StoreState(limits, clock))

    @property
    @override
    def where(self) -> str:
        """An id of its own: another one in memory is another store, also under the same namespace."""
        return self._shared.id

    @override
    async def close(self) -> None:
        """Forget everything. May be called twice."""
        self._shared.state = None

    @override
    async def _current(self) -> StoreState:
        return self._shared.open()

    def check(self, operations: Sequence[Operation]) -> None:
        """Raise what writing them now would raise, and write nothing."""
        state = self._shared.open()
        with state.lock:
            state.batch(self.namespace).apply(operations)

    @override
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        state = self._shared.open()
        with state.lock:
            batch = state.batch(self.namespace)
            outcomes = batch.apply(operations)
            state.take([batch])
        if self._on_change is not None:
            announce(self._on_change, changes_of(self.namespace, operations, outcomes))
        return outcomes

    @override
    async def _forget(self, choose: Callable[[StoreState], Doomed], told: Callable[[Doomed], list[Change]]) -> Doomed:
        state = self._shared.open()
        with state.lock:
            doomed = choose(state)
            state.forget(doomed)
        if doomed:
            announce(self._on_change, told(doomed))
        return doomed


class _SharedState:
    """What the namespaces of one store share."""

    def __init__(self, state: StoreState) -> None:
        self.state: StoreState | None = state
        self.id: Final = uuid7()
        self._process: Final = os.getpid()

    def open(self) -> StoreState:
        if self.state is None:
            raise StoreClosed("the memory store was closed and what it held is gone: make a new one")
        if os.getpid() != self._process:
            raise StoreClosed(
                "the memory store was made before a fork and is not shared with the child: make a new one"
            )
        return self.state
