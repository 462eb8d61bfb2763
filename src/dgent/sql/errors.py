"""Map what drivers raise to the errors of this library, in one place.

SQLite errors go by `sqlite_errorname`, PostgreSQL errors by SQLSTATE. The driver's own text may quote values or URLs,
so it is dropped: raise the result `from None`.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from contextlib import contextmanager
from traceback import walk_tb
from typing import TYPE_CHECKING, Final, NoReturn

from sqlalchemy.exc import (
    DBAPIError,
    InvalidRequestError,
    NoInspectionAvailable,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError, UnmappedError

from dgent.exceptions import (
    BackendUnavailable,
    Conflict,
    Corrupt,
    DgentError,
    DiskError,
    DiskFull,
    InvalidInput,
    InvalidQuery,
    InvalidSettings,
    LimitExceeded,
    OutcomeUnknown,
    ReadOnly,
    ResourceExhausted,
    RolledBack,
    StorageError,
    StorageTimeout,
)
from dgent.sql.error_details import (
    mistake_of_postgres,
    mistake_of_sqlite,
    violation_of_postgres,
    violation_of_sqlite,
)
from dgent.sql.postgres import server_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTAGE: Final = (BackendUnavailable, StorageTimeout)
"""What waiting may mend: the store is there and does not answer. The next of a chain may take over for these alone.

A mistake (a URL, a login, a right, a mode, a format) is another class, and so is what only this machine or disk lacks
(`DiskFull`, `DiskError`, `ResourceExhausted`): nobody would look for it while another store answers.
"""
RETRYABLE: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs after which the same transaction may simply run again: serialization failure and deadlock."""

_FULL = "no space is left for {what}: free some, then write again; what was acknowledged is safe"
_READ_ONLY = "{what} cannot be written: check the owner and the mode of the file and its folder"
_NO_FOLDER = "{what} cannot be opened: a folder on its way is missing, or is none: check the path"
_TOO_LONG = "the name of {what} is too long, or that of a file beside it: choose a shorter one"
_DEVICE = "{what}: the device failed to read or to write: check the disk, then try again"
_EXHAUSTED = (
    "{what}: no memory or no file descriptors are left: close what is open, or raise the limit (`ulimit -n`), and try "
    "again"
)
_CORRUPT = "{what} is damaged or is no database: restore a backup, or move the file away"
_CELL = "{what}: a cell holds what its column cannot: restore a backup, or mend the row by SQL"
_LOCKED = "{what} is locked by another process and stayed so: raise busy_timeout, or end the other writer"
_UNKNOWN = (
    "{what}: the disk failed while something was committed, which is in the file or is not: look for it; a put may be "
    "repeated"
)
_GONE = "{what} does not answer: check that it runs and can be reached; nothing was lost"
_ABORTED = (
    "a statement of this transaction on {what} failed, so all of it is rolled back: let an error leave its block, and "
    "run what may fail alone in session.begin_nested()"
)
_LIMIT = "{what} refused something larger than it can take"
_SLOW = "{what} took longer than its limit: narrow the query, or raise command_timeout"
_VALUE = "{what} cannot store one of the values"
_OPTIONS = "the URL of {what} cannot be used: check its host, port, user and options, sslmode and sslrootcert above all"
_NO_ROW = (
    "what the session was given is no row and no class of rows: add an instance of a mapped class; a Datum is put "
    "through tx.memory"
)
_ALTERED = "a table of {what} was altered since a statement of this transaction was planned: run the transaction again"

