"""How a PostgreSQL connection is opened: every timeout set, and in autocommit: who wants a transaction says BEGIN."""

from __future__ import annotations

import asyncio
import importlib
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from dgent.database.errors import sqlstate, translate
from dgent.exceptions import BackendUnavailable, InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextvars import Context

    from sqlalchemy import URL, Connection

    from dgent.settings import Settings

GRACE: Final = 2.0
"""Seconds that the client waits beyond the server's own limit, so that the server's answer comes first."""
BEGIN: Final = "BEGIN; EXECUTE dgent_begin"
"""Opens a transaction and reports its id as the connection's application_name, all in one round trip."""
_PREPARE: Final = (
    "PREPARE dgent_begin AS SELECT set_config('application_name', 'dgent ' || pg_current_xact_id()::text, true)"
)
_LIFE: Final = "SELECT stats_reset::text FROM pg_stat_bgwriter"
"""The statistics restart after a crash, after which the ids of transactions that were lost are given out again."""
_LIBPQ_ONLY: Final = frozenset(
    {"channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle"}
    | {"keepalives_interval", "tcp_user_timeout"}
)
_TLS_FILES: Final = ("sslcert", "sslcrl", "sslkey", "sslrootcert")
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_REFUSED_LOGIN: Final = ("28", "3D", "42501")


def load_driver() -> Any:
    """Import asyncpg, an optional dependency.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        return importlib.import_module("asyncpg")
    except ModuleNotFoundError:
        raise BackendUnavailable("PostgreSQL needs the driver asyncpg: run `pip install dgent[postgres]`") from None


def create_engine(url: URL, settings: Settings) -> AsyncEngine:
    """Return an engine whose connections are in autocommit; they are taken from it by `connect`, for good."""
    return create_async_engine(
        "postgresql+asyncpg://",  # where to and with which password only the creator knows
        async_creator=creator(url, settings),
        poolclass=AsyncAdaptedQueuePool,
        max_overflow=-1,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )


class Opened(NamedTuple):
    """An open connection: for sessions, for units of work, and asyncpg's own.

    `life` is a mark that changes when the server recovers from a crash.
    """

    facade: AsyncConnection
    connection: Connection
    driver: Any
    life: str


async def connect(engine: AsyncEngine, what: str) -> Opened:
    """Open a connection that no pool knows. Not to be cancelled: SQLAlchemy would leak it.

    Raises:
        BackendUnavailable: the server cannot be reached, or refuses.
    """
    try:
        facade = await engine.connect()
        connection = facade.sync_connection
        assert connection is not None  # noqa: S101  # it is open
        driver: Any = connection.connection.driver_connection
        connection.detach()
        return Opened(facade, connection, driver, await driver.fetchval(_LIFE))
    except Exception as error:
        raise _refusal(error, what) from None


def cut_off(driver: Any) -> None:
    """Close the socket of an asyncpg connection whose event loop is closed, which therefore cannot do it."""
    transport = getattr(driver, "_transport", None)
    with suppress(RuntimeError):  # asyncio's: it would tell the protocol in the next turn of the loop
        driver.terminate()
    tell = getattr(transport, "_call_connection_lost", None)
    if tell is not None:
        with suppress(Exception):
            tell(None)


class Strays:
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


def creator(url: URL, settings: Settings, *, plans: int = 512) -> Callable[[], Awaitable[Any]]:
    """Return what opens asyncpg connections to a URL; each keeps so many `plans` of statements.

    Raises:
        InvalidSettings: the URL names a file for TLS that is not there.
    """
    asyncpg = load_driver()
    from dgent.database.postgres_driver import Driver  # noqa: PLC0415  # asyncpg is an optional dependency

    dsn = _dsn(url)

    async def create() -> Any:
        driver = await asyncpg.connect(
            dsn,
            timeout=settings.connect_timeout,
            command_timeout=settings.command_timeout + GRACE,
            statement_cache_size=plans,
            connection_class=Driver,
            server_settings=_server_settings(settings),
        )
        try:
            _keep_alive(driver, settings)
            await driver.execute(_PREPARE)
        except BaseException:
            driver.terminate()
            raise
        return driver

    return create


def _dsn(url: URL) -> str:
    known = {name: value for name, value in url.query.items() if name not in _LIBPQ_ONLY}
    if "ssl" in known:  # SQLAlchemy's name for it; asyncpg would pass it on to the server as a setting
        known.setdefault("sslmode", known.pop("ssl"))
    for name in _TLS_FILES:
        if name in known and not Path(str(known[name])).is_file():
            raise InvalidSettings(f"{name} in the database URL names a file that is not there: give its whole path")
    return url.set(drivername="postgresql", query=known).render_as_string(hide_password=False)


def _server_settings(settings: Settings) -> dict[str, str]:
    return {
        "application_name": "dgent",
        "default_transaction_isolation": "read committed",
        "statement_timeout": _milliseconds(settings.command_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.transaction_timeout + GRACE),
        "tcp_keepalives_idle": "60",
        "timezone": "UTC",
        "jit": "off",  # its compiler costs 100 ms where a recursive query is estimated too high
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))


def _keep_alive(driver: Any, settings: Settings) -> None:
    """Let the kernel find out that the server's machine is gone, where it can."""
    transport = getattr(driver, "_transport", None)  # asyncpg has no public way to the socket
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    options = {**_KEEPALIVE, "TCP_USER_TIMEOUT": int(_milliseconds(settings.connect_timeout))}
    with suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _refusal(error: Exception, what: str) -> Exception:
    """Return what an error while connecting means: whatever the driver says, the backend is out of reach."""
    state = sqlstate(error)
    if state is not None and state.startswith(_REFUSED_LOGIN):
        return BackendUnavailable(
            f"{what} refused the login or the database name (SQLSTATE {state}): check the user, the password and the "
            "name in the URL"
        )
    ours = translate(error, what)
    if ours is None:
        return error
    if isinstance(ours, BackendUnavailable | InvalidSettings):
        return ours
    if state is not None:
        return BackendUnavailable(f"{what} refused the connection with SQLSTATE {state}: see the log of the server")
    return BackendUnavailable(f"{what} does not answer: check that it runs and can be reached, and the URL")
