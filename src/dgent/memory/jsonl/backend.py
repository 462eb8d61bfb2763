"""The backend that keeps datums in one JSONL file: durable, shared between processes, readable with any text tool."""

# a verb                          thread                                            what a cancel of its caller does
# read, nothing new in the file   the caller's, under the state's lock              none can come meanwhile
# read, behind a look             the file's own looks, under the lock between      the look is never begun, or goes on
#                                 processes; then the caller's reads                for nobody
# write, erase                    the file's own: all that waits is planned, then   it is never begun, or done whole
#                                 one line is appended and synced, then it shows
# close                           the closer's; the thread ends when what waits     it is held back until the thread
#                                 is done                                           has ended
#
# `_starting`, a thread lock, is held for one step, to begin the thread and to close. The state's lock is held to plan,
# to show and to read, never while the file is written: a reader waits for no disk, and what is written here shows after
# its sync. A child of a fork is refused.

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from dgent.capabilities import Capabilities
from dgent.exceptions import DgentError, StorageError, StoreClosed
from dgent.limits import Limits
from dgent.memory.change import Change, OnChange, announce, changes_of
from dgent.memory.inmemory.resident_backend import ResidentBackend
from dgent.memory.jsonl.journal import Journal
from dgent.runtime.batch_worker import BatchWorker, Job, complete
from dgent.runtime.durable_files import os_errors
from dgent.settings import checked_path
from dgent.validation import check_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dgent.erasure_request import Erased, Erasure
    from dgent.memory.change import Change
    from dgent.memory.inmemory.namespace_state import StoredVersion
    from dgent.memory.inmemory.store_state import Clock, Doomed, StoreState
    from dgent.memory.write_batch import WriteBatch
    from dgent.operations import Operation
    from dgent.store import Outcomes, StoreStats

_FLUSH: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Write:
    namespace: str
    operations: Sequence[Operation]


@dataclass(frozen=True, slots=True)
class _Forget:
    choose: Callable[[StoreState], Doomed]
    told: Callable[[Doomed], list[Change]]


@dataclass(frozen=True, slots=True)
class _Look:
    """Only see what other processes wrote."""


class JSONLBackend(ResidentBackend):
    """Datums in one file, which is read into memory when it is first used.

    Writes that wait together share one line, one write and one sync; each is acknowledged after the sync. Several
    processes may use the file at once: they take turns at `<name>.lock`, and each sees what the others acknowledged.
    What a crash left of a write is kept aside in `<name>.torn-1` and so on, until something is erased by `erase`:
    nobody can tell whose it is. Erasing (purge, compact, erase) writes the file anew, so it needs as much free space
    as the file has.

    Args:
        path: where the file lies, or will after the first use; private to its owner.
        lock_timeout: longest wait for another process, in seconds.

    Raises:
        InvalidSettings: a URL, or a name of a database in memory, stands where the path of a file is meant.
    """

    name = "jsonl"
    priority = 75
    capabilities = Capabilities(transactions=False, indexed=False)

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
        self.namespace, self.limits = check_namespace(namespace), limits
        file = checked_path(path, "MemoryBackend()")
        self._shared = _SharedFile(Journal(file, limits, clock, lock_timeout), on_change)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._shared.journal.path

    @property
    @override
    def where(self) -> str:
        """The real path of the file."""
        return os.path.realpath(self.path)

    async def prepare(self) -> str:
        """Make the file if it is not there, and return the id of the store."""
        await self._current()
        return self._shared.journal.store

    @override
    async def close(self) -> None:
        """Wait for what was asked for, then release the file and the thread. May be called twice."""
        await self._shared.close()

    @override
    async def stats(self) -> StoreStats:
        """Return what the namespace holds, and how large the whole file is."""
        return replace(await super().stats(), size=self._shared.journal.size)

    @override
    async def status(self) -> Mapping[str, object]:
        journal = self._shared.journal
        torn = sorted(path.name for path in self._torn())
        where = {"path": str(journal.path), "size": journal.size, "generation": journal.generation, "torn": torn}
        return {**await super().status(), **where}

    def _torn(self) -> Iterator[Path]:
        path = self._shared.journal.path
        return path.parent.glob(f"{path.name}.torn-*")

    @override
    async def _erase(self, erasure: Erasure, *, vacuum: bool) -> Erased:
        erased = await super()._erase(erasure, vacuum=vacuum)
        with os_errors(self._shared.journal.path):
            for path in self._torn():
                path.unlink(missing_ok=True)
        return erased

    @override
    async def _current(self) -> StoreState:
        shared = self._shared
        if not shared.open().is_current():
            await shared.do(_Look())
        return shared.journal.state

    @override
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        outcomes: Outcomes = await self._shared.do(_Write(self.namespace, operations))
        return outcomes

    @override
    async def _forget(self, choose: Callable[[StoreState], Doomed], told: Callable[[Doomed], list[Change]]) -> Doomed:
        doomed: Doomed = await self._shared.do(_Forget(choose, told))
        return doomed


