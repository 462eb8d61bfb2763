"""An id of a row has one spelling; every verb refuses another one and names the one to write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    Time,
    Uuid,
    text,
)
from sqlalchemy.orm import declarative_base, mapped_column

from dgent.bridge import TableAdapter
from dgent.bridge.row_id import id_from
from dgent.datum import Datum
from dgent.exceptions import InvalidRow
from dgent.models.base import UTCDateTime
from dgent.operations import Delete, Put
from dgent.query import Query
from dgent.warnings import DamagedWarning

from .test_rows import insert
from .wide_models import Counted, Uniquely, Wide

if TYPE_CHECKING:
    from dgent.sql import Database

ONE = UUID("12345678-1234-5678-1234-56781234abcd")
MORNING = datetime(2026, 1, 31, 8, 15, tzinfo=UTC)
SPELLINGS: dict[str, tuple[list[Any], list[Any], str, list[str]]] = {
    "whole": ([Integer], [7], "7", ["07", "+7", " 7", "7\n", "0_7"]),
    "big": ([BigInteger], [-(2**40)], str(-(2**40)), [f"-0{2**40}"]),
    "real": ([Float(53)], [1.5], "1.5", ["1.50", "+1.5", "15e-1"]),
    "round": ([Float(53)], [2.0], "2.0", ["2", "2.", "2e0"]),
    "exact": ([Numeric(22, 4)], [Decimal("1234567890123456.5")], "1234567890123456.5", ["1234567890123456.50"]),
    "flag": ([Boolean], [True], "true", [" true"]),
    "uid": ([Uuid], [ONE], str(ONE), [ONE.hex, str(ONE).upper(), f"{{{ONE}}}", ONE.urn]),
    "day": ([Date], [date(2026, 1, 31)], "2026-01-31", ["20260131", "2026-W05-6"]),
    "hour": ([Time], [time(8, 15)], "08:15:00", ["08:15", "T081500", "08:15:00.000"]),
    "moment": (
        [UTCDateTime()],
        [MORNING],
        "2026-01-31T08:15:00Z",
        ["2026-01-31T08:15:00+00:00", "2026-01-31 08:15:00Z", "2026-01-31T09:15:00+01:00"],
    ),
    "local": ([DateTime], [MORNING.replace(tzinfo=None)], "2026-01-31T08:15:00", ["2026-01-31 08:15"]),
    "span": ([Interval], [timedelta(days=1)], "PT86400S", ["P1D", "PT24H"]),
    "raw": ([LargeBinary], [b"\0\1"], "AAE=", ["AAF="]),
    "two": (
        [String(4), BigInteger],
        ["a", 1],
        '["a",1]',
        ['["a", 1]', '[ "a",1]', '["\\u0061",1]', '["a","1"]', '["a","01"]'],
    ),
    "three": (
        [Uuid, Date, Enum("x", "1", name="test_letter")],
        [ONE, date(2026, 1, 31), "1"],
        f'["{ONE}","2026-01-31","1"]',
        [f'["{ONE.hex}","2026-01-31","1"]', f'["{ONE}","20260131","1"]'],
    ),
}
VERBS: dict[str, Callable[[TableAdapter, str], Awaitable[object]]] = {
    "get": lambda table, one: table.get(one),
    "get_many": lambda table, one: table.get_many([one]),
    "exists": lambda table, one: table.exists(one),
    "delete": lambda table, one: table.delete(one),
    "delete_many": lambda table, one: table.delete_many([one]),
    "purge": lambda table, one: table.purge(one),
    "put": lambda table, one: table.put(Datum.create(data={}, id=one)),
    "put_many": lambda table, one: table.put_many([Datum.create(data={}, id=one)]),
    "apply a put": lambda table, one: table.apply([Put(Datum.create(data={}, id=one))]),
    "apply a delete": lambda table, one: table.apply([Delete(one)]),
    "update": lambda table, one: table.update(one, {"n": 2}),
}


def model_of(name: str, kinds: list[Any]) -> Any:
    keys = {f"k{at}": mapped_column(kind, primary_key=True, autoincrement=False) for at, kind in enumerate(kinds)}
    n = mapped_column(Integer, default=1)
    return type(f"Keyed{name}", (declarative_base(),), {"__tablename__": f"keyed_{name}", **keys, "n": n})


async def said(refused: Awaitable[object]) -> str:
    """Return the message of a refusal; nothing where there was none."""
    try:
        await refused
    except InvalidRow as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", SPELLINGS)
async def test_an_id_has_one_spelling_and_every_verb_names_it(database: Database, name: str) -> None:
    """`["a", 1]` was absent, and refused by a put, where `["a",1]` is a row."""
    kinds, key, id, others = SPELLINGS[name]
    model = model_of(name, kinds)
    await database.write(model.metadata.create_all)
    await insert(database, model(**{f"k{at}": part for at, part in enumerate(key)}))
    table = TableAdapter(model, database)
    (row,) = await table.list()
    assert row.id == id
    assert await table.get(id) == await table.put(row) == row
    for other in others:
        for verb, use in VERBS.items():
            assert f"write {id!r}" in await said(use(table, other)), (verb, other)
    assert await table.list() == [row]
    assert await table.exists(id)
    assert await table.delete(id)


@pytest.mark.parametrize("kind", [Float(53), Numeric(22, 4, asdecimal=False)])
async def test_what_is_too_large_for_its_type_is_no_row(database: Database, kind: Any) -> None:
    model = model_of(type(kind).__name__.lower(), [kind])
    await database.write(model.metadata.create_all)
    table, large = TableAdapter(model, database), "9" * 400
    assert (await table.get(large), await table.exists(large), await table.delete(large)) == (None, False, False)
    with pytest.raises(InvalidRow):
        await table.put(Datum.create(data={}, id=large))


async def test_a_cause_and_a_chain_are_spelled_as_an_id_is(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Counted, database)
    with pytest.raises(InvalidRow, match="write '7'"):
        await table.causal_chain("07")
    for data in ({"slug": "s"}, {"slug": "s", "causal_parent": 7}):
        with pytest.raises(InvalidRow, match="write '7'"):
            await table.put(Datum.create(data=data, id="8", causal_parent="07"))


def test_the_json_forms_of_a_key_make_its_id() -> None:
    assert (id_from(["a", 1]), id_from([7]), id_from(["a"])) == ('["a",1]', "7", "a")


async def test_a_damaged_row_goes_by_the_id_that_deletes_it(sqlite_database: Database) -> None:
    """Mutant: what the driver gives, which for a UUID on SQLite is another spelling."""
    await sqlite_database.write(Wide.metadata.create_all)
    await insert(sqlite_database, Uniquely(id=ONE, n=1))
    await sqlite_database.write(lambda connection: connection.execute(text("UPDATE test_uniquely SET n = x'78ff'")))
    table = TableAdapter(Uniquely, sqlite_database)
    with pytest.warns(DamagedWarning):
        (damaged,) = (await table.query(Query())).damaged
    assert damaged.id == str(ONE)
    assert await table.delete(damaged.id)
