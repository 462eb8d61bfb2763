"""What runs SQL: a database, or one transaction of it. Layers above write units of work (`runner`) for it."""

# a transaction    who, on which thread                              what a cancel of its task does
# opening          its task, on the loop; it may wait for its turn   it is given up, and was never there
# open, ending,    see `transaction`
# committing
# over             `_session` closes its session                     it is held back until that has ended
#
# The limit (`transaction_timeout`, or its own) cancels the block, its wait for a unit that still runs included, never
# COMMIT. `_current` is a context variable, the innermost transaction and those of other databases around it: so a task
# sees what was open where it was made, for as long as that is open. Stores ask `runner`: the task that opened it takes
# part, one that was made inside of it is refused. The child of a fork may use nothing of this.

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from dgent.exceptions import DgentError, StorageTimeout, StoreClosed, TransactionOpen
from dgent.runtime.callbacks import call_all
from dgent.runtime.event_loop import uninterrupted
from dgent.settings import Settings, shown
from dgent.sql.errors import translated
from dgent.sql.runner import A, Each, T, Work, only, then_vacuum
from dgent.sql.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.sql.runner import Runner
    from dgent.sql.transaction_block import BlockSession
    from dgent.sql.watch import Watch


_forks = 0


def _forked() -> None:
    global _forks  # noqa: PLW0603  # counted here, because asking for the process id is a system call at every read
    _forks += 1


os.register_at_fork(after_in_child=_forked)

_Open: TypeAlias = "tuple[Database, Transaction, _Open | None]"
"""A transaction, and those of other databases in whose blocks it was opened."""

_current: ContextVar[_Open | None] = ContextVar("dgent_transaction", default=None)


