"""What is damaged can be erased like anything else, and leaves nothing that a new datum could be mistaken for."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from tests.faults.stores import sync_engine
from tests.server_clock import ServerClock

from dgent.datum import Datum
from dgent.exceptions import Corrupt
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.query import Query
from dgent.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dgent.memory.sql.backend import SqlBackend

DAMAGE = {
    "cut": 'metadata = \'{"tags":["old\'',
    "empty": "metadata = ''",
    "no object": "metadata = '[1]'",
    "a number": "metadata = '7'",
    "too deep": "metadata = '" + '{"a":' * 900 + "1" + "}" * 900 + "'",
    "another's": 'metadata = \'{"tags":["other"]}\'',
    "none": "metadata = '{}'",
    "content": "content = 'x'",
    "time": "created_at = created_at + 1",
    "digest": "digest = 'x'",
    "mark": "live = false",
}
ON_SQLITE = {
    "no text": "metadata = CAST(x'ff7b7d' AS TEXT)",
    "an integer": "metadata = 7",
    "bytes": "metadata = x'7b7d'",
    "text for bytes": "digest = 7",
}


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return str(sqlite_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(place: str, clock: ManualClock) -> AsyncIterator[SqlBackend]:
    opened: SqlBackend
    if place.startswith("postgresql"):
        ServerClock(place).follow(clock)
        opened = PostgresBackend(place, clock=clock)
    else:
        opened = SQLiteBackend(place, clock=clock)
    yield opened
    await opened.close()


def tagged(id: str, said: str) -> Datum:
    return Datum.create(said.encode(), id=id, tags=[said], created_at=1.0)


def damage(place: str, how: str) -> None:
    """Change the live row of "a" past the store."""
    engine = sync_engine(place)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE dgent_datums SET {how} WHERE id = 'a' AND live".replace(":", "\\:")))
    engine.dispose()


def kinds(place: str) -> dict[str, str]:
    return DAMAGE if place.startswith("postgresql") else {**DAMAGE, **ON_SQLITE}


async def check_gone(store: Any, said: str) -> None:
    """Assert that nothing of the damaged row is found, and that its id and its tags are free."""
    await store.put(tagged("b", "beside"))
    assert (await store.put(tagged("a", said))).version == 1
    assert [datum.id for datum in await store.query(Query(tags=[said]))] == ["a"]
    await store.put(tagged("a", "next"))
    assert await store.query(Query(tags=[said])) == []
    assert await store.query(Query(tags=["other"])) == []
    assert await store.count() == len(await store.list()) == 2


async def test_what_is_damaged_can_be_purged(store: SqlBackend, place: str) -> None:
    for n, (name, how) in enumerate(kinds(place).items()):
        here = store.within(f"{n}")
        await here.put(tagged("a", "first"))
        await here.put(tagged("a", "old"))
        damage(place, how)
        with pytest.raises(Corrupt):
            await here.get("a")
        assert await here.purge("a") == 2, name
        await check_gone(here, "old")
        await here.purge("a")


async def test_what_is_damaged_and_seems_to_have_expired_stays_until_it_is_purged(
    store: SqlBackend, place: str, clock: ManualClock
) -> None:
    for n, (name, how) in enumerate(kinds(place).items()):
        here = store.within(f"{n}")
        await here.put(tagged("a", "old"), ttl=5)
        await here.put(tagged("z", "whole"), ttl=5)
        damage(place, how)
        clock.advance(5)
        assert await here.compact() == 1, name
        with pytest.raises(Corrupt):
            await here.get("a")
        assert await here.purge("a") == 1
        await check_gone(here, "old")


@pytest.mark.parametrize(
    "name", ["cut", "empty", "no object", "a number", "too deep", "none", "content", "digest", "mark"]
)
async def test_what_is_damaged_can_be_superseded_and_deleted(store: SqlBackend, place: str, name: str) -> None:
    await store.put(tagged("a", "old"))
    damage(place, DAMAGE[name])
    put = await store.put(tagged("a", "new"))
    assert put.version == 2
    assert await store.get("a") == put
    damage(place, DAMAGE[name])
    assert await store.delete("a")
    assert await store.query(Query(tags=["new"])) == []
    assert (await store.put(tagged("a", "newer"))).version == 4


@pytest.mark.parametrize("verb", ["compact", "purge"])
async def test_what_goes_need_not_fit_into_memory(store: SqlBackend, clock: ManualClock, verb: str) -> None:
    ids = [f"{n:03}" for n in range(120)]
    for id in ids:
        await store.put(Datum(id, bytes(500_000), 1.0), ttl=5)
    clock.advance(5)
    tracemalloc.start()
    try:
        if verb == "compact":
            assert await store.compact() == len(ids)
        else:
            assert await store.purge_many(ids) == len(ids)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert (await store.stats()).versions == 0
