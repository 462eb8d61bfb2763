"""The backend that forgets at the end of the process: for tests, for caches, and as the last link of a chain."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from dgent.capabilities import Capabilities
from dgent.checks import check_namespace
from dgent.datum import Limits
from dgent.exceptions import StoreClosed
from dgent.memory.change import Change, OnChange, announce
from dgent.memory.ledger import Clock, Ledger
from dgent.memory.resident import ResidentBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dgent.memory.shelf import Shelf, Stored
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
        self._house = _House(Ledger(limits, clock))

    @override
    async def close(self) -> None:
        """Forget everything. May be called twice."""
        self._house.ledger = None

    @override
    async def _current(self) -> Ledger:
        return self._house.open()

    @override
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        ledger = self._house.open()
        with ledger.lock:
            batch = ledger.batch(self.namespace)
            outcomes = batch.apply(operations)
            changes = ledger.take([batch])
        announce(self._on_change, changes)
        return outcomes

    @override
    async def _erase(self, choose: Callable[[Shelf], list[Stored]], purged: str | None) -> int:
        ledger = self._house.open()
        with ledger.lock:
            shelf = ledger.shelf(self.namespace)
            doomed = choose(shelf)
            shelf.erase(doomed)
        if purged is not None and doomed:
            announce(self._on_change, [Change("purge", self.namespace, purged)])
        return len(doomed)


class _House:
    """What the namespaces of one store share."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger: Ledger | None = ledger
        self._process: Final = os.getpid()

    def open(self) -> Ledger:
        if self.ledger is None:
            raise StoreClosed("the memory store was closed and what it held is gone: make a new one")
        if os.getpid() != self._process:
            raise StoreClosed(
                "the memory store was made before a fork and is not shared with the child: make a new one"
            )
        return self.ledger
