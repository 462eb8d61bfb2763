"""The laws of a database, on a real PostgreSQL: what is answered is in, what failed is not, nothing waits for ever."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, delete, insert, select, text, update
from tests.database.proxy import Proxy

from dgent.database import open_database
from dgent.database.postgres_link import TRIES
from dgent.database.statement import Statement
from dgent.exceptions import (
    BackendUnavailable,
    Conflict,
    DgentError,
    IntegrityViolation,
    NestedWrite,
    OutcomeUnknown,
    SchemaOutdated,
    StorageError,
    StorageTimeout,
    StoreClosed,
)
from dgent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection

    from dgent.database.postgres import PostgresDatabase

HANG = 20.0
"""Seconds after which something counts as hung; nothing here is near it."""

table = Table("entry", MetaData(), Column("id", Text, primary_key=True), Column("value", Integer, nullable=False))
add = Statement(insert(table), "id value")
get = Statement(select(table.c.value).where(table.c.id == bindparam("key")), "key")
bump = Statement(update(table).where(table.c.id == bindparam("key")).values(value=table.c.value + 1), "key")
remove = Statement(delete(table), "")
ids = Statement(select(table.c.id).order_by(table.c.id), "")


def opened(url: str, **settings: Any) -> PostgresDatabase:
    return open_database(Settings.load(database_url=url, **settings))  # type: ignore[return-value]


def put_each(connection: Connection, items: list[tuple[str, int]]) -> list[Exception | None]:
    """Insert each; a negative value is refused without touching the database."""
    results: list[Exception | None] = []
    for id, value in items:
        if value < 0:
            results.append(Conflict(f"{id} is negative"))
        else:
            add.run(connection, id, value)
            results.append(None)
    return results


def add_one(id: str, connection: Connection) -> int:
    return add.run(connection, id, 1)


async def held(database: PostgresDatabase) -> list[str]:
    return [row[0] for row in await database.read(ids.rows)]


async def rows_of(url: str) -> list[str]:
    """Look from outside."""
    connection = await asyncpg.connect(url, timeout=HANG)
    try:
        return [row[0] for row in await connection.fetch("SELECT id FROM entry ORDER BY id")]
    finally:
        await connection.close()


async def create(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=HANG)
    await connection.execute("CREATE TABLE entry (id text PRIMARY KEY, value integer NOT NULL)")
    await connection.close()


def nothing_lent(database: PostgresDatabase) -> bool:
    home = database._home
    return home is None or home.readers.lent == home.writers.lent == 0


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    await create(postgres_url)
    async with asyncio.timeout(HANG):
        database = opened(postgres_url, connect_timeout=2)
        yield database
        assert nothing_lent(database), "a connection is still checked out"
        await database.close()


# Reading and writing


async def test_what_write_answered_is_there_for_everyone(database: PostgresDatabase, postgres_url: str) -> None:
    assert await database.write(lambda connection: add.run(connection, "a", 1)) == 1
    assert await rows_of(postgres_url) == ["a"]
    assert await database.read(lambda connection: get.row(connection, "a"), short=True) == (1,)
    assert await database.write(lambda connection: bump.run(connection, "a")) == 1
    assert await database.write(lambda connection: bump.run(connection, "nobody")) == 0
    assert await database.write(remove.run) == 1


async def test_a_unit_that_raises_leaves_nothing(database: PostgresDatabase) -> None:
    def half(connection: Connection) -> None:
        add.run(connection, "a", 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await database.write(half)
    assert await held(database) == []


async def test_core_and_savepoints_work_in_a_unit(database: PostgresDatabase) -> None:
    def unit(connection: Connection) -> int:
        connection.execute(insert(table).values(id="kept", value=1))
        with suppress(ZeroDivisionError), connection.begin_nested():
            connection.execute(insert(table).values(id="undone", value=1))
            raise ZeroDivisionError
        return len(connection.execute(select(table)).all())

    assert await database.write(unit) == 1
    assert await database.write(lambda connection: connection.scalar(text("SELECT count(*) FROM entry"))) == 1
    assert await held(database) == ["kept"]


async def test_a_failed_statement_that_a_unit_passes_over_is_never_acknowledged(database: PostgresDatabase) -> None:
    def careless(connection: Connection) -> None:
        add.run(connection, "a", 1)
        with suppress(Exception):
            add.run(connection, "a", 1)

    async def careless_transaction() -> None:
        async with database.transaction() as tx:
            await tx.session.execute(insert(table).values(id="a", value=1))
            with suppress(Exception):
                await tx.session.execute(insert(table).values(id="a", value=1))

    with pytest.raises(StorageError, match="rolled back"):
        await database.write(careless)
    with pytest.raises(StorageError, match="rolled back"):
        await careless_transaction()
    assert await held(database) == []


async def test_what_a_unit_leaves_open_reaches_nobody_else(database: PostgresDatabase) -> None:
    def leave_open(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("INSERT INTO entry VALUES ('ghost', 1)")

    await database.read(leave_open)
    await database.write(lambda connection: connection.begin_nested())
    await database.write(lambda connection: add.run(connection, "a", 1))
    assert await held(database) == ["a"]


async def test_an_error_means_the_same_as_on_every_database(database: PostgresDatabase) -> None:
    await database.write(lambda connection: add.run(connection, "a", 1))
    with pytest.raises(IntegrityViolation, match="entry_pkey"):
        await database.write(lambda connection: add.run(connection, "a", 2))
    with pytest.raises(SchemaOutdated):
        await database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM nowhere"))
    with pytest.raises(StorageTimeout):
        await database.write(
            lambda connection: [
                connection.exec_driver_sql(statement)
                for statement in ("SET LOCAL statement_timeout = 50", "SELECT pg_sleep(5)")
            ]
        )
    assert await held(database) == ["a"]


# Lanes


async def test_items_of_a_lane_go_in_order_and_together(database: PostgresDatabase) -> None:
    flights: list[list[int]] = []

    def note(connection: Connection, items: list[int]) -> list[int]:
        flights.append(items)
        put_each(connection, [(f"{item:04}", item) for item in items])
        return [item * 2 for item in items]

    answers = await asyncio.gather(*(database.write_each(note, item, "lane") for item in range(600)))
    assert answers == [item * 2 for item in range(600)]
    assert [item for flight in flights for item in flight] == list(range(600))
    assert len(flights) <= 4
    assert await held(database) == [f"{item:04}" for item in range(600)]


async def test_each_item_gets_its_own_error_and_a_flight_shares_one(database: PostgresDatabase) -> None:
    results = await asyncio.gather(
        *(database.write_each(put_each, (f"{n}", n % 3 - 1), "lane") for n in range(9)), return_exceptions=True
    )
    assert [type(result) for result in results] == [Conflict, type(None), type(None)] * 3
    assert await held(database) == [f"{n}" for n in range(9) if n % 3]

    results = await asyncio.gather(
        *(database.write_each(put_each, (id, 1), "lane") for id in ("new", "1", "2")), return_exceptions=True
    )
    assert [type(result) for result in results] == [IntegrityViolation] * 3
    await database.write_each(put_each, ("next", 1), "lane")
    assert "next" in await held(database)
    assert "new" not in await held(database)


async def test_different_work_in_a_lane_keeps_the_order(database: PostgresDatabase) -> None:
    order: list[str] = []

    def first(connection: Connection, items: list[str]) -> list[None]:
        order.extend(items)
        return [None] * len(items)

    def second(connection: Connection, items: list[str]) -> list[None]:
        return first(connection, items)

    names = [f"{n}" for n in range(12)]
    await asyncio.gather(
        *(database.write_each((first, second)[n // 2 % 2], name, "lane") for n, name in enumerate(names))
    )
    assert order == names


async def test_reads_that_wait_share_a_call_and_an_error(database: PostgresDatabase) -> None:
    calls: list[int] = []

    def look(connection: Connection, items: list[str]) -> list[Any]:
        calls.append(len(items))
        found = {row[0] for row in ids.rows(connection)}
        return [item if item in found else KeyError(item) for item in items]

    await database.write(lambda connection: [add.run(connection, f"{n}", n) for n in range(50)])
    results = await asyncio.gather(
        *(database.read_each(look, f"{n}", "lane") for n in range(100)), return_exceptions=True
    )
    assert results[:50] == [f"{n}" for n in range(50)]
    assert all(isinstance(result, KeyError) for result in results[50:])
    assert calls == [1, 99]

    def broken(connection: Connection, items: list[str]) -> list[Any]:
        return connection.exec_driver_sql("SELECT * FROM nowhere").all()

    results = await asyncio.gather(*(database.read_each(broken, "", "lane") for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [SchemaOutdated] * 5


# Transactions


async def test_a_transaction_shows_one_truth_to_the_session_and_to_units(database: PostgresDatabase) -> None:
    told: list[str] = []
    async with database.transaction() as tx:
        await tx.session.execute(insert(table).values(id="orm", value=1))
        await tx.write(lambda connection: add.run(connection, "unit", 1))
        assert [row[0] for row in await tx.read(ids.rows)] == ["orm", "unit"]
        with pytest.raises(IntegrityViolation):
            await tx.write(lambda connection: add.run(connection, "unit", 1))
        async with database.transaction() as inner:
            assert inner is tx
        tx.after_commit(lambda: told.append("committed"))
        assert await held(database) == []
        with pytest.raises(NestedWrite):
            await database.write(lambda connection: add.run(connection, "beside", 1))
        assert told == []
    assert told == ["committed"]
    assert await held(database) == ["orm", "unit"]

    async def give_up() -> None:
        async with database.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, "undone", 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await give_up()
    async with database.transaction() as tx:
        await tx.write(lambda connection: add.run(connection, "given up", 1))
        await tx.session.rollback()
        await tx.write(lambda connection: add.run(connection, "kept", 1))
    assert await held(database) == ["kept", "orm", "unit"]


async def test_a_deadlock_is_retried_until_both_are_in(database: PostgresDatabase) -> None:
    await database.write(lambda connection: [add.run(connection, id, 0) for id in "ab"])
    started: list[str] = []

    def crosswise(first: str, second: str) -> Callable[[Connection], None]:
        def unit(connection: Connection) -> None:
            started.append(first)
            bump.run(connection, first)
            connection.exec_driver_sql("SELECT pg_sleep(0.2)")
            bump.run(connection, second)

        return unit

    await asyncio.gather(database.write(crosswise("a", "b")), database.write(crosswise("b", "a")))
    assert len(started) > 2, "there was no deadlock"
    assert await database.read(lambda connection: [get.row(connection, id) for id in "ab"]) == [(2,), (2,)]


async def test_a_serialization_failure_is_retried_but_not_for_ever(database: PostgresDatabase) -> None:
    runs: list[int] = []

    def conflicting(times: int) -> Callable[[Connection], None]:
        def unit(connection: Connection) -> None:
            runs.append(1)
            add.run(connection, "a", 1)
            if len(runs) <= times:
                connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")

        return unit

    await database.write(conflicting(3))
    assert len(runs) == 4
    assert await held(database) == ["a"]
    runs.clear()
    await database.write(remove.run)
    with pytest.raises(Conflict, match="gave up"):
        await database.write(conflicting(1000))
    assert len(runs) == TRIES
    assert await held(database) == []


# Cancellation


async def test_a_cancelled_write_is_whole_or_absent_and_never_comes_later(database: PostgresDatabase) -> None:
    chance = random.Random(1)
    acknowledged: set[str] = set()

    async def put(id: str) -> None:
        await database.write_each(put_each, (f"{id}-left", 1), chance.choice("xy"))
        await database.write(
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
    await database._home.writing.landed()  # type: ignore[union-attr]
    assert nothing_lent(database)
    found = set(await held(database))
    assert acknowledged <= found
    assert {id[:3] for id in found if id.endswith("-one")} == {id[:3] for id in found if id.endswith("-two")}
    await database.write_each(put_each, ("last", 1), "x")
    assert set(await held(database)) == found | {"last"}


async def test_an_item_whose_caller_left_before_its_flight_is_dropped(database: PostgresDatabase) -> None:
    await held(database)
    first = asyncio.create_task(database.write_each(put_each, ("first", 1), "lane"))
    await asyncio.sleep(0.001)
    waiting = [asyncio.create_task(database.write_each(put_each, (f"{n}", 1), "lane")) for n in range(4)]
    unborn = asyncio.create_task(database.write(lambda connection: add.run(connection, "unborn", 1)))
    await asyncio.sleep(0)
    for task in (waiting[1], waiting[2], unborn):
        task.cancel()
    results = await asyncio.gather(first, *waiting, unborn, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, False, True, True, False, True]
    assert await held(database) == ["0", "3", "first"]


async def test_a_cancelled_transaction_leaves_nothing_and_frees_its_connection(database: PostgresDatabase) -> None:
    chance = random.Random(2)
    committed: set[str] = set()

    async def transact(id: str) -> None:
        async with database.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, f"{id}-one", 1))
            await tx.session.execute(insert(table).values(id=f"{id}-two", value=1))
        committed.update({f"{id}-one", f"{id}-two"})

    for n in range(60):
        task = asyncio.create_task(transact(f"{n:03}"))
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        await asyncio.sleep(chance.choice([0, 0, 0.0005, 0.001, 0.003]))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert nothing_lent(database)
    found = set(await held(database))
    assert committed <= found
    assert {id[:3] for id in found if id.endswith("-one")} == {id[:3] for id in found if id.endswith("-two")}


async def test_a_cancelled_read_is_cancelled_on_the_server_too(database: PostgresDatabase) -> None:
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%' AND state = 'active'"
    slow = asyncio.create_task(database.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(30)")))
    while not await database.read(lambda connection: connection.exec_driver_sql(running).scalar()):
        await asyncio.sleep(0.01)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    while await database.read(lambda connection: connection.exec_driver_sql(running).scalar()):
        await asyncio.sleep(0.01)
    assert nothing_lent(database)


# A server that goes away


async def test_a_read_outlives_the_death_of_its_connections(database: PostgresDatabase, postgres_url: str) -> None:
    await database.write(lambda connection: add.run(connection, "a", 1))
    await asyncio.gather(*(held(database) for _ in range(5)))
    await _kill_connections(postgres_url)
    assert await asyncio.gather(*(held(database) for _ in range(5))) == [["a"]] * 5
    await _kill_connections(postgres_url)
    await database.write(lambda connection: add.run(connection, "b", 1))
    await _kill_connections(postgres_url)
    async with database.transaction() as tx:
        await tx.write(lambda connection: add.run(connection, "c", 1))
    assert await held(database) == ["a", "b", "c"]


async def test_nothing_acknowledged_is_lost_when_connections_die_while_writing(
    database: PostgresDatabase, postgres_url: str
) -> None:
    async def storm() -> None:
        for _ in range(25):
            await _kill_connections(postgres_url)
            await asyncio.sleep(0.03)

    told = await _write_through(database, storm())
    _check_story(told, await rows_of(postgres_url))
    await database.write_each(put_each, ("after", 1), 0)


async def test_nothing_acknowledged_is_lost_when_the_server_crashes(postgres_server: Any) -> None:
    url = postgres_server.url()
    await create(url)
    database = opened(url, connect_timeout=3)

    async def crash() -> None:
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres_server.stop, "immediate")
        await asyncio.to_thread(postgres_server.start)
        await asyncio.sleep(0.3)

    told = await _write_through(database, crash())
    _check_story(told, await rows_of(url))
    await database.write_each(put_each, ("after", 1), 0)
    await database.close()


async def test_after_a_crash_the_id_of_a_lost_transaction_proves_nothing(postgres_server: Any) -> None:
    url = postgres_server.url()
    await create(url)
    database = opened(url, connect_timeout=3)
    await database.write(lambda connection: add.run(connection, "a", 1))
    link = database._home.writers.take_now()  # type: ignore[union-attr]
    assert link is not None
    await link._begin()
    xid, life = link._xid, link._require().life
    await asyncio.to_thread(postgres_server.stop, "immediate")
    await asyncio.to_thread(postgres_server.start)
    assert await link._is_in(xid, life) is False
    async with asyncio.timeout(HANG):
        while (
            await database.write(
                lambda connection: (
                    connection.exec_driver_sql(f"SELECT pg_xact_status('{xid}'::xid8)").scalar()
                    if connection.exec_driver_sql(f"SELECT pg_current_xact_id() > '{xid}'::xid8").scalar()
                    else None
                )
            )
            != "committed"
        ):
            await database.write(lambda connection: bump.run(connection, "a"))
    with pytest.raises(OutcomeUnknown):
        await link._is_in(xid, life)
    database._home.writers.give(link)  # type: ignore[union-attr]
    await database.close()


async def _kill_connections(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=HANG)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'dgent%'"
    )
    await connection.close()


async def _write_through(database: PostgresDatabase, trouble: Any) -> dict[str, str]:
    """Write from many tasks while there is trouble; return what each id was told."""
    told: dict[str, str] = {}
    over = asyncio.Event()

    async def one(writer: int) -> None:
        for n in range(100_000):
            if over.is_set():
                return
            id = f"{writer}-{n}"
            try:
                if writer % 4 == 0:
                    async with database.transaction() as tx:
                        await tx.session.execute(insert(table).values(id=id, value=1))
                elif writer % 4 == 1:
                    await database.write(partial(add_one, id))
                else:
                    await database.write_each(put_each, (id, 1), writer % 2)
                told[id] = "in"
            except BackendUnavailable:
                told[id] = "out"
                await asyncio.sleep(0.01)
            except OutcomeUnknown:
                told[id] = "unknown"

    async with asyncio.timeout(HANG), asyncio.TaskGroup() as group:
        for writer in range(8):
            group.create_task(one(writer))
        await trouble
        over.set()
    return told


def _check_story(told: dict[str, str], found: list[str]) -> None:
    assert sum(answer == "in" for answer in told.values()) > 20
    assert not {id for id, answer in told.items() if answer == "in"} - set(found), "acknowledged, and lost"
    assert not {id for id, answer in told.items() if answer == "out"} & set(found), "refused, and in"
    assert not set(found) - set(told), "nobody wrote this"


# A COMMIT whose answer is lost


@pytest.mark.parametrize("held", [False, True], ids=["the server notices", "the server does not notice"])
@pytest.mark.parametrize("delivered", [False, True], ids=["before the server has it", "after"])
async def test_a_lost_commit_is_resolved(postgres_url: str, delivered: bool, held: bool) -> None:
    await create(postgres_url)
    runs: list[str] = []

    def unit(id: str) -> Callable[[Connection], None]:
        def run(connection: Connection) -> None:
            runs.append(id)
            add.run(connection, id, 1)

        return run

    async with asyncio.timeout(HANG), Proxy(postgres_url) as proxy:
        database = opened(proxy.url, connect_timeout=3)
        await database.write(unit("before"))
        proxy.cut_when(b"COMMIT\0", delivered=delivered, held=held)
        await database.write(unit("unit"))
        assert proxy.sprung == 1
        assert runs == ["before", "unit"] if delivered else ["before", "unit", "unit"]
        assert await rows_of(postgres_url) == ["before", "unit"]

        proxy.cut_when(b"COMMIT\0", delivered=delivered, held=held)
        if delivered:
            async with database.transaction() as tx:
                await tx.write(unit("transaction"))
        else:
            with pytest.raises(BackendUnavailable, match="not in"):
                async with database.transaction() as tx:
                    await tx.write(unit("transaction"))
        assert proxy.sprung == 2
        assert ("transaction" in await rows_of(postgres_url)) is delivered
        assert nothing_lent(database)
        await database.close()


async def test_a_lost_commit_that_nobody_can_tell_of_is_unknown(postgres_url: str) -> None:
    await create(postgres_url)
    async with asyncio.timeout(HANG), Proxy(postgres_url) as proxy:
        database = opened(proxy.url, connect_timeout=0.5)
        await database.write(lambda connection: add.run(connection, "a", 1))
        proxy.cut_when(b"COMMIT\0", delivered=True)

        def unit(connection: Connection) -> None:
            add.run(connection, "b", 1)
            proxy._refusing = True  # from now on, new connections only

        with pytest.raises(OutcomeUnknown):
            await database.write(unit)
        proxy.recover()
        assert await held(database) == ["a", "b"]
        await database.close()


async def test_a_silent_server_hangs_nobody(postgres_url: str) -> None:
    await create(postgres_url)
    async with asyncio.timeout(HANG), Proxy(postgres_url) as proxy:
        database = opened(proxy.url, connect_timeout=0.3, command_timeout=0.3)
        await database.write(lambda connection: add.run(connection, "a", 1))
        assert await held(database) == ["a"]
        proxy.fall_silent()
        assert not await database.is_available()
        with pytest.raises((StorageTimeout, BackendUnavailable)):
            await held(database)
        with pytest.raises((StorageTimeout, BackendUnavailable)):
            await database.write(lambda connection: add.run(connection, "b", 1))
        with pytest.raises((StorageTimeout, BackendUnavailable)):
            async with database.transaction():
                pass
        proxy.recover()
        assert await database.is_available()
        assert await held(database) == ["a"]
        proxy.fall_silent()
        await database.close()


async def test_a_caller_need_not_wait_for_a_silent_server(postgres_url: str) -> None:
    async with asyncio.timeout(HANG), Proxy(postgres_url) as proxy:
        proxy.fall_silent()
        database = opened(proxy.url, connect_timeout=0.5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await held(database)
        assert nothing_lent(database)
        await database.close()


async def test_a_full_pool_is_a_timeout_and_not_a_hang(postgres_url: str) -> None:
    await create(postgres_url)
    database = opened(postgres_url, pool_size=1, pool_timeout=0.1)
    ready, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, "held", 1))
            ready.set()
            await go_on.wait()

    holder = asyncio.create_task(hold())
    await ready.wait()
    with pytest.raises(StorageTimeout, match="pool_size"):
        await database.write(lambda connection: add.run(connection, "late", 1))
    with pytest.raises(StorageTimeout, match="pool_size"):
        async with database.transaction():
            pass
    assert await held(database) == []
    waiting = asyncio.create_task(database.write(lambda connection: add.run(connection, "patient", 1)))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(holder, waiting)
    assert await held(database) == ["held", "patient"]
    await database.close()


async def test_plans_survive_someone_elses_alter_table(database: PostgresDatabase, postgres_url: str) -> None:
    everything = Statement(select(text("*")).select_from(table), "")
    both = [
        lambda: database.read(everything.row),
        lambda: database.read(lambda connection: connection.execute(text("SELECT * FROM entry")).first()),
        lambda: database.write(everything.row),
        lambda: database.write(lambda connection: connection.execute(text("SELECT * FROM entry")).first()),
    ]
    await database.write(lambda connection: add.run(connection, "a", 1))
    assert [tuple(await run()) for run in both] == [("a", 1)] * 4
    async with database.transaction() as tx:
        await tx.read(everything.row)
        await _alter(postgres_url, "ALTER TABLE other ADD COLUMN x integer", "CREATE TABLE other ()")
    await _alter(postgres_url, "ALTER TABLE entry ADD COLUMN more text DEFAULT 'new'")
    with pytest.raises(StorageError):
        async with database.transaction() as tx:
            await tx.read(everything.row)
    assert [tuple(await run()) for run in both] == [("a", 1, "new")] * 4
    async with database.transaction() as tx:
        assert tuple(await tx.read(everything.row)) == ("a", 1, "new")


async def _alter(url: str, statement: str, *before: str) -> None:
    connection = await asyncpg.connect(url, timeout=HANG)
    for each in (*before, statement):
        await connection.execute(each)
    await connection.close()


# Opening and closing


async def test_close_waits_for_what_was_accepted_and_may_be_called_twice(database: PostgresDatabase) -> None:
    accepted = [asyncio.create_task(database.write_each(put_each, (f"{n}", 1), n % 3)) for n in range(50)]
    reading = asyncio.create_task(held(database))
    await asyncio.sleep(0)
    await database.close()
    await database.close()
    assert all(task.done() and task.exception() is None for task in (*accepted, reading))
    assert await rows_of(str(database.settings.url.render_as_string(hide_password=False)).replace("+asyncpg", "")) == (
        sorted(f"{n}" for n in range(50))
    )
    for attempt in (held(database), database.write(remove.run), database.write_each(put_each, ("x", 1), 0)):
        with pytest.raises(StoreClosed):
            await attempt
    assert not await database.is_available()


async def test_a_transaction_that_close_overtakes_is_undone(postgres_url: str) -> None:
    await create(postgres_url)
    database = opened(postgres_url)

    async def be_overtaken() -> None:
        async with database.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, "a", 1))
            await database.close()

    with pytest.raises(BackendUnavailable):
        await be_overtaken()
    assert await rows_of(postgres_url) == []


def test_a_second_run_of_asyncio_gets_connections_of_its_own(postgres_url: str) -> None:
    asyncio.run(create(postgres_url))
    database = opened(postgres_url)

    async def use(id: str) -> list[str]:
        await database.write(lambda connection: add.run(connection, id, 1))
        async with database.transaction() as tx:
            await tx.read(ids.rows)
        return await held(database)

    assert asyncio.run(use("a")) == ["a"]
    assert asyncio.run(use("b")) == ["a", "b"]

    loop = asyncio.new_event_loop()  # closed without the courtesies of asyncio.run
    assert loop.run_until_complete(use("c")) == ["a", "b", "c"]
    loop.close()
    assert asyncio.run(use("d")) == ["a", "b", "c", "d"]
    asyncio.run(database.close())
    del loop
    gc.collect()


async def test_a_second_loop_at_the_same_time_is_refused(database: PostgresDatabase) -> None:
    await held(database)

    def elsewhere() -> None:
        asyncio.run(held(database))

    with pytest.raises(StoreClosed, match="another event loop"):
        await asyncio.to_thread(elsewhere)
    assert await held(database) == []


async def test_a_database_that_is_forgotten_closes_its_connections(postgres_url: str) -> None:
    database = opened(postgres_url)
    assert await database.is_available()
    observer = await asyncpg.connect(postgres_url)
    mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dgent'"
    assert await observer.fetchval(mine) == 1
    del database
    gc.collect()
    async with asyncio.timeout(HANG):
        while await observer.fetchval(mine):
            await asyncio.sleep(0.01)
    await observer.close()


EXIT = """
import asyncio, os, sys
from dgent.database import open_database
from dgent.exceptions import StoreClosed
from dgent.settings import Settings

