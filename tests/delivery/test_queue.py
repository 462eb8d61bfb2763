"""What waits is kept whole and in order, gets into the target once, and is named where it may not."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.delivery.delivering_programs import Outage, Program, value
from tests.memory.switchable_backend import Switch, Switchable

from dgent.capabilities import Capabilities
from dgent.datum import Datum
from dgent.delivery import (
    Deliverer,
    KnownTarget,
    Queue,
    QueuedWrite,
    QueueUnreadable,
    Tally,
    Version,
    move_page,
    page_delivery,
    roomy,
)
from dgent.delivery import queued_write as entry_module
from dgent.delivery.page_delivery import PageDelivery
from dgent.delivery.queued_write import RESERVED, group_of
from dgent.delivery.target_writer import BaseVersion
from dgent.exceptions import BackendUnavailable, Corrupt, StorageError
from dgent.limits import Limits
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.operations import TTL
from dgent.testing.manual_clock import ManualClock
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dgent.store import Backend


@pytest.fixture(params=["memory", "jsonl", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Return a store of each kind, in which writes may wait, or for which."""
    if request.param == "memory":
        made: Any = MemoryBackend()
    elif request.param == "jsonl":
        made = JSONLBackend(tmp_path / "store.jsonl")
    elif request.param == "sqlite":
        made = SQLiteBackend(tmp_path / "store.db")
    else:
        from dgent.memory.sql.postgres_backend import PostgresBackend

        made = PostgresBackend(request.getfixturevalue("postgres_url"))
    yield made
    await made.close()


def entry(id: str, n: int | None, ttl: TTL = None, known: KnownTarget | None = None) -> QueuedWrite:
    now = time.time()
    return QueuedWrite("n", id, None if n is None else value(id, n), ttl, now, known or KnownTarget(now))


async def ids(queue: Queue) -> list[str]:
    return [one.id async for page in queue.pages() for one in page.entries]


async def test_writes_get_home_once_and_in_order_on_every_store(store: Backend) -> None:
    target, queue = store.within("n"), Queue(MemoryBackend(), "first")
    await target.put(value("a", 0))
    await queue.append([entry("a", 1), entry("b", 1), entry("a", None), entry("a", 1), entry("c", None), entry("a", 1)])
    tally = await Deliverer(queue, store).run()
    assert (tally.delivered, tally.aside) == (6, [])
    history = [one.datum for one in await target.history("a")]
    assert history == [value("a", 0), value("a", 1), None, value("a", 1)]
    assert [one.id for one in await target.list(order="seq")] == ["b", "a"]
    assert await queue.count() == (0, 0)


async def test_every_store_keeps_a_queue(store: Backend) -> None:
    queue, target = Queue(store, "first"), MemoryBackend("n")
    await queue.prepare()
    await queue.append([entry("a", n % 3) for n in range(70)] + [entry("b", None), entry("c", 1)])
    assert await queue.count() == (72, 0)
    page = await queue.of("n", "b")
    assert [(one.id, one.datum) for one in page.entries] == [("b", None)]
    deliverer = Deliverer(queue, target)
    await deliverer.bring("n", ["c", "nothing"], Tally())
    assert await target.get("c") == value("c", 1)
    assert await queue.count() == (71, 0)
    await deliverer.run()
    assert len(await target.history("a")) == 70
    assert await queue.count() == (0, 0)
    await queue.sweep()
    assert not await queue.page()


async def test_a_batch_waits_whole_or_not_at_all() -> None:
    queue = Queue(MemoryBackend(limits=Limits(max_content=1000)), "first")
    with pytest.raises(Exception, match="max_content"):
        await queue.append([entry("a", 1), replace(entry("b", 1), datum=Datum("b", b"x" * 1000, 0.0))])
    assert await queue.count() == (0, 0)


@given(
    content=st.binary(max_size=64),
    id=st.text(min_size=1, max_size=8),
    ttl=st.none() | st.just("keep") | st.floats(0.1, 1e6),
    base=st.none() | st.builds(Version, st.integers(0, 9), st.integers(0, 9)),
)
async def test_an_entry_comes_back_as_it_went(content: bytes, id: str, ttl: Any, base: Version | None) -> None:
    id = id.encode(errors="replace").decode().replace("\0", "0")
    datum = Datum(id, content, 1.5, "pärent\n", {"a": {"b": "\n"}, "tags": ["x"]})
    queue = Queue(MemoryBackend(), "first")
    known = KnownTarget(7.25, 3, base)
    taken = await queue.append(
        [QueuedWrite("n/m", id, datum, ttl, 1.25, known), QueuedWrite("n/m", id, None, None, 2.5, known)]
    )
    assert (await queue.page()).entries == taken
    assert (await queue.of("n/m", id)).entries == taken
    assert (taken[0].datum, taken[0].known) == (datum, known)
    assert await queue.children("pärent\n") == taken[:1]


