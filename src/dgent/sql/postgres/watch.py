"""Whether a PostgreSQL database has changed: NOTIFY tells of it at once, if it comes through, and a slow poll anyway.

A notification may be lost with its connection, or swallowed by a pooler in between: nobody relies on it.
"""

# idle        nobody watches: no poll, no connection
# polling     the timer of `Watches` calls all back; there is no listener, or its task waits before it connects again
# listening   the task has a connection of its own and waits for its end; a notification calls back those of its topic
# ended       the task is cancelled, and its connection closed in the background, which `ClosingConnections.settle`
#             waits for
#
# All of it is on one event loop, so there is no lock. The task belongs to none of those who watch: a cancel of theirs
# does not reach it.

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dgent.runtime.backoff import Backoff
from dgent.sql.constructs import CHANNEL
from dgent.sql.postgres.engine import cut_off
from dgent.sql.watch import Watches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.sql.postgres.engine import ClosingConnections

_FIRST_PAUSE: Final = 0.1  # seconds before another connection, up to the time between two polls
_log: Final = logging.getLogger("dgent.sql")


class PostgresWatches(Watches):
    """Listens on a connection of its own while anybody watches; each poll may have found something.

    Args:
        connect: opens that connection, asyncpg's own; None if nothing can be heard, behind a pooler.
        closing: closes it in the background.
    """

    def __init__(
        self, every: float, connect: Callable[[], Awaitable[Any]] | None, closing: ClosingConnections, what: str
    ) -> None:
        super().__init__(every)
        self._connect, self._closing, self._what = connect, closing, what
        self._task: asyncio.Task[None] | None = None
        self._driver: Any = None

    def changed(self) -> bool:
        """Let each watch look for itself."""
        return True

    def begin(self) -> None:
        """Start to poll and to listen."""
        super().begin()
        if self._connect is not None:
            self._task = self._closing.start(self._listen(self._connect), self._context)

    def end(self) -> None:
        """Poll no more, and close the connection in the background."""
        super().end()
        if self._task is not None:
            self._task.cancel()

    def forget(self) -> None:
        """Let go of a connection whose event loop is closed."""
        if self._driver is not None:
            cut_off(self._driver)

    async def _listen(self, connect: Callable[[], Awaitable[Any]]) -> None:
        backoff, told = Backoff(_FIRST_PAUSE, self._every), False
        while True:
            start = self._loop.time()
            try:
                await self._listen_once(connect)
            except Exception as error:  # whatever it is, the poll goes on meanwhile
                if not told:
                    told = True
                    _log.warning("%s is polled: nothing can be heard of it (%s)", self._what, type(error).__name__)
            if self._loop.time() - start >= self._every:
                backoff.reset()
                told = False
            await asyncio.sleep(backoff.pause())

    async def _listen_once(self, connect: Callable[[], Awaitable[Any]]) -> None:
        """Listen until the connection is gone."""
        gone = asyncio.Event()
        driver = self._driver = await connect()
        try:
            driver.add_termination_listener(lambda _: gone.set())
            await driver.add_listener(CHANNEL, self._hear)
            self.wake()  # for what came before
            await gone.wait()
        finally:
            self._driver = None
            self._closing.close(driver)

    def _hear(self, _driver: object, _pid: int, _channel: str, topic: object) -> None:
        with suppress(Exception):  # asyncpg would tell the event loop
            self.wake(str(topic))
