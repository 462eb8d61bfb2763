"""A row that is no datum any more hides no other: pages give the rest and name it, what reads it alone refuses."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from tests.bridge.conftest import opened
from tests.bridge.wide_models import Note, Paired, Wide
from tests.faults.damaged_datum_rows import execute

from dgent.bridge import TableAdapter
from dgent.datum import Datum
from dgent.exceptions import Corrupt
from dgent.page import Damaged
from dgent.query import Query
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from pathlib import Path

CELLS = [
    ("created_at", "'garbage'"), ("created_at", "''"), ("created_at", "x'ff'"), ("created_at", "9e99"),
    ("created_at", "CAST(x'ff' AS TEXT)"), ("updated_at", "'no time'"), ("tags", "'no JSON'"), ("tags", "x'ff'"),
    ("tags", "CAST(x'5bff5d' AS TEXT)"), ("n", "x'00'"), ("causal_parent", "CAST(x'ff' AS TEXT)"),
    ("causal_parent", "x'ff'"),
]  # fmt: skip


async def walked(table: TableAdapter, **filters: Any) -> tuple[list[str], list[Damaged]]:
    found: list[str] = []
    named: list[Damaged] = []
    cursor = None
    for _ in range(30):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            page = await table.query(Query(cursor=cursor, **filters))
        assert [each.category for each in said] == [DamagedWarning] * bool(page.damaged)
        found += [datum.id for datum in page]
        named += page.damaged
        cursor = page.cursor
        if cursor is None:
            return found, named
    raise AssertionError("the pages never end")


async def test_every_page_gives_the_other_rows_and_names_the_damaged_one(sqlite_path: Path) -> None:
    """SQLite takes any value in any column; a cell of PostgreSQL has its type."""
    url = f"sqlite:///{sqlite_path}"
    async with opened(url) as database:
        await database.write(Note.metadata.create_all)
        table = TableAdapter(Note, database, hidden=("secret",))
        ids = [f"r{n}" for n in range(8)]
        for column, value in CELLS:
            await table.delete_many(ids)
            await table.put_many(
                [Datum(id, orjson.dumps({"n": n}), 1000.0 + n // 2, None, {"tags": ["t"]}) for n, id in enumerate(ids)]
            )
            execute(url, f"UPDATE test_notes SET {column} = {value} WHERE id = 'r3'")
            for order in ("newest", "oldest"):
                for limit in (1, 3, 100):
                    for filters in ({}, {"prefix": "r"}, {"where": {"metadata.table": "test_notes"}}):
                        found, named = await walked(table, order=order, limit=limit, **filters)
                        wanted = [id for id in ids if id != "r3"]
                        assert sorted(found) == wanted, (column, value, order, limit)
                        assert [each.id for each in named] == ["r3"], (column, value, order, limit)
                        assert named[0].reason
            with pytest.raises(Corrupt):
                await table.get("r3")
            with pytest.raises(Corrupt):
                await table.get_many(["r1", "r3"])
            with pytest.raises(Corrupt), pytest.warns(DamagedWarning):
                (await table.list()).whole()


async def test_a_row_with_a_key_of_two_columns_is_named_by_both(sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    async with opened(url) as database:
        await database.write(Paired.metadata.create_all)
        table = TableAdapter(Paired, database)
        await table.put_many([Datum(f'["a",{n}]', orjson.dumps({"left": "a", "right": n}), 0.0) for n in range(4)])
        execute(url, "UPDATE test_paired SET right = x'78ff' WHERE right = 2")
        found, named = await walked(table, limit=2)
        assert (sorted(found), [each.id for each in named]) == (['["a",0]', '["a",1]', '["a",3]'], ['["a","x\ufffd"]'])


async def test_a_number_that_json_cannot_hold_is_named_on_postgres(postgres_url: str) -> None:
    async with opened(postgres_url) as database:
        await database.write(Wide.metadata.create_all)
        table = TableAdapter(Wide, database)
        await table.put_many([Datum(f"r{n}", b'{"real":1.0}', float(n)) for n in range(5)])
        execute(postgres_url, "UPDATE test_wide SET real = 'NaN' WHERE id = 'r2'")
        for limit in (1, 2, 100):
            found, named = await walked(table, limit=limit)
            assert (found, [each.id for each in named]) == (["r4", "r3", "r1", "r0"], ["r2"])
        assert b'"real":' in named[0].content
