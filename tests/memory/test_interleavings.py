"""Each verb is stopped before each of its statements while somebody else puts the same id: nothing is lost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.breakpoints import Pause, statements
from tests.server_clock import ServerClock

from dgent.datum import Datum
from dgent.exceptions import VersionConflict
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.query import Query
from dgent.testing import ManualClock
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dgent.store import Backend

HANG = patience(300.0)
NEVER = 10**6
_numbers = count()

VERBS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "compact": lambda store: store.compact(),
    "compact keep": lambda store: store.compact(keep_versions=1),
    "compact older": lambda store: store.compact(older_than=store.clock() - 1),
    "purge": lambda store: store.purge("a"),
    "erase": lambda store: store.erase(everything=True),
    "erase a": lambda store: store.erase(prefix="a"),
    "delete": lambda store: store.delete("a"),
    "delete_many": lambda store: store.delete_many(["a", "b"]),
    "put": lambda store: store.put(tagged("a", "verb")),
    "put_many": lambda store: store.put_many([tagged(id, "verb") for id in "abc"]),
}


def tagged(id: str, said: str) -> Datum:
    return Datum.create(said.encode(), id=id, tags=[said], created_at=1.0)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return str(sqlite_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def two(place: str, clock: ManualClock) -> list[Any]:
    """Return two stores at one place, as of two processes."""
    if not place.startswith("postgresql"):
        return [SQLiteBackend(place, clock=clock) for _ in range(2)]
    ServerClock(place).follow(clock)
    return [PostgresBackend(place, clock=clock) for _ in range(2)]


async def prepared(one: Any, other: Any, clock: ManualClock) -> tuple[Any, Any]:
    """Return the two under a namespace in which "a" has just expired, "b" has versions, and both know the head."""
    mine, theirs = (store.within(f"n{next(_numbers)}") for store in (one, other))
    theirs = other.within(mine.namespace)
    for n in range(3):
        await mine.put(tagged("a", f"old {n}"), ttl=5)
        await mine.put(tagged("b", f"old {n}"))
    clock.advance(5)
    await theirs.put(tagged("first", "other"))
    return mine, theirs


async def check_whole(store: Backend, put: Datum, verb: str) -> None:
    """Assert that an acknowledged put is there with all that belongs to it, or was erased or superseded as a whole."""
    live = {datum.id: datum for datum in await store.list()}
    assert await store.count() == len(live)
    history = {entry.version: entry.datum for entry in await store.history("a")}
    if verb in {"purge", "erase", "erase a"} and not history:
        assert await store.query(Query(tags=["acknowledged"])) == []
        return
    assert history[put.version] == put, "an acknowledged put is gone"
    assert list(history) == sorted(history)
    last = history[max(history)]
    assert live.get("a") == last == await store.get("a")
    for said in ("acknowledged", "verb", "old 2"):
        found = {datum.id: datum for datum in await store.query(Query(tags=[said]))}
        assert found == {id: datum for id, datum in live.items() if said in datum.tags}
    if verb.startswith("compact"):
        assert last == put, "what lives was swept"


@pytest.mark.parametrize("verb", VERBS)
async def test_a_put_that_is_acknowledged_beside_a_verb_is_there(place: str, verb: str) -> None:
    """Mutant: the expired ids are read before the lock. On PostgreSQL `compact` loses the put then."""
    clock = ManualClock()
    stores = two(place, clock)
    try:
        async with asyncio.timeout(HANG):
            at, passed = 0, NEVER
            while at < passed:
                mine, theirs = await prepared(*stores, clock)
                pause = Pause(at, lambda store=theirs: store.put(tagged("a", "acknowledged")))  # type: ignore[misc]
                with statements(pause):
                    await VERBS[verb](mine)
                if pause.task is None:  # it had fewer statements
                    passed = pause.passed
                    break
                put = await pause.task
                await check_whole(theirs, put, verb)
                at += 1
        assert passed == at > 1
    finally:
        for store in stores:
            await store.close()


async def test_who_expects_beside_a_verb_gets_what_he_expects(place: str) -> None:
    """A lease that has just expired goes to one of those who want it, the sweeper beside them."""
    clock = ManualClock()
    stores = two(place, clock)
    try:
        for at in range(5):
            mine, theirs = await prepared(*stores, clock)
            pause = Pause(at, lambda store=theirs: store.put(tagged("a", "acknowledged"), expect=0, ttl=3))  # type: ignore[misc]
            with statements(pause):
                try:
                    mine_put = await mine.put(tagged("a", "verb"), expect=0, ttl=3)
                except VersionConflict:
                    mine_put = None
            assert pause.task is not None
            (theirs_put,) = await asyncio.gather(pause.task, return_exceptions=True)
            won = [put for put in (mine_put, theirs_put) if isinstance(put, Datum)]
            assert len(won) == 1
            assert await theirs.get("a") == won[0]
    finally:
        for store in stores:
            await store.close()


async def test_puts_of_just_expired_ids_beside_compaction_are_all_kept(place: str, full_size: bool) -> None:
    """6 000 of them, of which 1 200 were lost when the sweeper looked before it locked."""
    rounds, ids = (60, 100) if full_size else (5, 20)
    clock = ManualClock()
    mine, theirs = two(place, clock)
    kept: dict[str, Datum] = {}
    sweeping = True

    async def sweep() -> None:
        while sweeping:
            await mine.compact()

    async def put(id: str) -> None:
        kept[id] = await theirs.put(Datum(id, b"new", 1.0))

    try:
        async with asyncio.timeout(HANG), AsyncExitStack() as stack:
            for n in range(rounds):
                names = [f"{n}/{k}" for k in range(ids)]
                await mine.put_many([Datum(id, b"old", 1.0) for id in names], ttl=1)
                sweeping, task = True, asyncio.ensure_future(sweep())
                stack.callback(task.cancel)
                clock.advance(1)
                await asyncio.gather(*map(put, names))
                sweeping = False
                await task
        assert len(kept) == rounds * ids
        assert {datum.id: datum for datum in (await theirs.get_many(kept)).values()} == kept
    finally:
        for store in (mine, theirs):
            await store.close()


async def test_two_processes_on_a_file_of_lines_lose_nothing_beside_compaction(tmp_path: Path) -> None:
    clock = ManualClock()
    stores = [JSONLBackend(tmp_path / "memory.jsonl", clock=clock) for _ in range(2)]
    try:
        for n in range(10):
            await stores[0].put_many([Datum(f"{n}/{k}", b"old", 1.0) for k in range(10)], ttl=1)
            clock.advance(1)
            verbs = [stores[0].compact(), *(stores[1].put(Datum(f"{n}/{k}", b"new", 1.0)) for k in range(10))]
            _, *put = await asyncio.gather(*verbs, stores[0].compact(keep_versions=1))
            for store in stores:
                assert [datum for datum in await store.list() if datum.id.startswith(f"{n}/")]
                assert await store.get_many([datum.id for datum in put[:-1]]) == {datum.id: datum for datum in put[:-1]}
    finally:
        for store in stores:
            await store.close()
