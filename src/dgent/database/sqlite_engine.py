"""How a SQLite file is opened: one set of pragmas, one begin hook, no file of ours opened any other way."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, NullPool, StaticPool, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dgent.settings import Settings, private_file

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import ExceptionContext

CACHE_KIB = 16_384
CHECKPOINT_PAGES = 1000


def pragmas(settings: Settings, *, writer: bool = False, reader: bool = False) -> list[str]:
    """Return the pragmas of a connection. Only a writer checkpoints: one whose commits are made under the file's lock.

    SQLite before 3.51.3 can damage a file when two connections checkpoint and write at once.
    """
    return [
        f"PRAGMA busy_timeout={int(settings.busy_timeout * 1000)}",
        f"PRAGMA synchronous={settings.synchronous}",
        "PRAGMA foreign_keys=ON",
        "PRAGMA trusted_schema=OFF",
        "PRAGMA cell_size_check=ON",
        "PRAGMA temp_store=MEMORY",
        f"PRAGMA cache_size=-{CACHE_KIB}",
        f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES if writer else 0}",
        f"PRAGMA query_only={'ON' if reader else 'OFF'}",
    ]


def connect(path: Path, settings: Settings, *, writer: bool = False, reader: bool = False) -> sqlite3.Connection:
    """Open a file that exists, in autocommit: who wants a transaction says BEGIN."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=settings.busy_timeout,
        check_same_thread=False,
        cached_statements=512,
    )
    try:
        for pragma in pragmas(settings, writer=writer, reader=reader):
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def wrap(connection: sqlite3.Connection) -> Connection:
    """Return a SQLAlchemy Connection over an open driver connection; whoever opened it runs its transactions."""
    engine = create_engine("sqlite+pysqlite://", creator=lambda: connection, poolclass=StaticPool, hide_parameters=True)
    for name in ("do_rollback", "do_commit"):  # ours to say
        setattr(engine.dialect, name, lambda dbapi: None)
    return engine.connect()


def close(connection: Connection) -> None:
    """Close a connection that `wrap` returned, and the driver's."""
    driver: Any = connection.connection.dbapi_connection
    connection.engine.dispose()
    driver.close()


def lock_path(path: Path) -> Path:
    """Return the file whose lock the writers of a database take turns at.

    It keeps the commits of one process apart from the checkpoints of another, and the queue fair.
    """
    return path.with_name(f"{path.name}.lock")


def prepare(path: Path, settings: Settings) -> sqlite3.Connection:
    """Create the file if it is not there, open it as the writer and put it into WAL mode. Hold its lock meanwhile."""
    connection = connect(private_file(path), settings, writer=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # raises for a file that is no database
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        connection.close()
        raise
    return connection


def is_in_transaction(driver: Any) -> bool:
    """Tell whether a connection of sqlite3 or aiosqlite has a transaction open; a closed one has none."""
    try:
        return bool(driver.in_transaction)
    except (sqlite3.Error, ValueError):
        return False


class _OrmConnection(sqlite3.Connection):
    """A connection that closes its cursors before it rolls back or is closed.

    One that a cancelled task left unread would hold on to an old snapshot, and keep a closed connection alive, with its
    lock, for as long as anybody keeps the traceback.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *args: Any) -> Any:
        cursor = super().cursor(*args)
        self._cursors.add(cursor)
        return cursor

    def rollback(self) -> None:
        self._close_cursors()
        super().rollback()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()

    def _close_cursors(self) -> None:
        for cursor in list(self._cursors):
            with suppress(sqlite3.Error):
                cursor.close()


def orm_engine(path: Path, settings: Settings) -> AsyncEngine:
    """Return the engine of ORM sessions: one connection, whose transactions say BEGIN IMMEDIATE.

    A deferred BEGIN would fail half of all read-modify-writes with "database is locked".
    """
    database = f"file:{quote(str(path))}"
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=database, query={"mode": "rw", "uri": "true"}),
        poolclass=StaticPool,
        connect_args={"isolation_level": None, "timeout": settings.busy_timeout, "factory": _OrmConnection},
        hide_parameters=True,
    )
    _hook(engine.sync_engine, settings, writer=True)
    return engine


def create_sync_engine(path: Path, settings: Settings) -> Engine:
    """Return an engine for a synchronous program, with the same pragmas and the same BEGIN IMMEDIATE.

    A connection with the execution option `dgent_read=True` says BEGIN: it holds up no writer, and cannot write.
    """
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        creator=lambda: prepare(path, settings),
        poolclass=NullPool,
        hide_parameters=True,
    )
    _hook(engine, settings)
    return engine


def _hook(engine: Engine, settings: Settings, *, writer: bool = False) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(dbapi: Any, record: object) -> None:
        cursor = dbapi.cursor()
        for pragma in pragmas(settings, writer=writer):
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        dbapi: Any = connection.connection.dbapi_connection
        if not engine.dialect.is_async:
            dbapi.execute("BEGIN" if connection.get_execution_options().get("dgent_read") else "BEGIN IMMEDIATE")
            return
        try:
            dbapi.run_async(lambda driver: driver.execute("BEGIN IMMEDIATE"))  # one hop to its thread instead of four
        except ValueError:  # aiosqlite's, for a connection that was closed: the pool must not lend it again
            connection.invalidate()
            raise sqlite3.OperationalError("no active connection") from None

    @event.listens_for(engine, "handle_error")
    def on_error(context: ExceptionContext) -> None:
        connection = context.connection
        if connection is None or connection.invalidated or not connection.in_transaction():
            return
        if context.statement is None or not is_in_transaction(connection.connection.driver_connection):
            # A COMMIT failed, and SQLAlchemy would leave the transaction open. Or SQLite undid all of it, as it does
            # when the disk is full, and what came next would commit by itself.
            context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