async def test_whatever_fits_the_target_fits_the_queue() -> None:
    limits = Limits(max_content=100, max_metadata=4000)
    datum = Datum("\x01" * 2000, b"x" * 100, 0.0, "\x02" * 2000, {"a": '\x01"\\' * 390})
    limits.admit(datum)
    queue = Queue(MemoryBackend(limits=roomy(limits)), "first")
    await queue.append([QueuedWrite("\x01" * 400, datum.id, datum, None, 0.0, KnownTarget(0.0))])
    assert await queue.count() == (1, 0)


async def test_a_time_to_live_goes_on_while_the_write_waits() -> None:
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    await target.put_many([value("short", 0), value("long", 0)])
    await queue.append([entry("short", 1, 1e-9), entry("long", 1, 3600.0)])
    await Deliverer(queue, target).run()
    assert await target.get("short") is None
    assert len(await target.history("short")) == 2
    assert await target.get("long") == value("long", 1)


def test_the_rest_of_a_time_to_live_is_never_nothing() -> None:
    one = QueuedWrite("n", "a", None, 10.0, 100.0, KnownTarget(0.0))
    assert one.rest_of_ttl(104.0) == 6.0
    assert 0 < float(one.rest_of_ttl(200.0) or 0) < 0.001
    assert replace(one, ttl=None).rest_of_ttl(200.0) is None
    assert replace(one, ttl="keep").rest_of_ttl(0.0) == "keep"
    assert 0 < float(replace(one, ttl="keep").rest_of_ttl(0.0, live=False) or 0) < 0.001


async def test_what_has_expired_by_the_time_of_the_write_is_superseded_all_the_same() -> None:
    clock = ManualClock(time.time())

    class Slow(MemoryBackend):
        async def put(self, *args: Any, **named: Any) -> Datum:
            clock.advance(10)
            return await super().put(*args, **named)

    target, queue = Slow("n", clock=clock), Queue(MemoryBackend(), "first")
    await MemoryBackend.put(target, value("a", 0), ttl=5)
    await MemoryBackend.put(target, value("b", 0), ttl=5)
    await queue.append([entry("a", 1), entry("b", None)])
    tally = await Deliverer(queue, target).run()
    assert (tally.delivered, tally.aside) == (2, [])
    assert [one.datum for one in await target.history("a")] == [value("a", 0), value("a", 1)]
    assert not await target.exists("b")


async def test_what_the_writer_knew_is_nobody_elses() -> None:
    """By the version that it looked at; else by what it saw; and by the time at which it heard only without both."""
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    stored = [await target.put(value(id, 0)) for id in "abcdef"]
    late, top = time.time() + 3600, stored[-1].seq
    known = {
        "a": KnownTarget(0.0, stored[0].seq),
        "b": KnownTarget(0.0, 0, Version(1, stored[1].seq)),
        "c": KnownTarget(late),
        "d": KnownTarget(late, top, Version(1, stored[0].seq)),
        "e": KnownTarget(late, stored[3].seq),
        "f": KnownTarget(late, top, Version(0, 0)),
    }
    await queue.append([entry(id, 1, None, each) for id, each in known.items()])
    tally = await Deliverer(queue, target).run()
    assert [one.id for one in tally.aside] == ["d", "e", "f"]


async def test_a_conflict_is_set_aside_with_all_that_follows_it_and_may_be_retried_or_discarded(store: Backend) -> None:
    target, queue = MemoryBackend("n"), Queue(store, "first")
    before = KnownTarget(time.time() - 60)
    await queue.append([entry("a", 1, None, before), entry("b", 1), entry("a", 2, None, before)])
    await target.put(value("a", 7))
    tally = await Deliverer(queue, target).run()
    assert [(one.id, one.datum) for one in tally.aside] == [("a", value("a", 1)), ("a", value("a", 2))]
    assert all("version 1" in one.reason and "put of 'a'" in one.reason for one in tally.aside)
    assert await target.get("a") == value("a", 7)
    assert await target.get("b") == value("b", 1)
    first, second = await queue.set_aside()
    assert await queue.count() == (0, 2)
    assert await queue.discard(first.key)
    assert not await queue.discard(first.key)
    assert await queue.retry(second.key)
    assert not await queue.retry(second.key)
    await Deliverer(queue, target).run()
    assert await target.get("a") == value("a", 2)
    assert await queue.count() == (0, 0)


