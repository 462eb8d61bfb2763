"""A SQLite database in the memory of this process: no file, no folder, no thread, and nothing left behind by a kill.

SQLite's `memdb` keeps it for as long as a connection is open. There is one, for all that reads and writes, and a
migration brings its own. It has no log for readers to go on in while somebody writes, so a transaction leaves an image
of what it found: whoever reads beside it reads that, as one would read a file in WAL mode.
"""

# idle               reads and writes run on the one connection, on the caller's thread, each to its end; a write has
#                    `_lock`
# transaction open   its task has `_lock`, and its session the connection; reads run on the image; writes and other
#                    transactions wait, in the order of their coming, for `transaction_timeout` and a few seconds
# closing            `close` waits for `_lock` as a write does; what comes later is refused
#
# A write is one call between two awaits, so no cancel can split it; one that waits for `_lock` is never done. A
# transaction that is cancelled is rolled back, and `_lock` given back, by the blocks that it leaves. A cancel of
# `close` while it waits leaves the connection open, and a later `close` does nothing. `_use`, a thread lock, keeps the
# calls of two event loops apart; it is never held over an await.

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sqlalchemy import StaticPool, event
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.ext.asyncio import create_async_engine

from dgent.exceptions import StorageTimeout
from dgent.runtime.fifo_lock import FIFOLock
from dgent.settings import checked_path
from dgent.sql.database import Database
from dgent.sql.errors import translated
from dgent.sql.runner import A, Each, T, Work, only
from dgent.sql.sqlite import orm_session  # noqa: F401  # it registers the dialect
from dgent.sql.sqlite.backup import Backup
from dgent.sql.sqlite.engine import C, close, invalidate_half_done, is_in_transaction, open_uri, wrap
from dgent.sql.sqlite.orm_connection import OwnedConnection
from dgent.sql.transaction_block import Block, BlockSession, control_in, follow_savepoints, refused, undone
from dgent.sql.watch import SQLiteWatches

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Hashable
    from pathlib import Path

    from sqlalchemy import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.settings import Settings
    from dgent.sql.watch import Watch

_STEPS: Final = 10_000  # of SQLite's virtual machine between two looks at the clock
_GRACE: Final = 5.0  # seconds for a transaction to end by itself when its time is up
_PRAGMAS: Final = (
    "PRAGMA journal_mode=MEMORY",
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA temp_store=MEMORY",
)


def connect_memory(url: URL, settings: Settings, factory: type[C]) -> C:
    """Open a connection to a database in memory, in autocommit; it ends with the last one."""
    connection = open_uri(f"file:{quote(str(url.database))}?vfs=memdb", settings, factory)
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    return connection