_SQLITE: Final[list[tuple[str, type[DgentError], str]]] = [
    ("SQLITE_FULL", DiskFull, _FULL),
    ("SQLITE_IOERR_WRITE", DiskFull, _FULL),
    ("SQLITE_IOERR_SHMSIZE", DiskFull, _FULL),
    ("SQLITE_IOERR_CORRUPTFS", Corrupt, _CORRUPT),
    ("SQLITE_IOERR_SHORT_READ", Corrupt, _CORRUPT),
    ("SQLITE_IOERR_DATA", Corrupt, _CORRUPT),
    ("SQLITE_READONLY", ReadOnly, _READ_ONLY),
    ("SQLITE_CANTOPEN", ReadOnly, _READ_ONLY),
    ("SQLITE_PERM", ReadOnly, _READ_ONLY),
    ("SQLITE_CORRUPT", Corrupt, _CORRUPT),
    ("SQLITE_NOTADB", Corrupt, _CORRUPT),
    ("SQLITE_FORMAT", Corrupt, _CORRUPT),
    ("SQLITE_BUSY", StorageTimeout, _LOCKED),
    ("SQLITE_LOCKED", StorageTimeout, _LOCKED),
    ("SQLITE_INTERRUPT", StorageTimeout, _SLOW),
    ("SQLITE_TOOBIG", LimitExceeded, _LIMIT),
    ("SQLITE_AUTH", InvalidQuery, "a transaction on {what} ends with its block: leave the block to commit"),
    ("SQLITE_IOERR_NOMEM", ResourceExhausted, _EXHAUSTED),
    ("SQLITE_NOMEM", ResourceExhausted, _EXHAUSTED),
    ("SQLITE_IOERR", DiskError, _DEVICE),
]
_POSTGRES: Final[list[tuple[str, type[DgentError], str]]] = [
    ("40", Conflict, "{what} gave up after repeated conflicts with other writers: try again"),
    (
        "08007",
        OutcomeUnknown,
        "the connection to {what} was lost at COMMIT: look for the write; a put may be repeated",
    ),
    ("08", BackendUnavailable, _GONE),
    ("25P02", RolledBack, _ABORTED),
    ("25", StorageTimeout, _SLOW),
    ("22", InvalidInput, _VALUE),
    ("53100", DiskFull, _FULL),
    ("53300", BackendUnavailable, "{what} has no resources left for another connection: lower pool_size, or wait"),
    ("53", ResourceExhausted, "{what} has no memory or no other resource left: see the log of the server"),
    ("54", LimitExceeded, _LIMIT),
    ("55P03", StorageTimeout, _LOCKED),
    ("57014", StorageTimeout, _SLOW),
    ("57P04", InvalidSettings, "{what} was dropped: check the name of the database in the URL"),
    ("57", BackendUnavailable, _GONE),
    ("58", DiskError, _DEVICE),
    ("XX001", Corrupt, _CORRUPT),
    ("XX002", Corrupt, _CORRUPT),
]
_SQLALCHEMY: Final[list[tuple[type[Exception], type[DgentError], str]]] = [
    (PoolTimeout, StorageTimeout, "no connection to {what} became free in time: raise pool_size or pool_timeout"),
    (PendingRollbackError, RolledBack, "the transaction on {what} was rolled back: let an error leave its block"),
    (StaleDataError, Conflict, "a row of {what} was changed by somebody else since it was loaded: load it again"),
]
_OS: Final[dict[int, tuple[type[DgentError], str]]] = {
    errno.ENOSPC: (DiskFull, _FULL),
    errno.EDQUOT: (DiskFull, _FULL),
    errno.EFBIG: (DiskFull, _FULL),
    errno.EROFS: (ReadOnly, _READ_ONLY),
    errno.EACCES: (ReadOnly, _READ_ONLY),
    errno.EPERM: (ReadOnly, _READ_ONLY),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP), (ReadOnly, _NO_FOLDER)),
    errno.ENAMETOOLONG: (InvalidInput, _TOO_LONG),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM), (ResourceExhausted, _EXHAUSTED)),
    errno.EIO: (DiskError, _DEVICE),
}
_DRIVERS: Final = ("sqlalchemy.dialects.", "sqlalchemy.connectors.", "asyncpg.", "aiosqlite.")
_CLOSED: Final = re.compile("closed database|no active connection|[Cc]onnection closed")
_DAMAGED: Final = ("unsupported file format", "Could not decode to UTF-8")  # said without an error name of its own
_CONFIGURATION: Final = "ClientConfigurationError"  # asyncpg's
_CACHED_PLAN: Final = "InvalidCachedStatementError"  # asyncpg's; SQLSTATE 0A000 has other meanings as well
_IN_DOUBT: Final = ("SQLITE_IOERR", "SQLITE_NOMEM")
_NOT_WRITTEN: Final = "SQLITE_IOERR_WRITE"
_LONGEST: Final = 490  # bytes of a path: SQLite takes 512, with what it and a backup add to it
_OPENING: Final = ("SQLITE_CANTOPEN", "SQLITE_IOERR")
_CONSTRAINT: Final = ("SQLITE_CONSTRAINT", "SQLITE_MISMATCH")
_PARAMETER: Final = re.compile(r"A value is required for bind parameter '\w+'")


