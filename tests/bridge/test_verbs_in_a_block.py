"""A verb that is called inside of a transaction takes part in it: in its own task; in another one it is refused."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import pytest_asyncio
from tests.sql.proxy import Proxy

from dgent import Datum, Purge, Put, StorageProvider
from dgent.exceptions import BackendUnavailable, TransactionOpen
from dgent.models import Crystal
from dgent.settings import Settings
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

HANG = patience(60)


class Fault(Exception):
    pass


def row(id: str) -> Datum:
    return Datum.create(id=id, data={"content_hash": "h", "summary": "s"})


@pytest_asyncio.fixture(params=["sqlite", "postgres", "memory"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageProvider]:
    if request.param == "memory":
        opened = await StorageProvider.create_minimal()
    elif request.param == "sqlite":
        opened = await StorageProvider.from_config(data_dir=tmp_path)
        await opened.run_migrations()
    else:
        url = request.getfixturevalue("migrated_postgres_url")
        opened = await StorageProvider.from_config(data_dir=tmp_path, database_url=url)
    async with opened:
        yield opened


async def history(storage: StorageProvider) -> list[Any]:
    found = await storage.memory.history("kept")
    return [(one.version, one.seq, one.datum, one.datum and one.datum.expires_at) for one in found]


async def rows(storage: StorageProvider) -> list[str]:
    return [datum.id for datum in await storage.table(Crystal).list()]


_Verb: TypeAlias = "Callable[[StorageProvider], Coroutine[Any, Any, Any]]"

WRITES: dict[str, _Verb] = {
    "put": lambda storage: storage.memory.put(Datum("a", b"x", 1.0)),
    "delete": lambda storage: storage.memory.delete("kept"),
    "touch": lambda storage: storage.memory.touch(["kept"], None),
    "purge": lambda storage: storage.memory.purge("kept"),
    "purge in a batch": lambda storage: storage.memory.apply([Purge("kept"), Put(Datum("kept", b"x", 1.0))]),
    "another namespace": lambda storage: storage.memory.within("else").put(Datum("a", b"x", 1.0)),
    "table": lambda storage: storage.table(Crystal).put(row("a")),
    "log": lambda storage: storage.log.append("s", "w", b"1"),
    "generation": lambda storage: storage.generation("g").bump(),
    "sql": lambda storage: storage.relational.execute("UPDATE brain_crystals SET summary = 'other'"),
}
READS: dict[str, _Verb] = {
    "memory": lambda storage: storage.memory.list(),
    "history": history,
    "another namespace": lambda storage: storage.memory.within("else").list(),
    "table": rows,
    "log": lambda storage: storage.log.entries("s", "w"),
    "generation": lambda storage: storage.generation("g").current(),
    "sql": lambda storage: storage.relational.fetch_all("SELECT id, summary FROM brain_crystals"),
}


async def seen(storage: StorageProvider) -> list[Any]:
    return [await read(storage) for read in READS.values()]


@pytest.mark.parametrize("write", WRITES)
async def test_l_q5_a_verb_takes_part_in_the_transaction_of_its_task(storage: StorageProvider, write: str) -> None:
    """All doors see at once what it wrote, others when it is committed; and it is undone with the block."""
    await storage.memory.put(Datum.create("x", id="kept"), ttl=1000)
    await storage.table(Crystal).put(row("kept"))
    before = await seen(storage)
    with suppress(Fault):
        async with asyncio.timeout(HANG), storage.transaction():
            await WRITES[write](storage)
            within = await seen(storage)
            raise Fault
    assert await seen(storage) == before
    async with asyncio.timeout(HANG), storage.transaction():
        await WRITES[write](storage)
        assert await asyncio.create_task(seen(storage), context=Context()) == before
    after = await seen(storage)
    assert before != within == after


async def test_in_a_task_that_was_made_in_the_block_it_is_refused(storage: StorageProvider) -> None:
    async with asyncio.timeout(HANG), storage.transaction() as tx:
        for verb in (*WRITES.values(), *READS.values()):
            with pytest.raises(TransactionOpen, match=r"tx\.memory"):
                await asyncio.create_task(verb(storage))
        await asyncio.create_task(tx.memory.put(Datum.create("x", id="of a task")))  # type: ignore[arg-type]
        over = asyncio.Event()
        later = asyncio.create_task(after(over, storage))
    over.set()
    assert await later == ["of a task"]


async def after(over: asyncio.Event, storage: StorageProvider) -> list[str]:
    await over.wait()
    return [one.id for one in await storage.memory.list()]


async def test_what_is_told_of_a_change_waits_for_the_commit(storage: StorageProvider) -> None:
    told: list[str] = []
    storage.bus.subscribe(lambda change: told.append(change.id))
    with suppress(Fault):
        async with storage.transaction():
            await storage.memory.put(Datum.create("x", id="undone"))
            await asyncio.sleep(0.05)
            raise Fault
    async with storage.transaction():
        await storage.memory.put(Datum.create("x", id="kept"))
        await storage.table(Crystal).put(row("kept too"))
    async with asyncio.timeout(HANG):
        while len(told) < 2:
            await asyncio.sleep(0.01)
    assert told == ["kept", "kept too"]


async def test_in_a_nested_block_it_is_undone_with_that(storage: StorageProvider) -> None:
    async with storage.transaction():
        await storage.memory.put(Datum.create("x", id="outer"))
        with suppress(Fault):
            async with storage.transaction():
                await storage.memory.put(Datum.create("x", id="inner"))
                await storage.table(Crystal).put(row("inner"))
                raise Fault
        assert [one.id for one in await storage.memory.list()] == ["outer"]
        assert await storage.table(Crystal).count() == 0
    assert [one.id for one in await storage.memory.list()] == ["outer"]


async def test_a_store_that_is_first_used_in_a_block_that_fails_can_be_used_after_it(storage: StorageProvider) -> None:
    """Its tables are made in the transaction, and go with it."""
    with suppress(Fault):
        async with storage.transaction():
            await storage.log.append("s", "w", b"undone")
            raise Fault
    assert await storage.log.entries("s", "w") == []
    await storage.log.append("s", "w", b"1")
    assert [entry.payload for entry in await storage.log.entries("s", "w")] == [b"1"]


async def test_of_a_memory_elsewhere_they_are_refused(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path, chain=("jsonl",)) as storage:
        async with storage.transaction() as tx:
            await tx.memory.put(Datum("a", b"x", 1.0))
            for verb in (storage.memory.get("a"), storage.memory.put(Datum("b", b"x", 1.0)), storage.memory.purge("a")):
                with pytest.raises(TransactionOpen, match=r"tx\.memory"):
                    await verb
        assert [one.id for one in await storage.memory.list()] == ["a"]


async def test_a_write_whose_server_goes_away_waits_in_no_queue(tmp_path: Path, migrated_postgres_url: str) -> None:
    """It is undone with the block, and must not come home on its own."""
    async with Proxy(migrated_postgres_url) as proxy:
        settings = Settings.load(data_dir=tmp_path, database_url=proxy.url, spill=True)
        async with asyncio.timeout(HANG), await StorageProvider.from_config(settings) as storage:
            with pytest.raises(BackendUnavailable):  # noqa: PT012  # the whole block is what fails
                async with storage.transaction():
                    await storage.memory.put(Datum("a", b"x", 1.0))
                    proxy.refuse()
                    proxy.cut()
                    await storage.memory.put(Datum("b", b"x", 1.0))
            proxy.recover()
            while not (await storage.memory.recover()).complete:
                await asyncio.sleep(0.05)
            assert await storage.memory.list() == []


async def test_a_transaction_of_another_database_hides_none(storage: StorageProvider) -> None:
    async with await StorageProvider.create_minimal() as other:
        with suppress(Fault):
            async with asyncio.timeout(HANG), storage.transaction() as tx:
                await tx.memory.put(Datum("outer", b"x", 1.0))
                async with other.transaction():
                    await other.memory.put(Datum("a", b"x", 1.0))
                    assert [one.id for one in await storage.memory.list()] == ["outer"]
                    await storage.memory.within("else").put(Datum("a", b"x", 1.0))
                    async with storage.transaction():
                        await storage.log.append("s", "w", b"1")
                        await tx.memory.put(Datum("inner", b"x", 1.0))
                raise Fault
        assert [one.id for one in await other.memory.list()] == ["a"]
    assert await storage.memory.list() == []
    assert await storage.memory.within("else").list() == []
    assert await storage.log.entries("s", "w") == []


async def test_a_follower_that_is_asked_in_a_block_sees_what_is_committed(storage: StorageProvider) -> None:
    await storage.log.append("s", "w", b"1")
    async with asyncio.timeout(HANG), aclosing(storage.log.follow("s", writer="w")) as follower:
        assert (await anext(follower)).payload == b"1"
        with suppress(Fault):
            async with storage.transaction() as tx:
                await tx.log.append("s", "w", b"undone")
                waiting = asyncio.ensure_future(anext(follower))
                await asyncio.sleep(0.1)
                assert not waiting.done()
                raise Fault
        await storage.log.append("s", "w", b"2")
        assert (await waiting).payload == b"2"


async def test_an_erasure_that_a_queue_may_wait_for_is_refused(storage: StorageProvider) -> None:
    """What waits there goes at once, and could not be undone with the block."""
    await storage.memory.put(Datum("a", b"x", 1.0))
    async with storage.transaction():
        if len((await storage.memory.status())["chain"]) > 1:  # type: ignore[arg-type]
            with pytest.raises(TransactionOpen, match="after the block"):
                await storage.memory.erase(everything=True)
        else:
            assert (await storage.memory.erase(everything=True)).ids == 1
            assert await storage.memory.list() == []


async def test_what_an_undone_block_showed_is_not_remembered(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path, spill=True)
    async with await StorageProvider.from_config(settings) as storage:
        await storage.memory.put(Datum("a", b"x", 1.0))
        with suppress(Fault):
            async with storage.transaction() as tx:
                for n in range(5):
                    await tx.memory.put(Datum("a", b"%d" % n, 1.0))
                assert await storage.memory.get("a") is not None
                await storage.memory.list()
                raise Fault
        assert storage.memory._routing._observed.seq == 1
