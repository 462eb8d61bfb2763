"""A cancelled caller leaves nothing behind: no half write, no lent connection, nothing that comes later."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert
from tests.sql.entry_table import add, held, nothing_lent, put_each, remove, table

from dgent.exceptions import StoreClosed
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from dgent.sql.postgres.database import PostgresDatabase


async def test_a_cancelled_write_is_whole_or_absent_and_never_comes_later(postgres: PostgresDatabase) -> None:
    chance = random.Random(1)
    acknowledged: set[str] = set()

    async def put(id: str) -> None:
        await postgres.write_each(put_each, (f"{id}-left", 1), chance.choice("xy"))
        await postgres.write(
            lambda connection: (add.run(connection, f"{id}-one", 1), add.run(connection, f"{id}-two", 1))
        )
        acknowledged.update({f"{id}-left", f"{id}-one", f"{id}-two"})

    for n in range(60):
        task = asyncio.create_task(put(f"{n:03}"))
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        await asyncio.sleep(chance.choice([0, 0, 0.0005, 0.001, 0.002]))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await postgres._loop_state.writing.drained()  # type: ignore[union-attr]
    assert nothing_lent(postgres)
    found = set(await held(postgres))
    assert acknowledged <= found
    assert {id[:3] for id in found if id.endswith("-one")} == {id[:3] for id in found if id.endswith("-two")}
    await postgres.write_each(put_each, ("last", 1), "x")
    assert set(await held(postgres)) == found | {"last"}


async def test_an_item_whose_caller_left_before_its_flight_is_dropped(postgres: PostgresDatabase) -> None:
    await held(postgres)
    first = asyncio.create_task(postgres.write_each(put_each, ("first", 1), "key"))
    await asyncio.sleep(0.001)
    waiting = [asyncio.create_task(postgres.write_each(put_each, (f"{n}", 1), "key")) for n in range(4)]
    unborn = asyncio.create_task(postgres.write(lambda connection: add.run(connection, "unborn", 1)))
    await asyncio.sleep(0)
    for task in (waiting[1], waiting[2], unborn):
        task.cancel()
    results = await asyncio.gather(first, *waiting, unborn, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, False, True, True, False, True]
    assert await held(postgres) == ["0", "3", "first"]


async def test_a_cancelled_transaction_leaves_nothing_and_frees_its_connection(postgres: PostgresDatabase) -> None:
    chance = random.Random(2)
    committed: set[str] = set()

    async def transact(id: str) -> None:
        async with postgres.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, f"{id}-one", 1))
            await tx.session.execute(insert(table).values(id=f"{id}-two", value=1))
        committed.update({f"{id}-one", f"{id}-two"})

    for n in range(60):
        task = asyncio.create_task(transact(f"{n:03}"))
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        await asyncio.sleep(chance.choice([0, 0, 0.0005, 0.001, 0.003]))
        for _ in range(3):  # the impatient cancel again while it rolls back
            task.cancel()
            await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await task
        assert nothing_lent(postgres)
    found = set(await held(postgres))
    assert committed <= found
    assert {id[:3] for id in found if id.endswith("-one")} == {id[:3] for id in found if id.endswith("-two")}


async def test_a_cancelled_read_is_cancelled_on_the_server_too(postgres: PostgresDatabase) -> None:
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%' AND state = 'active'"
    slow = asyncio.create_task(postgres.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(30)")))
    while not await postgres.read(lambda connection: connection.exec_driver_sql(running).scalar()):
        await asyncio.sleep(0.01)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    while await postgres.read(lambda connection: connection.exec_driver_sql(running).scalar()):
        await asyncio.sleep(0.01)
    assert nothing_lent(postgres)


async def test_a_connection_handed_over_to_a_caller_who_just_left_comes_back(postgres: PostgresDatabase) -> None:
    await postgres.write(remove.run)
    links = postgres._loop_state.writers  # type: ignore[union-attr]
    lent = [await links.take() for _ in range(postgres.settings.pool_size)]
    waiting = asyncio.create_task(links.take())
    await asyncio.sleep(0)
    links.give(lent.pop())  # the future of the waiting task has its result, the task does not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert links.lent == len(lent)
    for link in lent:
        links.give(link)
    assert nothing_lent(postgres)


@pytest.mark.parametrize("end", ["error", "cancel"])
async def test_a_block_that_is_undone_cuts_off_what_another_task_still_runs_in_it(
    postgres: PostgresDatabase, end: str
) -> None:
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active'"
    goes_on = asyncio.Event()
    tasks: list[asyncio.Future[object]] = []

    async def block() -> None:
        async with postgres.transaction() as tx:
            slow = tx.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(600)"))
            tasks.append(asyncio.ensure_future(slow))
            await goes_on.wait()
            raise ZeroDivisionError

    ends = asyncio.create_task(block())
    while not await postgres.read(lambda connection: connection.exec_driver_sql(running).scalar()):
        await asyncio.sleep(0.01)
    goes_on.set() if end == "error" else ends.cancel()
    with pytest.raises(ZeroDivisionError if end == "error" else asyncio.CancelledError):
        await asyncio.wait_for(ends, patience(10))
    with pytest.raises(StoreClosed):
        await asyncio.wait_for(tasks[0], patience(10))
    while await postgres.read(lambda connection: connection.exec_driver_sql(running).scalar()):
        await asyncio.sleep(0.01)
    assert nothing_lent(postgres)
