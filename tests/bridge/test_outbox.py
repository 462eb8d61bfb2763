"""One transaction over both tracks, where agent memory lies elsewhere: the outbox delivers, in order."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect, text
from tests.assets import freeze_queue
from tests.memory.switchable_backend import Switchable

from dgent.bridge import Outbox, TableAdapter, unit_of_work
from dgent.bridge import outbox as outbox_module
from dgent.datum import Datum
from dgent.delivery import DeliveryReport, Queue, page_delivery
from dgent.erasure_request import Erased
from dgent.exceptions import (
    BackendUnavailable,
    CapabilityMissing,
    CausalCycle,
    InvalidDatum,
    InvalidInput,
    LimitExceeded,
    StorageTimeout,
)
from dgent.limits import Limits
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.models import Crystal, CrystalTag
from dgent.operations import Put
from dgent.query import Order, Query
from dgent.sql import Database, open_database
from dgent.testing.contract_base import examples, pages, patience
from dgent.testing.manual_clock import ManualClock

from .conftest import opened, settings_of
from .test_unit_of_work import STEPS, Fault, _faults, _raise, crystal, row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Elsewhere(MemoryBackend):
    """A memory in another place, which may be out of reach."""

    down = False
    deaf = False  # takes what it is given, and its answer is lost

    async def put(self, *args: Any, **named: Any) -> Datum:
        if self.down:
            raise BackendUnavailable("elsewhere does not answer")
        stored = await super().put(*args, **named)
        if self.deaf:
            raise BackendUnavailable("elsewhere does not answer any more")
        return stored


@pytest.fixture
def memory() -> Elsewhere:
    return Elsewhere()


async def test_l_d5_what_was_committed_is_delivered(database: Database, memory: Elsewhere) -> None:
    async with unit_of_work(database, memory) as tx:
        tx.session.add(crystal())
        datum = await tx.memory.put(Datum.create(b"1", id="c", tags=["maps"]))
        assert datum.version == 0
        assert await tx.memory.get("c") == datum
        assert await memory.get("c") is None
        await tx.memory.put(Datum.create(b"2", id="c"))
        await tx.memory.put(Datum.create(b"3", id="d"), ttl=1000)
        assert await tx.memory.delete("c")
        assert not await tx.memory.exists("c")
        await tx.memory.put(datum)
    assert [(entry.version, entry.datum) for entry in await memory.history("c")] == [
        (1, datum),
        (2, datum.replace(content=b"2", metadata={}, created_at=(await memory.get("c", version=2)).created_at)),  # type: ignore[union-attr]
        (3, None),
        (4, datum),
    ]
    assert await memory.exists("d")
    assert await Outbox(database, memory).reconcile() == DeliveryReport()


async def test_l_p2_a_failed_transaction_delivers_nothing(database: Database, memory: Elsewhere) -> None:
    with pytest.raises(Fault):  # noqa: PT012  # the transaction is what fails
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"1", id="c"))
            raise Fault
    async with unit_of_work(database, memory) as tx:
        with suppress(Fault):
            async with unit_of_work(database, memory) as inner:
                await inner.memory.put(Datum.create(b"1", id="inner"))
                assert await tx.memory.exists("inner")
                raise Fault
        assert not await tx.memory.exists("inner")
        async with unit_of_work(database, memory) as inner:
            await inner.memory.put(Datum.create(b"1", id="kept"))
        assert await memory.count() == 0
    assert await Outbox(database, memory).reconcile() == DeliveryReport()
    assert [datum.id for datum in await memory.list()] == ["kept"]


async def test_l_q4_an_erasure_in_a_transaction_takes_what_waits_and_then_the_memory(
    database: Database, memory: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [Datum.create(f"{n}".encode(), id=id, created_at=float(n)) for n, id in enumerate(["a1", "a2", "b1", "c"])]
    await memory.put_many(old)
    with monkeypatch.context() as dead:
        dead.setattr(Outbox, "deliver", _not_now)
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"waits", id="a3"))
            await tx.memory.put(Datum.create(b"waits", id="b1"))
        with suppress(Fault):
            async with unit_of_work(database, memory) as tx:
                await tx.memory.erase(everything=True)
                assert await tx.memory.count() == 0
                raise Fault
        async with unit_of_work(database, memory) as tx:
            assert await tx.memory.count() == 5
            assert await tx.memory.erase(prefix="a") == Erased(queued=1, pending="memory")
            assert sorted(datum.id for datum in await tx.memory.list()) == ["b1", "c"]
            assert [await tx.memory.count(prefix=prefix) for prefix in ("", "a", "a1", "b")] == [2, 0, 0, 1]
            assert await tx.memory.get_many(["a1", "a3", "c"]) == {"c": old[3]}
            assert await tx.memory.causal_chain("a1") == []
            again = await tx.memory.put(Datum.create(b"again", id="a1"))
            assert sorted(datum.id for datum in await tx.memory.list()) == ["a1", "b1", "c"]
            assert await tx.memory.count() == 3
            with pytest.raises(CapabilityMissing, match="erase each"):
                await tx.memory.erase(prefix="a", below=True)
            with pytest.raises(InvalidInput):
                await tx.memory.erase(prefix="a", vacuum=True)
    assert await memory.exists("a2")
    assert (await Outbox(database, memory).reconcile()).complete
    assert {datum.id: datum.content for datum in await memory.list()} == {"a1": b"again", "b1": b"waits", "c": b"3"}
    assert [entry.datum for entry in await memory.history("a1")] == [again]
    async with unit_of_work(database, memory) as tx:
        await tx.memory.erase(everything=True)
    assert await memory.namespaces() == []


async def _not_now(_: Outbox) -> DeliveryReport:
    """Stand for a program that dies between the commit and the delivery."""
    return DeliveryReport()


async def test_a_write_of_somebody_else_that_a_clock_hides_is_not_written_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the memory was set back, so all that it holds was stored before the transaction."""
    memory = Elsewhere(clock=lambda: 1000.0)
    await memory.put(Datum.create(b"0", id="x"))
    with monkeypatch.context() as dead:
        dead.setattr(Outbox, "deliver", _not_now)
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"old", id="x"))
    await memory.put(Datum.create(b"newer", id="x"), expect=1)
    (entry,) = (await Outbox(database, memory).reconcile()).set_aside
    assert "version 2" in entry.reason
    found = await memory.get("x")
    assert found is not None
    assert found.content == b"newer"