class InMemoryDatabase(Database):
    """A database in memory, which is gone when it is closed. Work runs on the caller's thread, long scans too."""

    look_every = 0.25
    durable = False

    def __init__(self, url: URL, settings: Settings) -> None:
        super().__init__(url, settings)
        self.what = "the database in memory"
        with translated(self.what):
            self.driver = connect_memory(url, settings, OwnedConnection)
        self.driver.set_progress_handler(lambda: time.monotonic() > self._until, _STEPS)
        self._until = 0.0
        self._main = wrap(self.driver)
        self.block: Block | None = None
        self._image: bytes | None = None
        self._before: Connection | None = None
        self._commits = 0
        self._use = threading.RLock()
        self._lock = FIFOLock()
        self._released = False
        self._watches: dict[asyncio.AbstractEventLoop, SQLiteWatches] = {}
        self._engine = create_async_engine(
            "sqlite+dgent://",
            creator=lambda: _SharedConnection(self),
            poolclass=StaticPool,
            pool_reset_on_return=None,  # `_session` has rolled back by then
            hide_parameters=True,
        )
        event.listen(self._engine.sync_engine, "handle_error", invalidate_half_done)
        follow_savepoints(self._engine.sync_engine, lambda _: self.block)

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads; beside an open transaction it sees what was there before."""
        with translated(self.what), self._use:
            self._check_usable()
            self.limit()
            return _reading(self._main if self._image is None else self._the_image(), work)

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work and commit it, when it has the lock."""
        self._check_usable()
        self._check_not_nested()
        await asyncio.sleep(0)  # what never waits would let nobody else run
        async with self._locked():
            with translated(self.what), self._use:
                self._check_usable()
                self.limit()
                return self._committed(work)

    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Write one item."""
        return only(await self.write(lambda connection: work(connection, [item])))

    @property
    def where(self) -> str:
        """The name under which this process finds it."""
        return f"memory:{self.url.database}"

    def watch(self, topic: str, wake: Callable[[], None]) -> Watch:
        """Call back when something was committed, whatever the topic."""
        self._check_usable()
        loop = asyncio.get_running_loop()
        with self._use:
            self._watches = {other: watches for other, watches in self._watches.items() if not other.is_closed()}
            watches = self._watches.setdefault(loop, SQLiteWatches(self.look_every, self._version))
        return watches.add(topic, wake)

    async def backup(self, path: str | os.PathLike[str]) -> Path:
        """Write a copy of the database; beside an open transaction, of what was there before."""
        backup = Backup(checked_path(path, "no backup: it would be gone with the process"))
        await self.read(backup.make)
        return backup.path

    async def close(self) -> None:
        """Wait for an open transaction, then forget everything.

        Raises:
            TransactionOpen: a transaction is open around the caller.
        """
        self._check_closable()
        self._closed = True
        if self._released or self.forked:
            return
        with suppress(StorageTimeout):
            async with self._locked():  # a cancel ends here, and the next call goes on
                pass
        self._release()

    def _release(self) -> None:
        with self._use:
            if self._released:  # by another call
                return
            self._released = True
            self.end()
            self._engine.sync_engine.dispose()
            close(self._main)

    def begin(self) -> None:
        """Begin the transaction of a session, and keep an image of what was there before."""
        with self._use:
            if self.driver.in_transaction:
                return
            (pages,) = self.driver.execute("PRAGMA page_count").fetchone()
            self._image = self.driver.serialize() if pages else b""
            self.driver.begin_block()

    def end(self, *, commit: bool = False) -> None:
        """Commit the transaction of a session, or undo what is not committed; the image goes."""
        with self._use:
            if commit:
                self.driver.commit_block()
                self._commits += 1
            else:
                self.driver.undo()
            before, self._image, self._before = self._before, None, None
            if before is not None:
                close(before)

    def limit(self) -> None:
        """Give the next statement its time."""
        self._until = time.monotonic() + self.settings.command_timeout

    @asynccontextmanager
    async def _session(self, limit: float) -> AsyncIterator[BlockSession]:
        self._check_usable()
        async with self._locked():
            self._check_usable()
            self.block = block = Block()
            session = BlockSession(self._engine, block=block)
            try:
                yield session
            finally:
                block.over = True
                self.end()
                session.sync_session.close()  # of this nothing waits, so nothing can cut it off
                self.block = None

    async def _run_in(self, session: AsyncSession, work: Work[T], *, short: bool) -> T:
        connection = await session.connection()
        try:
            with self._use:
                self._check_begun()
                self.limit()
                return work(self._main)
        except Exception:
            if not is_in_transaction(self.driver):  # all was undone: what came next would commit by itself
                await connection.invalidate()
            raise

    def _check_begun(self) -> None:
        if not self.driver.in_transaction:  # what wrote now would commit by itself
            raise undone()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.settings.transaction_timeout + _GRACE) as bound:
                await self._lock.acquire()
        except TimeoutError:
            if not bound.expired():
                raise
            raise StorageTimeout("another transaction stayed open for too long: this write was not done") from None
        try:
            yield
        finally:
            self._lock.release()

    def _committed(self, work: Work[T]) -> T:
        self.driver.begin_block()
        try:
            result = work(self._main)
            self.driver.commit_block()
        except BaseException:
            self.driver.undo()
            raise
        self._commits += 1
        return result

    def _the_image(self) -> Connection:
        if self._before is None:
            driver = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=OwnedConnection)
            if self._image:
                driver.deserialize(self._image)
            driver.set_progress_handler(lambda: time.monotonic() > self._until, _STEPS)
            self._before = wrap(driver)
        return self._before

    def _version(self) -> int | None:
        return None if self._closed else self._commits


def _reading(connection: Connection, work: Work[T]) -> T:
    """Run work in a transaction that cannot write."""
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA query_only=ON")
    try:
        driver.begin_reading()
        return work(connection)
    finally:
        driver.undo()
        driver.execute("PRAGMA query_only=OFF")


class _InMemoryCursor(sqlite3.Cursor):
    def execute(self, sql: str, values: Any = (), /) -> Any:
        """Run a statement that neither begins nor ends the transaction."""
        word = control_in(sql)
        if word is not None:
            raise refused(word)
        return super().execute(sql, values)

    async def _async_soft_close(self) -> None:
        """Do nothing: AsyncSession asks cursors of every asynchronous driver for it before it hands out a result."""


class _SharedConnection(AdaptedConnection):
    """The one connection, as SQLAlchemy takes it for one of its own; to close it closes nothing."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database
        self._connection: Any = database.driver  # the base class's `driver_connection` looks for it here
        self.isolation_level = None  # SQLAlchemy may set it; a transaction is BEGIN IMMEDIATE whatever it says

    def begin(self) -> None:
        """Begin the transaction of the block. There is no second one.

        Raises:
            RolledBack: it was undone.
        """
        block = self._database.block
        if block is None or block.begun:
            raise undone()
        block.begun = True
        self._database.begin()

    def commit(self) -> None:
        """Commit.

        Raises:
            RolledBack: it is not the block that commits.
        """
        block = self._database.block
        if block is not None:
            block.refuse_commit()
            self._database.end(commit=True)
            block.committed = True

    def rollback(self) -> None:
        """Undo what is not committed: SQLAlchemy also calls this on a new connection."""
        block = self._database.block
        if block is not None and block.begun:
            block.undone = True
        self._database.end()

    close = terminate = rollback

    def cursor(self, *, stream: bool = False) -> Any:  # all rows are here
        """Return a cursor."""
        self._database.limit()
        return self._connection.cursor(_InMemoryCursor)

    def execute(self, sql: str, values: Any = ()) -> Any:
        """Run a statement on a cursor of its own."""
        return self.cursor().execute(sql, values)

    def create_function(self, *args: Any, **named: Any) -> None:
        """Pass it on: SQLAlchemy adds functions of its own."""
        self._connection.create_function(*args, **named)
