"""Chained logs: an append against an insert, and `verify` against a select in order with the hash of each payload."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3
from sqlalchemy import Connection

from benchmarks.measure import Case
from dgent.causal import AsyncLog, WriterLog
from dgent.causal.log_tables import TABLES
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.sqlite.engine import create_sync_engine

APPENDS, MANY, BATCHES, LONG = 300, 1000, 8, 20_000
INSERT = "INSERT INTO dgent_log VALUES (?, ?, ?, ?, ?, ?)"
IN_ORDER = "SELECT seq, prev_hash, content_hash, payload FROM dgent_log WHERE stream = ? AND writer = ? ORDER BY seq"
PLACE = ("conv:demo", "b" * 64)

Do = Callable[[Callable[[Connection], Any]], Any]


class Floor:
    """The bare driver on a second file, with the same table and the same durability."""

    def __init__(self, path: Path, template: Path, size: int) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, cached_statements=512)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16384"):
            self.db.execute(f"PRAGMA {pragma}")
        schema = sqlite3.connect(template)
        self.db.execute(schema.execute("SELECT sql FROM sqlite_master WHERE name = 'dgent_log'").fetchone()[0])
        schema.close()
        self._seqs, self._size = itertools.count(1), size

    def rows(self, count: int) -> Iterator[tuple[Any, ...]]:
        payload, digest = b"x" * self._size, b"h" * 32
        return ((*PLACE, next(self._seqs), digest, digest, payload) for _ in range(count))

    def append(self) -> int:
        for row in self.rows(APPENDS):
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute(INSERT, row)
            self.db.execute("COMMIT")
        return APPENDS

    def append_many(self) -> int:
        for _ in range(BATCHES):
            self.db.execute("BEGIN IMMEDIATE")
            self.db.executemany(INSERT, list(self.rows(MANY)))
            self.db.execute("COMMIT")
        return BATCHES * MANY

    def verify(self) -> int:
        """Hash each on its own: how one is chained to the next is what the log adds."""
        count = 0
        for _, _, _, payload in self.db.execute(IN_ORDER, ("long", PLACE[1])):
            blake3(payload).digest()
            count += 1
        return count

    def fill(self) -> None:
        self.db.executemany(INSERT, [("long", *row[1:]) for row in self.rows(LONG)])


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases, with an event loop and without one; a payload has `size` bytes."""
    settings = Settings.load(database_url=f"sqlite:///{folder / 'ours.db'}")
    database = open_database(settings)
    await database.write(TABLES.prepare)
    floor = Floor(folder / "floor.db", folder / "ours.db", size)
    floor.fill()
    log = WriterLog()
    await database.write(lambda connection: log.append_many(connection, "long", PLACE[1], [b"x" * size] * LONG))
    for case in _asynchronous(AsyncLog(database), floor, size):
        yield case
    await database.close()
    with _inline(folder / "ours.db", settings) as do:
        for case in _synchronous(do, log, floor, size):
            yield case
    floor.db.close()


def _asynchronous(log: AsyncLog, floor: Floor, size: int) -> Iterator[Case]:
    payload = b"x" * size

    async def append() -> int:
        for _ in range(APPENDS):
            await log.append(*PLACE, payload)
        return APPENDS

    async def append_many() -> int:
        for _ in range(BATCHES):
            await log.append_many(*PLACE, [payload] * MANY)
        return BATCHES * MANY

    async def verify() -> int:
        return (await log.verify("long", PLACE[1])).seq

    yield from _named(size, "async", append, append_many, verify, floor)


def _synchronous(do: Do, log: WriterLog, floor: Floor, size: int) -> Iterator[Case]:
    payload = b"x" * size

    async def append() -> int:
        for _ in range(APPENDS):
            do(lambda connection: log.append(connection, *PLACE, payload))
        return APPENDS

    async def append_many() -> int:
        for _ in range(BATCHES):
            do(lambda connection: log.append_many(connection, *PLACE, [payload] * MANY))
        return BATCHES * MANY

    async def verify() -> int:
        return int(do(lambda connection: log.verify(connection, "long", PLACE[1])).seq)

    yield from _named(size, "sync", append, append_many, verify, floor)


def _named(size: int, how: str, append: Any, append_many: Any, verify: Any, floor: Floor) -> Iterator[Case]:
    yield Case(f"WriterLog append, 1 task, {how}, {size} B", "insert + commit", 0.60, append, floor.append)
    yield Case(f"WriterLog append_many, 1 000, {how}, {size} B", "executemany", 0.45, append_many, floor.append_many)
    yield Case(f"WriterLog verify, {how}, {size} B", "select, BLAKE3 of each", 0.70, verify, floor.verify)


@contextmanager
def _inline(path: Path, settings: Settings) -> Iterator[Do]:
    """Give what runs a function in a transaction of its own, on one connection of a synchronous program."""
    engine = create_sync_engine(path, settings)
    with engine.connect() as connection:

        def do(work: Callable[[Connection], Any]) -> Any:
            with connection.begin():
                return work(connection)

        yield do
    engine.dispose()
