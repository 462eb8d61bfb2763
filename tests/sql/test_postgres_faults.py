"""Servers and connections that die: nothing acknowledged is lost, nothing refused is in, every COMMIT is resolved."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import insert
from tests.sql.entry_table import (
    HANG,
    add,
    add_one,
    bump,
    create,
    held,
    nothing_lent,
    opened,
    put_each,
    rows_of,
    table,
)
from tests.sql.proxy import Proxy

from dgent.exceptions import (
    BackendUnavailable,
    OutcomeUnknown,
    StorageTimeout,
)
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Connection

    from dgent.sql.postgres.database import PostgresDatabase


async def test_a_read_outlives_the_death_of_its_connections(postgres: PostgresDatabase, postgres_url: str) -> None:
    await postgres.write(lambda connection: add.run(connection, "a", 1))
    await asyncio.gather(*(held(postgres) for _ in range(5)))
    await _kill_connections(postgres_url)
    assert await asyncio.gather(*(held(postgres) for _ in range(5))) == [["a"]] * 5
    await _kill_connections(postgres_url)
    await postgres.write(lambda connection: add.run(connection, "b", 1))
    await _kill_connections(postgres_url)
    async with postgres.transaction() as tx:
        await tx.write(lambda connection: add.run(connection, "c", 1))
    assert await held(postgres) == ["a", "b", "c"]


async def test_nothing_acknowledged_is_lost_when_connections_die_while_writing(
    postgres: PostgresDatabase, postgres_url: str
) -> None:
    async def storm(told: dict[str, str]) -> None:
        for _ in range(25):
            await _kill_connections(postgres_url)
            await asyncio.sleep(0.03)
        await _more_in(told, ENOUGH)

    told = await _write_through(postgres, storm)
    _check_story(told, await rows_of(postgres_url))
    await postgres.write_each(put_each, ("after", 1), 0)


async def test_nothing_acknowledged_is_lost_when_the_server_crashes(postgres_server: Any) -> None:
    url = postgres_server.url()
    await create(url)
    database = opened(url, connect_timeout=patience(3))

    async def crash(told: dict[str, str]) -> None:
        await _more_in(told, ENOUGH)
        await asyncio.to_thread(postgres_server.stop, "immediate")
        await asyncio.to_thread(postgres_server.start)
        await _more_in(told, ENOUGH)

    told = await _write_through(database, crash)
    _check_story(told, await rows_of(url))
    await database.write_each(put_each, ("after", 1), 0)
    await database.close()


async def test_after_a_crash_the_id_of_a_lost_transaction_proves_nothing(postgres_server: Any) -> None:
    url = postgres_server.url()
    await create(url)
    database = opened(url, connect_timeout=patience(3))
    await database.write(lambda connection: add.run(connection, "a", 1))
    link = database._loop_state.writers.take_now()  # type: ignore[union-attr]
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
    database._loop_state.writers.give(link)  # type: ignore[union-attr]
    await database.close()


async def _kill_connections(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=HANG)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'dgent%'"
    )
    await connection.close()


ENOUGH = 20
"""So many writes before and after trouble show something."""


async def _more_in(told: dict[str, str], many: int) -> None:
    """Wait until so many more writes were acknowledged, however busy the machine is."""
    before = _ins(told)
    try:
        async with asyncio.timeout(HANG):
            while _ins(told) < before + many:
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{_ins(told) - before} of {many} writes were acknowledged in {HANG} s") from None


def _ins(told: dict[str, str]) -> int:
    return sum(answer == "in" for answer in told.values())


async def _write_through(
    database: PostgresDatabase, trouble: Callable[[dict[str, str]], Awaitable[None]]
) -> dict[str, str]:
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

    async with asyncio.timeout(3 * HANG), asyncio.TaskGroup() as group:
        for writer in range(8):
            group.create_task(one(writer))
        await trouble(told)
        over.set()
    return told


def _check_story(told: dict[str, str], found: list[str]) -> None:
    assert _ins(told) >= ENOUGH
    assert not {id for id, answer in told.items() if answer == "in"} - set(found), "acknowledged, and lost"
    assert not {id for id, answer in told.items() if answer == "out"} & set(found), "refused, and in"
    assert not set(found) - set(told), "nobody wrote this"


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
        database = opened(proxy.url, connect_timeout=patience(3))
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
        database = opened(proxy.url, connect_timeout=patience(0.5))
        await database.write(lambda connection: add.run(connection, "a", 1))
        proxy.cut_when(b"COMMIT\0", delivered=True)

        def unit(connection: Connection) -> None:
            add.run(connection, "b", 1)
            proxy.refuse()

        with pytest.raises(OutcomeUnknown):
            await database.write(unit)
        proxy.recover()
        assert await held(database) == ["a", "b"]
        await database.close()


async def test_a_silent_server_hangs_nobody(postgres_url: str) -> None:
    await create(postgres_url)
    async with asyncio.timeout(HANG), Proxy(postgres_url) as proxy:
        database = opened(proxy.url, connect_timeout=patience(0.3), command_timeout=patience(0.3))
        await database.write(lambda connection: add.run(connection, "a", 1))
        assert await held(database) == ["a"]
        proxy.fall_silent()
        with pytest.raises(StorageTimeout):
            await held(database)
        assert not await database.is_available()
        with pytest.raises(BackendUnavailable):
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
        database = opened(proxy.url, connect_timeout=patience(0.5))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await held(database)
        assert nothing_lent(database)
        await database.close()
