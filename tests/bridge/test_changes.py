"""Whoever listens is told of the rows that the bridge wrote: after the commit, and of nothing else."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from dgent import StorageProvider
from dgent.bridge import TableAdapter, TableRegistry, unit_of_work
from dgent.datum import Datum
from dgent.exceptions import IntegrityViolation, VersionConflict
from dgent.memory.change import Change
from dgent.memory.sql.backend import SqlBackend
from dgent.models import Crystal
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from dgent.sql import Database

NAMESPACE = "table/brain_crystals"


def row(id: str, **values: Any) -> Datum:
    return Datum.create(id=id, data={"content_hash": "h", "summary": "s", **values}, created_at=1.0)


def puts(*rows: tuple[str, int]) -> list[Change]:
    return [Change("put", NAMESPACE, id, version) for id, version in rows]


async def test_a_change_is_told_once_and_what_changes_nothing_is_not(database: Database) -> None:
    heard: list[Change] = []
    table = TableAdapter(Crystal, database, on_change=heard.append)
    stored = await table.put(row("a"))
    await table.put(stored)
    await table.put_many([row("b"), stored, row("b", summary="again"), row("c")])
    assert heard == puts(("a", 1), ("b", 1), ("b", 2), ("c", 1))
    heard.clear()
    assert await table.delete("a")
    assert not await table.delete("a")
    assert await table.delete_many(["c", "absent"]) == 1
    assert await table.purge("b") == 1
    assert heard == [Change("delete", NAMESPACE, id) for id in "acb"]


async def test_an_update_of_some_columns_is_told(database: Database) -> None:
    heard: list[Change] = []
    table = TableAdapter(Crystal, database, on_change=heard.append)
    await table.put(row("a"))
    for _ in range(2):  # the second time nothing changes
        await table.update("a", {"summary": "new"})
    with pytest.raises(VersionConflict):
        await table.update("a", {"summary": "x"}, {"summary": "s"})
    assert heard == puts(("a", 1), ("a", 2))


async def test_what_is_refused_is_not_told(database: Database) -> None:
    heard: list[Change] = []
    table = TableAdapter(Crystal, database, on_change=heard.append)
    with pytest.raises(IntegrityViolation):
        await table.put_many([row("a"), row("b", access_count=-1)])
    with pytest.raises(VersionConflict):
        await table.put(row("a"), expect=3)
    assert heard == []


async def test_a_transaction_tells_when_it_has_committed(database: Database) -> None:
    """Mutant: told at once, it told of what was rolled back."""
    heard: list[Change] = []
    tables, memory = TableRegistry(database, heard.append), SqlBackend(database, "both")
    with suppress(KeyError):
        async with unit_of_work(database, memory, tables) as tx:
            await tx.table(Crystal).put(row("undone"))
            raise KeyError
    async with unit_of_work(database, memory, tables) as tx:
        await tx.table(Crystal).put(row("a"))
        with suppress(KeyError):
            async with unit_of_work(database, memory, tables) as inner:
                await inner.table(Crystal).put(row("undone"))
                raise KeyError
        assert heard == []
    assert heard == puts(("a", 1))


async def test_the_storages_bus_tells_of_rows_and_of_datums_apart(tmp_path: Any) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path, chain=("sqlite",)) as storage:
        await storage.run_migrations()
        rows: list[Any] = []
        datums: list[Any] = []
        storage.bus.subscribe(rows.append, namespace="table")
        storage.bus.subscribe(datums.append, namespace=storage.settings.namespace)
        async with storage.transaction() as tx:
            await tx.memory.put(Datum.create(b"x", id="d"))
            await tx.table(Crystal).put(row("a"))
        await storage.table(Crystal).put(row("b"))
        await storage.tables.register(Crystal, hidden=["datum_id"]).delete("b")
        async with asyncio.timeout(patience(20)):
            while len(rows) < 3 or not datums:
                await asyncio.sleep(0.001)
        assert rows == [*puts(("a", 1), ("b", 1)), Change("delete", NAMESPACE, "b")]
        assert [(event.kind, event.id) for event in datums] == [("put", "d")]
