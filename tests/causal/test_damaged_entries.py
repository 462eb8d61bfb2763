"""One damaged entry hides no other: a page of a log gives the rest and names it; `follow` stops before it."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from tests.causal.async_logs import HANG, opened
from tests.causal.log_locations import COLUMNS, chain
from tests.faults.damaged_datum_rows import execute

from dgent.causal import AsyncLog, Entries
from dgent.causal.hash_chain import FORMATS
from dgent.exceptions import StoreError
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MANY = 8
CHANGES: list[tuple[str, Any]] = [
    ("payload", b"else"), ("payload", b""), ("content_hash", b"short"), ("content_hash", bytes(32)),
    ("prev_hash", bytes(32)), ("prev_hash", None), ("prev_hash", b""),
]  # fmt: skip
ON_SQLITE: list[tuple[str, Any]] = [("payload", "text"), ("payload", 7), ("content_hash", "x"), ("prev_hash", 7)]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=list(FORMATS))
async def log(url: str, request: pytest.FixtureRequest) -> AsyncIterator[AsyncLog]:
    async with opened(url) as log:
        yield log.within(request.param)


async def read(log: AsyncLog, limit: int, *, merged: bool) -> tuple[list[int], list[tuple[str, int]]]:
    """Read on from the last entry of each page; each page with damage warns once."""
    found: list[int] = []
    named: list[tuple[str, int]] = []
    for _ in range(3 * MANY):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            after = found[-1] if found else 0
            page: Entries = await (
                log.merged("s", after={"w": after}, limit=limit) if merged
                else log.entries("s", "w", after=after, limit=limit)
            )  # fmt: skip
        assert [each.category for each in said] == [DamagedWarning] * bool(page.damaged)
        found += [entry.seq for entry in page]
        named += [(each.id, each.version) for each in page.damaged]
        if not page:
            return found, named
    raise AssertionError("the pages never end")


async def test_a_page_gives_the_others_and_names_the_damaged_one(log: AsyncLog, url: str) -> None:
    entries = await log.append_many("s", "w", [b"%d" % n for n in range(MANY)])
    rows = chain(log.format, "s", "w", [entry.payload for entry in entries])
    for bad in (1, 4, MANY):
        for column, value in CHANGES + (ON_SQLITE if url.startswith("sqlite") else []):
            if column == "prev_hash" and value == rows[bad - 1][3]:
                continue
            change(url, log, bad, column, value)
            for limit in (1, 3, 100):
                found, named = await read(log, limit, merged=False)
                assert found == [seq for seq in range(1, MANY + 1) if seq != bad], (bad, column, value, limit)
                assert set(named) == {("w", bad)}, (bad, column, value, limit)
            with pytest.warns(DamagedWarning):
                page = await log.merged("s")
            assert ([entry.seq for entry in page], len(page.damaged)) == (found, 1)
            change(url, log, bad, column, rows[bad - 1][COLUMNS.index(column)])
    assert (await log.entries("s", "w")).damaged == ()


async def drained(log: AsyncLog, seen: list[int]) -> None:
    async for entry in log.follow("s", writer="w"):
        seen.append(entry.seq)  # noqa: PERF401  # it is looked at when it failed


def change(url: str, log: AsyncLog, seq: int, column: str, value: Any) -> None:
    """Change a column of one entry past the library."""
    table = FORMATS[log.format].table.name
    execute(url, f"UPDATE {table} SET {column} = ? WHERE writer = ? AND seq = ?", value, "w", seq)


async def test_a_follower_stops_before_what_is_malformed(log: AsyncLog, url: str) -> None:
    """It never passes over an entry, and never waits for one that is there."""
    entries = await log.append_many("s", "w", [b"1", b"2", b"3"])
    for bad in (2, 3):
        change(url, log, bad, "content_hash", b"short")
        seen: list[int] = []
        with pytest.raises(StoreError):
            await asyncio.wait_for(drained(log, seen), HANG)
        assert seen == [*range(1, bad)][: len(seen)], "nothing is passed over"
        change(url, log, bad, "content_hash", entries[bad - 1].content_hash)
