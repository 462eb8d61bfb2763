"""PostgreSQL: connections to the server that are kept open, reads that share a call, writes that share a COMMIT."""

# a loop     what lives on it                                                           what others do
# none yet   nothing: the first call makes a `_LoopState` for its loop
# in use     pools, batches, watches                                                    calls on another loop are
#                                                                                       refused with StoreClosed
# closed     its connections were closed as it ended, by the generator that it knows;   the next loop gets a new
#            if it was not given the time, their sockets are closed at the next call    `_LoopState`
#
# Within a loop a read borrows a connection in the caller's own task; the first read of a key runs at once, and those
# that come meanwhile go together after it, also where the first is cancelled. Writes run in tasks of a `Batcher`, which
# a cancel of a caller does not reach. A session holds one connection of the writers; its end is awaited whatever
# cancels it, and the server ends it where it is asked nothing for longer than the limit of the block. `close` waits for
# writes, then for reads; cancelled, it waits no more, and what is left is closed when nobody uses it any longer, or
# with the loop.

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from typing_extensions import override

from dgent.exceptions import CapabilityMissing, DgentError, StoreClosed
from dgent.runtime.event_loop import running_loop, uninterrupted
from dgent.sql.database import Database
from dgent.sql.postgres.engine import ClosingConnections, create_engine, creator, load_driver
from dgent.sql.postgres.pool import Batcher, ConnectionPool
from dgent.sql.postgres.pooled_connection import PooledConnection
from dgent.sql.postgres.server_errors import no_grant, takes_no_writes
from dgent.sql.postgres.session_settings import GRACE, IDLE, milliseconds
from dgent.sql.postgres.url_options import read_url
from dgent.sql.postgres.watch import PostgresWatches
from dgent.sql.runner import A, Each, T, Work, only

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Sequence
    from pathlib import Path

    from sqlalchemy import URL, Connection

    from dgent.settings import Settings
    from dgent.sql.postgres.url_options import Target
    from dgent.sql.transaction_block import BlockSession
    from dgent.sql.watch import Watch