async def test_an_id_whose_record_is_no_record_is_set_aside_and_begins_anew(store: Backend) -> None:
    target, queue = MemoryBackend("n"), Queue(store, "first")
    deliverer = Deliverer(queue, target)
    await queue.append([entry("a", 1), entry("b", 1)])
    await deliverer.run()
    records = store.within(f"{RESERVED}/places/{queue.segment}")
    await records.put(Datum(group_of("n", "a"), b"[1,1", 0.0))
    await queue.append([entry("a", n) for n in range(40)] + [entry("b", 2)])
    tally = await deliverer.run()
    assert (tally.delivered, len(tally.aside), await queue.count()) == (1, 40, (0, 40))
    assert await target.get("a") == value("a", 1)
    await queue.append([entry("a", 2)])
    assert (await deliverer.run()).delivered == 1
    assert await target.get("a") == value("a", 2)


async def test_a_write_that_the_target_refuses_is_set_aside_with_the_reason() -> None:
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    await target.put(Datum("b", b"", 0.0, "a"))
    await queue.append([replace(entry("a", 1), datum=Datum("a", b"", 0.0, "b")), entry("c", 1)])
    tally = await Deliverer(queue, target).run()
    assert [(one.id, one.reason.partition(":")[0]) for one in tally.aside] == [("a", "CausalCycle")]
    assert await target.exists("c")
    assert await queue.count() == (0, 1)


async def test_what_was_purged_and_begun_anew_meanwhile_is_a_conflict() -> None:
    target, store = MemoryBackend(), MemoryBackend()
    program = Program(target, store, Outage())
    for n in range(3):
        await program.write("n", "a", n)
    program.outage.on = True
    await program.write("n", "a", 5)
    here = target.within("n")
    await here.purge("a")
    await here.put(value("a", 7))
    program.outage.on = False
    tally = await program.deliverer.run()
    assert [one.datum for one in tally.aside] == [value("a", 5)]
    assert [one.datum for one in await here.history("a")] == [value("a", 7)]


async def test_a_second_delete_is_not_taken_for_the_first() -> None:
    """x = 1 is known; outage; x is deleted and put; another program delivers both; then x is deleted once more."""
    target, store, outage = MemoryBackend(), MemoryBackend(), Outage()
    one, two = Program(target, store, outage), Program(target, store, outage)
    await one.write("n", "x", 1)
    outage.on = True
    await one.write("n", "x", None)
    await one.write("n", "x", 2)
    outage.on = False
    await two.deliverer.run()
    outage.on = True  # for the one it never ended
    await one.write("n", "x", None)
    outage.on = False
    tally = await one.deliverer.run()
    assert await target.within("n").get("x") is None
    assert [entry.datum for entry in await target.within("n").history("x")] == [
        value("x", 1),
        None,
        value("x", 2),
        None,
    ]
    assert tally.aside == []


async def test_what_was_delivered_before_a_death_is_not_put_over_what_came_after_it() -> None:
    target, store, outage = MemoryBackend(), MemoryBackend(), Outage()
    clock = ManualClock(time.time())
    program = Program(target, store, outage, None, clock)
    outage.on = True
    await program.write("n", "a", 1)
    outage.on = False
    written = [call for call in range(40) if await _dies_after(program, target, call)]
    assert written, "no death came between the write and its receipt"


async def _dies_after(program: Program, target: MemoryBackend, calls: int) -> bool:
    """Deliver, and die after so many calls; where that was after the write, let somebody write and deliver again."""
    from tests.delivery.test_delivery_laws import LEASE, _deliver

    here = target.within("n")
    program.clock.advance(LEASE)
    again = Program(target, program.queue.store.inner, program.outage, None, program.clock)  # type: ignore[attr-defined]
    again.life.left = calls
    await _deliver(again)
    if await here.get("a") is None:
        return False
    waits = (await Queue(program.queue.store.inner, "first").count())[0] > 0  # type: ignore[attr-defined]
    await here.put(value("a", 9))
    program.clock.advance(LEASE)
    last = Program(target, program.queue.store.inner, program.outage, None, program.clock)  # type: ignore[attr-defined]
    await last.deliverer.run()
    assert await here.get("a") == value("a", 9)
    return waits


