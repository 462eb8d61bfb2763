"""Any store of the same database can join a transaction; one that lies elsewhere is told so."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import async_sessionmaker

from dgent import StorageProvider
from dgent.bridge import TableAdapter, unit_of_work
from dgent.causal import AsyncGeneration, AsyncLog
from dgent.datum import Datum
from dgent.exceptions import CapabilityMissing, StoreClosed
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.backend import SqlBackend
from dgent.models import Crystal

from .conftest import opened

if TYPE_CHECKING:
    from pathlib import Path

    from dgent.sql import Database


async def test_stores_of_one_database_are_committed_together_or_not_at_all(database: Database) -> None:
    memory, log = SqlBackend(database, "one"), AsyncLog(database)
    crate, counter = log.within("agent-store/1"), AsyncGeneration(database, "turns")
    for fails in (True, False):
        with suppress(ZeroDivisionError):
            async with unit_of_work(database, memory) as tx:
                await tx.join(memory.within("two")).put(Datum.create(b"x", id="d"))
                await tx.join(log).append("audit", "ada", b"x")
                await tx.join(crate).append("audit", "ada", b"x")
                await tx.join(counter).bump()
                await tx.join(TableAdapter(Crystal, database)).put(
                    Datum.create(id="c", data={"content_hash": "h", "summary": "s"})
                )
                _ = 1 // (not fails)
        found = [
            await memory.within("two").count(),
            (await log.head("audit", "ada")).seq,
            (await crate.head("audit", "ada")).seq,
            await counter.current(),
            await TableAdapter(Crystal, database).count(),
        ]
        assert found == [0 if fails else 1] * 5
    assert await memory.count() == 0


async def test_memory_that_was_never_used_makes_its_tables_in_the_transaction(database: Database) -> None:
    memory = SqlBackend(database)
    with suppress(ZeroDivisionError):
        async with database.transaction() as transaction:
            await memory.joined(transaction).put(Datum.create(b"lost", id="d"))
            _ = 1 // 0
    assert not await database.read(lambda connection: inspect(connection).has_table("dgent_datums"))
    async with database.transaction() as transaction:
        inside = memory.joined(transaction)
        await inside.put(Datum.create(b"kept", id="d"))
        assert (await inside.within("other").count(), await inside.count()) == (0, 1)
    found = await memory.get("d")
    assert found is not None
    assert (found.content, found.seq) == (b"kept", 1)


async def test_the_memory_of_a_storage_joins_under_another_namespace(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path) as storage:
        agent = storage.memory.within("agents/ada")
        async with storage.transaction() as tx:
            await tx.join(agent).put(Datum.create(b"x", id="d"))
            assert await tx.memory.get("d") is None
        assert await agent.exists("d")
        assert not await storage.memory.exists("d")


async def test_what_was_joined_ends_with_the_block(database: Database) -> None:
    log = AsyncLog(database)
    async with unit_of_work(database, SqlBackend(database)) as tx:
        inside = tx.join(log)
        await inside.append("audit", "ada", b"x")
    with pytest.raises(StoreClosed):
        await inside.append("audit", "ada", b"late")
    await log.append("audit", "ada", b"beside")


async def test_a_store_that_lies_elsewhere_is_refused(database: Database, tmp_path: Path) -> None:
    elsewhere: Any
    async with opened(f"sqlite:///{tmp_path / 'other.db'}") as other:
        jsonl = JSONLBackend(tmp_path / "memory.jsonl")
        hosts_own = TableAdapter(Crystal, async_sessionmaker())
        async with unit_of_work(database, SqlBackend(database)) as tx:
            for elsewhere in (AsyncLog(other), SqlBackend(other), TableAdapter(Crystal, other), hosts_own, jsonl):
                with pytest.raises(CapabilityMissing, match=r"tx\.memory"):
                    tx.join(elsewhere)
            await tx.memory.put(Datum.create(b"x", id="d"))  # and the block goes on
        await jsonl.close()
    assert await SqlBackend(database).exists("d")


async def test_a_chain_whose_memory_lies_in_a_file_is_refused(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path, chain=("jsonl",)) as storage:
        async with storage.transaction() as tx:
            with pytest.raises(CapabilityMissing, match="jsonl"):
                tx.join(storage.memory)
            await tx.memory.put(Datum.create(b"x", id="d"))
        assert await storage.memory.exists("d")
