"""An export is of one moment and an import is whole or absent, whoever writes or erases meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.processes import Child
from tests.portable import damaged, each, exported

from dgent import Datum, Query, StorageProvider
from dgent.causal import MaintainedLog
from dgent.exceptions import Conflict, InvalidFile, StorageTimeout, StoreClosed, TransactionOpen, VersionConflict
from dgent.memory.sql.maintenance import PAGE, MaintainedMemory
from dgent.sql.maintained import BATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from dgent.bridge import UnitOfWork
    from dgent.sql.maintained import Record


@pytest.fixture(params=["sqlite", "postgres"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[StorageProvider]]:
    """Return two programs on one database, of each kind in turn."""
    given: dict[str, Any] = {"data_dir": tmp_path / "data"}
    if request.param == "postgres":
        given["database_url"] = request.getfixturevalue("postgres_url")
    async with (
        await StorageProvider.from_config(**given) as one,
        await StorageProvider.from_config(**given) as other,
    ):
        yield [one, other]


async def test_what_was_erased_meanwhile_does_not_come_back(two: list[StorageProvider]) -> None:
    storage, other = two
    memory, keeper = storage.memory, MaintainedMemory(storage.database)
    await memory.put(Datum.create("secret", id="victim"))
    await memory.put(Datum.create("old", id="price"))
    await memory.put_many(Datum.create("filler", id=f"f{n}") for n in range(PAGE))
    await memory.delete("victim")
    await memory.put(Datum.create("new", id="price"))

    async def export_beside(*verbs: Callable[[], Awaitable[Any]]) -> list[Record]:
        records = []
        async for record in keeper.export():
            records.append(record)
            if len(records) == 3:  # the first page is read
                for verb in verbs:
                    await verb()
        return records

    kept = await export_beside(
        partial(other.memory.put, Datum.create("newest", id="price")), partial(other.memory.delete, "f1")
    )
    async with await StorageProvider.create_minimal() as copy:
        assert await MaintainedMemory(copy.database).import_(each(kept)) == PAGE + 4
        assert [(await copy.memory.get_many(["victim", "price", "f1"]))[id].text for id in ("price", "f1")] == [
            "new",
            "filler",
        ]
    for verb in (
        partial(other.memory.purge, "victim"),
        partial(other.memory.compact, keep_versions=1),
        partial(MaintainedMemory(other.database).erase, "default"),
    ):
        with pytest.raises(Conflict, match="export it again"):
            await export_beside(verb)


@pytest.mark.parametrize("anew", [True, False])
async def test_a_log_that_was_erased_meanwhile_is_no_shorter_one(two: list[StorageProvider], *, anew: bool) -> None:
    storage, other = two
    await storage.log.append_many("audit", "ada", [b"x"] * (2 * PAGE))

    async def export_beside_erase() -> None:
        async for record in MaintainedLog(storage.database).export():
            if record.get("seq") == 1:
                await MaintainedLog(other.database).erase("ada")
                if anew:
                    await other.log.append_many("audit", "ada", [b"y"] * (2 * PAGE))

    with pytest.raises(Conflict, match="export it again"):
        await export_beside_erase()


async def paused(records: list[Record], at: int, reached: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[Record]:
    for number, record in enumerate(records):
        if number == at:
            reached.set()
            await go_on.wait()
        yield record


async def old_versions(storage: StorageProvider) -> list[Record]:
    """Return an export in which each id has its second version alone."""
    for version in range(2):
        await storage.memory.put_many(Datum.create(str(version), id=f"i{n:04}") for n in range(BATCH + 9))
    await storage.memory.compact(keep_versions=1)
    return await exported(MaintainedMemory(storage.database))


async def test_nobody_writes_between_two_batches_of_an_import(two: list[StorageProvider]) -> None:
    storage, other = two
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)
    await other.memory.put(Datum.create("x", id="warm"))  # it knows where the namespace stands
    await MaintainedMemory(storage.database).erase("default")
    reached, go_on = asyncio.Event(), asyncio.Event()
    keeper = MaintainedMemory(storage.database)
    bringing = asyncio.create_task(keeper.import_(paused(records, BATCH + 3, reached, go_on)))
    await reached.wait()
    assert await other.memory.count() == 0  # nobody sees a part of it
    writes = [
        asyncio.create_task(other.memory.put(Datum.create("beside", id=id), expect=0)) for id in ("i0001", "i0505")
    ]
    new = asyncio.create_task(other.memory.put(Datum.create("beside", id="new")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not any(write.done() for write in (*writes, new))
    go_on.set()
    assert await bringing == len(records) - 2
    for refused in await asyncio.gather(*writes, return_exceptions=True):
        assert isinstance(refused, VersionConflict)
    assert (await new).seq == (await storage.memory.stats()).seq
    assert await damaged(keeper) == []
    assert await storage.memory.count() == BATCH + 10


@pytest.mark.parametrize("cancelled", [True, False])
async def test_an_import_that_breaks_off_leaves_nothing(two: list[StorageProvider], *, cancelled: bool) -> None:
    storage, _ = two
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)
    keeper, reached, go_on = MaintainedMemory(storage.database), asyncio.Event(), asyncio.Event()
    bringing = asyncio.create_task(keeper.import_(paused(records[:-1], BATCH + 3, reached, go_on)))
    await reached.wait()
    if cancelled:
        bringing.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError if cancelled else InvalidFile):
        await bringing
    assert await storage.memory.namespaces() == []
    assert await keeper.import_(each(records)) == len(records) - 2
    assert await exported(keeper) == records


def import_half(answers: Connection, folder: Path, records: list[Record]) -> None:
    """Import, and wait for the end in the middle of it."""

    async def go() -> None:
        async with await StorageProvider.from_config(data_dir=folder) as storage:
            reached = asyncio.Event()
            given = paused(records, BATCH + 3, reached, asyncio.Event())
            bringing = asyncio.create_task(MaintainedMemory(storage.database).import_(given))
            await reached.wait()
            answers.send("half")
            await bringing

    asyncio.run(go())


async def test_a_kill_leaves_nothing_of_an_import(tmp_path: Path) -> None:
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)
    child = Child(import_half, tmp_path, records)
    assert await asyncio.to_thread(child.answer) == "half"
    child.kill()
    async with await StorageProvider.from_config(data_dir=tmp_path) as storage:
        assert await storage.memory.namespaces() == []
        assert await MaintainedMemory(storage.database).import_(each(records)) == len(records) - 2


async def test_the_source_of_an_import_writes_nothing_in_between(two: list[StorageProvider]) -> None:
    storage, _ = two
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)

    async def meddling() -> AsyncIterator[Record]:
        for number, record in enumerate(records):
            if number == BATCH + 3:
                await storage.memory.put(Datum.create("beside", id="i0001"))
            yield record

    with pytest.raises(Conflict):
        await MaintainedMemory(storage.database).import_(meddling())
    assert await storage.memory.namespaces() == []


async def test_a_source_that_gives_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path, transaction_timeout=0.05) as storage:
        with pytest.raises(StorageTimeout, match="next record"):
            await MaintainedMemory(storage.database).import_(paused([{}], 0, asyncio.Event(), asyncio.Event()))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_an_import_may_take_longer_than_a_transaction(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)

    async def slow() -> AsyncIterator[Record]:
        for number, record in enumerate(records):
            if number < 9:  # longer than the limit and what is added to it, and no statement comes before the 500th
                await asyncio.sleep(0.35)
            yield record

    given: Any = {"database_url": request.getfixturevalue("postgres_url")} if kind == "postgres" else {}
    async with await StorageProvider.from_config(data_dir=tmp_path, transaction_timeout=1, **given) as storage:
        assert await MaintainedMemory(storage.database).import_(slow()) == len(records) - 2


async def test_an_import_is_part_of_the_transaction_that_it_is_joined_to(two: list[StorageProvider]) -> None:
    storage, _ = two
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)
    keeper = MaintainedMemory(storage.database)

    async def undone() -> None:
        async with storage.transaction() as tx:
            with pytest.raises(InvalidFile):
                await tx.join(keeper).import_(each(records[:-1]))
            assert await tx.memory.count() == 0
            assert await tx.join(keeper).import_(each(records)) == len(records) - 2
            assert await tx.memory.count() == BATCH + 9
            raise KeyError

    with pytest.raises(KeyError):
        await undone()
    assert await storage.memory.namespaces() == []


async def test_the_source_of_a_joined_import_uses_the_transaction(two: list[StorageProvider]) -> None:
    storage, _ = two
    keeper = MaintainedLog(storage.database)
    await storage.log.append("audit", "ada", b"x")

    async def noting(tx: UnitOfWork) -> AsyncIterator[Record]:
        async for record in tx.join(keeper).export():
            await tx.memory.put(Datum.create(b"", id=f"seen {record['kind']}"))
            yield record

    async with storage.transaction() as tx:
        here = tx.join(keeper)
        assert await here.import_(here.export()) == 0
        assert await here.import_(noting(tx)) == 0
        assert await tx.memory.count() == 2
    assert {datum.id for datum in await storage.memory.list()} == {"seen entry", "seen end"}


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("context", [None, Context()])
async def test_a_task_of_a_transaction_imports_nothing_into_it(
    two: list[StorageProvider], context: Context | None, *, within: bool
) -> None:
    storage, _ = two
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)
    keeper = MaintainedMemory(storage.database)
    reached, go_on = asyncio.Event(), asyncio.Event()
    async with storage.transaction() as tx:
        given = paused(records, BATCH + 3, reached, go_on)
        bringing = asyncio.create_task(tx.join(keeper).import_(given), context=context)
        with suppress(KeyError):
            async with storage.transaction() if within else nullcontext():
                await asyncio.wait([bringing, asyncio.create_task(reached.wait())], return_when="FIRST_COMPLETED")
                raise KeyError
        go_on.set()
        with pytest.raises(TransactionOpen, match="another task"):
            await bringing
        await tx.memory.put(Datum.create(b"", id="own"))
    assert [datum.id for datum in await storage.memory.list()] == ["own"]


async def test_an_import_is_of_the_block_in_which_it_is_called(two: list[StorageProvider]) -> None:
    storage, _ = two
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)
    keeper = MaintainedMemory(storage.database)
    async with storage.transaction() as tx:
        with suppress(KeyError):
            async with storage.transaction() as inner:
                assert await tx.join(keeper).import_(each(records)) == len(records) - 2
                assert await inner.memory.count() == BATCH + 9
                raise KeyError
        with pytest.raises(StoreClosed):
            await inner.join(keeper).import_(each(records))
        assert await tx.memory.count() == 0
        await tx.memory.put(Datum.create(b"", id="own"))
    with pytest.raises(StoreClosed):
        await tx.join(keeper).import_(each(records))
    assert [datum.id for datum in await storage.memory.list()] == ["own"]


@pytest.mark.parametrize("id", ["new", "i0505"])
async def test_a_source_that_writes_to_what_is_imported_is_refused(two: list[StorageProvider], id: str) -> None:
    storage, _ = two
    async with await StorageProvider.create_minimal() as source:
        records = await old_versions(source)

    async def meddling() -> AsyncIterator[Record]:
        for number, record in enumerate(records):
            if number == BATCH + 3:
                async with storage.transaction() as tx:
                    await tx.memory.put(Datum.create("beside", id=id))
            yield record

    keeper = MaintainedMemory(storage.database)
    with pytest.raises(Conflict, match="while it was imported"):
        await keeper.import_(meddling())
    assert await storage.memory.namespaces() == []
    assert await keeper.import_(each(records)) == len(records) - 2
    assert await damaged(keeper) == []


async def test_what_is_imported_comes_behind_every_cursor(two: list[StorageProvider]) -> None:
    storage, _ = two
    memory, keeper = storage.memory, MaintainedMemory(storage.database)
    await memory.put_many(Datum.create("x", id=f"i{n}") for n in range(5))
    await memory.delete("i0")
    records = await exported(keeper)
    await memory.put(Datum.create("later", id="later"))
    cursor = (await memory.stats()).seq
    await keeper.erase("default")
    assert await keeper.import_(each(records)) == 6
    seen = await memory.query(Query(order="seq", after_seq=cursor))
    assert [(datum.id, datum.seq, datum.version) for datum in seen] == [
        (f"i{n}", cursor + 1 + n, 1) for n in range(1, 5)
    ]
    assert await damaged(keeper) == []
    assert (await memory.put(Datum.create("next"))).seq == cursor + 7
    async with await StorageProvider.create_minimal() as elsewhere:  # a new one counts as the old one did
        await MaintainedMemory(elsewhere.database).import_(each(records))
        assert await exported(MaintainedMemory(elsewhere.database)) == records
