"""A log as a stream: first what is there, then what comes. Whatever wakes the reader, only what it reads counts."""

# follower   one task of one loop: it clears the bell, looks, reads, yields, and waits for the bell
# ringers    whoever commits here, or hears of another process's commit, on any thread: they schedule the bell on the
#            follower's loop, and do nothing where that is closed
#
# The bell is cleared before the look, so a ring in between leads to another look. There is no lock: the bell's event is
# touched on the follower's loop alone. A cancel, or `aclose`, ends the subscription and the watch; what was read and
# not yielded is read again by whoever follows from the same position.

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

from dgent.causal.head import START, Head, check_still
from dgent.causal.writer_log import topic
from dgent.exceptions import BackendUnavailable, ChainBroken, DgentError, StorageTimeout
from dgent.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sqlalchemy import Connection

    from dgent.causal.doorbell import CommitEvent, Doorbell
    from dgent.causal.hash_chain import Entry
    from dgent.causal.writer_log import WriterLog
    from dgent.sql.sql_store import SqlStore

    Positions: TypeAlias = dict[str, Head]

T = TypeVar("T")

PAGE: Final = 200
"""Entries that are read at a time."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_log: Final = logging.getLogger("dgent.causal")


class FollowedLog(NamedTuple):
    """What is followed: one writer of a stream, or all of them."""

    log: WriterLog
    stream: str
    writer: str | None


async def follow(
    store: SqlStore, doorbell: Doorbell, place: FollowedLog, position: Positions
) -> AsyncGenerator[Entry, None]:
    """Yield the entries behind a position, which says for each writer what was seen, and then those that are appended.

    Each writer's come in order, each once. A database that goes out of reach is waited for, once it has answered. Every
    look compares the end of each log with what was seen of it, and every entry the hash before it.

    Raises:
        ChainBroken: an entry was taken out of the log, or it went back, as when an old backup was put in place.
        MalformedRow: what stands there is no entry.
        StoreClosed: the database was closed meanwhile.
    """
    bell = _Bell(place)
    with doorbell.subscribe(bell.ring), store.database.watch(topic(place.log.format, place.stream), bell.wake):
        reader = _LogReader(store, place)
        position = await reader.found(position)
        while True:
            bell.clear()  # before the look: what rings from here on may not be in it
            ends = await reader.look()
            for writer, seen in position.items():
                check_still(place.stream, writer, ends.get(writer, START), seen)
            seen_of = {writer: position.get(writer, START) for writer in ends}
            news = {writer: seen for writer, seen in seen_of.items() if ends[writer].seq > seen.seq}
            if not news:
                await bell.wait()
            for entry in await reader.read(news):
                _check_next(entry, position.get(entry.writer, START))
                position[entry.writer] = entry.head
                yield entry


class _Bell:
    """Wakes one follower, from whatever thread."""

    def __init__(self, place: FollowedLog) -> None:
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


class _LogReader:
    """Reads for one follower, and waits for a database that is out of reach."""

    def __init__(self, store: SqlStore, place: FollowedLog) -> None:
        self._store, self._place = store, place
        self._answered = False

    async def found(self, position: Positions) -> Positions:
        """Return a position with the hashes that stand where only a seq was given."""
        log, stream, _ = self._place
        unknown = {writer: seen for writer, seen in position.items() if seen.seq and seen.hash is None}

        def work(connection: Connection) -> Positions:
            return {writer: log.at(connection, stream, writer, seen.seq) for writer, seen in unknown.items()}

        async def read() -> Positions:
            return await (await self._store.runner()).read(work, short=True)

        there = await self._patiently(read) if unknown else {}
        for writer, head in there.items():
            check_still(stream, writer, head, unknown[writer])
        return {**position, **there}

    async def look(self) -> Positions:
        """Return where the log of each writer ends. Followers that look at the same time share a call."""

        async def read() -> Positions:
            return await (await self._store.runner()).read_each(_look_each, self._place, "follow")

        return await self._patiently(read)

    async def read(self, news: Positions) -> list[Entry]:
        """Return the first entries behind these positions, about as many of each writer."""

        def work(connection: Connection) -> list[Entry]:
            log, stream, _ = self._place
            share = max(1, PAGE // len(news))
            found: list[Entry] = []
            for writer, seen in [*news.items()][:PAGE]:
                found += log.next_entries(connection, stream, writer, after=seen.seq, limit=share)
            return found

        async def read() -> list[Entry]:
            return await (await self._store.runner()).read(work, short=True)

        return await self._patiently(read) if news else []

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                found = await read()
            except (BackendUnavailable, StorageTimeout) as error:
                if not self._answered:
                    raise
                pause = backoff.pause()
                _log.warning("following %r waits %.2f s: %s", self._place.stream, pause, error)
            else:
                self._answered = True
                return found
            await asyncio.sleep(pause)


def _look_each(connection: Connection, places: list[FollowedLog]) -> list[Positions | Exception]:
    return [_look(connection, *place) for place in places]


def _look(connection: Connection, log: WriterLog, stream: str, writer: str | None) -> Positions | Exception:
    try:
        return log.ends(connection, stream) if writer is None else {writer: log.head(connection, stream, writer)}
    except DgentError as error:
        return error


def _check_next(entry: Entry, seen: Head) -> None:
    if entry.seq != seen.seq + 1:
        raise ChainBroken(entry.stream, entry.writer, seen.seq + 1, "it is not there: it was taken out")
    if entry.prev_hash != seen.hash:
        reason = "it does not follow the entry that was seen before it: the log went back and was continued"
        raise ChainBroken(entry.stream, entry.writer, entry.seq, reason)
