"""E1: each id ends with the last acknowledged write of its writer, or with a conflict that names both."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.delivery.delivering_programs import DeathError, Outage, Program, contents, value

from dgent.delivery import Deliverer, Queue
from dgent.delivery.page_delivery import LEASE
from dgent.exceptions import BackendUnavailable
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.testing.manual_clock import ManualClock

IDS = "abcd"
writes = st.tuples(st.just("write"), st.sampled_from(IDS), st.none() | st.integers(0, 1))
steps = st.lists(
    st.one_of(
        writes,
        writes,
        writes,
        st.tuples(st.just("outage"), st.booleans(), st.none()),
        st.tuples(st.just("deliver"), st.integers(0, 1), st.none() | st.integers(0, 25)),
        st.tuples(st.just("both"), st.none(), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=150)
@given(steps=steps, seed=st.integers(0, 2**16))
async def test_l_e1_one_writer_for_each_id_ends_with_its_last_write_and_nothing_set_aside(
    steps: list[Any], seed: int
) -> None:
    """The one program writes `a` and `b`, the other `c` and `d`; both deliver, and die while they do."""
    random = Random(seed)
    target, store, outage = MemoryBackend(), MemoryBackend(), Outage()
    clock = ManualClock(time.time())
    programs = [Program(target, store, outage, random, clock) for _ in range(2)]
    ends: dict[str, int | None] = dict.fromkeys(IDS)
    for step, first, second in steps:
        if step == "write":
            writer = IDS.index(first) // 2
            await programs[writer].write("n", first, second)
            ends[first] = second
        elif step == "outage":
            outage.on = first
        elif step == "deliver":
            programs[first].life.left = second
            await _deliver(programs[first])
            if programs[first].life.dead:
                programs[first] = Program(target, store, outage, random, clock)
                clock.advance(LEASE)
            programs[first].life.left = None
        else:
            await asyncio.gather(*map(_deliver, programs))
    outage.on = False
    await asyncio.gather(*map(_deliver, programs))
    found = {id: await target.within("n").get(id) for id in IDS}
    assert found == {id: None if n is None else value(id, n) for id, n in ends.items()}
    queue = Queue(store, "first")
    assert await queue.set_aside() == []
    assert await queue.count() == (0, 0)


async def _deliver(program: Program) -> None:
    with suppress(BackendUnavailable, DeathError):
        await program.deliverer.run()


@settings(max_examples=60)
@given(
    before=st.lists(writes, max_size=6),
    queued=st.lists(writes, min_size=1, max_size=12),
    deaths=st.lists(st.integers(0, 40), max_size=4),
)
async def test_l_e1_after_any_death_the_target_has_every_write_once_and_in_order(
    before: list[Any], queued: list[Any], deaths: list[int]
) -> None:
    """The same writes without an outage are the model, with every version of them."""
    model, target, store, outage = MemoryBackend(), MemoryBackend(), MemoryBackend(), Outage()
    clock = ManualClock(time.time())
    program = Program(target, store, outage, None, clock)
    for _, id, n in before:
        await program.write("n", id, n)
        await _write(model, id, n)
    outage.on = True
    for _, id, n in queued:
        await program.write("n", id, n)
        await _write(model, id, n)
    outage.on = False
    for calls in deaths:
        clock.advance(LEASE)
        program = Program(target, store, outage, None, clock)
        program.life.left = calls
        await _deliver(program)
    clock.advance(LEASE)
    await Program(target, store, outage, None, clock).deliverer.run()
    assert await contents(target, IDS) == await contents(model, IDS)
    assert await Queue(store, "first").count() == (0, 0)


async def _write(store: MemoryBackend, id: str, n: int | None) -> None:
    here = store.within("n")
    await (here.delete(id) if n is None else here.put(value(id, n)))


@settings(max_examples=80)
@given(
    queued=st.lists(writes, min_size=1, max_size=8),
    foreign=st.lists(writes, max_size=8),
    deaths=st.lists(st.integers(0, 30), max_size=2),
    seed=st.integers(0, 2**16),
)
async def test_l_e1_what_somebody_else_wrote_meanwhile_stays_and_no_write_is_lost(
    queued: list[Any], foreign: list[Any], deaths: list[int], seed: int
) -> None:
    """A stranger writes the same ids while the writes wait, and while they are delivered."""
    random = Random(seed)
    target, store, outage = MemoryBackend(), MemoryBackend(), Outage()
    clock, last = ManualClock(time.time()), itertools.count(10)
    program = Program(target, store, outage, random, clock)
    outage.on = True
    for _, id, n in queued:
        await program.write("n", id, n)
    outage.on = False
    theirs: dict[str, list[Any]] = {id: [] for id in IDS}

    async def stranger() -> None:
        for _, id, n in foreign:
            await asyncio.sleep(0)
            number = None if n is None else next(last)
            await _write(target, id, number)
            theirs[id].append(None if number is None else value(id, number))

    async def deliver() -> None:
        for calls in [*deaths, None]:
            clock.advance(LEASE)
            one = Program(target, store, outage, random, clock)
            one.life.left = calls
            await _deliver(one)

    await asyncio.gather(stranger(), deliver())
    queue = Queue(store, "first")
    aside = await queue.set_aside()
    assert (await queue.count())[0] == 0
    for id in IDS:
        history = [one.datum for one in await target.within("n").history(id)]
        assert [one for one in history if one in theirs[id] and one] == [one for one in theirs[id] if one]
        reasons = [entry.reason for entry in aside if entry.id == id]
        assert all("did not know of" in reason or "purged" in reason for reason in reasons)
        assert theirs[id] or not reasons
    for _, id, n in queued:
        if n is not None:
            history = [one.datum for one in await target.within("n").history(id)]
            assert value(id, n) in [*history, *(entry.datum for entry in aside)]


async def test_a_put_that_lands_on_a_tombstone_of_somebody_else_is_taken_back() -> None:
    """Nothing was live when it was planned, and nothing is live when it is written; in between somebody was here."""
    target, store = MemoryBackend(), MemoryBackend()

    class Slow(MemoryBackend):
        async def put(self, *args: Any, **named: Any) -> Any:
            here = target.within("n")
            await here.put(value("a", 7))
            await here.delete("a")
            return await here.put(*args, **named)

    slow = Slow("n")
    slow._shared = target._shared
    program = Program(target, store, Outage())
    program.outage.on = True
    await program.write("n", "a", 1)
    tally = await Deliverer(Queue(store, "first"), slow).run()
    assert await target.within("n").get("a") is None
    (entry,) = tally.aside
    assert entry.datum == value("a", 1)