READ_TOGETHER: Final = 256
_TAKES_WRITES: Final = text(
    """SELECT pg_is_in_recovery() AS recovering, current_setting('default_transaction_read_only') = 'on' AS read_only,
    (SELECT min(name) FROM unnest(CAST(:tables AS text[])) AS name WHERE to_regclass(name) IS NOT NULL AND NOT (
        has_table_privilege(to_regclass(name), 'INSERT') AND has_table_privilege(to_regclass(name), 'UPDATE')
        AND has_table_privilege(to_regclass(name), 'DELETE'))) AS refused"""
)
_LET_IDLE: Final = text("SELECT set_config(:name, :value, true)")
_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
WRITE_TOGETHER: Final = 512
_WEEK: Final = 7 * 24 * 3600.0


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
        self._loop_state: _LoopState | None = None
        self._tables: list[str] = []

    @property
    def where(self) -> str:
        """Role, host or socket, port, database and schema: other ones are another store."""
        return self._target.where

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work that only reads; again, once, if the connection had died."""
        return await self._read(self._state_here(), work)

    async def read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Run a short read at once, or together with those of its key that wait for the one under way."""
        state = self._state_here()
        together = state.reading.join(work, item, batch_key)
        if together is not None:
            return await together
        state.reading.open(batch_key)
        try:
            return only(await self._read(state, lambda connection: work(connection, [item])))
        finally:
            state.reading.release(batch_key)

    async def write(self, work: Work[T]) -> T:
        """Run work in a transaction of its own and answer after its commit.

        If the caller is cancelled before it began, it is never done; later, it is done whole.

        Raises:
            OutcomeUnknown: the answer to the commit was lost, and the server cannot tell what became of it.
        """
        return (await self.write_each(lambda connection, _: [(work(connection),)], None, object()))[0]

    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Write an item together with those of its key that wait for the transaction under way."""
        state = self._state_here()
        self._check_not_nested()
        return await state.writing.put(work, item, batch_key)

    def watch(self, topic: str, wake: Callable[[], None]) -> Watch:
        """Call back when a unit of work announced the topic, after each poll, and after a lost connection."""
        return self._state_here().watches.add(topic, wake)

    async def backup(self, path: str | os.PathLike[str]) -> Path:
        """Refuse: the server has a tool of its own.

        Raises:
            CapabilityMissing: always; it names that tool.
        """
        raise CapabilityMissing(
            f"{self.what} is copied by PostgreSQL's own tool: run `pg_dump --format=custom --file=FILE DATABASE`, "
            "which takes one moment of it while it is in use, and restore it with pg_restore"
        )

    @override
    async def vacuum(self, tables: Sequence[str]) -> None:
        self._check_not_nested()
        if self._target.pooled:
            raise CapabilityMissing(f"{self.what} is reached by way of a pooler: vacuum by way of none")

        async def run(driver: Any) -> None:
            await driver.execute("SET statement_timeout = 0")  # it takes as long as the tables are large
            try:
                await driver.execute(f"VACUUM {', '.join(tables)}", timeout=_WEEK)
            finally:
                await driver.execute("RESET statement_timeout")

        def work(connection: Connection) -> None:
            dbapi: Any = connection.connection.dbapi_connection
            dbapi.run_async(run)

        await self._read(self._state_here(), work)

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
        self._check_closable()
        state = self._loop_state
        if state is not None and not state.loop.is_closed():
            self._check_loop(state)
        self._closed, self._loop_state = True, None
        if state is not None and state.loop.is_closed():
            state.forget()
        elif state is not None:
            await state.close()

    @asynccontextmanager
    async def _session(self, limit: float) -> AsyncIterator[BlockSession]:
        state = self._state_here()
        self._check_not_nested()
        async with state.writers.lend() as borrowed:
            session = await borrowed.session()
            try:
                if limit != self.settings.transaction_timeout:
                    await self._let_idle(session, limit)
                yield session
            finally:
                await uninterrupted(borrowed.end(session))

    async def _let_idle(self, session: BlockSession, limit: float) -> None:
        """Let the server wait for a block as long as that may take, unless the URL says how long it waits."""
        if IDLE not in self._target.server_settings:
            await session.execute(_LET_IDLE, {"name": IDLE, "value": milliseconds(limit + GRACE)})

    async def _read(self, state: _LoopState, work: Work[T]) -> T:
        borrowed = state.readers.take_now() or await state.readers.take()
        try:
            return await borrowed.read(work)
        finally:
            state.readers.give(borrowed)

    def _state_here(self) -> _LoopState:
        """Return what lives on the running loop."""
        self._check_usable()
        state = self._loop_state
        if state is not None and state.loop is running_loop():
            return state
        if state is not None and state.loop.is_closed():
            state.forget()
            state = None
        if state is None:
            state = self._loop_state = _LoopState(self._target, self.what, self.look_every)
        self._check_loop(state)
        return state

    def _check_loop(self, state: _LoopState) -> None:
        if state.loop is not running_loop():
            raise StoreClosed(
                f"{self.what} is in use by another event loop: open a second database for this one, or close that loop"
            )


class _LoopState:
    """What belongs to one event loop. It is closed with that loop, or when nobody refers to it any more."""

    def __init__(self, target: Target, what: str, look_every: float) -> None:
        self.loop = running_loop()
        closing, engine, settings = ClosingConnections(), create_engine(target), target.settings

        def pool() -> ConnectionPool:
            return ConnectionPool(
                lambda: PooledConnection(engine, what, target, closing),
                settings.pool_size,
                settings.pool_timeout,
                what,
            )

        listener = None if target.pooled else creator(target, plans=0)  # nobody would hear what it is told
        self.readers, self.writers = pool(), pool()
        self.reading = Batcher(self.readers, PooledConnection.read_each, READ_TOGETHER)
        self.writing = Batcher(self.writers, PooledConnection.write_each, WRITE_TOGETHER)
        self.watches = PostgresWatches(look_every, listener, closing, what)
        self._guard = _until_the_end([self.readers, self.writers], self.watches, closing)
        with suppress(StopIteration):
            self._guard.__anext__().send(None)  # runs to its yield; the loop now knows it

    async def close(self) -> None:
        """Wait for what was accepted, then close every connection."""
        self.watches.wake()
        await self.writing.drained()
        await self.readers.returned()
        await uninterrupted(self._guard.aclose())

    def forget(self) -> None:
        """Let go of connections whose loop was closed over them."""
        for pool in (self.readers, self.writers):
            pool.forget()
        self.watches.forget()


async def _until_the_end(
    pools: list[ConnectionPool], watches: PostgresWatches, closing: ClosingConnections
) -> AsyncGenerator[None, None]:
    """Close the connections when this is closed, as `asyncio.run` does with asynchronous generators at its end."""
    try:
        yield
    finally:
        watches.end()
        for pool in pools:
            pool.drop()
        await closing.settle()
