"""PostgreSQL: links to the server that are kept open, reads that share a call, writes that share a COMMIT.

Everything that lives on an event loop is in one `_Home`, which closes with that loop; the next loop gets another.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from dgent.database.base import A, Database, Each, T, Work, only, uninterrupted
from dgent.database.postgres_engine import Strays, create_engine, creator, load_driver
from dgent.database.postgres_lanes import Lanes, Links
from dgent.database.postgres_link import Link
from dgent.database.postgres_watch import PostgresWatches
from dgent.exceptions import StoreClosed
from dgent.loop import running_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable

    from sqlalchemy import URL

    from dgent.database.block import BlockSession
    from dgent.database.watch import Watch
    from dgent.settings import Settings

READ_TOGETHER: Final = 256
WRITE_TOGETHER: Final = 512


class PostgresDatabase(Database):
    """A PostgreSQL database. Reads and writes each have up to `pool_size` connections, opened as they are needed.

    Usable from one event loop at a time.
    """

    look_every = 5.0

    def __init__(self, url: URL, settings: Settings) -> None:
        super().__init__(url, settings)
        load_driver()
        self._home: _Home | None = None

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads; again, once, if the connection had died."""
        return await self._read(self._here(), work)

    async def read_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Run a short read at once, or together with those of its lane that wait for the one under way."""
        home = self._here()
        together = home.reading.join(work, item, lane)
        if together is not None:
            return await together
        home.reading.open(lane)
        try:
            return only(await self._read(home, lambda connection: work(connection, [item])))
        finally:
            home.reading.release(lane)

    async def write(self, work: Work[T]) -> T:
        """Run work in a transaction of its own and answer after its commit.

        If the caller is cancelled before it began, it is never done; later, it is done whole.

        Raises:
            OutcomeUnknown: the answer to the commit was lost, and the server cannot tell what became of it.
        """
        return (await self.write_each(lambda connection, _: [(work(connection),)], None, object()))[0]

    async def write_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Write an item together with those of its lane that wait for the transaction under way."""
        home = self._here()
        self._check_not_nested()
        return await home.writing.put(work, item, lane)

    def watch(self, topic: str, wake: Callable[[], None]) -> Watch:
        """Call back when a unit of work announced the topic, after each poll, and after a lost connection."""
        return self._here().watches.add(topic, wake)

    async def is_available(self) -> bool:
        """Tell whether the database answers a real statement now, within `connect_timeout`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.connect_timeout):
                return await super().is_available()
        return False

    async def close(self) -> None:
        """Finish what was accepted, then close every connection. A transaction that another task has open is undone."""
        self._check_not_nested()
        home = self._home
        if home is not None and not home.loop.is_closed():
            self._check_loop(home)
        self._closed, self._home = True, None
        if home is not None and home.loop.is_closed():
            home.forget()
        elif home is not None:
            await home.close()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[BlockSession]:
        home = self._here()
        self._check_not_nested()
        async with home.writers.lend() as link:
            session = await link.session()
            try:
                yield session
            finally:
                await uninterrupted(link.end(session))

    async def _read(self, home: _Home, work: Work[T]) -> T:
        link = home.readers.take_now() or await home.readers.take()
        try:
            return await link.read(work)
        finally:
            home.readers.give(link)

    def _here(self) -> _Home:
        """Return what lives on the running loop."""
        self._check_usable()
        home = self._home
        if home is not None and home.loop is running_loop():
            return home
        if home is not None and home.loop.is_closed():
            home.forget()
            home = None
        if home is None:
            home = self._home = _Home(self.url, self.settings, self.what, self.look_every)
        self._check_loop(home)
        return home

    def _check_loop(self, home: _Home) -> None:
        if home.loop is not running_loop():
            raise StoreClosed(
                f"{self.what} is in use by another event loop: open a second database for this one, or close that loop"
            )


class _Home:
    """What belongs to one event loop. It is closed with that loop, or when nobody refers to it any more."""

    def __init__(self, url: URL, settings: Settings, what: str, look_every: float) -> None:
        self.loop = running_loop()
        strays, engine = Strays(), create_engine(url, settings)

        def pool() -> Links:
            return Links(
                lambda: Link(engine, what, settings.connect_timeout, strays),
                settings.pool_size,
                settings.pool_timeout,
                what,
            )

        self.readers, self.writers = pool(), pool()
        self.reading = Lanes(self.readers, Link.read_each, READ_TOGETHER)
        self.writing = Lanes(self.writers, Link.write_each, WRITE_TOGETHER)
        self.watches = PostgresWatches(look_every, creator(url, settings, plans=0), strays, what)
        self._guard = _until_the_end([self.readers, self.writers], self.watches, strays)
        with suppress(StopIteration):
            self._guard.__anext__().send(None)  # runs to its yield; the loop now knows it

    async def close(self) -> None:
        """Wait for what was accepted, then close every connection."""
        self.watches.wake()
        await self.writing.landed()
        await self.readers.returned()
        await uninterrupted(self._guard.aclose())

    def forget(self) -> None:
        """Let go of connections whose loop was closed over them."""
        for links in (self.readers, self.writers):
            links.forget()
        self.watches.forget()


async def _until_the_end(pools: list[Links], watches: PostgresWatches, strays: Strays) -> AsyncGenerator[None, None]:
    """Close the connections when this is closed, as `asyncio.run` does with asynchronous generators at its end."""
    try:
        yield
    finally:
        watches.end()
        for links in pools:
            links.drop()
        await strays.settle()
