"""One SQLite file: a writer thread that commits in groups, readers that never wait for it, and a gate for the ORM.

Three ways to the file, each with connections of its own:

* the writer takes all the work that waits, runs each unit in a savepoint of one BEGIN IMMEDIATE, and commits once;
* short reads run on the caller's thread, on a connection that gives up after two milliseconds; what is longer, and
  everything for a while after one gave up, runs on reader threads;
* an ORM transaction takes its turn in the writer's queue, and the writer waits until it has ended.

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
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from dgent.database.base import A, Database, Each, T, Work, uninterrupted
from dgent.database.errors import raise_ours, translate, translated
from dgent.database.file_lock import FileLock
from dgent.database.sqlite_engine import close, is_in_transaction, lock_path, orm_engine, prepare, wrap
from dgent.database.sqlite_readers import STEPS, Readers, open_readers
from dgent.database.worker import Job, Worker, deliver
from dgent.exceptions import Corrupt, DgentError, NestedWrite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterator

    from sqlalchemy import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from dgent.settings import Settings

_LOOK: Final = 0.01  # seconds between two looks at the name of the file: one takes a tenth of a short read
_DIRECT: Final = "dgent_direct"
_GRACE: Final = 5.0  # seconds for a transaction to end by itself when its time is up


@dataclass(slots=True, eq=False)
class _Unit:
    """A whole unit of work; never merged with another."""

    work: Work[Any]


@dataclass(slots=True, eq=False)
class _Item:
    """One item of work that takes many at once."""

    work: Each[Any, Any]
    item: Any
    lane: Hashable


@dataclass(slots=True, eq=False)
class _Turn:
    """The writer's turn, lent to an ORM transaction until it is given back."""

    back: threading.Event = field(default_factory=threading.Event)


