"""PostgreSQL: links to the server that are kept open, reads that share a call, writes that share a COMMIT.

Everything that lives on an event loop is in one `_Home`, which closes with that loop; the next loop gets another.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from dgent.database.base import A, Database, Each, T, Work, only, uninterrupted
from dgent.database.postgres_engine import Strays, create_engine, creator, load_driver
from dgent.database.postgres_errors import no_grant, takes_no_writes
from dgent.database.postgres_lanes import Lanes, Links
from dgent.database.postgres_link import Link
from dgent.database.postgres_url import read_url
from dgent.database.postgres_watch import PostgresWatches
from dgent.exceptions import CapabilityMissing, DgentError, StoreClosed
from dgent.loop import running_loop

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Sequence
    from pathlib import Path

    from sqlalchemy import URL

    from dgent.database.block import BlockSession
    from dgent.database.postgres_url import Target
    from dgent.database.watch import Watch
    from dgent.settings import Settings

READ_TOGETHER: Final = 256
_TAKES_WRITES: Final = text(
    """SELECT pg_is_in_recovery() AS recovering, current_setting('default_transaction_read_only') = 'on' AS read_only,
    (SELECT min(name) FROM unnest(CAST(:tables AS text[])) AS name WHERE to_regclass(name) IS NOT NULL AND NOT (
        has_table_privilege(to_regclass(name), 'INSERT') AND has_table_privilege(to_regclass(name), 'UPDATE')
        AND has_table_privilege(to_regclass(name), 'DELETE'))) AS refused"""
)
WRITE_TOGETHER: Final = 512


_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"


class PostgresDatabase(Database):
    """A PostgreSQL database. Reads and writes each have up to `pool_size` connections, opened as they are needed.

    Usable from one event loop at a time.

    Raises:
        InvalidSettings: an option in the URL means nothing here; the message names it.
        CapabilityMissing: the driver is not installed.
    """

    look_every = 5.0

    def __init__(self, url: URL, settings: Settings) -> None:
        self._target = read_url(url, settings)
        super().__init__(url, self._target.settings)
        load_driver()
        self._home: _Home | None = None
        self._tables: list[str] = []

    @property
    def where(self) -> str:
        """Role, host or socket, port, database and schema: other ones are another store."""
        return self._target.where

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

    async def backup(self, path: str | os.PathLike[str]) -> Path:
        """Refuse: the server has a tool of its own.

        Raises:
            CapabilityMissing: always; it names that tool.
        """
        raise CapabilityMissing(
            f"{self.what} is copied by PostgreSQL's own tool: run `pg_dump --format=custom --file=FILE DATABASE`, "
            "which takes one moment of it while it is in use, and restore it with pg_restore"
        )

    async def ahead(self) -> float:
        """Return by how many seconds the clock of the server is ahead, give or take half of the way to it."""
        asked = time.time()
        there: float = await self.read(lambda connection: connection.exec_driver_sql(_CLOCK).scalar_one())
        return there - (asked + time.time()) / 2

    async def is_available(self) -> bool:
        """Tell whether the database answers a real statement now, within `connect_timeout`.

        It looks anew whether writes are taken: a standby may have been promoted since, or a right granted.
        """
        with suppress(TimeoutError, DgentError):
            async with asyncio.timeout(self.settings.connect_timeout):
                await self.look(self._tables)
                return True
        return False

    async def look(self, tables: Sequence[str]) -> None:
        """Learn from the server whether these tables may be written."""
        self._tables = [*tables]
        found = await self.read(lambda connection: connection.execute(_TAKES_WRITES, {"tables": self._tables}).one())
        if found.recovering or found.read_only:
            self.read_only = takes_no_writes(self.what, recovering=found.recovering)
        else:
            self.read_only = "" if found.refused is None else no_grant(self.what, found.refused)

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
            home = self._home = _Home(self._target, self.what, self.look_every)
        self._check_loop(home)
        return home

    def _check_loop(self, home: _Home) -> None:
        if home.loop is not running_loop():
            raise StoreClosed(
                f"{self.what} is in use by another event loop: open a second database for this one, or close that loop"
            )


class _Home:
    """What belongs to one event loop. It is closed with that loop, or when nobody refers to it any more."""

    def __init__(self, target: Target, what: str, look_every: float) -> None:
        self.loop = running_loop()
        strays, engine, settings = Strays(), create_engine(target), target.settings

        def pool() -> Links:
            return Links(
                lambda: Link(engine, what, target, strays),
                settings.pool_size,
                settings.pool_timeout,
                what,
            )

        listener = None if target.pooled else creator(target, plans=0)  # nobody would hear what it is told
        self.readers, self.writers = pool(), pool()
        self.reading = Lanes(self.readers, Link.read_each, READ_TOGETHER)
        self.writing = Lanes(self.writers, Link.write_each, WRITE_TOGETHER)
        self.watches = PostgresWatches(look_every, listener, strays, what)
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
