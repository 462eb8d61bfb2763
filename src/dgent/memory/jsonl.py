"""The backend that keeps datums in one JSONL file: durable, shared between processes, readable with any text tool."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from dgent.database.worker import Job, Worker, deliver
from dgent.datum import Limits
from dgent.exceptions import DgentError, StorageError, StoreClosed
from dgent.memory.change import Change, OnChange, announce
from dgent.memory.journal import Journal
from dgent.memory.ledger import Clock, Draft, Ledger
from dgent.memory.resident import ResidentBackend
from dgent.protocol import Capabilities, StoreStats
from dgent.settings import checked_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from dgent.memory.shelf import Shelf, Stored

T = TypeVar("T")
_FLUSH: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Write:
    decide: Callable[[Draft], Any]


@dataclass(frozen=True, slots=True)
class _Erase:
    namespace: str
    choose: Callable[[Shelf], list[Stored]]
    purged: str | None


@dataclass(frozen=True, slots=True)
class _Look:
    """Only see what other processes wrote."""


class JSONLBackend(ResidentBackend):
    """Datums in one file, which is read into memory when it is first used.

    Writes that wait together share one line, one write and one sync; each is acknowledged after the sync. Several
    processes may use the file at once: they take turns at `<name>.lock`, and each sees what the others acknowledged.
    What a crash left of a write is kept aside in `<name>.torn-1` and so on. Erasing (purge, compact) writes the file
    anew, so it needs as much free space as the file has.

    Args:
        path: where the file lies, or will after the first use; private to its owner.
        lock_timeout: longest wait for another process, in seconds.

    Raises:
        InvalidSettings: a URL, or a name of a database in memory, stands where the path of a file is meant.
    """

    name: ClassVar[str] = "jsonl"
    priority: ClassVar[int] = 75
    capabilities: ClassVar[Capabilities] = Capabilities(transactions=False, indexed=False)

    def __init__(
        self,
        path: str | os.PathLike[str],
        namespace: str = "default",
        *,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        clock: Clock = time.time,
        on_change: OnChange | None = None,
        lock_timeout: float = 30.0,
    ) -> None:
        super().__init__(namespace)
        file = checked_path(path, "MemoryBackend()")
        self._house = _House(Journal(file, limits, clock, lock_timeout), on_change)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._house.journal.path

    async def prepare(self) -> str:
        """Make the file if it is not there, and return the id of the store."""
        await self._current()
        return self._house.journal.store

    async def close(self) -> None:
        """Wait for what was asked for, then release the file and the thread. May be called twice."""
        await self._house.close()

    async def stats(self) -> StoreStats:
        """Return what the namespace holds, and how large the whole file is."""
        return replace(await super().stats(), size=self._house.journal.size)

    async def status(self) -> Mapping[str, object]:
        """Return what a person wants to know."""
        journal = self._house.journal
        torn = sorted(path.name for path in journal.path.parent.glob(f"{journal.path.name}.torn-*"))
        where = {"path": str(journal.path), "size": journal.size, "generation": journal.generation, "torn": torn}
        return {**await super().status(), **where}

    async def _current(self) -> Ledger:
        house = self._house
        if not house.open().is_current():
            await house.do(_Look())
        return house.journal.ledger

    async def _commit(self, decide: Callable[[Draft], T]) -> T:
        answer: T = await self._house.do(_Write(decide))
        return answer

    async def _erase(self, choose: Callable[[Shelf], list[Stored]], purged: str | None) -> int:
        erased: int = await self._house.do(_Erase(self.namespace, choose, purged))
        return erased


class _House:
    """What the namespaces of one store share: the journal, and the thread that alone writes it."""

    def __init__(self, journal: Journal, on_change: OnChange | None) -> None:
        self.journal = journal
        self._on_change = on_change
        self._worker: Worker | None = None
        self._starting = Lock()
        self._closed = False
        self._process: Final = os.getpid()

    def open(self) -> Journal:
        """Return the journal, or raise StoreClosed."""
        if self._closed:
            raise StoreClosed(f"the store {self.journal.path} was closed: open it again")
        if os.getpid() != self._process:
            raise StoreClosed(f"the store {self.journal.path} was opened before a fork: open it anew in the child")
        return self.journal

    async def do(self, task: _Write | _Erase | _Look) -> Any:
        """Have the thread do a task, together with all that waits, and return its answer."""
        with self._starting:
            self.open()
            if self._worker is None:
                self._worker = Worker(f"dgent-jsonl-{self.journal.path.name}", self._run, self.journal.close)
        return await self._worker.do(task)

    async def close(self) -> None:
        """End the thread after what it has to do."""
        with self._starting:
            self._closed = True
        if self._worker is not None:
            await self._worker.stop()

    def _run(self, jobs: list[Job]) -> None:
        with self.journal.exclusive():
            draft = Draft(self.journal.ledger)
            drafted: list[Job] = []
            for job in jobs:
                if isinstance(job.task, _Write):
                    self._decide(draft, job)
                    drafted.append(job)
                if isinstance(job.task, _Erase) or draft.weight > _FLUSH:
                    self._flush(draft, drafted)
                    draft, drafted = Draft(self.journal.ledger), []
                if isinstance(job.task, _Erase):
                    self._do_erase(job)
            self._flush(draft, drafted)
        deliver(jobs)

    def _decide(self, draft: Draft, job: Job) -> None:
        try:
            with self.journal.ledger.lock:
                job.result = draft.unit(job.task.decide)
        except DgentError as error:
            job.error = error

    def _flush(self, draft: Draft, drafted: list[Job]) -> None:
        try:
            announce(self._on_change, self.journal.append(draft))
        except StorageError as error:
            for job in drafted:  # even one that changed nothing may have relied on one that did
                job.error = job.error or error

    def _do_erase(self, job: Job) -> None:
        task, ledger = job.task, self.journal.ledger
        try:
            with ledger.lock:
                doomed = task.choose(ledger.shelf(task.namespace))
            if doomed:
                self.journal.erase(task.namespace, doomed)
            if doomed and task.purged is not None:
                announce(self._on_change, [Change("purge", task.namespace, task.purged)])
            job.result = len(doomed)
        except DgentError as error:
            job.error = error
