"""Conditions on the columns of a table answer as their meaning over a full scan, or are refused by their type."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import MetaData, String
from sqlalchemy.orm import Mapped, mapped_column

from dgent.bridge import TableAdapter
from dgent.conditions import AllOf, AnyOf, Eq, Exists, Ge, Gt, In, Le, Lt, Ne, Not
from dgent.exceptions import InvalidQuery
from dgent.models import Base
from dgent.query import Query

from .test_rows import insert, wide
from .test_table_query import check
from .wide_models import Color, Wide

if TYPE_CHECKING:
    from dgent.sql import Database

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAIVE = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - the column keeps no zone
HELD: dict[str, list[Any]] = {
    "small": [None, -(2**15), 0, 1],
    "whole": [None, -1, 0, 1, 3],
    "big": [None, -(2**63), 2**53 + 1, 2**63 - 1],
    "real": [None, -0.0, 0.1, 3.0, 1e300, 5e-324],
    "short": [None, "", "B", "a", "é", "a'b"],
    "day": [None, date(2026, 1, 1), date(999, 12, 31)],
    "hour": [None, time(8), time(8, 0, 0, 10)],
    "local": [None, NAIVE, NAIVE + timedelta(microseconds=1)],
    "zoned": [None, NOON, NOON + timedelta(microseconds=1)],
    "moment": [None, NOON, NOON - timedelta(microseconds=1), datetime(1, 1, 1, tzinfo=UTC)],
    "uid": [None, UUID(int=1), UUID(int=2**127)],
    "color": [None, Color.RED, Color.BLUE],
    "flag": [None, True, False],
    "exact": [None, Decimal("1.5"), Decimal(10)],
    "plain": [None, 1, "1", [1, 2]],
}
NUMBERS = [-1, 0, 0.5, 1.0, 3, 2**53, 2**53 + 1, -(2**63), 2**63 - 1, 2.0**63, -1e300, 1e300, 1.7976931348623157e308]
MOMENTS = [NOON, NOON - timedelta(microseconds=1), datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
DATES = ["", "2026-01-01", "20260101", "0999-12-31", "2026", "x"]
BOUNDS: dict[str, list[Any]] = {
    "small": NUMBERS[::4],
    "whole": NUMBERS[:6],
    "big": NUMBERS,
    "real": NUMBERS,
    "short": ["", "B", "a", "é", "'", "a much longer text"],
    "day": DATES,
    "hour": ["08:00:00", "08:00", "x"],
    "local": ["2026-01-01T12:00:00", "2026-01-01T12:00:00.000001", *DATES],
    "zoned": MOMENTS,
    "moment": MOMENTS,
    "uid": [str(UUID(int=1)), "1"],
    "color": ["BLUE", "C"],
    "plain": [0, "1", NOON],
}
VALUES = [None, True, 1, 1.0, 3, 0.1, 1.5, "1.5", "a", "", "RED", "2026-01-01", "2026-01-01T12:00:00Z", [1, 2], NOON]


@pytest.fixture
async def table(database: Database) -> TableAdapter[Any]:
    """A table with a row for each value of each column."""
    adapter = await wide(database)
    rows = [{name: value} for name, values in HELD.items() for value in values]
    await insert(database, *(Wide(id=f"r{n:03}", created_at=NOON, **row) for n, row in enumerate(rows)))
    return adapter


async def test_l_q1_a_condition_on_a_column_answers_as_its_matches(table: TableAdapter[Any]) -> None:
    every = await table.list(limit=1000, order="oldest")
    conditions: list[tuple[str, Any]] = []
    for name, bounds in BOUNDS.items():
        for bound in bounds:
            conditions += [
                (name, Ge(bound)),
                (name, Lt(bound)),
                (name, Not(Gt(bound))),
                (name, AnyOf(Not(Le(bound)), bound)),
            ]
    for name, value in product(HELD, VALUES):
        if not isinstance(value, datetime) or name in {"zoned", "moment", "plain"}:
            conditions += [(name, Eq(value)), (name, Not(In([value, None, 1])))]
    for name, condition in conditions:
        query = Query(where={name: condition}, order="oldest")
        assert await table.query(query) == [*filter(query.matches, every)], (name, condition)


REFUSED = [
    ("whole", "1", "compare with a number"),
    ("real", NOON, "compare with a number"),
    ("short", 1, "compare with a text"),
    ("moment", "2026-01-01T12:00:00Z", r'\{"\$time": '),
    ("zoned", 1, "aware datetime"),
    ("local", NOON, "compare with a text"),
    ("day", NOON, "compare with a text"),
    ("exact", 1, "is Numeric, which has no order"),
    ("flag", 1, "is Boolean, which has no order"),
    ("raw", "x", "is LargeBinary, which has no order"),
    ("span", "PT1S", "is Interval, which has no order"),
]


async def test_an_order_that_a_column_does_not_have_is_refused(table: TableAdapter[Any]) -> None:
    for name, bound, said in REFUSED:
        for where in ({name: Gt(bound)}, {"$not": {"$or": [{name: Le(bound)}]}}):
            with pytest.raises(InvalidQuery, match=said):
                await table.query(Query(where=where, limit=0))


async def test_l_q1_joined_conditions_on_several_columns(database: Database, table: TableAdapter[Any]) -> None:
    for where in (
        AnyOf({"whole": Gt(0)}, {"short": Le("B")}, {"moment": Lt(NOON)}),
        Not(AnyOf({"whole": Gt(0)}, {"flag": True}, {"plain": Exists(False)})),
        {"$or": [{"metadata.table": {"$gt": "test"}, "whole": 1}, {"body.x": {"$exists": True}}]},
        {"$not": {"whole.x": Exists(False)}, "small": None},
        AllOf(),
        AnyOf(),
    ):
        for order in ("newest", "oldest"):
            await check(table, {"where": where}, order, 7)


class Folded(Base):
    """A column that the database compares without regard to case."""

    __tablename__ = "test_folded"
    metadata = MetaData()

    id: Mapped[str] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(String(collation="NOCASE"))


async def test_l_q1_a_collation_changes_no_answer(sqlite_database: Database) -> None:
    database = sqlite_database
    await database.write(Folded.metadata.create_all)
    await insert(database, *(Folded(id=word, word=word) for word in ("a", "A", "b", "B")))
    folded = TableAdapter(Folded, database)
    for where in (
        {"word": Gt("A")},
        {"word": Not(Gt("A"))},
        {"word": "a"},
        {"word": Ne("a")},
        {"word": In(["a", "B"])},
    ):
        await check(folded, {"where": where}, "oldest", 2)
