"""How a SQLite file is opened: one set of pragmas, one begin hook, no file of ours opened any other way."""

# What here takes the lock between processes does it on the thread of its caller, which it blocks for up to
# `busy_timeout`:
#
# asynchronous stores     whoever writes has the lock already: see `writer`
# a synchronous program   the thread that uses the connection: from before BEGIN IMMEDIATE until the transaction has
#                         ended; whoever only reads takes none
#
# While a COMMIT, a checkpoint or the last close runs there is a mark in the lock's file. Whoever finds it without a
# holder knows that one died in it. No event loop is in play, so no cancel comes in between.

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, StaticPool, create_engine, event

from dgent.exceptions import BackendUnavailable, Corrupt, DgentError, ReadOnly, StorageTimeout
from dgent.runtime.file_lock import FileLock
from dgent.runtime.private_files import look_at_files, private_file
from dgent.sql.errors import in_doubt
from dgent.sql.sqlite.file_identity import Files
from dgent.sql.sqlite.integrity_check import check_whole, held_open
from dgent.sql.statement import SYNC_SQLITE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import ExceptionContext

    from dgent.settings import Settings

C = TypeVar("C", bound=sqlite3.Connection)

CACHE_KIB = 16_384
CHECKPOINT_PAGES = 1000
_NO_LOCK: Final = nullcontext()


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
        f"PRAGMA secure_delete={'ON' if writer else 'OFF'}",  # what is deleted is overwritten; builds differ by default
    ]


def open_uri(uri: str, settings: Settings, factory: type[C]) -> C:
    """Open a URI of SQLite, in autocommit, for whatever thread has its turn."""
    return sqlite3.connect(
        uri,
        uri=True,
        isolation_level=None,
        timeout=settings.busy_timeout,
        check_same_thread=False,
        cached_statements=512,
        factory=factory,
    )


