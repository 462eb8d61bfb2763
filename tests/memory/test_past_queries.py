"""`Query(as_of=)` in SQL: each of its ways gives the same."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, get_args

import pytest

from dgent.datum import Datum
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.sql import past_queries, query_bounds
from dgent.memory.sql.backend import SqlBackend
from dgent.query import Order, Query
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.testing.contract_base import pages
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FILTERS: list[dict[str, Any]] = [
    {},
    {"prefix": "a"},
    {"tags": {"t1"}},
    {"author": "system", "since": 1001.0},
    {"causal_parent": "b1"},
    {"before_seq": 9, "after": 1000.5},
    {"where": {"n": 2}, "after_seq": 3},
    {"expired": True},
    {"expired": True, "prefix": "a", "tags": frozenset({"t1"})},
]


@pytest.fixture
async def both(sqlite_path: Path) -> AsyncIterator[tuple[SqlBackend, MemoryBackend, list[float]]]:
    """Two stores that were told the same: what was superseded, deleted, put again, and expired in between."""
    clock, times = ManualClock(), list[float]()
    database = open_database(Settings.load(database_url=f"sqlite:///{sqlite_path}", synchronous="NORMAL"))
    stores: tuple[SqlBackend, MemoryBackend] = SqlBackend(database, clock=clock), MemoryBackend(clock=clock)
    for n in range(12):
        id = f"{'ab'[n % 2]}{n % 5}"
        datum = Datum(id, b'{"n":%d}' % (n % 3), 1000.0 + n % 4, "b1" if n % 4 == 2 else None, {"tags": [f"t{n % 2}"]})
        for store in stores:
            await store.put(datum, ttl=15.0 if n % 4 == 3 else None)
            if n in {5, 8}:
                await store.delete(f"a{n % 4}")
        times.append(clock.now)
        clock.advance(10)
    try:
        yield (*stores, times)
    finally:
        await database.close()


@pytest.mark.parametrize(("few", "narrow"), [(0, 0), (0, 1000), (1000, 0), (1000, 1000)])
async def test_each_way_gives_what_was_live_then(
    both: tuple[SqlBackend, MemoryBackend, list[float]], monkeypatch: pytest.MonkeyPatch, few: int, narrow: int
) -> None:
    monkeypatch.setattr(past_queries, "NARROW", few)
    monkeypatch.setattr(past_queries, "BATCH", 3)
    monkeypatch.setattr(query_bounds, "NARROW", narrow)
    store, oracle, times = both
    for moment, order, filters in product(times[::3], get_args(Order), FILTERS):
        asked: Any = {**filters, "order": order, "as_of": moment}
        wanted = await oracle.query(Query(**asked))
        found = await pages(lambda at, a=asked: store.query(Query(**a, limit=2, cursor=at)))  # type: ignore[misc]
        assert found == wanted, asked


async def test_what_was_before_everything_is_known_at_once(both: tuple[SqlBackend, MemoryBackend, list[float]]) -> None:
    store, _, times = both
    for order in get_args(Order):
        assert await store.query(Query(as_of=times[0] - 1, order=order)) == []
