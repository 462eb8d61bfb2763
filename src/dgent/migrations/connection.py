"""The connection of a migration, to each kind of database: its lock, its one transaction, and no engine that is kept.

On SQLite it enforces no foreign keys, because rebuilding a table with them on would delete or blank the rows that point
to it; they are checked before the commit instead.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, NullPool, select, text

from dgent.exceptions import MigrationError, ReadOnly
from dgent.sql.advisory_locks import AdvisoryLock
from dgent.sql.constructs import transaction_lock
from dgent.sql.postgres.engine import creator, new_engine
from dgent.sql.postgres.session_settings import local_settings
from dgent.sql.postgres.url_options import read_url
from dgent.sql.sqlite.engine import check_belongings, close_last, commit, connect, files_of, prepare, wrap
from dgent.sql.sqlite.in_memory import connect_memory
from dgent.sql.sqlite.read_only import ReadOnlyFile, why_read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dgent.settings import Settings

T = TypeVar("T")

_LONGEST_STATEMENT: Final = 3600.0  # seconds; rebuilding a large table takes its time, a dead server must not hang us


def _read_sqlite(settings: Settings, work: Callable[[Connection], Any]) -> Any:
    path = _path(settings)
    if not _is_there(path):
        return ()
    why, files = why_read_only(path, settings.url), files_of(path, settings)
    with closing(files):
        if why:
            driver = ReadOnlyFile(path, settings, why, settings.url).connect()
        else:
            check_belongings(files, files.lock)
            driver = connect(path, settings, reader=True)
        with closing(driver), wrap(driver) as connection:
            return work(connection)


def _is_there(path: Path) -> bool:
    """Tell whether a file is there; where nobody can look that is an error, and not a database without a schema."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:  # a file where a folder should be, or a folder that may not be entered
        raise ReadOnly(f"{path} cannot be looked at: {error.strerror}: check the folders that lead to it") from None
    return True


def _write_sqlite(settings: Settings, work: Callable[[Connection], T]) -> T:
    if why := why_read_only(_path(settings), settings.url):
        raise ReadOnly(why)
    files = files_of(_path(settings), settings)
    with closing(files), files.lock:
        driver = prepare(files, settings)
        try:
            return _transaction(driver, partial(commit, driver.commit, files), work)
        finally:
            close_last(files, driver.close)  # rolls back what was not committed


def _transaction(driver: Any, commit: Callable[[], object], work: Callable[[Connection], T]) -> T:
    for statement in ("PRAGMA foreign_keys=OFF", "PRAGMA synchronous=FULL", "BEGIN IMMEDIATE"):
        driver.execute(statement)
    with wrap(driver) as connection, connection.begin():
        result = work(connection)
    if broken := sorted({row[0] for row in driver.execute("PRAGMA foreign_key_check")}):
        raise MigrationError(f"rows of {', '.join(broken)} point to rows that are not there: nothing was changed")
    commit()
    return result


def _read_memory(settings: Settings, work: Callable[[Connection], T]) -> T:
    with closing(connect_memory(settings.url, settings, sqlite3.Connection)) as driver, wrap(driver) as connection:
        return work(connection)


def _write_memory(settings: Settings, work: Callable[[Connection], T]) -> T:
    with closing(connect_memory(settings.url, settings, sqlite3.Connection)) as driver:
        return _transaction(driver, driver.commit, work)


def _path(settings: Settings) -> Path:
    return Path(str(settings.url.database)).absolute()


def _read_postgres(settings: Settings, work: Callable[[Connection], T]) -> T:
    return _run(_on_postgres(settings, work, settings.command_timeout))


def _write_postgres(settings: Settings, work: Callable[[Connection], T]) -> T:
    def locked(connection: Connection) -> T:
        connection.execute(text(f"SET LOCAL lock_timeout = {int(settings.busy_timeout * 1000) or 1}"))
        connection.execute(select(transaction_lock(AdvisoryLock.MIGRATIONS)))
        return work(connection)

    return _run(_on_postgres(settings, locked, _LONGEST_STATEMENT))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; on a thread of its own where a loop runs, as that of a program that calls `alembic.command`."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "dgent-alembic") as thread:
        return thread.submit(asyncio.run, work).result()


async def _on_postgres(settings: Settings, work: Callable[[Connection], T], longest: float) -> T:
    patient = settings.model_copy(update={"command_timeout": longest})
    # No plans are kept: one that was made before a table was altered is an error after it.
    target = read_url(settings.url, patient)
    engine = new_engine(target, creator(target, plans=0), poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            if target.pooled:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                await connection.execute(text("SELECT 1"))  # begins
                await driver.execute(local_settings(target))
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


class MigrationConnection(NamedTuple):
    """How a connection to one kind of database reads, and how it migrates: in one transaction, which it commits."""

    read: Callable[[Settings, Callable[[Connection], Any]], Any]
    write: Callable[[Settings, Callable[[Connection], Any]], Any]


def connection_to(settings: Settings) -> MigrationConnection:
    """Return how the database that the settings name is read and migrated."""
    return _KINDS["memory" if settings.in_memory else settings.url.get_backend_name()]


_KINDS: Final = {
    "memory": MigrationConnection(_read_memory, _write_memory),
    "sqlite": MigrationConnection(_read_sqlite, _write_sqlite),
    "postgresql": MigrationConnection(_read_postgres, _write_postgres),
}