@pytest.mark.parametrize("broken", ["run", "count", "sweep"])
async def test_a_transaction_that_is_committed_ends_well_whatever_its_delivery_meets(
    database: Database,
    memory: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    async def fail(*_: Any) -> Any:
        raise StorageTimeout("somebody holds the lock")

    await Outbox(database, memory).prepare()
    with monkeypatch.context() as hindered:
        if broken == "run":
            hindered.setattr(Queue, "page", fail)
        elif broken == "count":
            memory.down = True
            hindered.setattr(Queue, "count", fail)
        else:
            hindered.setattr(outbox_module, "SWEEP", 0)
            hindered.setattr(Queue, "sweep", fail)
        async with unit_of_work(database, memory) as tx:
            tx.session.add(crystal())
            await tx.memory.put(Datum.create(b"1", id="c"))
    assert "somebody holds the lock" in caplog.text
    memory.down = False
    assert await TableAdapter(Crystal, database).count() == 1
    assert (await Outbox(database, memory).reconcile()).complete
    assert await memory.exists("c")


async def test_who_is_cancelled_during_a_delivery_hears_it(
    database: Database, memory: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(_: Outbox) -> DeliveryReport:
        raise asyncio.CancelledError

    monkeypatch.setattr(Outbox, "deliver", cancelled)
    with pytest.raises(asyncio.CancelledError):
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"1", id="c"))


async def test_an_outage_delays_and_loses_nothing(database: Database, memory: Elsewhere) -> None:
    box = Outbox(database, memory)
    memory.down = True
    for n in range(3):
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"%d" % n, id="c"))
            assert (await tx.memory.get("c")).content == b"%d" % n  # type: ignore[union-attr]
    assert (await box.reconcile()).waiting == 3
    assert await memory.count() == 0
    memory.down, memory.deaf = False, True
    assert (await box.reconcile()).waiting == 3
    memory.deaf = False
    assert await box.reconcile() == DeliveryReport(3)
    assert await box.reconcile() == DeliveryReport()
    assert [entry.datum.content for entry in await memory.history("c") if entry.datum] == [b"0", b"1", b"2"]


