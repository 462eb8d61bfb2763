"""Reads that tasks ask for in one turn of the event loop share a call; each is answered for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.stores import sqlite

from dgent.datum import Datum
from dgent.exceptions import Corrupt, StoreClosed
from dgent.sql.sqlite.database import SQLiteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy import Connection

    from dgent.memory.sql.sqlite_backend import SQLiteBackend

TASKS = 300  # more than fit into one call


@pytest.fixture
async def store(sqlite_path: Path) -> AsyncIterator[SQLiteBackend]:
    async with sqlite(sqlite_path) as store:
        await store.put_many([Datum(f"d{at}", b"x", 1.0) for at in range(TASKS)])
        yield store


class Calls:
    """Doubles each item, but refuses negative ones, and notes what came together."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, connection: Connection, items: list[int]) -> list[int | Exception]:
        self.seen.append(items)
        return [Corrupt(f"{item}") if item < 0 else 2 * item for item in items]


async def read_all(store: SQLiteBackend, calls: Any, items: list[int]) -> list[Any]:
    database = store.database
    assert isinstance(database, SQLiteDatabase)
    (await database._start()).batcher._alone_until = 0.0
    return await asyncio.gather(*(database.read_each(calls, item, "key") for item in items), return_exceptions=True)


async def test_reads_of_one_turn_share_calls(store: SQLiteBackend) -> None:
    calls = Calls()
    items = list(range(TASKS))
    assert await read_all(store, calls, items) == [2 * item for item in items]
    assert len(calls.seen) < 10
    assert [item for call in calls.seen for item in call] == items


async def test_an_error_goes_to_its_own_reader(store: SQLiteBackend) -> None:
    found = await read_all(store, Calls(), [1, -2, 3, -4])
    assert [found[0], found[2]] == [2, 6]
    assert [str(found[1]), str(found[3])] == ["-2", "-4"]


async def test_a_call_that_fails_is_made_again_for_each(store: SQLiteBackend) -> None:
    def fails_together(connection: Connection, items: list[int]) -> list[int | Exception]:
        if len(items) > 1 or items[0] == 3:
            raise Corrupt(f"{items}")
        return [items[0]]

    found = await read_all(store, fails_together, [1, 2, 3])
    assert found[:2] == [1, 2]
    assert str(found[2]) == "[3]"


async def test_a_cancelled_reader_disturbs_no_other(store: SQLiteBackend) -> None:
    (await store.database._start()).batcher._alone_until = 0.0  # type: ignore[attr-defined]
    tasks = [asyncio.create_task(store.get(f"d{at}")) for at in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found[::2]] == [asyncio.CancelledError] * 10
    assert [getattr(one, "id", one) for one in found[1::2]] == [f"d{at}" for at in range(1, 20, 2)]


async def test_get_answers_each_of_many_tasks(store: SQLiteBackend) -> None:
    await store.put_many([Datum("d1", b"second", 1.0), Datum("gone", b"x", 1.0)])
    await store.delete("gone")

    async def reader(at: int) -> None:
        for turn in range(20):
            id = f"d{(at * 7 + turn) % TASKS}"
            found, absent = await store.get(id), await store.get("gone" if turn % 2 else f"none{turn}")
            assert found is not None
            assert (found.id, found.content) == (id, b"second" if id == "d1" else b"x")
            assert absent is None
            assert (await store.get("d1", version=1)).content == b"x"  # type: ignore[union-attr]

    await asyncio.gather(*(reader(at) for at in range(64)))


async def test_a_read_after_a_put_sees_it_from_any_task(store: SQLiteBackend) -> None:
    async def writer(at: int) -> None:
        for turn in range(5):
            stored = await store.put(Datum(f"w{at}", b"%d" % turn, 1.0))
            found = await store.get(f"w{at}")
            assert found is not None
            assert (found.content, found.version) == (b"%d" % turn, stored.version)

    await asyncio.gather(*(writer(at) for at in range(32)))


async def test_who_reads_without_end_lets_others_have_their_turn(store: SQLiteBackend) -> None:
    had_turn = asyncio.Event()
    other = asyncio.create_task(had_turn.wait())
    asyncio.get_running_loop().call_soon(had_turn.set)
    for _ in range(100_000):
        await store.get("d1")
        if had_turn.is_set():
            break
    assert had_turn.is_set()
    await other


async def test_who_waits_while_the_store_is_closed_is_answered(store: SQLiteBackend) -> None:
    (await store.database._start()).batcher._alone_until = 0.0  # type: ignore[attr-defined]
    tasks = [asyncio.create_task(store.get(f"d{at}")) for at in range(20)]
    await asyncio.sleep(0)
    await store.close()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in found} <= {Datum, StoreClosed}
