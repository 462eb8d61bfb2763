"""Bring the typed tables to the revision that this code needs: one transaction, one upgrade at a time.

A migration has a connection of its own (`connection`). Alembic is not re-entrant, so one lock serves the process; a
second one, in the database, serves all processes.
"""

# waiting    a thread of this process, for `_turn`: one migrates at a time, whatever the database
# locked     it has `_turn`, and waits in the database for the lock between processes, as long as `busy_timeout`
# migrating  it has both, in one transaction, to its end
#
# The awaited verbs run in a thread. A cancel of the caller does not reach that: the caller leaves when the thread has
# ended, committed or rolled back.

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, inspect, text

from dgent.error_messages import UPGRADE
from dgent.exceptions import (
    Conflict,
    DowngradeRefused,
    InvalidInput,
    MigrationError,
    SchemaOutdated,
    SchemaTooNew,
    StorageError,
)
from dgent.migrations.connection import connection_to
from dgent.models import TABLES
from dgent.settings import Settings, shown
from dgent.sql.errors import sqlstate, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from alembic.runtime.migration import MigrationContext


VERSION_TABLE: Final = "schema_version"
"""Alembic's own table; a host application's `alembic_version` in the same database is another."""

_turn = threading.Lock()  # of the thread that migrates, from before its connection until that is closed

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
        MigrationError: as for `upgrade`.
        StorageError: as for `upgrade`.
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
        SchemaOutdated: it is older or newer; the message names both.
        SchemaTooNew: it is older or newer; the message names both.
        StorageError: as for `current`.
    """
    found = await _in_thread(partial(_heads, _resolve(target)))
    refuse_newer(found, _scripts())
    if found != (head(),):
        raise SchemaOutdated(
            f"schema is at {', '.join(found) or 'no revision'}, this version needs {head()}: {UPGRADE}"
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
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_alembic", package.parents[1] / "alembic"):
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
        SchemaTooNew: as for `upgrade`; everything was rolled back.
        MigrationError: as for `upgrade`; everything was rolled back.
        StorageError: as for `upgrade`; everything was rolled back.
    """
    with _turn, _explained(settings):
        refuse_newer(
            _heads(settings), scripts or _scripts()
        )  # before the file is put into WAL mode: a newer database is not touched
        result: T = connection_to(settings).write(settings, work)
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
            "a downgrade loses data and is refused in production: elsewhere set KGENTS_ENVIRONMENT=development"
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
        found: tuple[str, ...] = connection_to(settings).read(settings, _heads_on)
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