async def test_a_time_to_live_is_kept_on_delivery(database: Database) -> None:
    clock = ManualClock(time.time())
    memory = Elsewhere(clock=clock)
    for id in ("expires", "expired", "late", "deleted"):
        await memory.put(Datum.create(b"1", id=id), ttl={"expired": 1, "late": 1.5}.get(id, 100))
    await memory.put(Datum.create(b"1", id="stays"))
    clock.advance(1)
    ids = ["expires", "expired", "late", "deleted", "stays", "new"]
    memory.down = True
    async with unit_of_work(database, memory) as tx:
        await tx.memory.delete("deleted")
        await tx.memory.put_many([Datum.create(b"2", id=id) for id in ids], ttl="keep")
        await tx.memory.put(Datum.create(b"1", id="inside"), ttl=100)
        await tx.memory.put(Datum.create(b"2", id="inside"), ttl="keep")
    memory.down = False
    clock.advance(1)
    assert await Outbox(database, memory).reconcile() == DeliveryReport(8)  # the delete had gone through
    assert await Outbox(database, memory).reconcile() == DeliveryReport()
    clock.advance(1)
    assert {datum.id for datum in await memory.list()} == {"expires", "expired", "deleted", "stays", "new", "inside"}
    assert all(datum.content == b"2" for datum in await memory.list())
    assert [each.datum.content for each in await memory.history("late") if each.datum] == [b"1", b"2"]
    clock.advance(1000)
    assert {datum.id for datum in await memory.list()} == {"expired", "deleted", "stays", "new"}


async def test_what_is_refused_is_set_aside_and_kept(database: Database, memory: Elsewhere) -> None:
    box = Outbox(database, memory)
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put(Datum.create(b"1", id="c", causal_parent="child"))
        await memory.put(Datum.create(b"", id="child", causal_parent="c"))  # somebody else, at the same time
        await tx.memory.put(Datum.create(b"2", id="d"))
    assert await memory.exists("d")
    assert await box.reconcile() == DeliveryReport()
    (entry,) = await box.set_aside()
    assert (entry.id, entry.datum.content if entry.datum else None) == ("c", b"1")
    assert "CausalCycle" in entry.reason
    await memory.delete("child")
    assert await box.retry(entry)
    assert await box.set_aside() == []
    assert await memory.exists("c")
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put(Datum.create(b"1", id="z", causal_parent="child"))
        await memory.put(Datum.create(b"", id="child", causal_parent="z"))
    (entry,) = await box.set_aside()
    await box.discard(entry)
    assert await box.reconcile() == DeliveryReport()


async def test_a_touch_and_a_delete_that_says_why_wait_for_the_commit(database: Database) -> None:
    memory = MemoryBackend()
    await memory.put_many([Datum.create(b"", id=id) for id in "abc"], ttl=100)
    async with unit_of_work(database, memory) as tx:
        assert await tx.memory.touch(["a", "b", "nobody"], None) == 2
        assert await tx.memory.delete("c", author="ann", reason="why")
        assert await tx.memory.exists("a")
        assert (await memory.get_many(["a"]))["a"].expires_at is not None
    assert {datum.id: datum.expires_at for datum in await memory.list()} == {"a": None, "b": None}
    assert [(each.author, each.reason) for each in await memory.history("c")][1:] == [("ann", "why")]


async def test_what_has_expired_is_found_on_request_beside_what_waits(database: Database) -> None:
    """What waits stands for what expired below it; what is to be erased is gone, and no touch brings it back."""
    clock = ManualClock(time.time())
    memory = Elsewhere(clock=clock)
    old = [Datum.create(b"1", id=id, created_at=1.0) for id in ("a", "b", "gone", "live")]
    await memory.put_many(old[:3], ttl=1)
    await memory.put(old[3], ttl=50)
    clock.advance(1)
    async with unit_of_work(database, memory) as tx:
        again = await tx.memory.put(Datum.create(b"2", id="b", created_at=2.0))
        await tx.memory.erase(prefix="gone")
        assert await tx.memory.touch(["a", "gone", "live"], None) == 1
        for order, limit in product(("newest", "oldest", "id", "-id"), (1, 9)):
            found = await pages(
                lambda at, o=order, n=limit: tx.memory.query(Query(expired=True, order=o, limit=n, cursor=at))  # type: ignore[misc]
            )
            assert sorted(found, key=lambda one: one.id) == [old[0], again, old[3]], order
        assert {one.id for one in await tx.memory.query(Query())} == {"b", "live"}
    assert {one.id: one.expires_at for one in await memory.query(Query(expired=True))} == {
        "a": clock.now, "b": None, "live": None
    }  # fmt: skip


