"""A factory of SQLAlchemy sessions as a runner: the bridge over a database that a host application opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgent.database.base import A, Each, T, Work, only
from dgent.database.errors import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sqlalchemy.ext.asyncio import AsyncSession

_WHAT = "the database"


class SessionRunner:
    """Runs each unit of work in a session of its own: an `async_sessionmaker`, or any callable that makes a session."""

    def __init__(self, make: Callable[[], AsyncSession]) -> None:
        self._make = make

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads."""
        with translated(_WHAT):
            async with self._make() as session:
                return await (await session.connection()).run_sync(work)

    async def write(self, work: Work[T]) -> T:
        """Run work that writes and answer after its commit."""
        with translated(_WHAT):
            async with self._make() as session, session.begin():
                return await (await session.connection()).run_sync(work)

    async def read_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Run the work for this item alone."""
        return only(await self.read(lambda connection: work(connection, [item])))

    async def write_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Run the work for this item alone."""
        return only(await self.write(lambda connection: work(connection, [item])))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back at once: `write` has answered, so it is committed."""
        callback()
