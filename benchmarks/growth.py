"""What 1 000 000 datums cost a page more than 10 000 do: ours against itself, each in a file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from benchmarks.measure import Case
from dgent.datum import Datum
from dgent.memory.sql.sqlite_backend import SQLiteBackend

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
