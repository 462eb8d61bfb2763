"""What it costs to list by id, by cause and by segment, on both databases: ours against our own `get` and `keys`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from benchmarks.measure import Case
from benchmarks.postgres_memory import server
from dgent.datum import Datum
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.query import Query

ITEMS, FOLDERS = 12_800, 32
RUNS, STEPS = 40, 300
CALLS = 200
FAMILIES = 100


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases, first of SQLite, then of PostgreSQL."""
    store: SqlBackend = SQLiteBackend(folder / "listing.db")
    async for case in _cases(store, "SQLite", size):
        yield case
    await store.close()
    url, end = server()
    try:
        store = PostgresBackend(url, "listing")
        async for case in _cases(store, "PostgreSQL", size):
            yield case
        await store.close()
    finally:
        end()


async def _cases(store: SqlBackend, database: str, size: int) -> AsyncIterator[Case]:
    await _fill(store, size)
    known = [f"run{at % RUNS:03}/{at:04}" for at in range(CALLS)]
    last = _each(
        [f"run{at % RUNS:03}/" for at in range(CALLS)], lambda prefix: store.list(prefix, order="-id", limit=1)
    )
    get = _each(known, store.get)
    yield Case(f"last of {STEPS} below a prefix, {database}, {size} B", "get", 0.50, last, get)
    families = [f"run000/{at % FAMILIES:04}" for at in range(CALLS)]
    children = _each(families, lambda parent: store.query(Query(causal_parent=parent)))
    yield Case(f"3 children of a datum, {database}, {size} B", "get", 0.50, children, get)
    segments = _each([""] * 20, lambda _: store.segments("items/"))
    yield Case(
        f"{FOLDERS} segments of {ITEMS:,} ids, {database}", "reading the ids", 100, segments, _all_keys(store, 2)
    )
    listed = _each([""] * 5, lambda _: store.list("items/", order="id", limit=1000))
    keys = _each([""] * 5, lambda _: store.keys("items/", limit=1000))
    yield Case(f"1,000 keys, {database}, {size} B", "list of the same", 1.5, keys, listed)


async def _fill(store: SqlBackend, size: int) -> None:
    content, share = b"x" * size, ITEMS // FOLDERS
    await store.put_many(Datum(f"items/{at // share:03}/{at:05}", content, float(at)) for at in range(ITEMS))
    for run in range(RUNS):
        await store.put_many(Datum(f"run{run:03}/{at:04}", content, float(at)) for at in range(STEPS))
    children = [(f"run000/{family:04}", number) for family in range(FAMILIES) for number in range(3)]
    await store.put_many(Datum(f"child/{parent}/{n}", content, float(n), parent) for parent, n in children)


def _each(asked: list[str], verb: Callable[[str], Awaitable[object]]) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        for each in asked:
            assert await verb(each)
        return len(asked)

    return run


def _all_keys(store: SqlBackend, times: int) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        for _ in range(times):
            found, cursor = 0, None
            while True:
                page = await store.keys("items/", limit=1000, cursor=cursor)
                found, cursor = found + len(page), page.cursor
                if cursor is None:
                    break
            assert found == ITEMS
        return times

    return run