def in_doubt(error: sqlite3.Error) -> bool:
    """Tell whether a COMMIT that raised this may be in all the same, and let `translate` say so.

    By the time that SQLite syncs its log the frame that commits is in it, and who reads the log anew finds it. Before
    that it cannot be in: a frame that was not written whole has no valid checksum.
    """
    name = getattr(error, "sqlite_errorname", "") or ""
    found = name.startswith(_IN_DOUBT) and name != _NOT_WRITTEN
    if found:
        error.at_commit = True  # type: ignore[attr-defined]  # travels with it through SQLAlchemy
    return found


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver's error carries, however it is wrapped."""
    for link in _links(error):
        found = getattr(link, "sqlstate", None)
        if isinstance(found, str):
            return found
    return None


def translate(error: BaseException, what: str) -> DgentError | None:
    """Return the error of ours that a driver's error means, or None if it is not a driver's.

    `what` names the database for the message; it must hold no password.
    """
    if isinstance(error, DgentError):
        return error
    for known, kind, text in _SQLALCHEMY:
        if isinstance(error, known):
            return kind(text.format(what=what))
    for link in _links(error):
        if isinstance(link, sqlite3.Error):
            return _from_sqlite(link, _sql_of(error), what)
        if isinstance(state := getattr(link, "sqlstate", None), str):
            return _from_sqlstate(state, error, what)
    for link in _links(error):
        if isinstance(link, OSError):  # TimeoutError is one
            return _from_system(link, what)
    return _without_a_code(error, what)


def _without_a_code(error: BaseException, what: str) -> DgentError | None:
    if isinstance(error, UnmappedError | NoInspectionAvailable):
        return InvalidInput(_NO_ROW)
    for link in _links(error):
        if isinstance(link, InvalidRequestError) and (missing := _PARAMETER.match(str(link))):
            return InvalidQuery(f"{what}: {missing[0]}: pass it among the parameters")
    if any(type(link).__name__ == _CONFIGURATION for link in _links(error)):
        return InvalidSettings(_OPTIONS.format(what=what))
    if isinstance(error, DBAPIError) or type(error).__module__.startswith("asyncpg"):
        return BackendUnavailable(_GONE.format(what=what))
    if _is_of_a_cell(error):
        return Corrupt(_CELL.format(what=what))
    return StorageError(f"{what}: {type(error).__name__}") if isinstance(error, SQLAlchemyError) else None


@contextmanager
def translated(what: str, *, only_sql: bool = False) -> Iterator[None]:
    """Run a block and raise a driver's error as ours; every other error passes.

    With `only_sql` the block runs code that is not ours, whose own missing files and timeouts are none of the driver's.
    """
    try:
        yield
    except Exception as error:
        if only_sql and not _is_of_sql(error):
            raise
        raise_ours(error, what)


def raise_ours(error: Exception, what: str) -> NoReturn:
    """Raise a driver's error as ours, without the driver's text behind it; every other error as it is."""
    ours = translate(error, what)
    if ours is None or ours is error:
        raise error
    raise ours from None


def _is_of_sql(error: Exception) -> bool:
    """Tell whether it is SQLAlchemy's, or came out of a driver or out of a row."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    return (
        isinstance(error, SQLAlchemyError | sqlite3.Error)
        or any(module.startswith(_DRIVERS) for module in modules)
        or _is_of_a_cell(error)
    )


def _is_of_a_cell(error: BaseException) -> bool:
    """Tell whether a value could not be read as the type of its column: SQLite keeps any value in any column."""
    return isinstance(error, ValueError | TypeError | LookupError) and any(
        frame.f_code.co_name.endswith("_apply_processors") for frame, _ in walk_tb(error.__traceback__)
    )


def _links(error: BaseException) -> Iterator[BaseException]:
    """Walk from a wrapper to the errors inside of it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop(0)
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            pending += [getattr(link, "orig", None), link.__cause__]


