"""The connection of ORM sessions on SQLite: what is short runs on the caller's thread, the rest on the writer's.

An open transaction holds the write lock, so none of its statements waits for anybody, and only its COMMIT waits for the
disk. And the writer waits for the transaction, so its thread is free to do what may take long. A hop to another thread
and back costs ten times what an INSERT does, and SQLAlchemy's own driver for asyncio takes three for each statement.
"""

# a task        thread                                   who waits                          what a cancel of the
#                                                                                           session's task does
# at once       the caller's, with `_use`                its event loop; what only reads    none can come meanwhile
#                                                        is given up after 2 ms and begun
#                                                        anew on the other thread
# handed over   the writer's, with `_use`, in            the session's task                 it is held back until the
#               `WriteLease.do`                                                             task has ended
# COMMIT        the writer's, as the last of its lease   the session's task                 the same
# undone        the caller's, or the writer's            whoever undoes waits for `_use`,   nothing
#                                                        never for the event loop
#
# `_use`, a thread lock, is held for one task of the connection: the caller only tries it, and hands the task over where
# it is taken. Whoever has it looks first whether the transaction is still open, so that nothing commits by itself.
# `_until`, which ends a task that takes too long, is written by whoever holds it.

from __future__ import annotations

import math
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn
from weakref import WeakSet

from sqlalchemy.engine import AdaptedConnection

from dgent.sql.sqlite.engine import connect, wrap
from dgent.sql.sqlite.readers import INLINE_BUDGET, INLINE_REST, STEPS
from dgent.sql.transaction_block import control_in, refused, undone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from sqlalchemy import Connection

    from dgent.settings import Settings
    from dgent.sql.runner import T, Work
    from dgent.sql.sqlite.write_lease import WriteLease

    Commit: TypeAlias = Callable[[Callable[[], object]], None]
    """Runs the COMMIT of a connection, and makes sure of it."""

_BEGIN: Final = "BEGIN IMMEDIATE -- of a block"  # nobody else's text, because it is cached with the right to run
_BEGIN_READING: Final = "BEGIN -- of a block"
_VALUES: Final = 100
_LARGE: Final = 64 * 1024
"""An INSERT of more values, or of a larger one, is not short."""


