"""One SQLite file: a writer thread that commits in groups, readers that never wait for it, and a gate for the ORM.

Three ways to the file, each with connections of its own:

* the writer takes all the work that waits, runs each unit in a savepoint of one BEGIN IMMEDIATE, and commits once;
* short reads run on the caller's thread, those of many tasks in one call, on a connection that gives up after two
  milliseconds; what is longer, and everything for a while after one gave up, runs on reader threads;
* an ORM transaction begins on its caller's thread if nothing else is under way, else it takes its turn in the writer's
  queue; the writer serves it and waits until it has ended.

All of them refuse a file that is not the one that was opened first.
"""

from __future__ import annotations

import asyncio
import copy
import os
import sqlite3
import threading
import time
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import text

from dgent.database.base import A, Database, Each, T, Work, only, uninterrupted
from dgent.database.errors import raise_ours, translate, translated
from dgent.database.file_lock import FileLock
from dgent.database.sqlite_engine import close, is_in_transaction, lock_path, prepare, wrap
from dgent.database.sqlite_orm import Orm
from dgent.database.sqlite_readers import STEPS, Readers, open_readers
from dgent.database.sqlite_turn import Gate, Turn
from dgent.database.sqlite_watch import SQLiteWatches
from dgent.database.statement import Statement
from dgent.database.worker import Job, Worker, deliver
from dgent.exceptions import Corrupt, DgentError, NestedWrite, StorageTimeout
from dgent.loop import running_loop

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import AsyncIterator, Callable, Hashable

    from sqlalchemy import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.database.sqlite_orm import OrmSession
    from dgent.database.watch import Watch
    from dgent.settings import Settings

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
        self._file_lock = FileLock(lock_path(self.path), settings.busy_timeout, sole=False)
        self._writer: Worker | None = None
        self._writing: Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._looks_at = self._write_until = 0.0
        self._readers: Readers | None = None
        self._orm: Orm | None = None
        self._gate = Gate()
        self._watches: dict[asyncio.AbstractEventLoop, SQLiteWatches] = {}

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

    async def read_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Read an item with those that wait for the same turn, or on the caller's thread, or on a reader thread."""
        readers = self._usable_readers() or await self._start()
        if readers.together.pays():
            results = await readers.together.try_read(work, item, lane)
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
            self._check_file()
            self._looks_at = now + _LOOK
        return readers

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work in the writer's next group commit."""
        return await self._write(work)  # type: ignore[no-any-return]

    async def write_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Write an item together with those of its lane that wait, in the writer's next group commit."""
        return await self._write(work, item, lane)  # type: ignore[no-any-return]

    def watch(self, topic: str, wake: Callable[[], None]) -> Watch:
        """Call back when the file may have changed, whatever the topic."""
        self._check_usable()
        loop = running_loop()
        with self._lock:
            self._watches = {other: watches for other, watches in self._watches.items() if not other.is_closed()}
            watches = self._watches.setdefault(loop, SQLiteWatches(self.look_every, self._data_version))
        return watches.add(topic, wake)

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
            NestedWrite: a transaction is open around the caller.
        """
        if self.current() is not None:
            raise NestedWrite("a transaction is open here, and closing would wait for it forever: close after it")
        self._closed = True
        if not self.forked:  # a forked child has none of the threads, and the files are its parent's
            await uninterrupted(self._release())

    async def _release(self) -> None:
        with self._lock:
            readers, writer = self._readers, self._writer
            self._readers = self._writer = None
        if readers is not None:
            await readers.close()
        if writer is not None:
            await writer.stop()
            await asyncio.to_thread(self._end_writes)

    def _write(self, task: Work[Any] | Each[Any, Any] | Turn, item: Any = None, lane: Hashable = None) -> Future[Any]:
        self._check_usable()
        self._check_not_nested()
        return (self._writer or self._the_writer()).do(task, item, lane)

    def _the_writer(self) -> Worker:
        if self._writer is None:
            with self._lock:
                self._check_usable()  # closed meanwhile, from another thread
                if self._writer is None:
                    self._writer = Worker(f"dgent-write-{self.path.name}", self._run_writes, self._finish_writes)
        return self._writer

    async def _start(self) -> Readers:
        """Let the writer make the file, then open the readers."""
        if self._writing is None:  # where a transaction is open it has, and would be waited for
            await self._the_writer().do(lambda connection: None)
        with translated(self.what), self._lock:
            self._check_usable()  # closed meanwhile
            if self._readers is None:
                self._readers = open_readers(self.path, self.settings)
            return self._readers

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
    async def _session(self) -> AsyncIterator[OrmSession]:
        turn = Turn(self._take_turn, self._wake, self.settings.transaction_timeout + _GRACE)
        try:
            session = (await turn.take()).session()
            try:
                yield session
            finally:
                await session.end()
        finally:
            if self._gate.leave(turn):
                self._end_turn()
            else:
                turn.give_back()

    async def _take_turn(self, turn: Turn) -> Orm:
        """Begin a transaction here, if nothing else is under way or another process writes; else wait for the turn."""
        self._check_usable()
        orm = self._orm
        if orm is not None and self._gate.enter(turn, partial(self._try_begin, orm, turn)):
            return orm
        return await self._the_writer().do(turn)  # type: ignore[no-any-return]

    def _try_begin(self, orm: Orm, turn: Turn) -> bool:
        if orm is not self._orm or not self._file_lock.try_take():
            return False
        if self._stat() == self._identity and orm.try_begin(turn):
            turn.begin()
            return True
        self._file_lock.release()
        return False

    def _wake(self, turn: Turn) -> None:
        if self._gate.has(turn) and self._writer is not None:
            self._writer.wake()

    def _end_turn(self) -> None:
        """Undo what the transaction did not commit, and let other processes in."""
        try:
            if self._orm is not None:
                self._orm.end()
        finally:
            self._file_lock.release()

    # What follows runs in the writer thread.

    def _run_writes(self, jobs: list[Job]) -> None:
        turn = self._gate.enter_writer()
        try:
            if turn is not None:
                self._serve(turn)
            for is_turn, groups in groupby(_groups(jobs), lambda group: isinstance(group[0].task, Turn)):
                if is_turn:
                    for (job,) in groups:
                        self._lend(job)
                else:
                    self._commit_together(list(groups))
        finally:
            self._gate.leave_writer()

    def _finish_writes(self) -> None:
        turn = self._gate.enter_writer()  # for good
        if turn is not None:
            self._serve(turn)

    def _lend(self, job: Job) -> None:
        """Give an ORM transaction the turn and serve it; the lock between processes is held for it."""
        try:
            with translated(self.what), ExitStack() as held:
                held.enter_context(self._file_lock)
                self._open()
                self._orm = self._orm or Orm(self.path, self.settings)
                self._orm.begin(job.task)
                held.pop_all()
        except Exception as error:  # the caller hears of it
            job.error = error
            deliver([job])
            return
        job.task.begin()
        job.result = self._orm
        deliver([job])
        self._serve(job.task)

    def _serve(self, turn: Turn) -> None:
        """Do what a transaction asks until its turn is over; take it back if its event loop died or stands still."""
        orm = self._orm
        if orm is not None and not turn.serve():  # the next one gets another connection
            turn.end(StorageTimeout("the transaction was open for too long and was rolled back: do it again"))
            self._orm = None
            orm.close()
        self._end_turn()

    def _commit_together(self, groups: list[list[Job]]) -> None:
        jobs = list(chain.from_iterable(groups))
        try:
            with self._file_lock:
                connection = self._open()
                driver: Any = connection.connection.dbapi_connection
                driver.execute("BEGIN IMMEDIATE")
                try:
                    self._run_groups(connection, driver, groups)
                    driver.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        driver.execute("ROLLBACK")
                    raise
        except BaseException as error:  # every caller hears of it
            ours = translate(error, self.what)
            for job in jobs:
                job.error = job.error or copy.copy(ours) or error
        deliver(jobs)

    def _run_groups(self, connection: Connection, driver: sqlite3.Connection, groups: list[list[Job]]) -> None:
        self._write_until = time.monotonic() + self.settings.command_timeout
        if len(groups) == 1:  # the transaction is its savepoint
            _run_group(connection, groups[0])
            return
        for group in groups:
            driver.execute("SAVEPOINT unit")
            try:
                _run_group(connection, group)
            except Exception as error:
                if not driver.in_transaction:  # SQLite rolled all of it back, as it does when the disk is full
                    raise
                driver.execute("ROLLBACK TO unit")
                for job in group:
                    job.error = translate(error, self.what) or error
            driver.execute("RELEASE unit")

    def _open(self) -> Connection:
        """Return the writer's connection, opened once, to the file that was opened first."""
        if self._writing is None:
            driver = prepare(self.path, self.settings)
            driver.set_progress_handler(lambda: time.monotonic() > self._write_until, 100 * STEPS)
            self._identity = self._stat()
            self._writing = wrap(driver)
        self._check_file()
        return self._writing

    def _check_file(self) -> None:
        if self._stat() != self._identity:
            raise Corrupt(
                f"{self.path} was removed or replaced while it was open: stop, put the file back with its -wal file, "
                "and open it again"
            )

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.what)  # noqa: PTH116  # a microsecond instead of three, once a commit
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _end_writes(self) -> None:
        orm, self._orm = self._orm, None
        if orm is not None:
            orm.close()
        connection, self._writing = self._writing, None
        with ExitStack() as turn:
            if connection is not None:
                with suppress(DgentError, OSError):  # another process that keeps the lock will checkpoint
                    turn.enter_context(self._file_lock)
                close(connection)
        self._file_lock.close()


def _groups(jobs: list[Job]) -> list[list[Job]]:
    """Split into units of work, each alone, and runs of jobs that share a lane."""
    groups: list[list[Job]] = []
    lane: Hashable = None
    for job in jobs:
        if job.lane is None or job.lane != lane:
            groups.append([])
        groups[-1].append(job)
        lane = job.lane
    return groups


def _run_group(connection: Connection, group: list[Job]) -> None:
    first = group[0]
    if first.lane is None:
        first.result = first.task(connection)
        return
    for job, result in zip(group, first.task(connection, [job.item for job in group]), strict=True):
        if isinstance(result, Exception):
            job.error = result
        else:
            job.result = result