async def test_what_can_be_seen_to_fail_is_refused_in_the_transaction(database: Database) -> None:
    memory = MemoryBackend()
    memory.limits = Limits(max_content=3, max_page=100)  # type: ignore[attr-defined]
    await memory.put_many([Datum.create(b"", id="a"), Datum.create(b"", id="b", causal_parent="a")])
    async with unit_of_work(database, memory) as tx:
        with pytest.raises(CapabilityMissing):
            await tx.memory.put(Datum.create(b"1", id="c"), expect=0)
        with pytest.raises(CapabilityMissing):
            await tx.memory.delete("c", expect=0)
        with pytest.raises(CapabilityMissing):
            await tx.memory.purge("c")
        with pytest.raises(LimitExceeded):
            await tx.memory.put(Datum.create(b"1234", id="c"))
        with pytest.raises(LimitExceeded):
            await tx.memory.list(limit=101)
        with pytest.raises(InvalidDatum):
            await tx.memory.put("c")  # type: ignore[arg-type]
        for id, parent in (("a", "b"), ("x", "x")):
            with pytest.raises(CausalCycle):
                await tx.memory.put(Datum.create(b"", id=id, causal_parent=parent))
        with pytest.raises(CausalCycle):
            await tx.memory.put_many(
                [Datum.create(b"", id="n", causal_parent="b"), Datum.create(b"", id="a", causal_parent="n")]
            )
        await tx.memory.put_many([Datum.create(b"", id="b"), Datum.create(b"", id="a", causal_parent="b")])
        assert [datum.id for datum in await tx.memory.causal_chain("a")] == ["b", "a"]
        assert not tx.memory.capabilities.versioned
    assert [datum.id for datum in await memory.causal_chain("a")] == ["b", "a"]


async def test_what_changed_is_what_was_delivered(database: Database) -> None:
    memory = MemoryBackend()
    await memory.put(Datum.create(b"1", id="a"))
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put(Datum.create(b"2", id="a"))
        assert await tx.memory.changes(0) == await memory.changes(0)
        assert (await tx.memory.head(), await tx.memory.seq_at(2e9)) == (1, 1)
    assert [(change.id, change.version) for change in await memory.changes(1)] == [("a", 2)]