class Database(ABC):
    """One database, shared by both tracks: all SQL of this library passes here.

    Usable from several event loops, one after another; not in a child after `fork`. Close it when done.

    Attributes:
        what: the database, for people.
        look_every: seconds between two looks at whether another process has changed something, while anybody watches.
        attached: what layers above keep for as long as it lives, by type.
        durable: whether what was acknowledged is there after the process has ended.
    """

    look_every: float
    durable = True
    read_only = ""
    """Why it can only be read, for a message; empty where it can be written."""

    def __init__(self, url: URL, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.what = shown(url)
        self.attached: dict[type[Any], Any] = {}
        self._forks = _forks
        self._closed = False

    @abstractmethod
    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads."""

    async def read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Run a short read of one item."""
        return only(await self.read(lambda connection: work(connection, [item]), short=True))

    @abstractmethod
    async def write(self, work: Work[T]) -> T:
        """Run work that writes and answer after its commit."""

    @abstractmethod
    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Write one item and answer after its commit."""

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back at once: `write` has answered, so it is committed."""
        call_all([callback])

    @abstractmethod
    def watch(self, topic: str, wake: Callable[[], None]) -> Watch:
        """Call back on this event loop whenever the database may have changed, until the watch is closed.

        It may be for nothing, and it may come late by `look_every`, but it comes: also for what other processes commit,
        and when the database is closed. Where the database can tell, only for units of work that announced the `topic`
        (see `constructs.announcing`).
        """

    async def vacuum(self, tables: Sequence[str]) -> None:
        """Clear the room in which rows of these tables were that are deleted, as far as the database can.

        A file is written anew without it, which takes as much room once more; a server vacuums the tables.

        Raises:
            TransactionOpen: a transaction is open here.
            StorageTimeout: others read for too long.
            CapabilityMissing: the server is reached by way of a pooler.
        """
        await self.write(then_vacuum)

    @abstractmethod
    async def backup(self, path: str | os.PathLike[str]) -> Path:
        """Write a copy of the database as it is at one moment, while it is in use, and return the path of the file.

        The file is its owner's (0600), and is there when it is whole; none is replaced. A cancel leaves none: it takes
        one that has its name already away again.

        Raises:
            InvalidInput: something is there already, if only the `-wal` of an earlier file, another backup to that name
                is under way, or the name is too long.
            CapabilityMissing: a server copies itself: the message says how.
            DiskFull: the copy cannot be made.
            ReadOnly: the copy cannot be made.
        """

    async def ahead(self) -> float:
        """Return by how many seconds the clock of the database is ahead of ours; 0 where it has none."""
        return 0.0

    @property
    def where(self) -> str:
        """What tells it apart from every other database; no password."""
        return self.what

    @property
    def is_made(self) -> bool:
        """Whether there is something that can be read, without making it."""
        return True

    @property
    def forked(self) -> bool:
        """Whether this is a child process of the one that opened the database."""
        return self._forks != _forks

    @asynccontextmanager
    async def transaction(self, *, seconds: float | None = None) -> AsyncIterator[Transaction]:
        """Open a transaction for the ORM and for units of work; commit at the end, roll back on any error.

        Inside of one that the same task opened it is a savepoint of that.

        Raises:
            TransactionOpen: another task's is open here.
            StorageTimeout: it stayed open longer than so many seconds, or, without them, `transaction_timeout`.
            RolledBack: the block ended well, but something in it had rolled the transaction back.
        """
        outer = self.current()
        if outer is not None:
            async with outer.nested() as inner:
                yield inner
            return
        limit = self.settings.transaction_timeout if seconds is None else seconds
        with translated(self.what, only_sql=True):
            async with self._session(limit) as session:
                inner = Transaction(self, session, self._run_in)
                with self.as_current(inner):
                    try:
                        async with asyncio.timeout(limit) as bound:
                            yield inner
                            await inner.end()
                    except BaseException as error:
                        await uninterrupted(inner.end(undone=True))
                        if isinstance(error, TimeoutError):
                            self._check_in_time(bound, limit)
                        raise
                    await uninterrupted(inner.commit())

    @contextmanager
    def as_current(self, transaction: Transaction) -> Iterator[None]:
        """Let `current` answer this transaction to the block, and to the tasks that are made in it."""
        token = _current.set((self, transaction, _current.get()))
        try:
            yield
        finally:
            with suppress(ValueError):  # a generator closed by another context: the variable is gone with it
                _current.reset(token)

    def current(self) -> Transaction | None:
        """Return the innermost transaction of this database that is open around the caller."""
        found = _current.get()
        while found is not None and found[0] is not self:
            found = found[2]
        transaction = None if found is None else found[1]
        while transaction is not None and not transaction.open:
            transaction = transaction.outer
        return transaction

    def runner(self) -> Runner:
        """Return what a verb of this task runs in: the transaction that it has open here, else the database.

        Raises:
            TransactionOpen: another task has one open around the caller.
        """
        if _current.get() is None:  # the ordinary case, asked by every verb
            return self
        transaction = self.current()
        if transaction is not None and transaction.owner is not asyncio.current_task():
            raise TransactionOpen(
                "the transaction that is open here belongs to the task that made this one: pass what takes part in it "
                "from any task (tx.memory, tx.table(Model), tx.log), or await this in that task, or after the block"
            )
        return transaction or self

    def _check_closable(self) -> None:
        if self.current() is not None:
            raise TransactionOpen("a transaction is open here, and closing would wait for it forever: close after it")

    @abstractmethod
    def _session(self, limit: float) -> AbstractAsyncContextManager[BlockSession]:
        """Open a session whose transaction holds this process's right to write; close it without a commit.

        It is given up where its block has not ended after so many seconds and a few more.
        """

    async def _run_in(self, session: AsyncSession, work: Work[T], *, short: bool) -> T:
        """Run a unit of work inside of a session's transaction."""
        connection = await session.connection()
        return await connection.run_sync(work)

    async def look(self, tables: Sequence[str]) -> None:  # noqa: B027  # a file knows by itself
        """Learn whether these tables may be written: `read_only` says so from now on."""

    @abstractmethod
    async def close(self) -> None:
        """Wait for what was accepted, then release every connection and thread. May be called twice.

        Raises:
            TransactionOpen: a transaction is open around the caller.
        """

    async def is_available(self) -> bool:
        """Tell whether the database answers a real statement now."""
        try:
            await self.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        except DgentError:
            return False
        return True

    def _check_in_time(self, bound: asyncio.Timeout, limit: float) -> None:
        if bound.expired():
            raise StorageTimeout(
                f"the transaction was open for more than {limit:g} s and was rolled back: do slow work outside of it, "
                "or raise transaction_timeout"
            ) from None

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.what} was closed: open it again")
        if self.forked:
            raise StoreClosed(f"{self.what} was opened before a fork: open it anew in the child process")

    def _check_not_nested(self) -> None:
        if self.current() is not None:
            raise TransactionOpen(
                "a transaction is open here, and this write would wait for it forever: write through it "
                "(tx.memory, tx.table(Model), tx.session), or after it"
            )