def _from_system(error: OSError, what: str) -> DgentError:
    if isinstance(error, TimeoutError):
        return StorageTimeout(_SLOW.format(what=what))
    if error.errno not in _OS or server_errors.is_of_the_network(error):
        return server_errors.unreachable(error, what)
    kind, text = _OS[error.errno]
    return kind(text.format(what=what))


def _sql_of(error: BaseException) -> str | None:
    return next((sql for link in _links(error) if isinstance(sql := getattr(link, "statement", None), str)), None)


def no_descriptors() -> bool:
    """Tell whether nothing more can be opened: SQLite says only that it could not, not why."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in {errno.EMFILE, errno.ENFILE}
    return False


def _from_sqlite(error: sqlite3.Error, sql: str | None, what: str) -> DgentError:
    name = getattr(error, "sqlite_errorname", "") or ""
    text = str(error)
    if getattr(error, "at_commit", False):
        return OutcomeUnknown(_UNKNOWN.format(what=what))
    if name.startswith(_OPENING) and no_descriptors():
        return ResourceExhausted(_EXHAUSTED.format(what=what))
    if name.startswith("SQLITE_CANTOPEN") and len(os.fsencode(what)) > _LONGEST:
        return InvalidInput(_TOO_LONG.format(what=what))
    if name.startswith(_CONSTRAINT):
        return violation_of_sqlite(name, text)
    for start, kind, message in _SQLITE:
        if name.startswith(start):
            return kind(message.format(what=what))
    if text.startswith(_DAMAGED):
        return Corrupt(_CORRUPT.format(what=what))
    if _CLOSED.search(text):
        return BackendUnavailable(_GONE.format(what=what))
    return mistake_of_sqlite(text, sql, what) or StorageError(f"{what}: SQLite answered {name or type(error).__name__}")


def _from_sqlstate(state: str, error: BaseException, what: str) -> DgentError:
    if any(type(link).__name__ == _CACHED_PLAN for link in _links(error)):
        return Conflict(_ALTERED.format(what=what))
    if state == "42501":
        return server_errors.missing_right(_texts(error), what)
    if state == "25006":
        return server_errors.read_only(_texts(error), what)
    if state.startswith(("28", "3D", "3F")):
        return server_errors.refused(state, _texts(error), what)
    if state.startswith("23"):
        return violation_of_postgres(state, _links(error))
    for start, kind, message in _POSTGRES:
        if state.startswith(start):
            return kind(message.format(what=what))
    mistake = mistake_of_postgres(state, _links(error), _sql_of(error), what)
    return mistake or StorageError(f"{what}: PostgreSQL answered SQLSTATE {state}")


def _texts(error: BaseException) -> list[tuple[str, str]]:
    """Return what the server said, and the statement that it said it of, however that is wrapped."""
    links = [*_links(error)]
    said = (getattr(link, name, None) for link in links for name in ("query", "statement"))
    statement = next((str(found) for found in said if found), "")
    return [(str(getattr(link, "message", link)), statement) for link in links]


def refusal(error: Exception, what: str) -> Exception:
    """Return what an error while connecting to a server means."""
    if isinstance(error, DgentError):
        return error
    state = sqlstate(error)
    if state is not None:
        return server_errors.refused(state, _texts(error), what)
    for link in _links(error):
        if isinstance(link, OSError) and not isinstance(link, TimeoutError):
            return server_errors.unreachable(link, what)
    if type(error).__name__ == "TargetServerAttributeNotMatched":
        return server_errors.not_as_asked(str(error), what)
    if isinstance(error, ValueError | LookupError | OverflowError):  # a port, a host or a user that cannot be
        return InvalidSettings(_OPTIONS.format(what=what))
    ours = translate(error, what)
    if ours is None or isinstance(ours, BackendUnavailable | InvalidSettings):
        return ours or error
    return BackendUnavailable(_GONE.format(what=what))
