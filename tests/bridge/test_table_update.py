"""`TableAdapter.update` writes some columns of a row, if what they were made of is still there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from dgent.bridge import TableAdapter
from dgent.datum import Datum
from dgent.exceptions import (
    CausalCycle,
    DatumNotFound,
    IntegrityViolation,
    InvalidDatum,
    InvalidRow,
    LimitExceeded,
    VersionConflict,
)
from dgent.limits import Limits
from dgent.models.brain import Crystal, CrystalTag
from dgent.store import Partial

from .conftest import opened
from .wide_models import Counted, Note, Wide

if TYPE_CHECKING:
    from pathlib import Path

    from dgent.sql import Database


async def notes(database: Database, **options: Any) -> TableAdapter:
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Note, database, **options)
    await table.put(Datum.create(data={"n": 1, "tags": ["a"], "secret": "s"} if not options else {"n": 1}, id="x"))
    return table


async def found(table: TableAdapter, id: str = "x") -> Datum:
    datum = await table.get(id)
    assert datum is not None
    return datum


async def test_other_columns_stay_whoever_writes_them(database: Database) -> None:
    table = await notes(database)
    read = await found(table)
    await table.update("x", {"secret": "other"})  # somebody else, in between
    stored = await table.update("x", {"n": 2}, {"n": read.data["n"]})
    assert stored == await found(table)
    assert (stored.data["n"], stored.data["secret"], stored.version) == (2, "other", 3)
    assert (stored.created_at, stored.data["tags"]) == (read.created_at, ["a"])
    assert stored.data["updated_at"] > read.data["updated_at"]


async def test_what_was_given_is_compared(database: Database) -> None:
    table = await notes(database)
    before = await found(table)
    with pytest.raises(VersionConflict, match="'x': n of test_notes changed since it was read") as caught:
        await table.update("x", {"n": 5}, {"n": 0})
    assert caught.value.actual == 1
    with pytest.raises(VersionConflict):
        await table.update("x", {}, {"tags": ["b"]})
    assert await found(table) == before
    assert await table.update("x", {}, before.data) == before


async def test_one_of_many_that_were_given_the_same_wins(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    for table in (await notes(database), TableAdapter(Counted, database)):
        column = "n" if table.model is Note else "slug"
        await table.put(Datum.create(data={column: 1 if column == "n" else "1"}, id="x" if column == "n" else "1"))
        (row,) = await table.list()

        async def attempt(at: int, table: TableAdapter = table, row: Datum = row, column: str = column) -> bool:
            value = at if column == "n" else str(at)
            try:
                await table.update(row.id, {column: value}, {column: row.data[column]})
            except VersionConflict:
                return False
            return True

        assert sum(await asyncio.gather(*(attempt(at) for at in range(2, 12)))) == 1


async def test_writers_of_two_programs_do_not_meet_unseen(database: Database, url: str) -> None:
    """A table without a version: nothing but the comparison under the lock stands between them."""
    await database.write(Wide.metadata.create_all)
    async with opened(url) as other:
        tables = [TableAdapter(Counted, each) for each in (database, other)]
        await tables[0].put(Datum.create(data={"slug": "0"}, id="1"))

        async def count(table: TableAdapter) -> None:
            done = 0
            while done < 25:
                slug = (await found(table, "1")).data["slug"]
                with suppress(VersionConflict):
                    await table.update("1", {"slug": str(int(slug) + 1)}, {"slug": slug})
                    done += 1

        await asyncio.gather(*map(count, tables))
        assert (await found(tables[0], "1")).data["slug"] == "50"


async def test_where_nothing_changes_nothing_is_written(database: Database) -> None:
    table = await notes(database)
    before = await found(table)
    for changes in ({}, {"n": 1}, {"tags": ["a"], "id": "x"}):
        stored = await table.update("x", changes)
        assert (stored, stored.version) == (before, 1)


async def test_what_does_not_fit_is_refused_and_the_row_is_as_it_was(database: Database) -> None:
    table = await notes(database, limits=Limits(max_content=400))
    before = await found(table)
    refused: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        ({"n": "2"}, {}, InvalidRow, "test_notes.n: is str"),
        ({"n": None}, {}, InvalidRow, "test_notes.n: is null"),
        ({"colour": 1}, {}, InvalidRow, "test_notes.colour: is no column"),
        ({"n": 2}, {"colour": 1}, InvalidRow, "test_notes.colour: is no column"),
        ({"id": "y"}, {}, InvalidRow, "test_notes.id: is the id of 'x'"),
        ({"n": 2, "version": 9}, {}, InvalidRow, "version: is no column"),
        ({"tags": ["t" * 400]}, {}, LimitExceeded, "400"),
        ({"causal_parent": "x"}, {}, CausalCycle, "its own parent"),
    ]
    for changes, given, error, message in refused:
        with pytest.raises(error, match=message):
            await table.update("x", changes, given)
    with pytest.raises(DatumNotFound, match="test_notes has no row 'y'"):
        await table.update("y", {"n": 1})
    with pytest.raises(InvalidDatum):
        await table.update("", {"n": 1})
    assert await found(table) == before


async def test_a_cause_below_the_row_is_refused(database: Database) -> None:
    table = await notes(database)
    await table.put(Datum.create(data={"n": 2}, id="y", causal_parent="x"))
    with pytest.raises(CausalCycle):
        await table.update("x", {"causal_parent": "y"})
    assert (await table.update("y", {"causal_parent": None})).causal_parent is None
    assert (await table.update("x", {"causal_parent": "y"})).causal_parent == "y"


async def test_what_the_database_refuses_is_typed(database: Database) -> None:
    crystals = TableAdapter(Crystal, database)
    await crystals.put(Datum.create(data={"content_hash": "h", "summary": "s"}, id="x"))
    with pytest.raises(IntegrityViolation):
        await crystals.update("x", {"access_count": -1})
    assert (await found(crystals)).data["access_count"] == 0
    assert isinstance(crystals, Partial)


async def test_what_follows_the_row_follows(database: Database) -> None:
    crystals = TableAdapter(Crystal, database)
    await crystals.put(Datum.create(data={"content_hash": "h", "summary": "s", "tags": ["a"]}, id="x"))
    await crystals.update("x", {"tags": ["b", "c"]}, {"tags": ["a"]})

    def tags(connection: Connection) -> set[str]:
        return set(connection.execute(select(CrystalTag.tag)).scalars())

    assert await database.read(tags) == {"b", "c"}


async def test_what_is_hidden_stays_but_for_its_stamp(database: Database) -> None:
    table = await notes(database, hidden=("secret", "updated_at"))
    await database.write(lambda connection: connection.execute(text("UPDATE test_notes SET secret = 'kept'")))

    def hidden(connection: Connection) -> Any:
        return tuple(connection.execute(text("SELECT secret, updated_at FROM test_notes")).one())

    before = await database.read(hidden)
    await table.update("x", {"n": 2})
    after = await database.read(hidden)
    assert after[0] == "kept"
    assert after[1] > before[1]
    with pytest.raises(InvalidRow, match="secret: is no column"):
        await table.update("x", {"secret": "mine"})


async def test_a_session_sees_it_and_a_rollback_undoes_it(database: Database) -> None:
    table = await notes(database)

    async def use() -> None:
        async with database.transaction() as transaction:
            row = await transaction.session.get(Note, "x")
            assert row is not None
            row.secret = "pending"
            await table.joined(transaction).update("x", {"n": 7}, {"n": 1, "secret": "pending"})
            assert (row.n, row.secret) == (7, "pending")
            with pytest.raises(VersionConflict):
                await table.joined(transaction).update("x", {"n": 8}, {"n": 1})
            assert row.n == 7
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    assert (await found(table)).data["n"] == 1


async def test_a_host_s_own_sessions_may_run_it(sqlite_database: Database, sqlite_path: Path) -> None:
    await notes(sqlite_database)
    engine = create_async_engine(f"sqlite+aiosqlite:///{sqlite_path}")
    table = TableAdapter(Note, async_sessionmaker(engine))
    try:
        assert (await table.update("x", {"n": 2}, {"n": 1})).version == 2
        with pytest.raises(VersionConflict):
            await table.update("x", {"n": 3}, {"n": 1})
    finally:
        await engine.dispose()


async def test_every_type_of_column_can_be_given_and_changed(database: Database) -> None:
    """What a row says of itself is what it compares as; each column takes what another row has there."""
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Wide, database)
    first = await table.put(
        Datum.create(data={"code": "a", "real": 0.1, "exact": "1.5", "plain": [1e16, {"a": -0.0}]}, id="a")
    )
    second = await table.put(
        Datum.create(
            id="b",
            data={
                "code": "b", "small": 1, "whole": 2, "big": 2**60, "real": 1.0, "exact": "2.25", "short": "s",
                "flag": True, "raw": "AA==", "uid": "01234567-89ab-cdef-0123-456789abcdef", "day": "2026-01-31",
                "hour": "08:15:00.010000", "local": "2026-01-31T08:15:00", "zoned": "2026-01-31T08:15:00Z",
                "moment": "2026-01-31T08:15:00.000001Z", "span": "PT90.5S", "color": "RED", "word": "a",
                "plain": {"x": None}, "score": 3, "column_name": "c", "tags": ["t"], "body": {"k": 1},
            },
        )
    )  # fmt: skip
    taken = {name: value for name, value in second.data.items() if name not in {"id", "code", "updated_at"}}
    for name, value in taken.items():
        stored = await table.update("a", {name: value}, {name: first.data[name]})
        assert stored.data[name] == value
    assert await table.update("a", {}, taken) == await table.get("a")
