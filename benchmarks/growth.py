"""What 1 000 000 datums cost a page more than 10 000 do: ours against itself, each in a file of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from benchmarks.measure import Case
from dgent.datum import Datum
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.query import Query

FEW, MANY = 10_000, 1_000_000
BATCH = 10_000
GROUP = 100
PAGES = 50
LARGEST = 1024
"""Bytes of content above which the larger file would take gigabytes, and minutes."""


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases, after a minute or two in which the files are filled."""
    if size > LARGEST:
        return
    few, many = await _filled(folder / "few.db", FEW, size), await _filled(folder / "many.db", MANY, size)
    for name, pages in (
        ("list newest 100", _newest),
        ("list by narrow prefix", _narrow),
        ("last below a prefix", _last),
        ("20 segments", _segments),
        ("changes, 100 from the middle", _changes),
        ("seq_at the middle", _seq_at),
        ("as_of the middle, 100 by id", _then),
        ("as_of now, newest 100", _now),
        ("as_of before everything", _before),
    ):
        yield Case(f"{name} of {MANY:,}, {size} B", f"of {FEW:,}", 0.77, pages(many, MANY), pages(few, FEW))
    await few.close()
    await many.close()


async def _filled(path: Path, count: int, size: int) -> SQLiteBackend:
    store = SQLiteBackend(path)
    for start in range(0, count, BATCH):
        await store.put_many(
            Datum(f"{at // GROUP:06}/{at % GROUP:02}", b"x" * size, float(at)) for at in range(start, start + BATCH)
        )
    return store


def _newest(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        for _ in range(PAGES):
            assert len(await store.list(limit=GROUP)) == GROUP
        return PAGES

    return run


def _last(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    prefixes = _prefixes(count)

    async def run() -> int:
        for prefix in prefixes:
            assert len(await store.list(prefix, order="-id", limit=1)) == 1
        return len(prefixes)

    return run


def _segments(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        for _ in range(PAGES):
            assert len(await store.segments(limit=20)) == 20
        return PAGES

    return run


def _prefixes(count: int) -> list[str]:
    groups = count // GROUP
    return [f"{group:06}/" for group in range(0, groups, groups // PAGES)]


def _narrow(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    prefixes = _prefixes(count)

    async def run() -> int:
        for prefix in prefixes:
            assert len(await store.list(prefix, limit=GROUP)) == GROUP
        return len(prefixes)

    return run


def _repeated(call: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        for _ in range(PAGES):
            await call()
        return PAGES

    return run


def _changes(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    return _repeated(lambda: store.changes(count // 2, limit=GROUP))


def _seq_at(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        moment = await _moment(store, count // 2)
        for _ in range(PAGES):
            await store.seq_at(moment)
        return PAGES

    return run


def _then(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        moment = await _moment(store, count // 2)
        for _ in range(PAGES):
            assert len(await store.as_of(moment, limit=GROUP)) == GROUP
        return PAGES

    return run


def _now(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    return _repeated(lambda: store.query(Query(as_of=time.time(), limit=GROUP)))


def _before(store: SQLiteBackend, count: int) -> Callable[[], Awaitable[int]]:
    return _repeated(lambda: store.as_of(0.0, limit=GROUP))


async def _moment(store: SQLiteBackend, seq: int) -> float:
    """Return when the version with a seq was stored."""
    (change,) = await store.changes(seq - 1, limit=1)
    return change.stored_at
