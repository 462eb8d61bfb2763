"""Bring the typed tables to the revision that this code needs: one transaction, one upgrade at a time.

A migration has a connection of its own. On SQLite it enforces no foreign keys, because rebuilding a table with them on
would delete or blank the rows that point to it; they are checked before the commit instead. Alembic is not re-entrant,
so one lock serves the process; a second one, in the database, serves all processes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar, cast

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, NullPool, inspect, select, text

from dgent.exceptions import (
    Conflict,
    DowngradeRefused,
    InvalidInput,
    MigrationError,
    ReadOnly,
    SchemaOutdated,
    SchemaTooNew,
    StorageError,
)
from dgent.models import TABLES
from dgent.settings import Settings, shown
from dgent.sql.advisory_locks import AdvisoryLock
from dgent.sql.constructs import transaction_lock
from dgent.sql.errors import sqlstate, translate
from dgent.sql.postgres.engine import creator, new_engine
from dgent.sql.postgres.session_settings import local_settings
from dgent.sql.postgres.url_options import read_url
from dgent.sql.sqlite.engine import check_belongings, close_last, commit, connect, files_of, prepare, wrap
from dgent.sql.sqlite.in_memory import connect_memory
from dgent.sql.sqlite.read_only import ReadOnlyFile, why_read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator

    from alembic.runtime.migration import MigrationContext


VERSION_TABLE: Final = "schema_version"
"""Alembic's own table; a host application's `alembic_version` in the same database is another."""

_LONGEST_STATEMENT: Final = 3600.0  # seconds; rebuilding a large table takes its time, a dead server must not hang us
_turn = threading.Lock()

T = TypeVar("T")
Target: TypeAlias = "Settings | URL | str | None"
"""The database to work on: settings, a URL, or None for what the environment and the config files say."""


@dataclass(frozen=True, slots=True)
class RevisionStep:
    """One revision: its id, the one before it, and what it brings."""

    revision: str
    previous: str | None
    message: str


async def upgrade(target: Target = None, revision: str = "head") -> str | None:
    """Run the migrations up to a revision, all or none, and return the revision reached.

    The database and its directory are made if they are not there. Nothing happens where the revision is reached.

    Raises:
        SchemaTooNew: the database is newer than this code; nothing was written.
        MigrationError: a migration failed or no revision has that name; the schema is as it was.
        StorageError: a class below it says what is wrong with the server, the file or the disk.
    """
    return await _migrate(command.upgrade, _resolve(target), revision)


async def downgrade(target: Target = None, revision: str = "-1") -> str | None:
    """Run the migrations down to a revision, all or none, and return the revision reached.

    Raises:
        DowngradeRefused: the settings do not say that this is development.
        MigrationError, StorageError: as for `upgrade`.
    """
    settings = _resolve(target)
    _allow_downgrade(settings)
    return await _migrate(command.downgrade, settings, revision)


async def current(target: Target = None) -> str | None:
    """Return the revision that the database is at, None before the first. Creates nothing.

    Raises:
        StorageError: a class below it says what is wrong with the server, the file or the disk.
    """
    return ", ".join(await _in_thread(partial(_heads, _resolve(target)))) or None


async def check(target: Target = None) -> None:
    """Do nothing if the database is at the revision that this code needs.

    Raises:
        SchemaOutdated, SchemaTooNew: it is older or newer; the message names both.
        StorageError: as for `current`.
    """
    found = await _in_thread(partial(_heads, _resolve(target)))
    refuse_newer(found, _scripts())
    if found != (head(),):
        raise SchemaOutdated(
            f"schema is at {', '.join(found) or 'no revision'}, this version needs {head()}: "
            "run `alembic upgrade head` or `kg db upgrade`"
        )


def head() -> str:
    """Return the newest revision that this code knows."""
    revision = _scripts().get_current_head()
    assert revision is not None  # noqa: S101  # there are scripts, and script_location() found them
    return revision


def history() -> list[RevisionStep]:
    """Return every revision that this code knows, oldest first."""
    scripts = reversed(list(_scripts().walk_revisions()))
    return [RevisionStep(script.revision, cast("str | None", script.down_revision), script.doc) for script in scripts]


async def revision(message: str, *, autogenerate: bool = False, target: Target = None) -> Path:
    """Write the script of a new revision into the checkout and return its path.

    With `autogenerate` it holds what the models have and the database, which must be at the head, has not.

    Raises:
        MigrationError: this is an installed package, which has no place for new scripts; or the database is behind.
    """
    ini = script_location().parent / "alembic.ini"
    if not ini.is_file():
        raise MigrationError("revisions are written in a checkout of D-gent, and this is an installed package")
    config = Config(str(ini))
    write = partial(command.revision, config, message, autogenerate=autogenerate, rev_id=f"{int(head()) + 1:03d}")

    def work(connection: Connection) -> Any:
        config.attributes["connection"] = connection
        return write()

    script = await _in_thread(partial(run, _resolve(target), work) if autogenerate else write)
    return Path(script.path)


def script_location() -> Path:
    """Return the directory of the migration scripts: that of the wheel, else that of the checkout.

    Raises:
        MigrationError: there is neither; the installation is broken.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "_alembic", here.parents[2] / "alembic"):
        if (folder / "versions").is_dir():
            return folder
    raise MigrationError("the migration scripts are missing: install dgent again")


