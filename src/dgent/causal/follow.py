"""A log as a stream: first what is there, then what comes. Whatever wakes the reader, only what it reads counts."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

from dgent.causal.writer_log import topic
from dgent.exceptions import BackendUnavailable, ChainBroken, DgentError, StorageTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sqlalchemy import Connection

    from dgent.causal.chain import Entry
    from dgent.causal.doorbell import CommitEvent, Doorbell
    from dgent.causal.ground import Ground
    from dgent.causal.writer_log import WriterLog

    Positions: TypeAlias = dict[str, int]

T = TypeVar("T")

PAGE: Final = 200
"""Entries that are read at a time."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_log: Final = logging.getLogger("dgent.causal")


class Place(NamedTuple):
    """What is followed: one writer of a stream, or all of them."""

    log: WriterLog
    stream: str
    writer: str | None


async def follow(ground: Ground, doorbell: Doorbell, place: Place, position: Positions) -> AsyncGenerator[Entry, None]:
    """Yield the entries behind a position, which says for each writer what was seen, and then those that are appended.

    Each writer's come in order, each once. A database that goes out of reach is waited for, once it has answered.

    Raises:
        ChainBroken: an entry was taken out of the log. MalformedRow: what stands there is no entry.
        StoreClosed: the database was closed meanwhile.
    """
    bell = _Bell(place)
    with doorbell.subscribe(bell.ring), ground.database.watch(topic(place.log.format, place.stream), bell.wake):
        reader = _Reader(ground, place)
        while True:
            bell.clear()  # before the look: what rings from here on may not be in it
            news = {
                writer: position.get(writer, 0)
                for writer, last in (await reader.look()).items()
                if last > position.get(writer, 0)
            }
            if not news:
                await bell.wait()
            for entry in await reader.read(news):
                _check_next(entry, position.get(entry.writer, 0))
                position[entry.writer] = entry.seq
                yield entry


class _Bell:
    """Wakes one follower, from whatever thread."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self.wait, self.clear = self._rung.wait, self._rung.clear

    def ring(self, event: CommitEvent) -> None:
        if event.stream == self._place.stream and self._place.writer in {None, event.writer}:
            self.wake()

    def wake(self) -> None:
        if not self._rung.is_set():  # else the next look is still to come
            with suppress(RuntimeError):  # its loop was closed
                self._loop.call_soon_threadsafe(self._rung.set)


class _Reader:
    """Reads for one follower, and waits for a database that is out of reach."""

    def __init__(self, ground: Ground, place: Place) -> None:
        self._ground, self._place = ground, place
        self._answered = False

    async def look(self) -> Positions:
        """Return the last seq of each writer. Followers that look at the same time share a call."""

        async def read() -> Positions:
            return await (await self._ground.runner()).read_each(_look_each, self._place, "follow")

        return await self._patiently(read)

    async def read(self, news: Positions) -> list[Entry]:
        """Return the first entries behind these positions, about as many of each writer."""

        def work(connection: Connection) -> list[Entry]:
            log, stream, _ = self._place
            share = max(1, PAGE // len(news))
            found: list[Entry] = []
            for writer, after in [*news.items()][:PAGE]:
                found += log.entries(connection, stream, writer, after=after, limit=share)
            return found

        async def read() -> list[Entry]:
            return await (await self._ground.runner()).read(work, short=True)

        return await self._patiently(read) if news else []

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        pause = _FIRST_PAUSE
        while True:
            try:
                found = await read()
            except (BackendUnavailable, StorageTimeout) as error:
                if not self._answered:
                    raise
                _log.warning("following %r waits %.1f s: %s", self._place.stream, pause, error)
            else:
                self._answered = True
                return found
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # no secret
            pause = min(2 * pause, _LONGEST_PAUSE)


def _look_each(connection: Connection, places: list[Place]) -> list[Positions | Exception]:
    return [_look(connection, *place) for place in places]


def _look(connection: Connection, log: WriterLog, stream: str, writer: str | None) -> Positions | Exception:
    try:
        return log.heads(connection, stream) if writer is None else {writer: log.head(connection, stream, writer).seq}
    except DgentError as error:
        return error


def _check_next(entry: Entry, last: int) -> None:
    if entry.seq != last + 1:
        raise ChainBroken(entry.stream, entry.writer, last + 1, "it is not there: it was taken out")