class _SharedFile:
    """What the namespaces of one store share: the journal, and the thread that alone writes it."""

    def __init__(self, journal: Journal, on_change: OnChange | None) -> None:
        self.journal = journal
        self._on_change = on_change
        self._worker: BatchWorker | None = None
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

    async def do(self, task: _Write | _Forget | _Look) -> Any:
        """Have the thread do a task, together with all that waits, and return its answer."""
        with self._starting:
            self.open()
            if self._worker is None:
                self._worker = BatchWorker(f"dgent-jsonl-{self.journal.path.name}", self._run, self.journal.close)
        return await self._worker.do(task)

    async def close(self) -> None:
        """End the thread after what it has to do."""
        with self._starting:
            self._closed = True
        if self._worker is not None:
            await self._worker.stop()

    def _run(self, jobs: list[Job]) -> None:
        with self.journal.exclusive():
            flush = _Flush(self.journal.state)
            for job in jobs:
                if isinstance(job.task, _Write):
                    flush.plan(job)
                if isinstance(job.task, _Forget) or flush.weight > _FLUSH:
                    self._write(flush)
                    flush = _Flush(self.journal.state)
                if isinstance(job.task, _Forget):
                    self._do_forget(job)
            self._write(flush)
        complete(jobs)

    def _write(self, flush: _Flush) -> None:
        try:
            self.journal.append(flush.batches.values())
        except StorageError as error:
            for job in flush.jobs:  # even one that changed nothing may have relied on one that did
                job.error = job.error or error
        if self._on_change is not None:
            for job in flush.jobs:
                if job.error is None:
                    announce(self._on_change, changes_of(job.task.namespace, job.task.operations, job.result))

    def _do_forget(self, job: Job) -> None:
        task, state = job.task, self.journal.state
        try:
            with state.lock:
                job.result = doomed = task.choose(state)
            if doomed:
                self.journal.forget(doomed)
                announce(self._on_change, task.told(doomed))
        except DgentError as error:
            job.error = error


class _Flush:
    """The writes that share a line and a sync.

    Attributes:
        batches: by namespace.
        jobs: whose they are.
        weight: the bytes of their contents.
    """

    def __init__(self, state: StoreState) -> None:
        self.batches: dict[str, WriteBatch[StoredVersion]] = {}
        self.jobs: list[Job] = []
        self.weight = 0
        self._ledger = state

    def plan(self, job: Job) -> None:
        """Plan the writes of a job; those of one that is refused are as if it had not been there."""
        namespace, operations = job.task.namespace, job.task.operations
        try:
            with self._ledger.lock:
                if namespace not in self.batches:
                    self.batches[namespace] = self._ledger.batch(namespace)
                job.result = self.batches[namespace].apply(operations)
            self.weight += sum(len(one.datum.content) for one in operations if one.datum is not None)
        except DgentError as error:
            job.error = error
        self.jobs.append(job)
