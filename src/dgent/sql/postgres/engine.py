"""How a PostgreSQL connection is opened: every timeout set, and in autocommit: who wants a transaction says BEGIN."""

# connecting    a task of its own runs `connect`, which is not cancelled: who gives up has what it opens closed
# open          of one `PooledConnection`, on the loop that opened it
# closing       a task of `ClosingConnections` waits for the server for `GRACE` seconds, then cuts it off; nobody's
#               cancel reaches it, but `settle` waits for it
# left behind   its loop was closed over it: `cut_off` closes the socket, from whatever loop runs then

from __future__ import annotations

import asyncio
import importlib
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dgent.exceptions import CapabilityMissing
from dgent.settings import shown
from dgent.sql.errors import refusal
from dgent.sql.postgres.session_settings import GRACE, PREPARE, make_schema, milliseconds, opening_settings
from dgent.sql.postgres.tls import connect_without_home, home_is_closed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextvars import Context

    from sqlalchemy import Connection

    from dgent.settings import Settings
    from dgent.sql.postgres.url_options import Target

_LIFE: Final = "SELECT stats_reset::text FROM pg_stat_bgwriter"
"""The statistics restart after a crash, after which the ids of transactions that were lost are given out again."""
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def load_driver() -> Any:
    """Import asyncpg, an optional dependency.

    Raises:
        CapabilityMissing: it is not installed.
    """
    try:
        return importlib.import_module("asyncpg")
    except ModuleNotFoundError:
        raise CapabilityMissing("PostgreSQL needs the driver asyncpg: run `pip install dgent[postgres]`") from None


def create_engine(target: Target) -> AsyncEngine:
    """Return an engine whose connections are in autocommit; they are taken from it by `connect`, for good."""
    return new_engine(target, creator(target), isolation_level="AUTOCOMMIT", max_overflow=-1)


def new_engine(target: Target, create: Callable[[], Awaitable[Any]], **named: Any) -> AsyncEngine:
    """Return an engine over what `create` opens; where it leads and with which password only that knows.

    Behind a pooler no statement has a name: the next transaction is another connection's.
    """
    unnamed = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str} if target.pooled else {}

    def connect() -> Any:
        dbapi: Any = engine.dialect.dbapi
        return dbapi.connect(async_creator_fn=create, **unnamed)

    engine = create_async_engine("postgresql+asyncpg://", creator=connect, hide_parameters=True, **named)
    return engine


class Opened(NamedTuple):
    """An open connection: SQLAlchemy's, and asyncpg's own.

    `busy` is the lock that SQLAlchemy holds over each statement of a session. `life` is a mark that changes when the
    server recovers from a crash.
    """

    connection: Connection
    driver: Any
    busy: asyncio.Lock
    life: str


async def _life(driver: Any, *, pooled: bool) -> str:
    if not pooled:
        return str(await driver.fetchval(_LIFE))
    async with driver.transaction(readonly=True):
        return str(await driver.fetchval(_LIFE))


async def connect(engine: AsyncEngine, what: str, *, pooled: bool = False) -> Opened:
    """Open a connection that no pool knows. Not to be cancelled: SQLAlchemy would leak it.

    Raises:
        BackendUnavailable: the server cannot be reached.
        AccessRefused: it refuses, or cannot be.
        InvalidSettings: it refuses, or cannot be.
    """
    try:
        connection = (await engine.connect()).sync_connection
        assert connection is not None  # noqa: S101  # it is open
        adapter: Any = connection.connection.dbapi_connection
        driver = adapter.driver_connection
        connection.detach()
        return Opened(connection, driver, adapter._execute_mutex, await _life(driver, pooled=pooled))
    except Exception as error:
        raise refusal(error, what) from None


def cut_off(driver: Any) -> None:
    """Close the socket of an asyncpg connection whose event loop is closed, which therefore cannot do it."""
    transport = getattr(driver, "_transport", None)
    with suppress(RuntimeError):  # asyncio's: it would tell the protocol in the next turn of the loop
        driver.terminate()
    tell = getattr(transport, "_call_connection_lost", None)
    if tell is not None:
        with suppress(Exception):
            tell(None)


class ClosingConnections:
    """Connections that nobody holds any more, while they are closed in the background. They are few and soon gone."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self, driver: Any) -> None:
        """Cancel what runs on an asyncpg connection and close it; one that does not answer is cut off."""
        task = self.start(driver.close(timeout=GRACE))
        task.add_done_callback(lambda _: driver.terminate())  # the task may have been cancelled before it began

    def close_late(self, opening: asyncio.Task[Opened]) -> None:
        """Close a connection once it is open."""

        async def wait() -> None:
            self.close((await opening).driver)

        self.start(wait())

    async def settle(self) -> None:
        """Wait until all are gone."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """Run what `settle` waits for."""
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # was heard of: the connection is gone, one way or the other


def creator(target: Target, *, plans: int | None = None) -> Callable[[], Awaitable[Any]]:
    """Return what opens asyncpg connections to a server; each keeps so many `plans` of statements.

    What it raises is ours: see `connect`.
    """
    from dgent.sql.postgres.driver import Driver  # noqa: PLC0415  # asyncpg is an optional dependency

    asyncpg, settings, what = load_driver(), target.settings, shown(target.url)
    if home_is_closed():
        connect = partial(connect_without_home, asyncpg.connect, target)
    else:
        connect = partial(asyncpg.connect, target.dsn)

    async def create() -> Any:
        try:
            return await open_driver()
        except Exception as error:
            raise refusal(error, what) from None

    async def open_driver() -> Any:
        driver = await connect(
            timeout=settings.connect_timeout,
            command_timeout=settings.command_timeout + GRACE,
            connection_class=Driver,
            statement_cache_size=0 if target.pooled else target.plans if plans is None else plans,
            server_settings=opening_settings(target),
        )
        try:
            _keep_alive(driver, settings)
            if not target.pooled:
                await driver.execute(PREPARE)
            if settings.database_schema is not None:
                await driver.execute(make_schema(settings.database_schema))
        except BaseException:
            driver.terminate()
            raise
        return driver

    return create


def _keep_alive(driver: Any, settings: Settings) -> None:
    """Let the kernel find out that the server's machine is gone, where it can."""
    transport = getattr(driver, "_transport", None)  # asyncpg has no public way to the socket
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    options = {**_KEEPALIVE, "TCP_USER_TIMEOUT": int(milliseconds(settings.connect_timeout))}
    with suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
