"""What a unit of work is, and what runs one: the protocols, and a factory of SQLAlchemy sessions as a runner.

A unit of work is a function that takes a SQLAlchemy `Connection` and does one whole transaction's worth of statements.
It may run again after a conflict, so it must not do anything but SQL; it returns rows, not a result still to be read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from dgent.error_messages import called
from dgent.exceptions import InvalidInput, TransactionOpen
from dgent.runtime.callbacks import call_all
from dgent.sql.errors import translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

    from sqlalchemy import Connection

_WHAT: Final = "the database"

SHORT: Final = 200
"""Reads of no more rows than this count as short: they may run on the caller's own thread."""

T = TypeVar("T")
A = TypeVar("A")
Work: TypeAlias = "Callable[[Connection], T]"
Each: TypeAlias = "Callable[[Connection, list[A]], list[T | Exception]]"
"""Work on several items that waited together; it answers each with a result or an error of its own."""


class Attempt(Protocol[T]):
    """Items of `Optimistic` work as one statement, which commits itself if what it supposes is so."""

    def run(self, connection: Connection) -> list[T | Exception] | None:
        """Run it on a connection in autocommit; None if it wrote nothing."""

    def look(self, connection: Connection) -> list[T | Exception] | None:
        """Return its results if it is in, in a transaction after its answer was lost, and keep it from coming later."""


class Optimistic(ABC, Generic[A, T]):
    """Work on several items for which a runner may first try one statement, where that saves round trips."""

    @abstractmethod
    def __call__(self, connection: Connection, items: list[A]) -> list[T | Exception]:
        """Do the work in a transaction, as any `Each`."""

    @abstractmethod
    def attempt(self, items: list[A]) -> Attempt[T] | None:
        """Return the statement, if it is worth a try."""


class RunIn(Protocol):
    """How a unit of work runs inside of a session's transaction."""

    async def __call__(self, session: AsyncSession, work: Work[T], /, *, short: bool) -> T:
        """Run it, and answer when it has run. `short` says that it is a few point reads and inserts."""


class Runner(Protocol):
    """What a unit of work is given to: a `Database`, or a `Transaction` of it."""

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads. `short` says that it is a few point reads, not a scan."""

    async def read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Run a short read of one item; items of one key and one work that wait together may share one call."""

    async def write(self, work: Work[T]) -> T:
        """Run work that writes and answer after it is committed (in a transaction: after it ran)."""

    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Write one item; items of one key and one work that wait together share one call, in the order they came.

        Work is told apart by `==`, so what it goes by (limits, a clock) has to be part of that.
        """

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back once what was written so far is committed; never, if it is rolled back."""


def then_vacuum(connection: Connection) -> None:
    """Do nothing, as a unit of work: where there is a file, who commits it vacuums that then (`Database.vacuum`)."""


class SessionRunner:
    """Runs each unit of work in a session of its own: an `async_sessionmaker`, or any callable that makes a session.

    Every call raises TransactionOpen for a session whose transaction is open already: to close it here, or to commit
    it, would be to decide about what its owner wrote in it.
    """

    def __init__(self, make: Callable[[], AsyncSession]) -> None:
        self._make = make

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads."""
        with translated(_WHAT):
            async with self._session() as session:
                return await (await session.connection()).run_sync(work)

    async def write(self, work: Work[T]) -> T:
        """Run work that writes and answer after its commit."""
        with translated(_WHAT):
            async with self._session() as session, session.begin():
                return await (await session.connection()).run_sync(work)

    async def read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Run the work for this item alone."""
        return only(await self.read(lambda connection: work(connection, [item])))

    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Run the work for this item alone."""
        return only(await self.write(lambda connection: work(connection, [item])))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back at once: `write` has answered, so it is committed."""
        call_all([callback])

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        session = self._make()
        if not isinstance(session, AsyncSession):
            raise InvalidInput(f"what the table was given makes {called(session)}: pass an async_sessionmaker")
        if session.in_transaction():
            raise TransactionOpen(
                "the session that the table was given has a transaction open, which is not its own to end: pass an "
                "async_sessionmaker, or open the transaction with storage.transaction() and use tx.table(Model)"
            )
        async with session:
            yield session


def only(results: list[T | Exception]) -> T:
    """Return the one result, or raise the one error."""
    (result,) = results
    if isinstance(result, Exception):
        raise result
    return result
