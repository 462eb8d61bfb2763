"""One SQLite file: a writer thread that commits in groups, readers that never wait for it, and a lease for the ORM.

Three ways to the file, each with connections of its own:

* the writer takes all the work that waits, runs each unit in a savepoint of one BEGIN IMMEDIATE, and commits once;
* short reads run on the caller's thread, those of many tasks in one call, on a connection that gives up after two
  milliseconds; what is longer, and everything for a while after one gave up, runs on reader threads;
* an ORM transaction begins on its caller's thread if nothing else is under way, else it waits for its lease in the
  writer's queue; the writer serves it and waits until it has ended.

All refuse other files than those that were opened first (`file_identity`); one to be only read has readers alone.
"""

# state            thread                   file lock   write lock     what a cancel of the caller does
# idle             none                     free        free           nothing
# group commit     the writer's             held        writer         a unit is done whole, or never begun
# leased           the writer's serves it,  held        writer         what the body did is undone; a COMMIT that
#                  statements on both                                  was asked for runs to its end
# begun by itself  the caller's; COMMIT     held        that lease,    the same
#                  on the writer's                      then writer
# in doubt         the writer's, at the     held        writer         nothing: it is part of the next commit,
#                  next transaction                                    see `writer`
# reading          any; reader threads      not needed  not needed     a long read goes on to its own limit
# backing up       one of its own           not needed  not needed     no file is left of it, see `backup`
# closing          the closer's, when the   held        writer's for   it goes on to its end
#                  others have ended                    good
#
# The lock of the object (`_lock`) is held only to start threads and to open readers, never while anything is awaited.

from __future__ import annotations

import asyncio
import copy
import threading
import time
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import text

from dgent.exceptions import Corrupt, ReadOnly, StorageTimeout
from dgent.runtime.batch_worker import BatchWorker, Job, complete
from dgent.runtime.event_loop import running_loop, uninterrupted
from dgent.settings import checked_path
from dgent.sql.database import Database
from dgent.sql.errors import raise_ours, translated
from dgent.sql.runner import A, Each, T, Work, only
from dgent.sql.sqlite.backup import Backup
from dgent.sql.sqlite.engine import is_in_transaction
from dgent.sql.sqlite.orm_session import Orm
from dgent.sql.sqlite.read_only import ReadOnlyFile, why_read_only
from dgent.sql.sqlite.readers import Readers, connect_reader, open_reader, open_readers
from dgent.sql.sqlite.write_lease import WriteLease, WriteLock
from dgent.sql.sqlite.writer import GroupCommitWriter, grouped
from dgent.sql.statement import Statement
from dgent.sql.watch import SQLiteWatches

if TYPE_CHECKING:
    import os
    import sqlite3
    from asyncio import Future
    from collections.abc import AsyncIterator, Callable, Hashable

    from sqlalchemy import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.settings import Settings
    from dgent.sql.sqlite.orm_session import OrmSession
    from dgent.sql.watch import Watch

_LOOK: Final = 0.01  # seconds between two looks at the name of the file: one takes a tenth of a short read
_DATA_VERSION: Final = Statement(text("PRAGMA data_version"))
_GRACE: Final = 5.0  # seconds for a transaction to end by itself when its time is up