class OrmConnection(AdaptedConnection):
    """What SQLAlchemy takes for a connection of a driver: synchronous, and awaiting where it must.

    Attributes:
        lease: that of the transaction that uses it.
        direct: a `Connection` for units of work, past the engine.
    """

    def __init__(self, path: Path, settings: Settings, lease: WriteLease, commit: Commit) -> None:
        driver = connect(path, settings, writer=True, factory=OwnedConnection)
        self._connection: Any = driver  # the base class's `driver_connection` and `run_async` look for it here
        self.lease = lease
        self._commit = commit
        self.direct: Connection = wrap(driver)
        self.isolation_level = None  # SQLAlchemy may set it; a transaction is BEGIN IMMEDIATE whatever it says
        self._longest, self._patience = settings.command_timeout, int(settings.busy_timeout * 1000)
        self._until = self._rests_until = 0.0
        self._use = threading.Lock()
        self._begun = False
        driver.set_progress_handler(self._is_late, STEPS)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, by whomever."""
        try:
            return self._connection.in_transaction is None
        except sqlite3.ProgrammingError:
            return True

    def begin_in(self, lease: WriteLease) -> None:
        """Begin a transaction of a lease, on the writer's thread: another program may have to be waited for."""
        self._by_writer(self._begin_patiently)
        self.lease = lease
        self._begun = True

    def try_begin_in(self, lease: WriteLease) -> bool:
        """Begin one on the caller's thread, if nobody has to be waited for."""
        try:
            self._at_once(self._connection.begin_block, math.inf)
        except sqlite3.Error:  # the writer's thread hears it again, and says so
            return False
        self.lease = lease
        self._begun = True
        return True

    def begin(self) -> None:
        """Take up the transaction that came with the lease. There is no second one.

        Raises:
            RolledBack: it was undone.
            StorageTimeout: the lease was taken back.
        """
        if not self._begun:
            raise self.lease.refusal or undone()
        self._begun = False

    def commit(self) -> None:
        """Commit, await the disk, and let the lease end with that.

        Raises:
            RolledBack: it is not the block that commits.
        """
        self.lease.block.refuse_commit()
        self._hop(partial(self._within, partial(self._commit, self._connection.commit_block)), last=True)
        self.lease.block.committed = True

    def rollback(self) -> None:
        """Undo the transaction of the block, if it was taken up: SQLAlchemy also calls this on a new connection."""
        if not self._begun:
            self.lease.block.undone = True
            self.undo()

    def undo(self) -> None:
        """Undo what is not committed, if anything is. It waits for what still runs, and never for the event loop."""
        self._begun = False
        with self._use:
            if not self.is_closed:
                self._connection.undo()

    def close(self) -> None:
        """Undo what is not committed, and close."""
        with self._use:
            self._connection.close()

    def terminate(self) -> None:
        """Close, because SQLAlchemy was told to let go of it."""
        self.lease.block.undone = True
        self.close()

    def cursor(self, *, stream: bool = False) -> Any:
        """Return a cursor."""
        cursor = self._connection.cursor(_Stream if stream else _OrmCursor)
        cursor.owner = self
        return cursor

    def execute(self, sql: str, values: Any = ()) -> Any:
        """Run a statement on a cursor of its own."""
        return self.cursor().execute(sql, values)

    def create_function(self, *args: Any, **named: Any) -> None:
        """Pass it on: SQLAlchemy adds functions of its own."""
        self._connection.create_function(*args, **named)

    async def unit(self, work: Work[T], *, short: bool) -> T:
        """Run a unit of work on the `direct` connection."""
        run = partial(self._within, partial(work, self.direct))
        done, result = self._at_once(run, math.inf if short else 0)
        return result if done else await self.lease.do(partial(self._by_writer, run))  # type: ignore[return-value]

    def run(self, task: Callable[[], T], allowance: float) -> T:
        """Run a task where it holds up nobody. It may take the caller's thread for `allowance` seconds.

        A task that is given less than all the time of the world is done again from the start when that is over.
        """
        within = partial(self._within, task)
        done, result = self._at_once(within, allowance)
        return result if done else self._hop(within)  # type: ignore[return-value]

    def _within(self, task: Callable[[], T]) -> T:
        """Run a task in the transaction, or not at all: where that was undone meanwhile it would commit by itself."""
        if not self._connection.in_transaction:
            raise self.lease.refusal or undone()
        return task()

    def _at_once(self, task: Callable[[], T], allowance: float) -> tuple[bool, T | None]:
        start = time.monotonic()
        resting = start < self._rests_until and allowance is not math.inf
        if not allowance or resting or not self._use.acquire(blocking=False):
            return False, None
        try:
            self._until = start + allowance
            return True, task()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", None) != "SQLITE_INTERRUPT":
                raise
            return False, None
        finally:
            self._use.release()
            if (end := time.monotonic()) > start + INLINE_BUDGET:  # a cold disk, which no interrupt helps against
                self._rests_until = end + INLINE_REST * (end - start)

    def _hop(self, task: Callable[[], T], *, last: bool = False) -> T:
        return self.run_async(lambda _: self.lease.do(partial(self._by_writer, task), last=last))

    def _by_writer(self, task: Callable[[], T]) -> T:
        with self._use:
            self._until = time.monotonic() + self._longest
            return task()

    def _begin_patiently(self) -> None:
        self._connection.execute(f"PRAGMA busy_timeout={self._patience}")
        try:
            self._connection.begin_block()
        finally:
            self._connection.execute("PRAGMA busy_timeout=0")

    def _is_late(self) -> bool:
        return time.monotonic() > self._until