class SQLiteDatabase(Database):
    """A SQLite file in WAL mode, created privately (0600) on first use."""

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
        self._orm_driver: Any = None
        self._orm_use = threading.Lock()
        self._orm = self._open_orm()

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads: on the caller's thread if it is short, else in a snapshot on a reader thread."""
        self._check_usable()
        readers = self._readers or await self._start()
        if (now := time.monotonic()) >= self._looks_at:
            self._check_file()
            self._looks_at = now + _LOOK
        if short:
            try:
                done, result = readers.inline.try_run(work)
            except Exception as error:  # a block of `translated` costs as much as a quarter of the read
                raise_ours(error, self.what)
            if done:
                return result  # type: ignore[return-value]
        worker = readers.short if short else readers.scans
        return await worker.do(work)  # type: ignore[no-any-return]

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work in the writer's next group commit."""
        return await self._write(_Unit(work))  # type: ignore[no-any-return]

    async def write_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Write an item together with those of its lane that wait, in the writer's next group commit."""
        return await self._write(_Item(work, item, lane))  # type: ignore[no-any-return]

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
            await self._orm.dispose()
            await asyncio.to_thread(self._end_writes)

    async def _write(self, task: _Unit | _Item | _Turn) -> Any:
        self._check_usable()
        self._check_not_nested()
        return await self._the_writer().do(task)

    def _the_writer(self) -> Worker:
        if self._writer is None:
            with self._lock:
                self._check_usable()  # closed meanwhile, from another thread
                if self._writer is None:
                    self._writer = Worker(f"dgent-write-{self.path.name}", self._run_writes, lambda: None)
        return self._writer

    async def _start(self) -> Readers:
        """Let the writer make the file, then open the readers."""
        if self._writing is None:  # where a transaction is open it has, and would be waited for
            await self._the_writer().do(_Unit(lambda connection: None))
        with translated(self.what), self._lock:
            self._check_usable()  # closed meanwhile
            if self._readers is None:
                self._readers = open_readers(self.path, self.settings)
            return self._readers

    def _open_orm(self) -> AsyncEngine:
        engine = orm_engine(self.path, self.settings)

        @event.listens_for(engine.sync_engine, "connect")
        def remember(dbapi: Any, record: ConnectionPoolEntry) -> None:
            self._orm_driver = dbapi.driver_connection
            record.info[_DIRECT] = wrap(self._orm_driver._conn)  # where SQLAlchemy takes it from, too

        @event.listens_for(engine.sync_engine, "close")
        def forget(dbapi: Any, record: ConnectionPoolEntry) -> None:
            if dbapi.driver_connection is self._orm_driver:
                self._orm_driver = None

        return engine

    async def _run_in(self, session: AsyncSession, work: Work[T], *, short: bool) -> T:
        """Run a unit of work on the session's connection, in one hop or none, where each statement would take three.

        The driver's own thread has nothing to do meanwhile, so two threads never use the connection at once. What is
        short waits for no lock and no disk, since the transaction holds the lock: it runs on the caller's thread.
        """
        connection = await session.connection()
        direct: Connection = connection.info[_DIRECT]
        driver = direct.connection.dbapi_connection

        def run() -> T:
            with self._orm_use:
                return work(direct)

        try:
            if short:
                return run()
            return await uninterrupted(asyncio.get_running_loop().run_in_executor(None, run))
        except Exception:
            if not is_in_transaction(driver):  # closed under us, or all undone: what came next would commit by itself
                await connection.invalidate()
            raise

    async def _connect_orm(self) -> None:
        async with self._orm.connect():
            pass

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        turn = _Turn()
        try:
            await self._write(turn)
            if self._orm_driver is None:  # one that was cut off while it opened would never be closed
                await uninterrupted(self._connect_orm())
            session = AsyncSession(self._orm, expire_on_commit=False)
            try:
                yield session
            finally:
                await uninterrupted(session.close())
        finally:
            turn.back.set()

    # What follows runs in the writer thread.

    def _run_writes(self, jobs: list[Job]) -> None:
        for is_turn, part in groupby(jobs, lambda job: isinstance(job.task, _Turn)):
            if is_turn:
                for job in part:
                    self._lend(job)
            else:
                self._commit_together(list(part))

    def _lend(self, job: Job) -> None:
        """Give an ORM transaction the turn, and wait for it; the lock between processes is held for it."""
        try:
            with translated(self.what), self._file_lock:
                self._open()
                deliver([job])
                deadline = time.monotonic() + self.settings.transaction_timeout + _GRACE
                while not job.task.back.wait(timeout=1.0):
                    if job.loop.is_closed() or time.monotonic() > deadline:
                        self._take_back()
                        break
        except Exception as error:  # the caller hears of it
            job.error = error
            deliver([job])

    def _take_back(self) -> None:
        """Undo a transaction whose event loop died or stands still; the next one gets another connection."""
        driver, self._orm_driver, self._orm = self._orm_driver, None, self._open_orm()
        if driver is not None:
            with suppress(ValueError):  # it is closed already
                driver._conn.interrupt()
            with self._orm_use:
                driver.stop()
                driver._thread.join(_GRACE)

    def _commit_together(self, jobs: list[Job]) -> None:
        try:
            with translated(self.what), self._file_lock:
                connection = self._open()
                driver: Any = connection.connection.dbapi_connection
                driver.execute("BEGIN IMMEDIATE")
                try:
                    self._run_groups(connection, driver, jobs)
                    driver.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        driver.execute("ROLLBACK")
                    raise
        except BaseException as error:  # every caller hears of it
            for job in jobs:
                job.error = job.error or (copy.copy(error) if isinstance(error, DgentError) else error)
        deliver(jobs)

    def _run_groups(self, connection: Connection, driver: sqlite3.Connection, jobs: list[Job]) -> None:
        self._write_until = time.monotonic() + self.settings.command_timeout
        groups = list(_groups(jobs))
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
            status = os.stat(self.path)  # noqa: PTH116  # a microsecond instead of three, once a commit
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _end_writes(self) -> None:
        connection, self._writing = self._writing, None
        with ExitStack() as turn:
            if connection is not None:
                with suppress(DgentError, OSError):  # another process that keeps the lock will checkpoint
                    turn.enter_context(self._file_lock)
                close(connection)
        self._file_lock.close()


def _groups(jobs: list[Job]) -> Iterator[list[Job]]:
    """Split into units of work and runs of items that share a lane."""

    def key(job: Job) -> Any:
        task = job.task
        return task.lane if isinstance(task, _Item) else id(task)

    for _, group in groupby(jobs, key):
        yield list(group)


def _run_group(connection: Connection, group: list[Job]) -> None:
    task = group[0].task
    if isinstance(task, _Unit):
        group[0].result = task.work(connection)
        return
    for job, result in zip(group, task.work(connection, [job.task.item for job in group]), strict=True):
        if isinstance(result, Exception):
            job.error = result
        else:
            job.result = result
