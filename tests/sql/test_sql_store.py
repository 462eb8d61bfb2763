"""What a store with tables of its own gets from `SqlStore`: tables on first use, and a place in a transaction."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, func, insert, inspect, select, update

from dgent.datum import Datum
from dgent.exceptions import (
    Corrupt,
    DiskFull,
    IntegrityViolation,
    InvalidInput,
    LimitExceeded,
    ReadOnly,
    SchemaOutdated,
    SchemaTooNew,
    StoreClosed,
)
from dgent.limits import Limits
from dgent.memory.sql.backend import SqlBackend
from dgent.settings import Settings
from dgent.sql import Database, SqlStore, open_database
from dgent.sql.constructs import BYTEWISE
from dgent.sql.savepoints import apart
from dgent.sql.table_set import TableSet, meta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

metadata = MetaData()
notes = Table("notes", metadata, Column("id", Integer, primary_key=True), Column("text", BYTEWISE, nullable=False))
NOTES = TableSet("the notes", "format.notes", metadata, 1)


class Notes(SqlStore):
    def __init__(self, database: Database, *, may_be_absent: bool = False) -> None:
        super().__init__(database, NOTES, may_be_absent=may_be_absent)
        self.looks: list[str] = []
        self.told: list[str] = []

    async def add(self, text: str) -> None:
        await self._write(lambda connection: connection.execute(insert(notes).values(text=text)))
        self._after_commit(lambda: self.told.append(text))

    async def count(self) -> int:
        return await self._read(count, short=True)

    async def _look(self) -> None:
        self.looks.append("looked")


def count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(notes)).scalar_one())


def is_there(connection: Connection) -> bool:
    return inspect(connection).has_table("notes")


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, sqlite_path: Path) -> AsyncIterator[Database]:
    """Return an empty database, of each kind in turn."""
    url = f"sqlite:///{sqlite_path}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = open_database(Settings.load(database_url=url, synchronous="NORMAL"))
    yield opened
    await opened.close()


async def test_the_tables_are_made_once_however_many_come_at_once(database: Database) -> None:
    store = Notes(database)
    assert not await database.read(is_there)
    await asyncio.gather(*(store.add(str(n)) for n in range(8)))
    assert (await store.count(), store.looks) == (8, ["looked"])
    another = Notes(database)
    assert (await another.count(), another.looks) == (8, [])  # which knows what the first one has found
    assert await store.prepare() == await another.prepare()


async def test_a_look_that_was_cancelled_is_done_by_the_next(tmp_path: Path) -> None:
    for patience in range(12):
        url = f"sqlite:///{tmp_path / str(patience)}.db"
        database = open_database(Settings.load(database_url=url, synchronous="NORMAL"))
        task = asyncio.create_task(Notes(database).add("perhaps"))
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
        store = Notes(database)
        await store.add("for sure")
        with suppress(asyncio.CancelledError):
            await task
        assert (store.told, await store.count() in {1, 2}) == (["for sure"], True)
        await database.close()


async def test_what_a_joined_store_makes_goes_with_its_transaction(database: Database) -> None:
    store = Notes(database)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the whole block is what fails
        async with database.transaction() as transaction:
            inside = store.joined(transaction)
            await inside.add("lost")
            assert await inside.count() == 1
            1 / 0  # noqa: B018
    assert (store.told, await database.read(is_there)) == ([], False)
    async with database.transaction() as transaction:
        inside = store.joined(transaction)
        assert inside.is_joined
        await inside.add("kept")
        assert store.told == []
    assert store.told == ["kept"]
    assert await store.count() == 1
    with pytest.raises(StoreClosed):
        await inside.count()


async def test_a_newer_format_is_refused_each_time(database: Database) -> None:
    await Notes(database).prepare()
    newer = update(meta).values(value="9").where(meta.c.key == NOTES.key)
    await database.write(lambda connection: connection.execute(newer))
    again = open_database(database.settings)
    try:
        store = Notes(again)
        for _ in range(2):
            with pytest.raises(SchemaTooNew):
                await store.count()
    finally:
        await again.close()


@pytest.mark.parametrize("made", [False, True])
async def test_where_nothing_can_be_written_the_tables_are_checked(sqlite_path: Path, *, made: bool) -> None:
    settings = Settings.load(database_url=f"sqlite:///{sqlite_path}")
    database = open_database(settings)
    await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE other (id INTEGER)"))
    if made:
        await Notes(database).add("there")
    await database.close()
    database = open_database(Settings.load(database_url=f"sqlite:///{sqlite_path}?mode=ro"))
    try:
        lenient, store = Notes(database, may_be_absent=True), Notes(database)
        assert await lenient.count() == int(made)
        with pytest.raises(ReadOnly):
            await lenient.add("no")
        if made:
            assert await store.count() == 1
        else:
            with pytest.raises(SchemaOutdated):
                await store.count()
    finally:
        await database.close()


async def test_a_key_is_that_of_one_set_of_tables(database: Database) -> None:
    store = Notes(database)
    other = MetaData()
    Table("other_notes", other, Column("id", Integer, primary_key=True))
    with pytest.raises(InvalidInput, match=r"the key 'format\.notes' of the others is that of other tables already"):
        SqlStore(database, TableSet("the others", NOTES.key, other, 1))
    await store.add("one")
    assert await Notes(database).count() == 1


async def test_what_waits_together_is_judged_by_the_settings_of_its_own_store(database: Database) -> None:
    small, large = SqlBackend(database, limits=Limits(max_content=10)), SqlBackend(database)
    await large.put(Datum.create("", id="first"))
    for stores in ((small, large), (large, small), (small, large, small, large)):
        puts = [store.put(Datum.create("x" * 1000, id=f"n{at}")) for at, store in enumerate(stores)]
        answers = await asyncio.gather(*puts, return_exceptions=True)
        assert [isinstance(answer, LimitExceeded) for answer in answers] == [store is small for store in stores]


async def test_what_is_read_together_is_judged_by_the_clock_of_its_own_store(sqlite_path: Path) -> None:
    database = open_database(Settings.load(database_url=f"sqlite:///{sqlite_path}"))
    try:
        before, after = SqlBackend(database, clock=lambda: 100.0), SqlBackend(database, clock=lambda: 200.0)
        datum = await before.put(Datum.create("here", id="a"), ttl=50.0)
        for _ in range(3):  # the first may be read alone
            asked = [store.within("default").get("a") for store in (before, after, before, after)]
            assert await asyncio.gather(*asked) == [datum, None, datum, None]
    finally:
        await database.close()


async def test_what_one_unit_is_refused_undoes_that_one_alone(database: Database) -> None:
    store = Notes(database)
    await store.add("before")

    def add(text: str | None) -> Callable[[Connection], int]:
        return lambda connection: connection.execute(insert(notes).values(text=text)).rowcount

    def failing(error: Exception) -> Callable[[Connection], int]:
        def fail(connection: Connection) -> int:
            add("lost")(connection)
            raise error

        return fail

    units = [add("a"), failing(ValueError()), failing(Corrupt()), add(None), add("b")]
    answers = await database.write(lambda connection: apart(connection, units))
    assert [type(answer) for answer in answers] == [int, ValueError, Corrupt, IntegrityViolation, int]
    assert await store.count() == 3
    with pytest.raises(DiskFull):  # which is the end of all of them
        await database.write(lambda connection: apart(connection, [add("c"), failing(DiskFull())]))
    assert await store.count() == 3
