"""Opening, sharing and closing: loops, limits, other people's changes, exits, and what errors tell."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import select, text
from tests.faults.processes import complaints
from tests.sql.entry_table import (
    HANG,
    add,
    create,
    held,
    ids,
    opened,
    put_each,
    remove,
    rows_of,
    table,
)

from dgent.exceptions import (
    AccessRefused,
    BackendUnavailable,
    Conflict,
    DgentError,
    InvalidSettings,
    StorageError,
    StorageTimeout,
    StoreClosed,
    TransactionOpen,
)
from dgent.sql.statement import Statement
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from dgent.sql.postgres.database import PostgresDatabase


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


async def test_plans_survive_someone_elses_alter_table(postgres: PostgresDatabase, postgres_url: str) -> None:
    everything = Statement(select(text("*")).select_from(table), "")
    both = [
        lambda: postgres.read(everything.row),
        lambda: postgres.read(lambda connection: connection.execute(text("SELECT * FROM entry")).first()),
        lambda: postgres.write(everything.row),
        lambda: postgres.write(lambda connection: connection.execute(text("SELECT * FROM entry")).first()),
    ]
    await postgres.write(lambda connection: add.run(connection, "a", 1))
    assert [tuple(await run()) for run in both] == [("a", 1)] * 4
    async with postgres.transaction() as tx:
        await tx.read(everything.row)
    other = await asyncpg.connect(postgres_url, timeout=HANG)
    await other.execute("ALTER TABLE entry ADD COLUMN more text DEFAULT 'new'")
    await other.close()
    with pytest.raises(Conflict, match=r"altered .* run the transaction again"):
        async with postgres.transaction() as tx:
            await tx.read(everything.row)
    assert [tuple(await run()) for run in both] == [("a", 1, "new")] * 4
    async with postgres.transaction() as tx:
        assert tuple(await tx.read(everything.row)) == ("a", 1, "new")


async def test_a_transaction_that_met_an_alter_table_is_told_to_run_again(
    postgres: PostgresDatabase, postgres_url: str
) -> None:
    """Also one that reads through the session; other things that SQLSTATE 0A000 stands for are no conflict."""
    everything = text("SELECT * FROM entry")
    await postgres.write(lambda connection: add.run(connection, "a", 1))
    other = await asyncpg.connect(postgres_url, timeout=HANG)
    for n in range(2):
        async with postgres.transaction() as tx:
            row = (await tx.session.execute(everything)).one()
        await other.execute(f"ALTER TABLE entry ADD COLUMN more{n} text")
        with pytest.raises(Conflict, match=r"altered .* run the transaction again"):
            async with postgres.transaction() as tx:
                await tx.session.execute(everything)
        async with postgres.transaction() as tx:
            assert (await tx.session.execute(everything)).one() == (*row, None)
    await other.close()
    with pytest.raises(StorageError, match="0A000"):
        await postgres.read(lambda connection: connection.execute(text("SELECT DISTINCT 1 FROM entry FOR UPDATE")))


async def test_close_waits_for_what_was_accepted_and_may_be_called_twice(postgres: PostgresDatabase) -> None:
    accepted = [asyncio.create_task(postgres.write_each(put_each, (f"{n}", 1), n % 3)) for n in range(50)]
    slow = asyncio.create_task(postgres.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(0.2)")))
    await asyncio.sleep(0)
    await postgres.close()
    await postgres.close()
    assert all(task.done() and task.exception() is None for task in (*accepted, slow))
    assert await rows_of(str(postgres.settings.url.render_as_string(hide_password=False)).replace("+asyncpg", "")) == (
        sorted(f"{n}" for n in range(50))
    )
    for attempt in (held(postgres), postgres.write(remove.run), postgres.write_each(put_each, ("x", 1), 0)):
        with pytest.raises(StoreClosed):
            await attempt
    assert not await postgres.is_available()


async def test_close_is_refused_inside_a_transaction_and_undoes_that_of_another_task(postgres_url: str) -> None:
    await create(postgres_url)
    database = opened(postgres_url)
    now = asyncio.Event()

    async def close() -> None:
        await now.wait()
        await database.close()

    async def be_overtaken() -> None:
        closing = asyncio.create_task(close())
        async with database.transaction() as tx:
            await tx.write(lambda connection: add.run(connection, "a", 1))
            with pytest.raises(TransactionOpen):
                await database.close()
            now.set()
            await closing

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


async def test_a_second_loop_at_the_same_time_is_refused(postgres: PostgresDatabase) -> None:
    await held(postgres)

    def elsewhere() -> None:
        asyncio.run(held(postgres))

    with pytest.raises(StoreClosed, match="another event loop"):
        await asyncio.to_thread(elsewhere)
    assert await held(postgres) == []


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
from dgent.sql import open_database
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
    assert (result.returncode, complaints(result.stderr)) == (0, "")


def test_a_missing_driver_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from dgent.sql import open_database\n"
        "from dgent.settings import Settings\n"
        "open_database(Settings.load(database_url='postgresql://user@nowhere/name'))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=False)
    assert "CapabilityMissing" in result.stderr
    assert "pip install dgent[postgres]" in result.stderr


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
        f"postgresql://locked:{secret}@127.0.0.1:{server.port}/postgres": "the password of locked",
        f"postgresql://postgres:{secret}@127.0.0.1:{server.port}/missing": "CREATE DATABASE missing",
        f"postgresql://postgres:{secret}@127.0.0.1:{closed_port}/postgres": "does not answer",
        f"postgresql://postgres:{secret}@no-such-host.invalid/postgres": "unknown|cannot be looked up",
        f"postgresql://postgres@127.0.0.1:{server.port}/postgres?options=-cno.n=1%20-cnone=1&password={secret}": "none",
    }
    for url, reason in urls.items():
        database = opened(url, connect_timeout=patience(2))
        assert not await database.is_available()
        for attempt in (held(database), database.write(remove.run), _enter(database)):
            with pytest.raises((AccessRefused, BackendUnavailable, InvalidSettings), match=reason) as caught:
                await attempt
            assert secret not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert secret not in repr(database) + database.what
        await database.close()

    database = opened(
        f"postgresql://postgres:{secret}@127.0.0.1:{server.port}/other?connect_timeout={HANG:.0f}&sslmode=prefer"
    )
    for work in (ids.rows, lambda connection: connection.exec_driver_sql("SELECT 1/0")):
        with pytest.raises(DgentError) as caught:
            await database.read(work)
        assert secret not in "".join(traceback.format_exception(caught.value))
    await database.close()


async def _enter(database: PostgresDatabase) -> None:
    async with database.transaction():
        pass