@pytest.fixture(params=["memory", "jsonl", "sqlite", "same"])
async def other(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> AsyncIterator[Any]:
    """Return a memory of each kind elsewhere, and one in the same database."""
    if request.param == "memory":
        made: Any = MemoryBackend()
    elif request.param == "jsonl":
        made = JSONLBackend(tmp_path / "memory.jsonl")
    elif request.param == "sqlite":
        made = SQLiteBackend(tmp_path / "memory.db")
    else:
        made = SqlBackend(database)
    yield made
    if request.param != "same":
        await made.close()


async def test_a_cycle_is_refused_in_the_transaction_also_through_a_parent_that_is_absent(
    database: Database, other: Any
) -> None:
    await other.put(Datum.create(b"", id="child", causal_parent="absent"))
    async with unit_of_work(database, other) as tx:
        with pytest.raises(CausalCycle):  # what is there names it already
            await tx.memory.put(Datum.create(b"", id="absent", causal_parent="child"))
        await tx.memory.put(Datum.create(b"", id="a", causal_parent="b"))
        await tx.memory.put(Datum.create(b"", id="b", causal_parent="c"))
        with pytest.raises(CausalCycle):  # what this transaction wrote does
            await tx.memory.put(Datum.create(b"", id="c", causal_parent="a"))
        await tx.memory.put(Datum.create(b"", id="c", causal_parent="child"))
    async with unit_of_work(database, other) as tx:
        await tx.memory.delete("child")
        await tx.memory.put(Datum.create(b"", id="absent", causal_parent="child"))
    assert {datum.id for datum in await other.list()} == {"a", "b", "c", "absent"}
    assert await Outbox(database, other).set_aside() == []


async def test_a_delivery_is_never_put_over_what_came_after_it(
    database: Database, memory: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between the delivery and its receipt; somebody puts a newer value with `expect=`."""
    monkeypatch.setattr(page_delivery, "LEASE", 0.0)
    box = Outbox(database, memory)
    memory.deaf = True  # it takes the write, and we never hear of it
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put(Datum.create(b"old", id="c"))
    memory.deaf = False
    newer = await memory.put(Datum.create(b"newer", id="c"), expect=1)
    assert await box.reconcile() == DeliveryReport(1)
    assert await memory.get("c") == newer


async def test_what_somebody_else_wrote_while_a_write_waited_is_not_overwritten(
    database: Database, memory: Elsewhere
) -> None:
    box = Outbox(database, memory)
    await memory.put(Datum.create(b"0", id="c"))
    memory.down = True
    for n in (1, 2):
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"%d" % n, id="c"))
    memory.down = False
    theirs = await memory.put(Datum.create(b"theirs", id="c"), expect=1)
    report = await box.reconcile()
    assert (report.delivered, report.waiting) == (0, 0)
    assert [entry.datum and entry.datum.content for entry in report.set_aside] == [b"1", b"2"]
    assert all("version 2" in entry.reason for entry in report.set_aside)
    assert await memory.get("c") == theirs


@pytest.mark.parametrize("place", ["sqlite", "postgres"])
async def test_the_table_of_the_first_outbox_is_taken_over_in_its_order(
    request: pytest.FixtureRequest, sqlite_path: Path, place: str
) -> None:
    frozen = Path(__file__).parent.parent / "assets" / "queue-1.db"
    if place == "sqlite":
        shutil.copy(frozen, sqlite_path)
        sqlite_path.chmod(0o600)
        url = f"sqlite:///{sqlite_path}"
    else:
        url = request.getfixturevalue("postgres_url")
        await _old_table(url, frozen)
    async with opened(url) as database:
        one, two = MemoryBackend("one"), MemoryBackend("two")
        await two.put(Datum("b", b"stays", 0.0))
        assert await Outbox(database, one).reconcile() == DeliveryReport(4)
        assert [(each.version, each.datum) for each in await one.history("a")] == [
            (1, Datum("a", b"1", 1.0, None, {"k": "one"})),
            (2, Datum("a", b"2", 2.0)),
        ]
        assert len(await one.history("c")) == 1  # it was to keep the time of what is gone, so it is gone, too
        box = Outbox(database, two)
        assert (await box.reconcile()).delivered == 3
        (entry,) = await box.set_aside()
        assert (entry.id, entry.datum, entry.reason[:11]) == ("b", None, "CausalCycle")
        assert await two.exists("b")
        assert not await database.read(lambda connection: inspect(connection).has_table("dgent_outbox"))
        assert await box.reconcile() == DeliveryReport()


@pytest.mark.parametrize("place", ["sqlite", "postgres"])
async def test_a_queue_named_by_its_namespace_alone_is_taken_over(
    request: pytest.FixtureRequest, sqlite_path: Path, place: str
) -> None:
    """With what is known of each id: what a program that died has delivered is not taken for somebody else's write."""
    if place == "sqlite":
        shutil.copy(Path(__file__).parent.parent / "assets" / "queue-2.db", sqlite_path)
        sqlite_path.chmod(0o600)
        url = f"sqlite:///{sqlite_path}"
    else:
        url = request.getfixturevalue("postgres_url")
        async with opened(url) as database:
            await freeze_queue.fill(database)
    async with opened(url) as database:
        one, two = MemoryBackend("one"), MemoryBackend("two")
        await one.put_many([_numbered("planned", 1), _numbered("planned", 2), _numbered("done", 1)])
        await one.put(_numbered("deleted", 1))
        box = Outbox(database, one)
        reports = await asyncio.gather(*(Outbox(database, one).reconcile() for _ in range(3)))
        assert sum(report.delivered for report in reports) == 2 + 1 + 1 + 70
        for id, last in (("planned", 3), ("done", 2), ("many", 70)):
            assert [each.datum for each in await one.history(id)] == [_numbered(id, n) for n in range(1, last + 1)]
        assert not await one.exists("deleted")
        aside = await box.set_aside()
        broken, refused = sorted(aside, key=lambda entry: entry.id)
        assert (broken.raw, "no entry" in broken.reason) == (b"no entry", True)
        assert (refused.id, refused.reason) == ("refused", "it closes a cycle")
        assert await box.retry(refused)
        assert await one.get("refused") == _numbered("refused", 1)
        assert await box.reconcile() == DeliveryReport()
        assert await Outbox(database, MemoryBackend("one")).reconcile() == DeliveryReport()
        assert await Outbox(database, two).reconcile() == DeliveryReport(1)
        assert await two.get("planned") == _numbered("planned", 9)


def _numbered(id: str, n: int) -> Datum:
    return Datum(id, b"%d" % n, float(n), None, {"n": n})


async def _old_table(url: str, frozen: Path) -> None:
    """Make the table of the first outbox on another database, with the rows of the frozen file."""
    columns = "namespace, seq, id, datum, ttl, at, refusal"
    with closing(sqlite3.connect(frozen)) as source:
        rows = source.execute(f"SELECT {columns} FROM dgent_outbox").fetchall()

    def work(connection: Any) -> None:
        connection.exec_driver_sql(
            'CREATE TABLE dgent_outbox (namespace TEXT COLLATE "C" NOT NULL, seq BIGINT NOT NULL, '
            'id TEXT COLLATE "C" NOT NULL, datum TEXT COLLATE "C", ttl DOUBLE PRECISION, at DOUBLE PRECISION NOT NULL, '
            'refusal TEXT COLLATE "C", PRIMARY KEY (namespace, seq))'
        )
        values = ", ".join(f":{name}" for name in columns.split(", "))
        inserted = [dict(zip(columns.split(", "), each, strict=True)) for each in rows]
        connection.execute(text(f"INSERT INTO dgent_outbox ({columns}) VALUES ({values})"), inserted)

    async with opened(url) as database:
        await database.write(work)


async def test_what_waits_for_one_memory_never_goes_to_another_of_the_same_namespace(
    database: Database, tmp_path: Path
) -> None:
    one, two = JSONLBackend(tmp_path / "one.jsonl"), JSONLBackend(tmp_path / "two.jsonl")
    switched = Switchable(one)
    switched.switch.on = False
    async with unit_of_work(database, switched) as tx:
        await tx.memory.put(Datum.create(b"for one", id="x"))
    async with unit_of_work(database, two) as tx:
        assert not await tx.memory.exists("x")
        await tx.memory.put(Datum.create(b"for two", id="y"))
    assert [datum.id for datum in await two.list()] == ["y"]
    assert (await Outbox(database, switched).reconcile()).waiting == 1
    (tmp_path / "linked").symlink_to(tmp_path)
    again = JSONLBackend(tmp_path / "linked" / "one.jsonl")  # another name of the same file
    assert await Outbox(database, again).reconcile() == DeliveryReport(1)
    assert [datum.id for datum in await one.list()] == ["x"]
    for store in (one, two, again):
        await store.close()


@pytest.mark.parametrize("kind", [JSONLBackend, SQLiteBackend])
async def test_a_memory_that_moved_gets_what_waits_for_it(database: Database, tmp_path: Path, kind: Any) -> None:
    async with memory_at(kind, database, tmp_path / "old" / "memory") as (memory, switch):
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"1", id="x"))
        switch.on = False
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"2", id="x"))
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "old" / "memory", tmp_path / "copy" / "memory")
    async with memory_at(kind, database, tmp_path / "copy" / "memory") as (copied, _):
        assert await Outbox(database, copied).reconcile() == DeliveryReport()  # the other one is still there
    (tmp_path / "old").rename(tmp_path / "new")
    for delivered in (1, 0):
        async with memory_at(kind, database, tmp_path / "new" / "memory") as (memory, _):
            assert await Outbox(database, memory).reconcile() == DeliveryReport(delivered)
            assert [each.datum and each.datum.content for each in await memory.history("x")] == [b"1", b"2"]