async def test_who_looks_late_takes_no_delivery_for_the_write_of_a_stranger() -> None:
    """Another program delivers everything between the look at the place of the id and that at the target."""
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    other = Deliverer(queue, target)

    class Late(MemoryBackend):
        async def history(self, id: str, **named: Any) -> Any:
            await other.run()
            return await super().history(id, **named)

    late = Late("n")
    late._shared = target._shared
    before = KnownTarget(time.time() - 60)
    await queue.append([entry("a", 1, None, before), entry("a", None, None, before), entry("a", 2, None, before)])
    tally = await Deliverer(queue, late).run()
    assert (tally.delivered, tally.aside) == (0, [])
    assert [one.datum for one in await target.history("a")] == [value("a", 1), None, value("a", 2)]
    assert await queue.count() == (0, 0)


async def test_progress_is_kept_page_by_page_and_within_a_page() -> None:
    """A target that goes away again and again takes some each time, until it has all."""
    count, switch = 3 * entry_module.PAGE, Switch()
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    await queue.append([entry(f"k{n:03}", n) for n in range(count)])
    deliverer = Deliverer(queue, Switchable(target, switch))
    left = 10

    def fail(verb: str) -> None:
        nonlocal left
        left -= verb == "put"
        if left < 0:
            raise BackendUnavailable("down again")

    switch.before = fail
    for _ in range(count // 10):
        left, before = 10, (await queue.count())[0]
        with pytest.raises(BackendUnavailable):
            await deliverer.run()
        assert (await queue.count())[0] == before - 10
    left = 10
    await deliverer.run()
    assert await target.count() == count
    assert [one.version for one in await target.list(limit=count)] == [1] * count


async def test_a_store_without_versions_is_written_in_order_at_least_once() -> None:
    class Plain(MemoryBackend):
        capabilities = Capabilities(durable=False, history=False, versioned=False)

    target, queue = Plain("n"), Queue(MemoryBackend(), "first")
    await queue.append([entry("a", 1), entry("a", 2), entry("b", 1), entry("b", None)])
    await Deliverer(queue, target).run()
    assert await target.get("a") == value("a", 2)
    assert await target.get("b") is None


async def test_a_store_of_a_queue_that_fails_is_told_from_a_target_that_does() -> None:
    switch = Switch()
    queue = Queue(Switchable(MemoryBackend(), switch), "first")
    await queue.append([entry("a", 1)])
    switch.on = False
    with pytest.raises(QueueUnreadable):
        await Deliverer(queue, MemoryBackend()).run()


async def test_a_target_that_is_damaged_for_one_id_takes_the_others() -> None:
    class Damaged(MemoryBackend):
        async def history(self, id: str, **named: Any) -> Any:
            if id == "a":
                raise Corrupt("version 1 of 'a' is not what was written")
            return await super().history(id, **named)

    target, queue = Damaged("n"), Queue(MemoryBackend(), "first")
    await queue.append([entry("a", 1), entry("b", 1)])
    tally = await Deliverer(queue, target).run()
    assert [(one.id, one.reason[:7]) for one in tally.aside] == [("a", "Corrupt")]
    assert await target.exists("b")


@pytest.mark.filterwarnings("default::dgent.warnings.DamagedWarning")
async def test_a_damaged_entry_is_set_aside_with_its_bytes_and_the_others_go_home(tmp_path: Path) -> None:
    import sqlite3

    target, path = MemoryBackend("n"), tmp_path / "queue.db"
    store = SQLiteBackend(path)
    queue = Queue(store, "first")
    taken = await queue.append([entry(f"k{n}", n) for n in range(6)])
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE dgent_datums SET content = X'00' || content WHERE id = ?", [taken[2].key])
    connection.close()
    store = SQLiteBackend(path)
    queue = Queue(store, "first")
    deliverer = Deliverer(queue, target)
    with pytest.warns(DamagedWarning):
        tally = await deliverer.run()
    assert (tally.delivered, await target.count()) == (5, 5)
    (aside,) = await queue.set_aside()
    assert aside.key == taken[2].key
    assert aside.raw is not None
    assert b'"id":"k2"' in aside.raw
    assert await queue.count() == (0, 1)
    assert not await queue.retry(aside.key)
    assert await queue.discard(aside.key)
    await store.close()


async def test_what_is_no_entry_is_set_aside() -> None:
    store, target = MemoryBackend(), MemoryBackend("n")
    queue = Queue(store, "first")
    contents = (b"no json\n", b"[]\n", b'{"id":"a"}\n', b"{}")
    for n, content in enumerate(contents):
        await queue._log.put(Datum(f"k{n}", content, 0.0))
    await queue.append([entry("a", 1)])
    await Deliverer(queue, target).run()
    assert await target.count() == 1
    assert [one.raw for one in await queue.set_aside()] == list(contents)


async def test_queues_for_different_targets_in_one_store_do_not_meet() -> None:
    store = MemoryBackend()
    one, two = Queue(store, "one"), Queue(store, "two")
    await one.append([entry("a", 1)])
    assert (await one.count(), await two.count()) == ((1, 0), (0, 0))


def test_errors_of_a_queue_name_it() -> None:
    error = QueueUnreadable(Queue(MemoryBackend(), "first"), StorageError("gone"))
    assert (str(error), error.queue.target) == ("gone", "first")


@pytest.mark.parametrize("kind", ["jsonl", "db"])
async def test_what_the_first_format_left_is_taken_over_in_its_order(tmp_path: Path, kind: str) -> None:
    """A frozen file: two namespaces, a delete, a time to live, one taken off already, and one set aside."""
    path = tmp_path / f"queue.{kind}"
    shutil.copy(Path(__file__).parent.parent / "assets" / f"queue-1.{kind}", path)
    path.chmod(0o600)
    store: Any = JSONLBackend(path) if kind == "jsonl" else SQLiteBackend(path)
    queue, target = Queue(store, "first"), MemoryBackend()
    await asyncio.gather(queue.prepare(), Queue(store, "first").prepare())
    assert await queue.count() == (4, 1)
    assert (await Deliverer(queue, target).run()).delivered == 4
    assert [one.datum for one in await target.within("notes").history("a")] == [
        Datum("a", b"one\ntwo", 1.5, "root", {"tags": ["x"]}),
        Datum("a", b"three", 3.5),
    ]
    assert await target.within("notes/deep").get("a") == Datum("a", b"\xff\x00", 2.5)
    (aside,) = await queue.set_aside()
    assert (aside.namespace, aside.id, aside.datum) == ("notes", "b", None)
    assert "another version" in aside.reason
    assert await queue.discard(aside.key)
    await queue.sweep()
    assert [name for name in await store.namespaces(".dgent") if "/places/" not in name] == []
    await store.close()


async def test_a_program_that_delivers_a_queue_while_it_is_moved_writes_nothing_twice(store: Backend) -> None:
    """It has read a page of it, and planned one entry."""
    former, queue, target = Queue(store, "former"), Queue(store, "new"), MemoryBackend("n")
    await former.append([entry("planned", 1, ttl=60.0), entry("read", 1, ttl=60.0), entry("planned", None)])
    old = Deliverer(former, target)
    page = await former.page()
    delivery = PageDelivery(old, Tally(), {})
    plan = await delivery._plan(page.entries[0])
    while await move_page(former, queue):
        pass
    assert (await former.count(), await queue.count()) == ((0, 0), (3, 0))
    assert isinstance(plan, BaseVersion)
    await delivery._writer.write(page.entries[0], plan)
    for one in page.entries[1:]:
        await delivery.carry([one])
    await delivery.finish()
    assert [one.id for one in await target.list()] == ["planned"]
    later = time.time() + page_delivery.LEASE
    assert (await Deliverer(queue, target, clock=lambda: later).run()).delivered == 3
    assert [one.datum for one in await target.history("planned")] == [value("planned", 1), None]
    assert len(await target.history("read")) == 1


async def test_what_is_damaged_is_moved_among_what_was_set_aside(store: Backend) -> None:
    former, queue, target = Queue(store, "former"), Queue(store, "new"), MemoryBackend("n")
    (one, _) = await former.append([entry("a", 1), entry("b", 1)])
    await former.append([entry("a", 2)])
    await former._watermarks.put(Datum(one.group, b"no record", 0.0))
    await former._log.put(Datum("x" * 32 + "-1", b"no entry", 0.0))
    while await move_page(former, queue):
        pass
    assert (await former.count(), await queue.count()) == ((0, 0), (1, 3))
    aside = await queue.set_aside()
    assert [(each.id, each.raw) for each in aside] == [("", b"no entry"), ("a", None), ("a", None)]
    assert all("may be in" in each.reason for each in aside[1:])
    assert (await Deliverer(queue, target).run()).delivered == 1
