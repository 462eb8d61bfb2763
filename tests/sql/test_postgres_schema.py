"""A schema that the settings name holds everything, and two of them in one database are two stores that never meet."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Connection, select, text

from dgent import Datum, StorageProvider, migrations
from dgent.exceptions import InvalidSettings, StorageTimeout
from dgent.memory.sql import reads
from dgent.models.brain import Crystal
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.constructs import transaction_lock
from dgent.sql.postgres.sync_engine import create_sync_engine
from dgent.testing.contract_base import patience

HOSTILE = ["plain", "With Space", 'quo"te', "semi;colon--", "a'b", "$do$", "back\\slash", "é" * 31, "select", "x" * 63]


def of(schema: str, url: str, folder: Path) -> Settings:
    return Settings.load(database_url=url, database_schema=schema, data_dir=folder)


async def tables(url: str) -> dict[str, set[str]]:
    """Look from outside: the tables of each schema that is not the server's."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
    finally:
        await connection.close()
    found: dict[str, set[str]] = {}
    for schema, table in rows:
        found.setdefault(schema, set()).add(table)
    return found


async def fill(settings: Settings, word: str) -> str:
    """Write something of every kind, and return the id of the store."""
    async with await StorageProvider.from_config(settings) as storage:
        await storage.run_migrations()
        async with storage.transaction() as tx:
            datum = await tx.memory.put(Datum.create(word, id="same"))
            tx.session.add(Crystal(id="same", content_hash=word, summary=word, datum_id=datum.id))
            await tx.log.append("stream", "writer", word.encode())
        await storage.generation("same").bump()
        await storage.memory.put_many([Datum.create(word, id=f"{word}{n}") for n in range(80)])  # by COPY
        return await storage.memory.serving.prepare()  # type: ignore[attr-defined]


async def test_two_schemas_in_one_database_are_two_stores_that_never_meet(postgres_url: str, tmp_path: Path) -> None:
    one, two = of("one", postgres_url, tmp_path), of("two", postgres_url, tmp_path)  # and one manifest for both
    assert await fill(one, "first") != await fill(two, "second")
    made = await tables(postgres_url)
    assert made.keys() == {"one", "two"}, "nothing lies in public"
    assert made["one"] == made["two"] >= {"dgent_datums", "schema_version", "brain_crystals", "dgent_log"}
    for settings, word in ((one, "first"), (two, "second")):
        async with await StorageProvider.from_config(settings) as storage:
            assert (await storage.memory.get("same")).text == word  # type: ignore[union-attr]
            assert await storage.memory.count() == 81
            assert (await storage.table(Crystal).get("same")).data["summary"] == word  # type: ignore[union-attr]
            assert await storage.generation("same").current() == 1
            assert [entry.payload for entry in await storage.log.entries("stream", "writer")] == [word.encode()]
            assert (await storage.status())["schema"] == migrations.head()


@pytest.mark.parametrize("schema", HOSTILE)
async def test_the_name_of_a_schema_is_a_name_and_no_sql(schema: str, postgres_url: str, tmp_path: Path) -> None:
    settings = of(schema, postgres_url, tmp_path)
    for _ in range(2):
        async with await StorageProvider.from_config(settings) as storage:
            await storage.memory.put(Datum.create("x", id="x"))
    assert (await tables(postgres_url)).keys() == {schema}


@pytest.mark.parametrize("schema", ["", "x" * 64, "nul\0", "pg_catalog", "pg_mine", "information_schema"])
def test_a_schema_that_cannot_be_is_refused(schema: str, postgres_url: str) -> None:
    with pytest.raises(InvalidSettings, match="database_schema"):
        Settings.load(database_url=postgres_url, database_schema=schema)


def test_a_schema_of_a_sqlite_file_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="KGENTS_DATABASE_SCHEMA"):
        Settings.load(data_dir=tmp_path, database_schema="mine")


async def _begin(settings: Settings) -> None:
    async with await StorageProvider.from_config(settings) as storage:
        await storage.run_migrations()
        await storage.memory.put(Datum.create("x"))


def _open(url: str, folder: Path) -> None:
    asyncio.run(_begin(of("shared", url, folder)))


def test_processes_that_open_a_new_schema_at_once_all_open_it(postgres_url: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_open, args=(postgres_url, tmp_path / str(n))) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(patience(60))
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


async def test_a_lock_of_one_schema_holds_up_no_other(postgres_url: str, tmp_path: Path) -> None:
    def take(connection: Connection) -> bool:
        connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
        connection.execute(select(transaction_lock(7)))
        return True

    one = await StorageProvider.from_config(of("one", postgres_url, tmp_path))
    two = await StorageProvider.from_config(of("two", postgres_url, tmp_path))
    async with one, two, one.transaction() as tx:
        assert await tx.memory._runner.write(take)  # type: ignore[attr-defined]
        assert await two.database.write(take)
        other = open_database(one.settings)
        with pytest.raises(StorageTimeout, match="locked"):
            await other.write(take)
        await other.close()


async def test_a_synchronous_program_gets_the_same_url_and_schema(postgres_url: str, tmp_path: Path) -> None:
    url = f"{postgres_url}?pgbouncer=false&statement_cache_size=50&connect_timeout=7&application_name=mine"
    settings = of("one", url, tmp_path)
    await fill(settings, "first")
    engine = create_sync_engine(settings)
    try:
        with engine.begin() as connection:
            found = reads.get(connection, "default", "same", None, 0.0)
            assert found is not None
            assert found.text == "first"
            assert connection.execute(text("SELECT current_setting('application_name')")).scalar() == "mine"
    finally:
        engine.dispose()
    wrong = Settings.load(database_url=f"{postgres_url}?nonsense=1")
    with pytest.raises(InvalidSettings, match="nonsense"):
        create_sync_engine(wrong)
