"""One transaction over both tracks, where agent memory lies in the same database: all or nothing."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import pytest

from dgent import StorageProvider
from dgent.bridge import TableAdapter, TableRegistry, UnitOfWork, unit_of_work
from dgent.datum import Datum
from dgent.exceptions import IntegrityViolation, InvalidInput, StoreClosed, TransactionOpen, VersionConflict
from dgent.memory.sql.backend import SqlBackend
from dgent.models import CitizenConversation, ConversationTurn, Crystal, CrystalTag
from dgent.sql import Database, open_database
from dgent.sql.statement import Statement
from dgent.testing.contract_base import patience

from .conftest import opened, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS = 60


class Fault(Exception):  # what a test throws is a fault
    pass


def crystal(id: str = "c", **values: Any) -> Crystal:
    return Crystal(id=id, content_hash="h", summary="s", **{"tags": ["maps"], "datum_id": id, **values})


def row(id: str, **values: Any) -> Datum:
    return Datum.create(id=id, data={"content_hash": "h", "summary": "s", "tags": ["maps"], **values})


@pytest.fixture
def memory(database: Database) -> SqlBackend:
    return SqlBackend(database, "both")


async def test_l_d5_both_tracks_are_committed_together(database: Database, memory: SqlBackend) -> None:
    async with unit_of_work(database, memory, TableRegistry(database)) as tx:
        datum = await tx.memory.put(Datum.create(b"x", id="c"))
        tx.session.add(crystal())
        assert (await tx.table(Crystal).get("c")).data["datum_id"] == "c"  # type: ignore[union-attr]
        await tx.table(Crystal).put(row("d"))
        assert await tx.session.get(Crystal, "d") is not None
        beside = asyncio.create_task(memory.get("c"), context=Context())
        assert await beside is None
        assert await memory.get("c") == await tx.memory.get("c") == datum
    assert await memory.get("c") == datum
    assert {found.id for found in await TableAdapter(Crystal, database).list()} == {"c", "d"}
    assert await TableAdapter(CrystalTag, database).count() == 2


async def test_l_p2_a_failed_transaction_leaves_no_trace(database: Database, memory: SqlBackend) -> None:
    heard: list[Any] = []
    memory.on_change = heard.append
    with pytest.raises(Fault):  # noqa: PT012  # the transaction is what fails
        async with unit_of_work(database, memory) as tx:
            await _write_both(tx)
            raise Fault
    await _assert_neither(database, memory)
    assert heard == []
    async with unit_of_work(database, memory) as tx:
        await _write_both(tx)
    await _assert_both(database, memory)
    assert len(heard) == 1


async def test_l_p2_a_cancelled_transaction_leaves_no_trace(database: Database, memory: SqlBackend) -> None:
    await _both(database, memory)  # the first one also opens connections
    for steps in range(0, 60, 3):
        task = asyncio.create_task(_both(database, memory))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await _assert_both_or_neither(database, memory)
        await memory.purge("c")
        await TableAdapter(Crystal, database).delete("c")


async def test_l_p2_nested_use_is_a_savepoint_and_does_not_deadlock(database: Database, memory: SqlBackend) -> None:
    async with asyncio.timeout(patience(20)), unit_of_work(database, memory) as outer:
        await outer.memory.put(Datum.create(b"1", id="outer"))
        with pytest.raises(Fault):  # noqa: PT012  # the transaction is what fails
            async with unit_of_work(database, memory) as inner:
                await _write_both(inner)
                assert await inner.memory.get("outer") is not None
                raise Fault
        assert await outer.memory.get("c") is None
        with pytest.raises(TransactionOpen):
            await asyncio.create_task(memory.put(Datum.create(b"2", id="beside")))
        with pytest.raises(TransactionOpen):
            await asyncio.create_task(TableAdapter(Crystal, database).put(row("beside")))
        await outer.table(Crystal).put(row("kept"))
    assert {datum.id for datum in await memory.list()} == {"outer"}
    assert {datum.id for datum in await TableAdapter(Crystal, database).list()} == {"kept"}


async def test_a_transaction_that_has_ended_says_so(database: Database, memory: SqlBackend) -> None:
    async with unit_of_work(database, memory) as tx:
        table = tx.table(Crystal)
    with pytest.raises(StoreClosed):
        await table.put(row("late"))
    with pytest.raises(StoreClosed):
        await tx.memory.put(Datum.create(b"", id="late"))


async def test_l_p2_a_foreign_key_violation_raises_everywhere(database: Database, memory: SqlBackend) -> None:
    orphan: dict[str, Any] = {"conversation_id": "nobody", "turn_number": 0, "role": "user", "content": "x"}
    with pytest.raises(IntegrityViolation):  # noqa: PT012  # the transaction is what fails
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"x", id="c"))
            tx.session.add(ConversationTurn(id="t", **orphan))
    with pytest.raises(IntegrityViolation):  # noqa: PT012  # the transaction is what fails
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"x", id="c"))
            await tx.table(ConversationTurn).put(Datum.create(data=orphan, id="t"))
    assert await memory.count() == 0


async def test_what_is_no_row_is_refused_with_the_way_to_go(database: Database, memory: SqlBackend) -> None:
    for wrong in (Datum.create("x"), Crystal, 5):
        with pytest.raises(InvalidInput, match=r"a Datum is put through tx\.memory"):
            async with unit_of_work(database, memory, TableRegistry(database)) as tx:
                tx.session.add(wrong)


async def test_what_a_table_refuses_undoes_itself_alone(database: Database, memory: SqlBackend) -> None:
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put(Datum.create(b"x", id="c"))
        with pytest.raises(IntegrityViolation):
            await tx.table(Crystal).put_many([row("a"), row("b", access_count=-1)])
        await tx.table(Crystal).put(row("c"), expect=0)
        with pytest.raises(VersionConflict):
            await tx.table(Crystal).put(row("c", access_count=1), expect=0)
    assert {datum.id for datum in await TableAdapter(Crystal, database).list()} == {"c"}
    await _assert_both(database, memory)


async def test_the_session_sees_what_a_table_wrote(database: Database, memory: SqlBackend) -> None:
    async with unit_of_work(database, memory) as tx:
        tx.session.add(crystal())
        await tx.session.flush()
        held = await tx.session.get(Crystal, "c")
        assert held is not None
        await tx.table(Crystal).put(row("c", summary="changed"))
        assert (held.summary, held.version) == ("changed", 2)
        held.summary = "again"
    found = await TableAdapter(Crystal, database).get("c")
    assert found is not None
    assert (found.data["summary"], found.version) == ("again", 3)
    async with unit_of_work(database, memory) as tx:
        held = await tx.session.get(Crystal, "c")
        assert await tx.table(Crystal).delete("c")
        assert await tx.session.get(Crystal, "c") is None


async def test_l_b4_each_track_leaves_the_other_alone(database: Database, memory: SqlBackend) -> None:
    table = TableAdapter(Crystal, database)
    await table.put(row("c"))
    before = await table.list()
    await memory.put_many([Datum.create(b"x", id="c"), Datum.create(b"y", id="e", causal_parent="c")])
    await memory.delete("c")
    await memory.purge("e")
    assert await table.list() == before
    assert await table.get("e") is None
    kept = await memory.put(Datum.create(b"x", id="c"))
    await table.put(row("c", access_count=1))
    await table.delete("c")
    await table.put_many([row(id) for id in "cde"])
    await table.purge("d")
    assert await memory.list() == [kept]
    assert len(await memory.history("c")) == 3


async def test_registered_tables_have_three_names(database: Database, memory: SqlBackend) -> None:
    tables = TableRegistry(database)
    assert tables.find("brain_crystals") is None
    hiding = tables.register(Crystal, hidden=["summary", "content_hash"])
    assert (
        tables.find("brain_crystals")
        is tables.find("Crystal")
        is tables.find("crystal")
        is tables.adapter(Crystal)
        is hiding
    )
    assert tables.adapter(CitizenConversation) is tables.adapter(CitizenConversation)
    assert tables.find("CitizenConversation") is None
    tables.register(CitizenConversation)
    assert tables.find("citizen_conversation") is tables.find(CitizenConversation.__tablename__) is not None
    assert [adapter.table for adapter in tables] == ["brain_crystals", CitizenConversation.__tablename__]
    async with unit_of_work(database, memory, tables) as tx:
        tx.session.add(crystal())
        assert "summary" not in (await tx.table(Crystal).get("c")).data  # type: ignore[union-attr]


async def test_concurrent_increments_through_a_table_lose_nothing(database: Database) -> None:
    table = TableAdapter(Crystal, database)
    await table.put(row("c", access_count=0))

    async def increment() -> None:
        while True:
            found = await table.get("c")
            assert found is not None
            changed = {**found.data, "access_count": found.data["access_count"] + 1}
            with suppress(VersionConflict):
                await table.put(Datum.create(data=changed, id="c", created_at=found.created_at), expect=found.version)
                return

    await asyncio.gather(*(increment() for _ in range(16)))
    found = await table.get("c")
    assert found is not None
    assert (found.data["access_count"], found.version) == (16, 17)


@pytest.mark.parametrize("after", [False, True])
async def test_l_b5_a_fault_at_each_step_leaves_both_or_neither(
    database: Database, memory: SqlBackend, after: bool
) -> None:
    await memory.prepare()
    for step in range(STEPS):
        with pytest.MonkeyPatch.context() as patch, suppress(Fault):
            faults = _faults(patch, step, after, _raise)
            await _both(database, memory)
        await _assert_both_or_neither(database, memory)
        await memory.purge("c")
        await TableAdapter(Crystal, database).delete("c")
        if faults() < step:
            break
    assert 5 < step < STEPS - 1


async def test_l_b5_a_crash_at_each_step_leaves_both_or_neither(sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    async with opened(url) as database:
        await SqlBackend(database, "both").prepare()
    for step in range(STEPS):
        crashed = _crashing(url, step)
        async with opened(url) as database:
            memory = SqlBackend(database, "both")
            await _assert_both_or_neither(database, memory)
            await memory.purge("c")
            await TableAdapter(Crystal, database).delete("c")
        if not crashed:
            break
    assert 5 < step < STEPS - 1


def _crashing(url: str, step: int) -> bool:
    """Run the transaction in a child that ends at a step as if it were killed; tell whether it got that far."""
    child = os.fork()
    if child == 0:
        _faults(pytest.MonkeyPatch(), step, step % 2 == 0, lambda: os._exit(9))
        asyncio.run(_in_child(url))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


async def _in_child(url: str) -> None:
    database = open_database(settings_of(url))
    await _both(database, SqlBackend(database, "both"))
    await database.close()


def _raise() -> None:
    raise Fault


def _faults(patch: pytest.MonkeyPatch, step: int, after: bool, fail: Callable[[], None]) -> Callable[[], int]:
    """Fail before or after the n-th statement, flush or commit; return what tells how many there were."""
    from sqlalchemy.ext.asyncio import AsyncSession

    seen = [-1]

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: Any, *args: Any, **named: Any) -> Any:
            seen[0] += 1
            here = seen[0] == step
            if here and not after:
                fail()
            result = method(self, *args, **named)
            if here and after:
                fail()
            return result

        return run

    def awaited(method: Callable[..., Any]) -> Callable[..., Any]:
        async def run(self: Any, *args: Any, **named: Any) -> Any:
            seen[0] += 1
            here = seen[0] == step
            if here and not after:
                fail()
            result = await method(self, *args, **named)
            if here and after and method is not commit:  # after a commit there is nothing left to undo
                fail()
            return result

        return run

    commit = AsyncSession.commit
    patch.setattr(Statement, "_run", counted(Statement._run))
    patch.setattr(AsyncSession, "flush", awaited(AsyncSession.flush))
    patch.setattr(AsyncSession, "commit", awaited(commit))
    return lambda: seen[0]


async def _both(database: Database, memory: Any) -> None:
    async with unit_of_work(database, memory) as tx:
        await _write_both(tx)


async def _write_both(tx: UnitOfWork) -> None:
    tx.session.add(crystal(tags=[]))
    await tx.memory.put(Datum.create(b"x", id="c"))
    await tx.table(Crystal).put(row("c", summary="later"))


async def _assert_both(database: Database, memory: Any) -> None:
    assert await memory.exists("c")
    assert await TableAdapter(Crystal, database).exists("c")


async def _assert_neither(database: Database, memory: Any) -> None:
    assert await memory.count() == 0
    assert await TableAdapter(Crystal, database).count() == 0
    assert await TableAdapter(CrystalTag, database).count() == 0


async def _assert_both_or_neither(database: Database, memory: Any) -> None:
    found = await TableAdapter(Crystal, database).get("c")
    assert await memory.exists("c") is (found is not None)
    if found is not None:
        assert found.data["summary"] == "later"
        assert await TableAdapter(CrystalTag, database).count() == 1


@pytest.mark.parametrize("expect", [2**31, 2**63 - 1])
async def test_a_version_that_is_too_large_for_its_column_is_a_conflict(url: str, tmp_path: Path, expect: int) -> None:
    async with await StorageProvider.from_config(database_url=url, data_dir=tmp_path) as storage:
        await storage.run_migrations()
        table = storage.table(Crystal)
        datum = Datum.create(data={"content_hash": "a", "summary": "kept", "datum_id": "a"}, id="x")
        await table.put(datum)
        memory = storage.memory
        for attempt in (
            table.put(datum, expect=expect),
            *(each.delete("x", expect=expect) for each in (table, memory)),
        ):
            with pytest.raises(VersionConflict):
                await attempt
        assert await table.exists("x")
