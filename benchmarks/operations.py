"""Batches of operations against the plain verb, or the driver, in the same run: on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.measure import Case
from benchmarks.postgres_memory import server
from dgent.datum import Datum
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.operations import Put

COUNT = 600
_DELETE = "DELETE FROM dgent_datums WHERE namespace = 'bare' AND id >= {} AND id < {}"


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases; each prepares its own data."""
    async for case in _on_sqlite(folder / "ours.db", size):
        yield case
    async for case in _on_postgres(size):
        yield case


async def _on_sqlite(path: Path, size: int) -> AsyncIterator[Case]:
    store = SQLiteBackend(path, "ours")
    await store.prepare()

    async def delete(first: str, end: str) -> None:
        with sqlite3.connect(path) as bare:
            bare.execute("PRAGMA synchronous=FULL")
            bare.execute(_DELETE.format("?", "?"), (first, end))
        bare.close()

    async for case in _cases("SQLite", store, delete, size):
        yield case
    await store.close()


async def _on_postgres(size: int) -> AsyncIterator[Case]:
    url, end = server()
    store = PostgresBackend(url, "ours")
    await store.prepare()
    bare = await asyncpg.connect(url)

    async def delete(first: str, end: str) -> None:
        await bare.execute(_DELETE.format("$1", "$2"), first, end)

    try:
        async for case in _cases("PostgreSQL", store, delete, size):
            yield case
    finally:
        await bare.close()
        await store.close()
        end()


async def _cases(
    where: str, store: SqlBackend, delete: Callable[[str, str], Awaitable[None]], size: int
) -> AsyncIterator[Case]:
    def fresh() -> list[Datum]:
        return [Datum.create(b"x" * size) for _ in range(COUNT)]

    async def put_many() -> int:
        return len(await store.put_many(fresh()))

    async def apply() -> int:
        return len(await store.apply([Put(datum, 0) for datum in fresh()]))

    yield Case(f"apply {COUNT} Put(expect=0), {where}, {size} B", "put_many of as many", 0.5, apply, put_many)

    async def put_inside() -> int:
        async with store.database.transaction() as tx:
            return len(await store.joined(tx).put_many(fresh()))

    async def apply_inside() -> int:
        async with store.database.transaction() as tx:
            return len(await store.joined(tx).apply([Put(datum, 0) for datum in fresh()]))

    name = f"apply {COUNT} Put(expect=0) in a transaction, {where}, {size} B"
    yield Case(name, "put_many of as many there", 0.5, apply_inside, put_inside)

    held = await store.put_many(fresh())
    n = [0]

    async def put_again() -> int:
        n[0] += 1
        return len(await store.put_many([datum.replace(content=b"%d" % n[0]) for datum in held]))

    async def touch() -> int:
        n[0] += 1
        return await store.touch([datum.id for datum in held], 1000.0 + n[0])

    yield Case(f"touch {COUNT}, {where}, {size} B", "put_many over as many", 1.0, touch, put_again)
    async for case in _purges(where, store, delete, fresh):
        yield case


async def _purges(
    where: str, store: SqlBackend, delete: Callable[[str, str], Awaitable[None]], fresh: Callable[[], list[Datum]]
) -> AsyncIterator[Case]:
    mine, theirs = [[fresh() for _ in range(9)] for _ in range(2)]
    for batch in mine:
        await store.put_many(batch)
    for batch in theirs:
        await store.within("bare").put_many(batch)

    async def purge_many() -> int:
        return await store.purge_many([datum.id for datum in mine.pop()])

    async def bare() -> Any:
        ids = sorted(datum.id for datum in theirs.pop())
        await delete(ids[0], ids[-1] + "~")
        return len(ids)

    size = len(mine[0][0].content)
    yield Case(f"purge_many {COUNT}, {where}, {size} B", "one DELETE of the same rows", 0.33, purge_many, bare)
