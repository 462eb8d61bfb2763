"""What was spilled reaches the first store: all of it, in order, once, wherever the replay breaks off."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.switchable import Switch, Switchable

from dgent.datum import Datum, Limits
from dgent.exceptions import Corrupt, DegradedWarning
from dgent.memory import spill as spill_module
from dgent.memory.gate import Gate
from dgent.memory.jsonl import JSONLBackend
from dgent.memory.replay import Replay
from dgent.memory.router import DgentRouter
from dgent.memory.spill import Entry, Operation, Spill, View, mark_of, roomy
from dgent.memory.sqlite import SQLiteBackend
from dgent.memory.volatile import MemoryBackend
from dgent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgent.protocol import Backend
    from dgent.query import Page, Query

IDS = ("a", "b", "c")
NAMESPACES = ("n", "n/m")
writes = st.lists(
    st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(IDS), st.none() | st.integers(0, 2)), min_size=1, max_size=12
)


class CrashError(Exception):
    """The process ends here."""


def operation(id: str, n: int | None, ttl: float | None = None) -> Operation:
    return Operation(id, None if n is None else Datum(id, b"%d" % n, float(n)), ttl)


async def write(store: Any, id: str, n: int | None) -> None:
    await (store.delete(id) if n is None else store.put(Datum(id, b"%d" % n, float(n))))


async def contents(store: Backend) -> dict[tuple[str, str], list[Datum | None]]:
    """Return every version of everything."""
    return {
        (space, id): [one.datum for one in await store.within(space).history(id)] for space in NAMESPACES for id in IDS
    }


@settings(max_examples=40)
@given(before=writes, spilled=writes, data=st.data())
async def test_after_any_crash_the_first_has_every_write_once_and_in_order(
    before: list[Any], spilled: list[Any], data: st.DataObject
) -> None:
    """The same writes without an outage are the model; the stores outlive the crashes, the routers do not."""
    model, first, second = MemoryBackend(), MemoryBackend(), MemoryBackend()
    for space, id, n in before:
        await write(model.within(space), id, n)
        await write(first.within(space), id, n)
    spill = Spill(second, "first")
    since = time.time()
    for space, id, n in spilled:
        await spill.append(space, [operation(id, n)], since)
        await write(model.within(space), id, n)
    for _ in range(3):
        switch, left = Switch(), itertools.count(data.draw(st.integers(1, 25)), -1)

        def crash(verb: str, left: Iterator[int] = left) -> None:
            if next(left) == 0:
                raise CrashError(verb)

        switch.before = crash
        try:
            await Replay(Switchable(first, switch)).run(Spill(Switchable(second, switch), "first"))
        except CrashError:
            continue
    replay = Replay(first)
    await replay.run(Spill(second, "first"))
    assert replay.conflicts == []
    assert await contents(first) == await contents(model)
    assert await Spill(second, "first").count() == (0, 0)


@settings(max_examples=60)
@given(spilled=writes, foreign=writes, data=st.data())
async def test_what_somebody_else_wrote_stays_and_nothing_is_lost(
    spilled: list[Any], foreign: list[Any], data: st.DataObject
) -> None:
    first, second = MemoryBackend(), MemoryBackend()
    spill, since = Spill(second, "first"), time.time() - 1e-3
    for space, id, n in spilled:
        await spill.append(space, [operation(id, n)], since)
    for space, id, n in foreign:
        await write(first.within(space), id, None if n is None else n + data.draw(st.sampled_from([0, 10])))
    theirs = await contents(first)
    replay = Replay(first)
    await replay.run(spill)
    found, aside = await contents(first), await spill.conflicts()
    for at, versions in theirs.items():
        assert found[at][: len(versions)] == versions
    for space, id, n in spilled:
        value = operation(id, n).datum
        kept = found[space, id] if n is not None else [*found[space, id], None]
        assert value in kept or any((one.namespace, one.datum) == (space, value) for one in aside)
    assert [replace(one, seq=0) for one in aside] == [replace(one, seq=0) for one in replay.conflicts]
    for one in aside:  # a conflict is about an id that somebody else touched
        assert theirs[one.namespace, one.id]


@settings(max_examples=15)
@given(spilled=writes, data=st.data())
async def test_a_router_that_crashes_while_it_recovers_leaves_all_to_the_next(
    spilled: list[Any], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedWarning)
        switch = Switch()

        def router() -> DgentRouter:
            first = Switchable(SQLiteBackend(Path(place) / "first.db"), switch)
            loaded = Settings.load(data_dir=place, synchronous="NORMAL")
            return DgentRouter(loaded, backends=[first, JSONLBackend(Path(place) / "second.jsonl")])

        switch.on, model = False, MemoryBackend()
        one = router()
        for space, id, n in spilled:
            await write(one.within(space), id, n)
            await write(model.within(space), id, n)
        await one.close()
        switch.on = True
        left = itertools.count(data.draw(st.integers(0, 30)), -1)

        def crash(verb: str) -> None:
            if next(left) == 0:
                raise CrashError(verb)

        switch.before = crash
        one = router()
        try:
            await one.open()
        except CrashError:
            pass
        finally:
            await one.close()
        switch.before = None
        async with router() as one:
            assert await contents(one) == await contents(model)
            assert await one.conflicts() == []


async def test_a_batch_is_spilled_whole_or_not_at_all() -> None:
    store = MemoryBackend(limits=Limits(max_content=1000))
    spill = Spill(store, "first")
    with pytest.raises(Exception, match="max_content"):
        await spill.append("n", [operation("a", 1), Operation("b", Datum("b", b"x" * 1000, 0.0))], 0.0)
    assert await spill.count() == (0, 0)


@given(content=st.binary(max_size=64), id=st.text(min_size=1, max_size=8), ttl=st.none() | st.floats(0.1, 1e6))
async def test_an_entry_comes_back_as_it_went(content: bytes, id: str, ttl: float | None) -> None:
    id = id.encode(errors="replace").decode().replace("\0", "0")
    value = Datum(id, content, 1.5, "pärent\n", {"a": {"b": "\n"}, "tags": ["x"]})
    spill = Spill(MemoryBackend(), "first")
    taken = await spill.append("n/m", [Operation(id, value, ttl), Operation(id, None)], 7.25)
    (page,) = [page async for page in spill.entries()]
    assert [replace(one, seq=0) for one in page] == taken
    assert page[0].datum == value
    assert (page[1].datum, page[1].after) == (None, mark_of(value))


async def test_whatever_fits_the_first_fits_the_spill() -> None:
    limits = Limits(max_content=100, max_metadata=4000)
    value = Datum("\U0001f600" * 512, b"x" * 100, 0.0, "\x01" * 512, {"a": '\x01"\\' * 390})
    limits.admit(value)
    spill = Spill(MemoryBackend(limits=roomy(limits)), "first")
    await spill.append("\x01" * 512, [Operation(value.id, value)], 0.0)
    assert await spill.count() == (1, 0)


async def test_a_time_to_live_goes_on_while_the_write_waits() -> None:
    first, spill = MemoryBackend("n"), Spill(MemoryBackend(), "first")
    await first.put_many([Datum("short", b"old", 0.0), Datum("long", b"old", 0.0)])
    since = time.time()
    await spill.append("n", [operation("short", 1, 1e-9), operation("long", 1, 3600.0)], since)
    await Replay(first).run(spill)
    assert await first.get("short") is None
    assert len(await first.history("short")) == 2
    assert (await first.get("long") or operation("", 0)).id == "long"


def test_the_rest_of_a_time_to_live_is_never_nothing() -> None:
    entry = Entry("k", 1, "n", "a", None, 10.0, 100.0, 0.0, None)
    assert entry.rest_of_ttl(104.0) == 6.0
    assert 0 < (entry.rest_of_ttl(200.0) or 0) < 0.001
    assert replace(entry, ttl=None).rest_of_ttl(200.0) is None


async def test_a_log_that_two_programs_wrote_is_no_conflict_for_who_finds_half_of_it_gone() -> None:
    first, store = MemoryBackend("n"), MemoryBackend()
    one, two, since = Spill(store, "first"), Spill(store, "first"), time.time()
    for n in range(6):
        await (two if n % 2 else one).append("n", [operation("a", n)], since)
    await Replay(first).run(one, until=6)
    for n in range(6, 9):
        await (two if n % 2 else one).append("n", [operation("a", n)], since)
    (page,) = [page async for page in one.entries()]
    for n in (6, 7, 8):  # as another process does, which has not come to forget it yet
        await write(first, "a", n)
    await one.forget(page[:2])
    replay = Replay(first)
    await replay.run(two)
    assert replay.conflicts == []
    assert [revision.datum for revision in await first.history("a")] == [operation("a", n).datum for n in range(9)]


async def test_nothing_is_forgotten_that_was_spilled_during_the_replay() -> None:
    spill = Spill(MemoryBackend(), "first")

    class Slow(MemoryBackend):
        async def put(self, datum: Datum, *, expect: int | None = None, ttl: float | None = None) -> Datum:
            if datum.id == "a":
                await spill.append("n", [operation("late", 1)], time.time())
            return await super().put(datum, expect=expect, ttl=ttl)

    await spill.append("n", [operation("a", 1)], time.time())
    await Replay(Slow()).run(spill)
    assert [entry.id async for page in spill.entries() for entry in page] == ["late"]


async def test_a_write_that_the_first_refuses_is_set_aside_with_the_reason() -> None:
    first, spill = MemoryBackend("n"), Spill(MemoryBackend(), "first")
    await first.put(Datum("b", b"", 0.0, "a"))
    since = time.time()
    await spill.append("n", [Operation("a", Datum("a", b"", 0.0, "b")), operation("c", 1)], since)
    replay = Replay(first)
    await replay.run(spill)
    assert [(one.id, one.reason.partition(":")[0]) for one in replay.conflicts] == [("a", "CausalCycle")]
    assert await first.exists("c")
    assert await spill.count() == (0, 1)
    assert await spill.settle(replay.conflicts[0].key)
    assert await spill.count() == (0, 0)


class Restarting(MemoryBackend):
    """Somebody purges an id and begins it anew between the two looks of the replay."""

    begun = False

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        if not Restarting.begun:
            Restarting.begun = True
            await self.purge(id)
            await self.put(Datum(id, b"theirs", 0.0))
        return await super().get(id, version=version)


async def test_what_was_purged_and_begun_anew_meanwhile_is_a_conflict() -> None:
    first, spill = Restarting("n"), Spill(MemoryBackend(), "first")
    for n in range(3):
        await write(first, "a", n)
    await spill.append("n", [operation("a", 5), operation("a", 6)], time.time())
    replay = Replay(first)
    await replay.run(spill)
    assert [one.id for one in replay.conflicts] == ["a", "a"]
    assert [one.datum for one in await first.history("a")] == [Datum("a", b"theirs", 0.0)]


async def test_a_long_spill_is_replayed_by_pages_and_leaves_nothing_behind(tmp_path: Path) -> None:
    count = 5 * spill_module.PAGE + 1
    second, first = JSONLBackend(tmp_path / "second.jsonl"), MemoryBackend("n")
    spill = Spill(second, "first")
    await spill.append("n", [operation(f"k{n % 7}", n) for n in range(count)], time.time())
    replay = Replay(first)
    await replay.run(spill, until=count - 3)
    assert replay.replayed == count - 3
    await replay.run(spill)
    assert replay.replayed == count
    await spill.sweep()
    assert await second.namespaces() == []
    await second.close()


async def test_a_view_follows_the_log() -> None:
    spill, view = Spill(MemoryBackend(), "first"), View(Limits())
    await spill.append("n", [operation("a", n) for n in range(70)], 0.0)
    assert (await (await view.of([spill], "n")).get("a")) == operation("a", 69).datum
    await spill.append("n", [operation("a", None), operation("b", 1)], 0.0)
    store = await view.of([spill], "n")
    assert [one.id for one in await store.list()] == ["b"]
    assert await (await view.of([spill], "n/m")).count() == 0


class Hesitating(MemoryBackend):
    """Lets others go first whenever it is asked."""

    async def query(self, query: Query) -> Page:
        await asyncio.sleep(0)
        return await super().query(query)


async def test_readers_of_a_view_at_once_take_each_write_once() -> None:
    spill, view = Spill(Hesitating(), "first"), View(Limits())
    await spill.append("n", [operation("a", n % 3) for n in range(40)], 0.0)
    await asyncio.gather(*(view.of([spill], "n") for _ in range(5)))
    assert len(await view.memory.within("n").history("a")) == 40


async def test_a_gate_stays_shut_when_one_who_waits_gives_up() -> None:
    gate, passed = Gate(), []

    async def enter(name: str) -> None:
        async with gate:
            passed.append(name)

    async with gate.shut():
        waiting = [asyncio.create_task(enter(name)) for name in "abc"]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert passed == []
    await asyncio.gather(*waiting[1:])
    assert sorted(passed) == ["b", "c"]
    async with gate:
        shutting = asyncio.create_task(gate.shut().__aenter__())
        await asyncio.sleep(0)
        assert not shutting.done()
        shutting.cancel()
        await asyncio.wait([shutting])
    await enter("d")


async def test_a_damaged_entry_is_corrupt() -> None:
    store = MemoryBackend()
    spill = Spill(store, "first")
    for content in (b"no json\n", b"[]\n", b'{"id":"a"}\n', b"{}"):
        await spill._log.put(Datum("k", content, 0.0))
        with pytest.raises(Corrupt):
            await Replay(MemoryBackend()).run(spill)


def test_marks_differ_where_values_do() -> None:
    values = [
        None,
        Datum("a", b"", 0.0),
        Datum("a", b"x", 0.0),
        Datum("b", b"", 0.0),
        Datum("a", b"", 1.0),
        Datum("a", b"", 0.0, "b"),
        Datum("a", b"", 0.0, None, {"a": 1}),
    ]
    assert len({mark_of(value) for value in values}) == len(values)
    assert mark_of(Datum("a", b"x", 0.0)) == mark_of(Datum("a", b"x", 0.0))