class SQLiteDatabase(Database):
    """A SQLite file in WAL mode, created privately (0600) on first use."""

    look_every = 0.25

    def __init__(self, url: URL, settings: Settings) -> None:
        super().__init__(url, settings)
        self.path = Path(url.database or "").absolute()
        self.what = str(self.path)
        self._lock = threading.Lock()
        self._thread: BatchWorker | None = None
        self._writer = GroupCommitWriter(self.path, settings)
        self._looks_at = 0.0
        self._wrong: Exception | None = None
        self._read_only: ReadOnlyFile | None = None
        self._readers: Readers | None = None
        self._orm: Orm | None = None
        self._write_lock = WriteLock()
        self._watches: dict[asyncio.AbstractEventLoop, SQLiteWatches] = {}
        self._backups: set[BatchWorker] = set()

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads: on the caller's thread if it is short, else in a snapshot on a reader thread."""
        readers = self._usable_readers() or await self._start()
        if short:
            try:
                done, result = readers.inline.try_run(work)
            except Exception as error:  # a block of `translated` costs as much as a quarter of the read
                raise_ours(error, self.what)
            if done:
                return result  # type: ignore[return-value]
        worker = readers.short if short else readers.scans
        return await worker.do(work)  # type: ignore[no-any-return]

    async def read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Read an item with those that wait for the same turn, or on the caller's thread, or on a reader thread."""
        readers = self._usable_readers() or await self._start()
        if readers.batcher.pays():
            results = await readers.batcher.try_read(work, item, batch_key)
            if results is not None:
                return only(results)
        try:
            _, results = readers.inline.try_run(work, [item])
        except Exception as error:
            raise_ours(error, self.what)
        if results is None:
            results = await readers.short.do(lambda connection: work(connection, [item]))
        return only(results)  # type: ignore[no-any-return]

    def _usable_readers(self) -> Readers | None:
        """Return the readers, if they are open, after a look at the file that they read."""
        readers = self._readers
        if readers is None or self.forked:
            self._check_usable()
        elif (now := time.monotonic()) >= self._looks_at:
            self._look()
            self._looks_at = now + _LOOK
        return readers

    def _look(self) -> None:
        """Look at the files; where that does not tell who wrote into one, let the writer look, under the lock."""
        if self._read_only is not None:
            self._read_only.look()
            return
        try:
            unsure = self._writer.files.look()
        except Corrupt:
            self._let_the_writer_look()  # it saves what is in a -wal that was removed
            raise
        if not unsure:
            self._wrong = None
        elif self._wrong is None:
            self._let_the_writer_look()
        else:
            raise copy.copy(self._wrong)

    def _let_the_writer_look(self) -> None:
        self._the_thread().do(_nothing).add_done_callback(self._judge)

    def _judge(self, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        self._wrong = error if isinstance(error, Corrupt) else None

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work in the writer's next group commit."""
        return await self._write(work)  # type: ignore[no-any-return]

    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Write an item together with those of its key that wait, in the writer's next group commit."""
        return await self._write(work, item, batch_key)  # type: ignore[no-any-return]

    def watch(self, topic: str, wake: Callable[[], None]) -> Watch:
        """Call back when the file may have changed, whatever the topic."""
        self._check_usable()
        loop = running_loop()
        with self._lock:
            self._watches = {other: watches for other, watches in self._watches.items() if not other.is_closed()}
            watches = self._watches.setdefault(loop, SQLiteWatches(self.look_every, self._data_version))
        return watches.add(topic, wake)

    async def backup(self, path: str | os.PathLike[str]) -> Path:
        """Write a copy of the file as it is at one moment, on a thread and a connection of its own.

        Until it has ended the `-wal` grows with what others write, and `close` waits for it.
        """
        backup = Backup(checked_path(path, "no backup: it would be gone with the process"))
        if self._usable_readers() is None:
            await self._start()
        with self._lock:
            self._check_usable()  # closed meanwhile
            worker = open_reader(f"dgent-backup-{self.path.name}", self.path, self.settings, self._connect_reader)
            self._backups.add(worker)
        try:
            with backup:
                await worker.do(backup.make)
        finally:
            with backup:
                await uninterrupted(self._end_backup(worker))
        return backup.path

    async def _end_backup(self, worker: BatchWorker) -> None:
        await worker.stop()
        self._backups.discard(worker)

    def _data_version(self) -> int | None:
        """Return SQLite's count of the commits of other connections; None where it cannot be had at once."""
        with suppress(Exception):  # who watches reads then, and hears of it
            readers = self._usable_readers()
            _, rows = readers.inline.try_run(_DATA_VERSION.rows) if readers is not None else (False, None)
            if rows:
                return int(rows[0][0])
        return None

    async def close(self) -> None:
        """Finish what waits, open transactions too, then close every connection, the writer's last: it checkpoints.

        Raises:
            TransactionOpen: a transaction is open around the caller.
        """
        self._check_closable()
        self._closed = True
        if not self.forked:  # a forked child has none of the threads, and the files are its parent's
            await uninterrupted(self._release())

    async def _release(self) -> None:
        with self._lock:
            readers, thread = self._readers, self._thread
            self._readers = self._thread = None
        for backup in [*self._backups]:
            await backup.stop()
        if readers is not None:
            await readers.close()
        if thread is not None:
            await thread.stop()
            await asyncio.to_thread(self._end_writes)

    def _write(
        self, task: Work[Any] | Each[Any, Any] | WriteLease, item: Any = None, batch_key: Hashable = None
    ) -> Future[Any]:
        self._check_usable()
        self._check_not_nested()
        return (self._thread or self._the_thread()).do(task, item, batch_key)

    def _refuse_read_only(self) -> None:
        with translated(self.what):
            if self.read_only:
                raise ReadOnly(self.read_only)

    def _the_thread(self) -> BatchWorker:
        if self._thread is None:
            with self._lock:
                self._check_usable()  # closed meanwhile, from another thread
                if self._thread is None:
                    self._refuse_read_only()
                    self._thread = BatchWorker(f"dgent-write-{self.path.name}", self._run_writes, self._finish_writes)
        return self._thread

    async def _start(self) -> Readers:
        """Let the writer make the file, then open the readers."""
        if not self._writer.is_open and not self.read_only:  # where a transaction is open the writer is, and waited for
            await self._the_thread().do(_nothing)
        with translated(self.what), self._lock:
            self._check_usable()  # closed meanwhile
            if self._readers is None:
                self._readers = open_readers(self.path, self.settings, self._connect_reader)
            return self._readers

    def _connect_reader(self) -> sqlite3.Connection:
        if self._read_only is not None:
            return self._read_only.connect()
        return connect_reader(self.path, self.settings, self._writer.files.look)

    @property
    def read_only(self) -> str:  # type: ignore[override]  # asked of the file, and set by nobody
        """Why the file can only be read; empty where it can be written. It stays so until the database is closed."""
        if self._read_only is None and not self._writer.is_open:
            with translated(self.what):
                if why := why_read_only(self.path, self.url):
                    self._read_only = ReadOnlyFile(self.path, self.settings, why, self.url)
        return "" if self._read_only is None else self._read_only.why

    @property
    def is_made(self) -> bool:
        """Whether the file is there; to read one that is not would make it."""
        return self._writer.is_open or self.path.exists()

    async def _run_in(self, session: AsyncSession, work: Work[T], *, short: bool) -> T:
        """Run a unit of work past the engine, on the session's connection: in one hop, or in none if it is short."""
        connection, driver = await cast("OrmSession", session).held()
        try:
            return await driver.unit(work, short=short)
        except Exception:
            if not is_in_transaction(driver.driver_connection):  # all was undone: what came next would commit by itself
                connection.invalidate()
            raise

    @asynccontextmanager
    async def _session(self, limit: float) -> AsyncIterator[OrmSession]:
        lease = WriteLease(self._take_lease, self._wake, limit + _GRACE)
        try:
            session = (await lease.take()).session()
            try:
                yield session
            finally:
                lease.end()
                try:
                    await lease.heard()
                finally:
                    await session.end()
        finally:
            if self._write_lock.release_lease(lease):
                self._end_lease()
            else:
                lease.give_back()

    async def _take_lease(self, lease: WriteLease) -> Orm:
        """Begin a transaction here, if nothing else is under way or another process writes; else wait for the lease."""
        self._check_usable()
        orm = self._orm
        if orm is not None and self._write_lock.try_acquire(lease, partial(self._try_begin, orm, lease)):
            return orm
        return await self._the_thread().do(lease)  # type: ignore[no-any-return]

    def _try_begin(self, orm: Orm, lease: WriteLease) -> bool:
        lock = self._writer.lock
        if orm is not self._orm or not lock.try_take():
            return False
        if self._writer.may_begin() and orm.try_begin(lease):
            lease.begin()
            return True
        lock.release()
        return False

    def _wake(self, lease: WriteLease) -> None:
        if self._write_lock.is_held_by(lease) and self._thread is not None:
            self._thread.wake()

    def _end_lease(self) -> None:
        """Undo what the transaction did not commit, and let other processes in."""
        try:
            if self._orm is not None:
                self._orm.end()
        finally:
            self._writer.lock.release()

    # What follows runs in the writer thread.

    def _run_writes(self, jobs: list[Job]) -> None:
        lease = self._write_lock.acquire_for_writer()
        try:
            if lease is not None:
                self._serve(lease)
            for is_lease, groups in groupby(grouped(jobs), lambda group: isinstance(group[0].task, WriteLease)):
                if is_lease:
                    for (job,) in groups:
                        self._lend(job)
                else:
                    self._writer.commit_together(list(groups))
        finally:
            self._write_lock.release_writer()

    def _finish_writes(self) -> None:
        lease = self._write_lock.acquire_for_writer()  # for good
        if lease is not None:
            self._serve(lease)

    def _lend(self, job: Job) -> None:
        """Give an ORM transaction its lease and serve it; the lock between processes is held for it."""
        try:
            with translated(self.what), ExitStack() as held:
                held.enter_context(self._writer.lock)
                self._writer.open()
                self._orm = self._orm or Orm(self.path, self.settings, self._writer.commit)
                self._orm.begin(job.task)
                held.pop_all()
        except Exception as error:  # the caller hears of it
            job.error = error
            complete([job])
            return
        job.task.begin()
        job.result = self._orm
        complete([job])
        self._serve(job.task)

    def _serve(self, lease: WriteLease) -> None:
        """Do what a transaction asks until its lease is over; take it back if its event loop died or stands still."""
        orm = self._orm
        if orm is not None and not lease.serve():  # the next one gets another connection
            lease.end(StorageTimeout("the transaction was open for too long and was rolled back: do it again"))
            self._orm = None
            orm.close()
        self._end_lease()

    def _end_writes(self) -> None:
        orm, self._orm = self._orm, None
        if orm is not None:
            orm.close()
        self._writer.close()


def _nothing(connection: Connection) -> None:
    """Do nothing, which opens the file and looks at it."""