@asynccontextmanager
async def memory_at(kind: Any, database: Database, path: Path) -> AsyncIterator[Any]:
    """Return a memory at a path behind a switch, as another process finds it."""
    path.parent.mkdir(exist_ok=True)
    database.attached.pop(outbox_module._SharedOutbox, None)
    store = kind(path)
    memory = Switchable(store)
    yield memory, memory.switch
    await store.close()


async def test_two_memories_in_memory_are_two(database: Database) -> None:
    one, two = Elsewhere(), Elsewhere()
    one.down = True
    for store in (one, two):
        async with unit_of_work(database, store) as tx:
            await tx.memory.put(Datum.create(b"x", id="x"))
    assert (await two.count(), (await Outbox(database, one).reconcile()).waiting) == (1, 1)
    one.down = False
    assert await Outbox(database, one.within("default")).reconcile() == DeliveryReport(1)


async def test_a_memory_that_does_not_say_where_it_lies_has_no_outbox(database: Database) -> None:
    class Nowhere(MemoryBackend):
        where = ""  # type: ignore[assignment]

    for refused in (Nowhere(), TableAdapter(Crystal, database), "memory"):
        with pytest.raises(CapabilityMissing, match="where it lies"):
            Outbox(database, refused)  # type: ignore[arg-type]
    with pytest.raises(CapabilityMissing):
        async with unit_of_work(database, Nowhere()):
            pytest.fail("it began")


