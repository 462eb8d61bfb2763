"""A factory of SQLAlchemy sessions as a runner: the bridge over a database that a host application opened."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncSession

from dgent.error_messages import called
from dgent.exceptions import InvalidInput, NestedWrite
from dgent.runtime.callbacks import call_all
from dgent.sql.database import A, Each, T, Work, only
from dgent.sql.errors import translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

_WHAT = "the database"


class SessionRunner:
    """Runs each unit of work in a session of its own: an `async_sessionmaker`, or any callable that makes a session.

    Every call raises NestedWrite for a session whose transaction is open already: to close it here, or to commit it,
    would be to decide about what its owner wrote in it.
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
            raise NestedWrite(
                "the session that the table was given has a transaction open, which is not its own to end: pass an "
                "async_sessionmaker, or open the transaction with storage.transaction() and use tx.table(Model)"
            )
        async with session:
            yield session