database = open_database(Settings.load(database_url=sys.argv[1]))
ask = lambda: database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

async def main():
    assert await ask() == 1
    async with database.transaction() as tx:
        pass
    child = os.fork()
    if not child:
        try:
            await ask()
        except StoreClosed:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert await ask() == 1
    asyncio.create_task(database.write(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(60)")))
    await asyncio.sleep(0.05)

asyncio.run(main())
"""


def test_an_unclosed_database_holds_up_no_exit_and_a_fork_is_refused(postgres_url: str) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", EXIT, postgres_url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_missing_driver_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from dgent.database import open_database\n"
        "from dgent.settings import Settings\n"
        "open_database(Settings.load(database_url='postgresql://user@nowhere/name'))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=False)
    assert "BackendUnavailable" in result.stderr
    assert "pip install dgent[postgres]" in result.stderr


# Secrets


async def test_no_error_shows_the_password(postgres_server: Any) -> None:
    server = postgres_server
    connection = await asyncpg.connect(server.url())
    await connection.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    await connection.execute("CREATE DATABASE other")
    rules = server._cluster.pgdata / "pg_hba.conf"
    rules.write_text("host all locked 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    secret = "s3cr3t-h0rse"
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed_port = free.getsockname()[1]
    urls = {
        f"postgresql://locked:{secret}@127.0.0.1:{server.port}/postgres": "refused the login",
        f"postgresql://postgres:{secret}@127.0.0.1:{server.port}/missing": "refused the login or the database name",
        f"postgresql://postgres:{secret}@127.0.0.1:{closed_port}/postgres": "does not answer",
        f"postgresql://postgres:{secret}@no-such-host.invalid/postgres": "does not answer",
        f"postgresql://postgres:{secret}@127.0.0.1:{server.port}/postgres?sslmode=nonsense": "does not answer",
        f"postgresql://postgres:{secret}@127.0.0.1:{server.port}/postgres?nonsense=1&password={secret}": "42704",
    }
    for url, reason in urls.items():
        database = opened(url, connect_timeout=2)
        assert not await database.is_available()
        for attempt in (held(database), database.write(remove.run), _enter(database)):
            with pytest.raises(BackendUnavailable, match=reason) as caught:
                await attempt
            assert secret not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert secret not in repr(database) + database.what
        await database.close()

    database = opened(f"postgresql://postgres:{secret}@127.0.0.1:{server.port}/other?connect_timeout=3&sslmode=prefer")
    for work in (ids.rows, lambda connection: connection.exec_driver_sql("SELECT 1/0")):
        with pytest.raises(DgentError) as caught:
            await database.read(work)
        assert secret not in "".join(traceback.format_exception(caught.value))
    await database.close()


async def _enter(database: PostgresDatabase) -> None:
    async with database.transaction():
        pass