class OwnedConnection(sqlite3.Connection):
    """A connection whose transactions only its owner begins and ends; no statement and no call from outside does.

    It closes the cursors of streams before a transaction ends. One that a cancelled task left unread would hold on to
    an old snapshot, and keep a closed connection alive, with its lock, for as long as anybody keeps the traceback.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.streams: WeakSet[sqlite3.Cursor] = WeakSet()
        self._by_owner = False
        self.set_authorizer(self._authorize)  # asked when a statement is prepared, which is seldom: they are cached

    def begin_block(self) -> None:
        """Begin a transaction that writes."""
        with self._as_owner():
            self.execute(_BEGIN)

    def begin_reading(self) -> None:
        """Begin a transaction that takes no lock to write."""
        with self._as_owner():
            self.execute(_BEGIN_READING)

    def commit_block(self) -> None:
        """Commit what `begin_block` began."""
        self._close_streams()
        with self._as_owner():
            super().commit()

    def undo(self) -> None:
        """Roll back, if anything was begun."""
        self._close_streams()
        with self._as_owner():
            super().rollback()

    def commit(self) -> NoReturn:
        """Refuse: it is not the owner who calls this."""
        raise refused("COMMIT")

    def rollback(self) -> NoReturn:
        """Refuse: it is not the owner who calls this."""
        raise refused("ROLLBACK")

    def close(self) -> None:
        """Roll back, and close."""
        with suppress(sqlite3.Error):
            self.undo()
        super().close()

    @contextmanager
    def _as_owner(self) -> Iterator[None]:
        self._by_owner = True
        try:
            yield
        finally:
            self._by_owner = False

    def _authorize(self, action: int, *_: str | None) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION and not self._by_owner else sqlite3.SQLITE_OK

    def _close_streams(self) -> None:
        for cursor in list(self.streams):
            with suppress(sqlite3.Error):
                cursor.close()


class _OrmCursor(sqlite3.Cursor):
    """A cursor that has every row when `execute` returns, and is closed if it raises: nothing is left open."""

    owner: OrmConnection
    _rows: list[Any]

    def execute(self, sql: str, values: Any = (), /) -> Any:
        return self._run(partial(self._fetch, sql, values), _allowance(sql, values))

    def executemany(self, sql: str, rows: Any, /) -> Any:
        return self._run(partial(super().executemany, sql, rows), 0)

    def _run(self, task: Callable[[], object], allowance: float) -> Any:
        try:
            self.owner.run(task, allowance)
        except BaseException:
            self.close()
            raise
        return self

    def fetchone(self) -> Any:
        return self._rows.pop() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return [self._rows.pop() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows[::-1], []
        return rows

    def _fetch(self, sql: str, values: Any) -> None:
        super().execute(sql, values)
        self._rows = super().fetchall()[::-1] if self.description else []

    async def _async_soft_close(self) -> None:
        """Do nothing: AsyncSession asks cursors of every asynchronous driver for it before it hands out a result."""


class _Stream(sqlite3.Cursor):
    """A cursor whose rows are fetched by the writer's thread while they are asked for: `session.stream(...)`."""

    owner: OrmConnection

    def execute(self, sql: str, values: Any = (), /) -> Any:
        self.connection.streams.add(self)  # type: ignore[attr-defined]  # it is a `OwnedConnection`
        return self.owner.run(partial(super().execute, sql, values), 0)

    def fetchone(self) -> Any:
        return self.owner.run(super().fetchone, 0)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return self.owner.run(partial(super().fetchmany, size or self.arraysize), 0)

    def fetchall(self) -> list[Any]:
        return self.owner.run(super().fetchall, 0)


def _allowance(sql: str, values: Any) -> float:
    """Return for how many seconds a statement may hold up the caller; 0 for what must not even begin there.

    What reads can be given up and begun anew. What writes cannot: SQLite undoes the whole transaction.

    Raises:
        InvalidQuery: it would begin or end a transaction.
    """
    kind = _kind(sql) if len(sql) < _LARGE else "long"
    if kind == "control":
        raise refused(str(control_in(sql)))
    if kind == "read":
        return INLINE_BUDGET
    return math.inf if kind == "short" and _is_little(values) else 0


@lru_cache(maxsize=512)
def _kind(sql: str) -> Literal["read", "short", "long", "control"]:
    if control_in(sql):
        return "control"
    word, _, rest = sql.strip().upper().partition(" ")
    if word == "SELECT":
        return "read"
    few = word in {"SAVEPOINT", "RELEASE", "ROLLBACK"} or (word == "INSERT" and "SELECT" not in rest)
    return "short" if few else "long"


def _is_little(values: Sequence[Any]) -> bool:
    if len(values) > _VALUES or not isinstance(values, tuple | list):
        return False
    return all(len(value) <= _LARGE for value in values if isinstance(value, str | bytes))
