"""Logs of both kinds of database for an event loop, and looks at them from outside."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.engine import make_url

from dgent.causal import AsyncLog, Doorbell, Entry
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from multiprocessing.connection import Connection

HANG = patience(30.0)
"""Seconds after which something counts as hung; nothing here is near it."""


@asynccontextmanager
async def opened(url: str, *, look_every: float | None = None, **settings: Any) -> AsyncIterator[AsyncLog]:
    """Open a database, bounded in time."""
    database = open_database(Settings.load(database_url=url, **{"synchronous": "NORMAL", **settings}))
    if look_every is not None:
        database.look_every = look_every
    try:
        async with asyncio.timeout(HANG):
            yield AsyncLog(database, Doorbell())
    finally:
        await database.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, bounded in time."""
    async with asyncio.timeout(HANG):
        while not holds():
            await asyncio.sleep(0.01)


def committed(url: str, sql: str) -> list[Any]:
    """Look from outside, past the library: what is seen here is committed."""
    if url.startswith("postgresql"):
        with psycopg.connect(url) as server:
            return server.execute(sql).fetchall()
    with closing(sqlite3.connect(make_url(url).database or "")) as file:
        return file.execute(sql).fetchall()


def by_writer(entries: Iterable[Entry]) -> dict[str, list[int]]:
    """Return the seqs of each writer, as they came."""
    found: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        found[entry.writer].append(entry.seq)
    return dict(found)


def whole(seqs: Iterable[int]) -> bool:
    """Tell whether they count from 1 without a gap, in order."""
    return all(seq == place for place, seq in enumerate(seqs, 1))


def append_for_ever(pipe: Connection, number: int, url: str) -> None:
    """Append until killed, and tell each seq that was acknowledged: run in a process."""

    async def run() -> None:
        async with opened(url) as log:
            while True:
                entry = await log.append("stream", f"process-{number}", b"p")
                pipe.send(entry.seq)

    asyncio.run(run())


def append_some(pipe: Connection, number: int, url: str, many: int) -> None:
    """Append so many entries, to a log of its own and to one that all share: run in a process."""

    async def run() -> None:
        async with opened(url) as log:
            for _ in range(many):
                await log.append("stream", f"process-{number}", b"own")
                await log.append("stream", "shared", b"shared")

    asyncio.run(run())
    pipe.send("done")


def follow_for_ever(pipe: Connection, _number: int, url: str, after: dict[str, int]) -> None:
    """Tell each entry that comes, until killed: run in a process."""

    async def run() -> None:
        async with opened(url) as log:
            async for entry in log.follow("stream", after=after):
                pipe.send((entry.writer, entry.seq))

    asyncio.run(run())