async def test_a_delivery_goes_on_through_another_view_of_the_same_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are one for each other: neither waits until the other one counts as dead."""
    monkeypatch.setattr(page_delivery, "LEASE", 3600.0)
    memory = Elsewhere()
    other = memory.within(memory.namespace)
    memory.deaf = True
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put(Datum.create(b"x", id="c"))
    async with asyncio.timeout(patience(10)):
        assert await Outbox(database, other).reconcile() == DeliveryReport(1)
    assert len(await memory.history("c")) == 1


async def test_the_versions_of_many_ids_are_asked_for_a_few_at_a_time(database: Database) -> None:
    class Counting(MemoryBackend):
        now = most = asked = 0

        async def history(self, *args: Any, **named: Any) -> Any:
            self.now, self.asked = self.now + 1, self.asked + 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super().history(*args, **named)

    memory = Counting()
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put_many([Datum(f"k{n % 100}", b"%d" % n, 0.0) for n in range(200)])
        assert (memory.asked, memory.most) == (100, outbox_module.FEW)


async def test_a_put_that_waits_always_says_that_it_changed_something(database: Database, memory: Elsewhere) -> None:
    """Nobody asks the memory, which may be away; on delivery an equal one changes nothing."""
    datum = Datum.create(b"x", id="c")
    await memory.put(datum)
    memory.down = True
    async with unit_of_work(database, memory) as tx:
        (outcome,) = await tx.memory.apply([Put(datum)])
        assert (outcome.changed, outcome.version) == (True, 0)
    memory.down = False
    assert await Outbox(database, memory).reconcile() == DeliveryReport(1)
    assert len(await memory.history("c")) == 1


@pytest.mark.filterwarnings("ignore::dgent.warnings.DamagedWarning")
@pytest.mark.parametrize("order", ["newest", "oldest", "id", "-id"])
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_pages_name_each_damaged_version_once(
    database: Database, tmp_path: Path, order: Order, limit: int
) -> None:
    path = tmp_path / "memory.db"
    memory = SQLiteBackend(path)
    await memory.put_many([Datum(f"d{n:02}", b"", float(n)) for n in range(14)])
    broken = {"d01", "d04", "d05", "d06", "d11", "d13"}
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany("UPDATE dgent_datums SET content = x'00' WHERE id = ?", [(id,) for id in broken])
        connection.commit()
    async with unit_of_work(database, memory) as tx:
        for id, time in (("w0", 4.5), ("w1", 4.6), ("d02", 4.7), ("w2", 9.5), ("w3", 9.6), ("d08", 20.0), ("d11", 0.5)):
            await tx.memory.put(Datum(id, b"new", time))
        named, found, query = [], [], Query(limit=limit, order=order)
        while True:
            page = await tx.memory.query(query)
            named += [each.id for each in page.damaged]
            found += [datum.id for datum in page]
            if page.cursor is None:
                break
            query = replace(query, cursor=page.cursor)
        assert sorted(named) == sorted(broken - {"d11"})
        assert len(found) == len(set(found)) == 14 - 6 + 4 + 1
    await memory.close()


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete"]),
        st.sampled_from(["a", "b", "c/1/x", "c/2"]),
        st.integers(0, 3),
        st.none() | st.just("t"),
    ),
    max_size=8,
)


def made(id: str, n: int, tag: str | None) -> Datum:
    return Datum.create(b"%d" % n, id=id, created_at=float(n), causal_parent="top", tags=[tag] if tag else [])


@examples(2)
@given(before=steps, inside=steps, limit=st.integers(1, 3))
async def test_a_transaction_reads_what_it_wrote(database: Database, before: Any, inside: Any, limit: int) -> None:
    memory, model = MemoryBackend(), MemoryBackend()
    for stores, planned in (([memory, model], before), ([model], inside)):
        for store in stores:
            for verb, id, n, tag in planned:
                await (store.put(made(id, n, tag)) if verb == "put" else store.delete(id))
    async with unit_of_work(database, memory) as tx:
        for verb, id, n, tag in inside:
            await (tx.memory.put(made(id, n, tag)) if verb == "put" else tx.memory.delete(id))
        for order in ("newest", "oldest", "id", "-id"):
            for named in ({}, {"tags": "t"}, {"prefix": "b"}, {"after": 1.0}, {"causal_parent": "top"}):
                query = Query(**named, order=order)  # type: ignore[arg-type]
                wanted = await model.query(query)
                assert await tx.memory.query(query) == wanted
                found = await pages(
                    lambda at, n=named, o=order: tx.memory.query(Query(**n, order=o, cursor=at, limit=limit))  # type: ignore[misc]
                )
                assert found == wanted
            assert await tx.memory.keys(order=order) == await model.keys(order=order)  # type: ignore[arg-type]
        for depth in (1, 2):
            assert await tx.memory.segments(depth=depth) == await model.segments(depth=depth)
        two = await tx.memory.segments(limit=2)
        assert [*two, *(await tx.memory.segments(cursor=two.cursor) if two.cursor else [])] == await model.segments()
        assert await tx.memory.get_many(["c/2", "b", "a"]) == await model.get_many(["c/2", "b", "a"])
        assert await tx.memory.count() == await model.count()
        assert await tx.memory.count(prefix="a") == await model.count(prefix="a")
    assert await memory.list() == await model.list()


@pytest.mark.parametrize("after", [False, True])
async def test_l_b5_a_fault_at_each_step_leaves_both_or_neither(
    database: Database, memory: Elsewhere, after: bool
) -> None:
    box = Outbox(database, memory)
    await box.prepare()
    for step in range(STEPS):
        with pytest.MonkeyPatch.context() as patch, suppress(Fault):
            faults = _faults(patch, step, after, _raise)
            async with unit_of_work(database, memory) as tx:
                tx.session.add(crystal(tags=[]))
                await tx.memory.put(Datum.create(b"x", id="c"))
                await tx.table(Crystal).put(row("c", summary="later"))
        await _reconciled(database, memory)
        if faults() < step:
            break
    assert 8 < step < STEPS - 1


async def test_l_b5_a_crash_at_each_step_leaves_both_or_neither(
    sqlite_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_delivery, "LEASE", 0.0)  # the dead are not waited for
    url, lines = f"sqlite:///{sqlite_path}", tmp_path / "memory.jsonl"
    async with opened(url) as database:
        await Outbox(database, MemoryBackend("both")).prepare()
    for step in range(STEPS):
        crashed = _crashing(url, lines, step)
        memory = JSONLBackend(lines, "both")
        async with opened(url) as database:
            await _reconciled(database, memory)
        await memory.close()
        if not crashed:
            break
    assert 8 < step < STEPS - 1


async def _reconciled(database: Database, memory: Any) -> None:
    """Reconcile, twice; see that row and datum are both there or both absent, and clear both away."""
    box = Outbox(database, memory)
    assert (await box.reconcile()).set_aside == ()
    live = await memory.get("c")
    assert await box.reconcile() == DeliveryReport()
    found = await TableAdapter(Crystal, database).get("c")
    assert (live is None) is (found is None)
    if live is not None and found is not None:
        assert live.content == b"x"
        assert found.data["summary"] == "later"
        assert await TableAdapter(CrystalTag, database).count() == 1
        assert (await memory.get("c")).version == live.version
    await memory.delete("c")
    await TableAdapter(Crystal, database).delete("c")


def _crashing(url: str, lines: Path, step: int) -> bool:
    child = os.fork()
    if child == 0:
        _faults(pytest.MonkeyPatch(), step, step % 2 == 0, lambda: os._exit(9))
        asyncio.run(_in_child(url, lines))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


async def _in_child(url: str, lines: Path) -> None:
    database, memory = open_database(settings_of(url)), JSONLBackend(lines, "both")
    async with unit_of_work(database, memory) as tx:
        tx.session.add(crystal(tags=[]))
        await tx.memory.put(Datum.create(b"x", id="c"))
        await tx.table(Crystal).put(row("c", summary="later"))
    await memory.close()
    await database.close()


async def test_two_who_deliver_at_once_keep_the_order(database: Database, memory: Elsewhere) -> None:
    memory.down = True
    for n in range(12):
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"%d" % n, id="ab"[n % 2]))
    memory.down = False
    reports = await asyncio.gather(*(Outbox(database, memory).reconcile() for _ in range(4)))
    assert sum(report.delivered for report in reports) == 12
    for id, first in (("a", 0), ("b", 1)):
        kept = [entry.datum.content for entry in await memory.history(id) if entry.datum]
        assert kept == [b"%d" % n for n in range(first, 12, 2)]


async def test_concurrent_transactions_deliver_each_write(database: Database, memory: Elsewhere) -> None:
    async def one(n: int) -> None:
        async with unit_of_work(database, memory) as tx:
            await tx.memory.put(Datum.create(b"x", id=f"d{n}"))
            await tx.table(Crystal).put(row(f"d{n}"))

    await asyncio.gather(*(one(n) for n in range(12)))
    assert await Outbox(database, memory).reconcile() == DeliveryReport()
    assert await memory.count() == await TableAdapter(Crystal, database).count() == 12


async def test_namespaces_of_the_outbox_do_not_meet(database: Database) -> None:
    one, two = Elsewhere("one"), Elsewhere("two")
    one.down = two.down = True
    for store in (one, two):
        async with unit_of_work(database, store) as tx:
            await tx.memory.put(Datum.create(store.namespace.encode(), id="c"))
    one.down = False
    assert await Outbox(database, one).reconcile() == DeliveryReport(1)
    assert (await one.get("c")).content == b"one"  # type: ignore[union-attr]
    assert (await Outbox(database, two).reconcile()).waiting == 1
