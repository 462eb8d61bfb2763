"""A touch, and a delete that says why, wait and are delivered as what they are."""

from __future__ import annotations

import time

import orjson
from tests.delivery.delivering_programs import value

from dgent.delivery import Deliverer, KnownTarget, Queue, QueuedErasure, queued
from dgent.delivery.queued_write import RESERVED
from dgent.erasure_request import Erasure
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.operations import Delete, Put, Touch


async def test_a_touch_waits_and_is_delivered_as_one() -> None:
    """Mutants: it is delivered as a delete; by the time it was given and not by what is left; over a later version."""
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    put = await target.put_many([value("touched", 0), value("stays", 0), value("late", 0)], ttl=100)
    now, known = time.time(), KnownTarget(0.0, put[-1].seq)
    waits = [Touch("touched", 50.0), Touch("stays", None), Touch("late", 5.0), Touch("nobody", 5.0)]
    await queue.append([queued("n", one, now - 10, known) for one in waits])
    assert [(each.kind, each.touches) for each in (await queue.page()).entries] == [("touch", True)] * 4
    later = await target.put(value("late", 1))
    tally = await Deliverer(queue, target).run()
    assert (tally.delivered, [each.what for each in tally.aside]) == (3, ["the touch of 'late'"])
    touched, stays = await target.get("touched"), await target.get("stays")
    assert touched is not None
    assert touched.version == 1
    assert now + 39 < (touched.expires_at or 0) < now + 41
    assert stays is not None
    assert stays.expires_at is None
    assert await target.get("late") == later
    assert len(await target.history("touched")) == 1


async def test_a_delete_that_waits_takes_along_who_and_why() -> None:
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    await target.put(value("a", 0))
    await queue.append([queued("n", Delete("a", None, "ann", "by mistake"), time.time(), KnownTarget(1e15))])
    await Deliverer(queue, target).run()
    assert [(each.author, each.reason) for each in await target.history("a")] == [(None, None), ("ann", "by mistake")]


async def test_a_touch_that_waits_goes_with_an_erasure_and_brings_nothing_back() -> None:
    """Mutants: an erasure leaves the touches of what it takes; a touch behind it is set aside."""
    target, queue = MemoryBackend("n"), Queue(MemoryBackend(), "first")
    await target.put_many([value("gone", 0), value("back", 0), value("kept", 0)])
    now, known = time.time(), KnownTarget(1e15)
    await queue.append([queued("n", Touch(id, 50.0), now, known) for id in ("gone", "back", "kept")])
    for prefix in ("gone", "back"):
        await queue.append_erasure(QueuedErasure("n", Erasure(prefix, below=False), now))
    later = [Touch("gone", 9.0), Put(value("back", 1)), Touch("back", 9.0)]
    await queue.append([queued("n", one, now, known) for one in later])
    tally = await Deliverer(queue, target).run()
    assert (tally.delivered, tally.aside) == (4, [])
    assert await target.get("gone") is None
    assert await target.history("gone") == []
    back, kept = await target.get("back"), await target.get("kept")
    assert back == value("back", 1)
    assert back is not None
    assert back.expires_at is not None
    assert back.expires_at < now + 30
    assert kept is not None
    assert kept.expires_at is not None
    assert kept.expires_at > now + 30


async def test_what_waits_as_ever_is_written_as_ever() -> None:
    """A program that knows neither touches nor authors reads it; those it takes for damaged, and for no delete."""
    queue = Queue(store := MemoryBackend(), "first")
    await queue.append([queued("n", one, 1.0, KnownTarget(1.0)) for one in (Put(value("a", 1)), Delete("b"))])
    records = await store.within(f"{RESERVED}/queue/{queue.segment}").list()
    for record in records:
        assert {"touches", "note"}.isdisjoint(orjson.loads(record.content.partition(b"\n")[0]))
