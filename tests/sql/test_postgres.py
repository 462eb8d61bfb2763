"""The laws of a database, on a real PostgreSQL: what is answered is in, in order, and what failed is not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, select, text
from tests.sql.entry_table import (
    add,
    bump,
    get,
    held,
    ids,
    put_each,
    remove,
    rows_of,
    table,
)

from dgent.exceptions import (
    Conflict,
    IntegrityViolation,
    InvalidQuery,
    RolledBack,
    StorageError,
    StorageTimeout,
    TransactionOpen,
)
from dgent.sql.postgres.pooled_connection import TRIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from dgent.sql.postgres.database import PostgresDatabase


async def test_what_write_answered_is_there_for_everyone(postgres: PostgresDatabase, postgres_url: str) -> None:
    assert await postgres.write(lambda connection: add.run(connection, "a", 1)) == 1
    assert await rows_of(postgres_url) == ["a"]
    assert await postgres.read(lambda connection: get.row(connection, "a"), short=True) == (1,)
    assert await postgres.write(lambda connection: bump.run(connection, "a")) == 1
    assert await postgres.write(lambda connection: bump.run(connection, "nobody")) == 0
    assert await postgres.write(remove.run) == 1


async def test_a_unit_that_raises_leaves_nothing(postgres: PostgresDatabase) -> None:
    def half(connection: Connection) -> None:
        add.run(connection, "a", 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await postgres.write(half)
    assert await held(postgres) == []


async def test_core_and_savepoints_work_in_a_unit(postgres: PostgresDatabase) -> None:
    def unit(connection: Connection) -> int:
        connection.execute(insert(table).values(id="kept", value=1))
        with suppress(ZeroDivisionError), connection.begin_nested():
            connection.execute(insert(table).values(id="undone", value=1))
            raise ZeroDivisionError
        return len(connection.execute(select(table)).all())

    assert await postgres.write(unit) == 1
    assert await postgres.write(lambda connection: connection.scalar(text("SELECT count(*) FROM entry"))) == 1
    assert await held(postgres) == ["kept"]


async def test_a_failed_statement_that_a_unit_passes_over_is_never_acknowledged(postgres: PostgresDatabase) -> None:
    def careless(connection: Connection) -> None:
        add.run(connection, "a", 1)
        with suppress(Exception):
            add.run(connection, "a", 1)

    async def careless_transaction() -> None:
        async with postgres.transaction() as tx:
            await tx.session.execute(insert(table).values(id="a", value=1))
            with suppress(Exception):
                await tx.session.execute(insert(table).values(id="a", value=1))

    with pytest.raises(StorageError, match="rolled back"):
        await postgres.write(careless)
    with pytest.raises(StorageError, match="rolled back"):
        await careless_transaction()
    assert await held(postgres) == []


async def test_what_a_unit_leaves_open_reaches_nobody_else(postgres: PostgresDatabase) -> None:
    def leave_open(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("INSERT INTO entry VALUES ('ghost', 1)")

    await postgres.read(leave_open)
    await postgres.write(lambda connection: connection.begin_nested())
    await postgres.write(lambda connection: add.run(connection, "a", 1))
    assert await held(postgres) == ["a"]


async def test_an_error_means_the_same_as_on_every_database(postgres: PostgresDatabase) -> None:
    await postgres.write(lambda connection: add.run(connection, "a", 1))
    with pytest.raises(IntegrityViolation, match="entry_pkey"):
        await postgres.write(lambda connection: add.run(connection, "a", 2))
    with pytest.raises(InvalidQuery, match="nowhere"):
        await postgres.read(lambda connection: connection.exec_driver_sql("SELECT * FROM nowhere"))
    with pytest.raises(StorageTimeout):
        await postgres.write(
            lambda connection: [
                connection.exec_driver_sql(statement)
                for statement in ("SET LOCAL statement_timeout = 50", "SELECT pg_sleep(5)")
            ]
        )
    assert await held(postgres) == ["a"]


async def test_items_of_a_batch_key_go_in_order_and_together(postgres: PostgresDatabase) -> None:
    flights: list[list[int]] = []

    def note(connection: Connection, items: list[int]) -> list[int]:
        flights.append(items)
        put_each(connection, [(f"{item:04}", item) for item in items])
        return [item * 2 for item in items]

    answers = await asyncio.gather(*(postgres.write_each(note, item, "key") for item in range(600)))
    assert answers == [item * 2 for item in range(600)]
    assert [item for flight in flights for item in flight] == list(range(600))
    assert len(flights) <= 4
    assert await held(postgres) == [f"{item:04}" for item in range(600)]


async def test_each_item_gets_its_own_error_and_a_flight_shares_one(postgres: PostgresDatabase) -> None:
    results = await asyncio.gather(
        *(postgres.write_each(put_each, (f"{n}", n % 3 - 1), "key") for n in range(9)), return_exceptions=True
    )
    assert [type(result) for result in results] == [Conflict, type(None), type(None)] * 3
    assert await held(postgres) == [f"{n}" for n in range(9) if n % 3]

    results = await asyncio.gather(
        *(postgres.write_each(put_each, (id, 1), "key") for id in ("new", "1", "2")), return_exceptions=True
    )
    assert [type(result) for result in results] == [IntegrityViolation] * 3
    await postgres.write_each(put_each, ("next", 1), "key")
    assert "next" in await held(postgres)
    assert "new" not in await held(postgres)


async def test_different_work_under_a_batch_key_keeps_the_order(postgres: PostgresDatabase) -> None:
    order: list[tuple[str, int]] = []

    def first(connection: Connection, items: list[int]) -> list[None]:
        order.extend(("first", item) for item in items)
        return [None] * len(items)

    def second(connection: Connection, items: list[int]) -> list[None]:
        order.extend(("second", item) for item in items)
        return [None] * len(items)

    works = [first, first, second, second, first, second, first, first]
    await asyncio.gather(*(postgres.write_each(work, n, "key") for n, work in enumerate(works)))
    assert order == [(work.__name__, n) for n, work in enumerate(works)]


async def test_reads_that_wait_share_a_call_and_an_error(postgres: PostgresDatabase) -> None:
    calls: list[int] = []

    def look(connection: Connection, items: list[str]) -> list[Any]:
        calls.append(len(items))
        found = {row[0] for row in ids.rows(connection)}
        return [item if item in found else KeyError(item) for item in items]

    await postgres.write(lambda connection: [add.run(connection, f"{n}", n) for n in range(50)])
    results = await asyncio.gather(
        *(postgres.read_each(look, f"{n}", "key") for n in range(100)), return_exceptions=True
    )
    assert results[:50] == [f"{n}" for n in range(50)]
    assert all(isinstance(result, KeyError) for result in results[50:])
    assert calls == [1, 99]

    def broken(connection: Connection, items: list[str]) -> list[Any]:
        return connection.exec_driver_sql("SELECT * FROM nowhere").all()

    results = await asyncio.gather(*(postgres.read_each(broken, "", "key") for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [InvalidQuery] * 5


async def test_a_transaction_shows_one_truth_to_the_session_and_to_units(postgres: PostgresDatabase) -> None:
    told: list[str] = []
    async with postgres.transaction() as tx:
        await tx.session.execute(insert(table).values(id="orm", value=1))
        await tx.write(lambda connection: add.run(connection, "unit", 1))
        assert [row[0] for row in await tx.read(ids.rows)] == ["orm", "unit"]
        with pytest.raises(IntegrityViolation):
            await tx.write(lambda connection: add.run(connection, "unit", 1))
        async with postgres.transaction() as inner:
            assert inner.outer is tx
        tx.after_commit(lambda: told.append("committed"))
        assert await held(postgres) == []
        with pytest.raises(TransactionOpen):
            await postgres.write(lambda connection: add.run(connection, "beside", 1))
        assert told == []
    assert told == ["committed"]
    assert await held(postgres) == ["orm", "unit"]

    async def give_up() -> None:
        async with postgres.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, "undone", 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await give_up()
    with pytest.raises(RolledBack):  # noqa: PT012  # the whole block is what fails
        async with postgres.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, "given up", 1))
            await tx.session.rollback()
            with pytest.raises(RolledBack):
                await tx.write(lambda connection: add.run(connection, "not kept", 1))
    assert await held(postgres) == ["orm", "unit"]


async def test_a_deadlock_is_retried_until_both_are_in(postgres: PostgresDatabase) -> None:
    await postgres.write(lambda connection: [add.run(connection, id, 0) for id in "ab"])
    holding: list[str] = []

    def crosswise(first: str, second: str) -> Callable[[Connection], None]:
        def unit(connection: Connection) -> None:
            bump.run(connection, first)
            holding.append(first)
            while second not in holding:  # until each waits for what the other holds
                connection.exec_driver_sql("SELECT pg_sleep(0.01)")
            bump.run(connection, second)

        return unit

    await asyncio.gather(postgres.write(crosswise("a", "b")), postgres.write(crosswise("b", "a")))
    assert len(holding) > 2, "there was no deadlock"
    assert await postgres.read(lambda connection: [get.row(connection, id) for id in "ab"]) == [(2,), (2,)]


async def test_a_serialization_failure_is_retried_but_not_for_ever(postgres: PostgresDatabase) -> None:
    runs: list[int] = []

    def conflicting(times: int) -> Callable[[Connection], None]:
        def unit(connection: Connection) -> None:
            runs.append(1)
            add.run(connection, "a", 1)
            if len(runs) <= times:
                connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")

        return unit

    await postgres.write(conflicting(3))
    assert len(runs) == 4
    assert await held(postgres) == ["a"]
    runs.clear()
    await postgres.write(remove.run)
    with pytest.raises(Conflict, match="gave up"):
        await postgres.write(conflicting(1000))
    assert len(runs) == TRIES
    assert await held(postgres) == []