def connect(
    path: Path,
    settings: Settings,
    *,
    writer: bool = False,
    reader: bool = False,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> sqlite3.Connection:
    """Open a file that exists, in autocommit: who wants a transaction says BEGIN."""
    connection = open_uri(f"file:{quote(str(path))}?mode=rw", settings, factory)
    try:
        set_up(connection, settings, writer=writer, reader=reader)
    except BaseException:
        connection.close()
        raise
    return connection


def set_up(connection: sqlite3.Connection, settings: Settings, *, writer: bool = False, reader: bool = False) -> None:
    """Run the pragmas of a connection."""
    for pragma in pragmas(settings, writer=writer, reader=reader):
        connection.execute(pragma)


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


def files_of(path: Path, settings: Settings) -> Files:
    """Return the files of a database, with a lock of their own."""
    return Files(path, FileLock(lock_path(path), settings.busy_timeout, sole=False))


def prepare(
    files: Files,
    settings: Settings,
    lock: AbstractContextManager[object] = _NO_LOCK,
    factory: Any = sqlite3.Connection,
) -> sqlite3.Connection:
    """Create the file if it is not there, open it as the writer and put it into WAL mode.

    Hold its lock meanwhile, or give it as `lock`: it is taken if there is something to look into or to change.

    Raises:
        Corrupt: the file was cut short, or its `-wal` is that of another, or gone.
        BackendUnavailable: the disk failed at a commit, and still does.
        StorageTimeout: somebody reads too long.
    """
    path = files.path
    check_belongings(files, lock)
    has_log = _size(path.with_name(f"{path.name}-wal")) > 0
    connection = connect(private_file(path), settings, writer=True, factory=factory)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # raises for a file that is no database
        look_at_files(path, lock_path(path))
        if not has_log:  # else a crash may have left a page half copied, which is in the log as well
            _check_last_page(connection, path)
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            with lock:
                _begin_log(connection, files)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # which makes the other two files
        files.adopt()
        files.hold()
        if files.in_doubt:
            with lock:
                _make_safe(connection, files)
    except BaseException:
        connection.close()
        raise
    return connection


def check_belongings(files: Files, lock: AbstractContextManager[object] = _NO_LOCK) -> None:
    """Let nothing be opened, since SQLite would put it into the file, before it is sure whose the `-wal` is.

    Raises:
        Corrupt: it is another's, or gone.
    """
    if files.belong_together():
        return
    with lock:
        if not files.belong_together():  # else somebody was about to note his checkpoint
            if files.needs_reading:
                check_whole(files.path)
            files.accept()


def check_before_reading(files: Files) -> None:
    """Do the same where nothing can be written, the note neither.

    Raises:
        Corrupt: the `-wal` is another's, or gone.
    """
    if not files.belong_together() and files.needs_reading:
        check_whole(files.path)


def _begin_log(connection: sqlite3.Connection, files: Files) -> None:
    """Put the file into WAL mode, unless another did while this waited for the lock."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    files.begin()
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        files.adopt()
        files.note()
    finally:
        files.end()


def _make_safe(connection: sqlite3.Connection, files: Files) -> None:
    """Put the log into the file and cut it, after a sync of it failed: the kernel takes it for written since then."""
    try:
        is_cut = cut_log(connection, files)
    except sqlite3.Error:
        raise BackendUnavailable(
            f"{files.path}: the disk failed at a commit, and the file could not be made safe since: nothing is written "
            "until it can be; look after the disk"
        ) from None
    if not is_cut:
        raise StorageTimeout(
            f"{files.path}: the disk failed at a commit, and somebody read for too long for the file to be made safe: "
            "try again"
        )
    files.in_doubt = False
    files.note()


def cut_log(connection: sqlite3.Connection, files: Files) -> bool:
    """Put the log into the file and cut it, under the file's lock; tell whether no reader was in the way."""
    files.begin()
    try:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        files.note()
    finally:
        files.end()
    return not busy


def commit(run: Callable[[], object], files: Files) -> None:
    """Run a COMMIT under the file's lock, and make sure of it before anybody hears.

    Raises:
        sqlite3.Error: which says OutcomeUnknown, through `translate`, where it may be in all the same; the connection
            must not be used again.
        OutcomeUnknown: it went into files that nobody finds.
    """
    files.begin()
    try:
        run()
        files.settle()
    except sqlite3.Error as error:
        if in_doubt(error):
            files.doubt()
        raise
    finally:
        files.end()


def close_last(files: Files, close: Callable[[], object]) -> None:
    """Close what may be the last connection, which checkpoints; but not over what somebody else wrote into the file."""
    overwritten = files.overwritten
    with held_open(files.path) if overwritten else nullcontext():
        files.begin()
        try:
            close()
            if not overwritten:
                files.note()
        finally:
            files.end()


def _check_last_page(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that ends within a page: SQLite takes what is not there for zeros, and finds nothing in them."""
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if _size(path) % page_size:
        raise Corrupt(f"{path} was cut short: its last page is not whole. Restore it from a backup")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def is_in_transaction(driver: Any) -> bool:
    """Tell whether a connection has a transaction open; a closed one has none."""
    try:
        return bool(driver.in_transaction)
    except sqlite3.Error:
        return False


class _SyncConnection(sqlite3.Connection):
    """A connection whose writing transactions hold the file's lock, from before they begin until they have ended."""

    def __init__(self, files: Files, *args: Any, why: str = "", **named: Any) -> None:
        super().__init__(*args, **named)
        self._files, self._lock, self._held, self._why = files, files.lock, ExitStack(), why
        self._writes = False

    def begin(self, *, reading: bool) -> None:
        """Begin a transaction; one that writes waits for the file's lock.

        Raises:
            StorageTimeout: another process had the lock for longer than `busy_timeout`.
            Corrupt: the file, its -wal or its -shm was removed or replaced.
            ReadOnly: the file can only be read.
        """
        if self._why and not reading:
            raise ReadOnly(self._why)
        self.execute(f"PRAGMA query_only={'ON' if reading else 'OFF'}")
        self._writes = not reading
        if reading:
            self.execute("BEGIN")
            return
        self._held.enter_context(self._lock)
        try:
            self._files.check()
            self.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._held.close()
            raise

    def commit(self) -> None:
        try:
            if self._writes and is_in_transaction(self):
                commit(super().commit, self._files)
            else:
                super().commit()
        finally:
            self._release_lock()

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._release_lock()

    def close(self) -> None:
        taken = False
        with suppress(DgentError, OSError):  # a folder that is gone
            taken = not self._why and self._lock.try_take()
        try:
            if taken:
                close_last(self._files, super().close)
            else:  # who has it is not about to let this connection be the last
                super().close()
        finally:
            self._held.close()
            self._files.close()

    def _release_lock(self) -> None:
        if not is_in_transaction(self):  # a COMMIT that failed may have left it open
            self._held.close()


def create_sync_engine(path: Path, settings: Settings) -> Engine:
    """Return an engine for a synchronous program: our pragmas, and transactions that take turns with every writer.

    A transaction holds the lock between processes until it ends, as those of the asynchronous stores do. One of a
    connection with the execution option `dgent_read=True` takes no lock, holds up no writer, and cannot write.
    """
    from dgent.sql.sqlite.read_only import ReadOnlyFile, why_read_only  # noqa: PLC0415  # which opens files by this

    def create() -> sqlite3.Connection:
        files = files_of(path, settings)
        if why := why_read_only(path):
            return ReadOnlyFile(path, settings, why).connect(partial(_SyncConnection, files, why=why))
        try:
            return prepare(files, settings, files.lock, partial(_SyncConnection, files))
        except BaseException:
            files.close()
            raise

    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)), creator=create, poolclass=NullPool, hide_parameters=True
    )
    engine.dialect.driver = SYNC_SQLITE
    _hook(engine)
    return engine


def _hook(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        dbapi: Any = connection.connection.dbapi_connection
        dbapi.begin(reading=bool(connection.get_execution_options().get("dgent_read")))

    event.listen(engine, "handle_error", invalidate_half_done)


def invalidate_half_done(context: ExceptionContext) -> None:
    """Let go of a connection whose transaction an error left open, or ended, behind SQLAlchemy's back."""
    connection = context.connection
    if connection is None or connection.invalidated or not connection.in_transaction():
        return
    if context.statement is None or not is_in_transaction(connection.connection.driver_connection):
        # A COMMIT failed, and SQLAlchemy would leave the transaction open. Or SQLite undid all of it, as it does
        # when the disk is full, and what came next would commit by itself.
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
