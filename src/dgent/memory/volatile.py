"""The backend that forgets at the end of the process: for tests, for caches, and as the last link of a chain."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from dgent.datum import Limits
from dgent.exceptions import StoreClosed
from dgent.memory.change import Change, OnChange, announce
from dgent.memory.ledger import Clock, Draft, Ledger
from dgent.memory.resident import ResidentBackend
from dgent.protocol import Capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.memory.shelf import Shelf, Stored

T = TypeVar("T")


class MemoryBackend(ResidentBackend):
    """Datums in memory, safe between tasks and threads; the same verbs and laws as every other backend."""

    name: ClassVar[str] = "memory"
    priority: ClassVar[int] = 100
    capabilities: ClassVar[Capabilities] = Capabilities(durable=False, transactions=False, shared=False, indexed=False)

    def __init__(
        self,
        namespace: str = "default",
        *,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        clock: Clock = time.time,
        on_change: OnChange | None = None,
    ) -> None:
        super().__init__(namespace)
        self._on_change = on_change
        self._house = _House(Ledger(limits, clock))

    async def close(self) -> None:
        """Forget everything. May be called twice."""
        self._house.ledger = None

    async def _current(self) -> Ledger:
        return self._house.open()

    async def _commit(self, decide: Callable[[Draft], T]) -> T:
        ledger = self._house.open()
        with ledger.lock:
            draft = Draft(ledger)
            answer = draft.unit(decide)
            changes = draft.apply()
        announce(self._on_change, changes)
        return answer

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