def include_name(name: str | None, type_: str, parent_names: object = None) -> bool:
    """Tell a host application's autogenerate to leave D-gent's tables alone: `context.configure(include_name=...)`."""
    if type_ != "table" or name is None:
        return True
    return not (name in TABLES or name == VERSION_TABLE or name.startswith(("dgent_", "_agent_store_")))


def run(settings: Settings, work: Callable[[Connection], T], scripts: ScriptDirectory | None = None) -> T:
    """Run work on a connection that holds both locks, inside the one transaction of a migration, and commit.

    `scripts` are the revisions that count as known: those of `script_location()`, unless given. It blocks: call it from
    a thread, or from a program without an event loop.

    Raises:
        SchemaTooNew, MigrationError, StorageError: as for `upgrade`; everything was rolled back.
    """
    with _turn, _explained(settings):
        refuse_newer(
            _heads(settings), scripts or _scripts()
        )  # before the file is put into WAL mode: a newer database is not touched
        result: T = _backend(settings).write(settings, work)
        return result


def refuse_newer(found: Collection[str], scripts: ScriptDirectory) -> None:
    """Raise SchemaTooNew if one of the revisions that a database is at is not among the scripts."""
    known = {script.revision for script in scripts.walk_revisions()}
    if unknown := sorted(set(found) - known):
        raise SchemaTooNew(
            f"schema is at {', '.join(unknown)}, this version knows up to {scripts.get_current_head()}: "
            "upgrade D-gent; nothing was written"
        )


def refuse_downgrade(*, ctx: MigrationContext, step: Any, **_: object) -> None:
    """Refuse a step down outside of development: Alembic calls this inside the transaction, which rolls back."""
    if not (step.is_upgrade or step.is_stamp):
        _allow_downgrade((ctx.config.attributes if ctx.config else {}).get("settings") or Settings.load())


def _allow_downgrade(settings: Settings) -> None:
    if settings.environment != "development":
        raise DowngradeRefused(
            "a downgrade loses data and is refused in production: set KGENTS_ENVIRONMENT=development if this is not it"
        )


async def _migrate(verb: Callable[[Config, str], None], settings: Settings, revision: str) -> str | None:
    def work(connection: Connection) -> str | None:
        config = _config()
        config.attributes.update(connection=connection, settings=settings)
        verb(config, revision)
        return ", ".join(_heads_on(connection)) or None

    return await _in_thread(partial(run, settings, work))


async def _in_thread(work: Callable[[], T]) -> T:
    """Run work in a thread; a caller that is cancelled leaves when the transaction has ended, one way or the other."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: whoever cancelled does not want it
        raise


def _resolve(target: Target) -> Settings:
    return target if isinstance(target, Settings) else Settings.load(database_url=target)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _heads_on(connection: Connection) -> tuple[str, ...]:
    if not inspect(connection).has_table(VERSION_TABLE):
        return ()
    return tuple(connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE} ORDER BY version_num")))  # noqa: S608


def _heads(settings: Settings) -> tuple[str, ...]:
    with _explained(settings):
        found: tuple[str, ...] = _backend(settings).read(settings, _heads_on)
        return found


@contextmanager
def _explained(settings: Settings) -> Iterator[None]:
    """Raise what Alembic and the driver raise as an error of ours."""
    try:
        yield
    except CommandError as error:
        raise MigrationError(str(error)) from None
    except Exception as error:
        ours = translate(error, shown(settings.url))
        if ours is None or ours is error:
            raise
        if type(ours) is StorageError or isinstance(ours, Conflict | SchemaOutdated | InvalidInput):
            ours = MigrationError(f"{shown(settings.url)}: a migration failed and was rolled back: {_reason(error)}")
        raise ours from None


def _reason(error: Exception) -> str:
    """Return the driver's words where they can name tables and columns only, else the kind of the error."""
    cause = getattr(error, "orig", None) or error
    kind = str(getattr(cause, "sqlite_errorname", None) or sqlstate(error) or type(cause).__name__)
    words = str(cause).splitlines()[0].rpartition(">: ")[2]
    return words if kind == "SQLITE_ERROR" or kind.startswith("42") else kind


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


class _Backend(NamedTuple):
    read: Callable[[Settings, Callable[[Connection], Any]], Any]
    write: Callable[[Settings, Callable[[Connection], Any]], Any]


def _backend(settings: Settings) -> _Backend:
    return _BACKENDS["memory" if settings.in_memory else settings.url.get_backend_name()]


_BACKENDS: Final = {
    "memory": _Backend(_read_memory, _write_memory),
    "sqlite": _Backend(_read_sqlite, _write_sqlite),
    "postgresql": _Backend(_read_postgres, _write_postgres),
}
