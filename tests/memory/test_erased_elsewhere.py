"""What waits for a store elsewhere is erased before anything goes there, and what is put later is not lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.memory.switchable_backend import Switchable
from tests.memory.test_failover_router import Place, datum

from dgent.delivery import Deliverer, Queue, QueuedErasure, QueuedWrite, Tally, move_page
from dgent.delivery.queued_write import EVERYTHING
from dgent.delivery.watermark import DeliveryPlan, Watermark
from dgent.erasure_request import Erased, Erasure
from dgent.exceptions import BackendUnavailable
from dgent.memory.failover import state as failover_state
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.warnings import DegradedWarning

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(failover_state, "SOONEST", 3600.0)  # no probe unless a test asks for it
    monkeypatch.setattr(failover_state, "LATEST", 3600.0)
    return Place(tmp_path)


async def test_l_q4_what_waits_is_erased_and_what_is_put_later_gets_there(place: Place) -> None:
    async with place.behind() as first:
        await first.put_many([datum("old"), datum("kept")])
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        other = router.within("other")
        await router.put_many([datum(f"old{n}") for n in range(40)])
        await other.put(datum("old"))
        assert await router.erase(prefix="old") == Erased(queued=40, pending="sqlite")
        assert await router.list() == []
        await router.put(datum("old3", 2))
        assert [found.id for found in await router.list()] == ["old3"]
        place.first.on = True
        assert (await router.recover()).complete
        assert {found.id for found in await router.list()} == {"kept", "old3"}
        assert await router.get("old3") == datum("old3", 2)
        assert [entry.datum for entry in await router.history("old3")] == [datum("old3", 2)]
        assert await other.get("old") == datum("old")
        assert await router.erase(everything=True, below=True) == Erased(2, 2, 1)
    for path in place.folder.rglob("*.jsonl"):
        assert b"old1" not in path.read_bytes()


async def test_l_q4_an_erasure_that_waits_survives_its_program(place: Place) -> None:
    async with place.behind() as first:
        await first.put_many([datum("a"), datum("b")])
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        await router.erase(everything=True)
    place.first.on = True
    async with place.router() as router:
        await router.open()
        await router.settled()
        assert await router.list() == []
        assert "default" not in await router.namespaces()
        assert (await router.put(datum("c"))).seq == 3


async def test_what_was_set_aside_is_erased_with_the_rest(place: Place) -> None:
    async with place.behind() as first:
        await first.put(datum("a"))
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        await router.put_many([datum("a", 2), datum("b", 2)])
    place.first.on = True
    async with place.behind() as first:
        await first.put_many([datum("a", 3), datum("b", 3)])  # by somebody else, later on
    async with place.router() as router:
        await router.open()
        assert len((await router.recover()).set_aside) + len(await router.set_aside()) > 0
        assert len(await router.set_aside()) == 2
        assert await router.erase(prefix="a") == Erased(2, 1, 1, queued=1)
        assert [entry.id for entry in await router.set_aside()] == ["b"]
        assert (await router.erase(everything=True)).queued == 1
        assert await router.set_aside() == []


async def test_an_erasure_waits_for_nothing_that_cannot_be_read(place: Place) -> None:
    """Else it would come back from there."""
    await _spilled(place)
    path = next(place.folder.rglob("*.jsonl"))
    path.write_bytes(b"X" + path.read_bytes()[1:])
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        await router.put(datum("here"))
        with pytest.raises(BackendUnavailable, match="may wait in jsonl"):
            await router.erase(everything=True)
        assert await router.get("here") == datum("here")


async def _spilled(place: Place) -> None:
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        await router.put(datum("waits"))
    place.first.on = True


def waiting(id: str, n: int = 1) -> QueuedWrite:
    return QueuedWrite("default", id, datum(id, n), None, 1.0, EVERYTHING)


async def test_a_write_that_another_program_has_read_already_is_not_delivered() -> None:
    """It finds in the record of the id that it is dealt with."""
    store, target = MemoryBackend(), Switchable(MemoryBackend())
    queue = Queue(store, "t")
    slow, quick = Deliverer(queue, target), Deliverer(Queue(store, "t"), target)
    await queue.append([waiting("a"), waiting("b")])
    held = target.switch.held["history"] = asyncio.Event()
    task = asyncio.create_task(slow.run())
    while "history" not in target.switch.calls:
        await asyncio.sleep(0)
    await queue.append_erasure(QueuedErasure("default", Erasure("a"), 2.0))
    await queue.append([waiting("a", 2)])
    await quick.erase(Tally())
    held.set()
    await task
    await quick.run()
    assert {found.id: found for found in await target.list()} == {"a": datum("a", 2), "b": datum("b")}
    assert [entry.version for entry in await target.history("a")] == [1]


async def test_a_write_that_another_program_has_planned_is_waited_for() -> None:
    now = 100.0
    store, target = MemoryBackend(), MemoryBackend()
    queue = Queue(store, "t")
    (entry,) = await queue.append([waiting("a")])
    await queue.move(entry.group, Watermark(plan=DeliveryPlan(entry.seq, 0, "another", now + 5)))
    await queue.append_erasure(QueuedErasure("default", Erasure(None), 2.0))
    deliverer, tally = Deliverer(queue, target, clock=lambda: now), Tally()
    await target.put(datum("before"))
    assert await deliverer.page(tally)
    assert await target.exists("before")
    now += 6
    await deliverer.run(tally)
    assert tally.erased == Erased(1, 1, 1, queued=1)
    assert await target.list() == []
    assert await queue.count() == (0, 0)


async def test_an_erasure_under_another_name_of_the_queue_is_moved_before_what_waits_behind_it() -> None:
    store, target = MemoryBackend(), MemoryBackend()
    former, queue = Queue(store, "before"), Queue(store, "now")
    await target.put_many([datum("a", 7), datum("c", 7)])
    await former.append([waiting("a"), waiting("b")])
    await former.append_erasure(QueuedErasure("default", Erasure("a"), 2.0))
    await former.append([waiting("a", 2)])
    while await move_page(former, queue):
        pass
    await Deliverer(queue, target).run()
    assert {found.id: found for found in await target.list()} == {
        "a": datum("a", 2),
        "b": datum("b"),
        "c": datum("c", 7),
    }
    assert [entry.version for entry in await target.history("a")] == [1]
    assert [await one.count() for one in (former, queue)] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("verb", ["erase", "move", "purge"])
async def test_an_erasure_that_is_broken_off_is_applied_again(verb: str) -> None:
    store, target = Switchable(MemoryBackend()), Switchable(MemoryBackend())
    broken = target.switch if verb == "erase" else store.switch
    queue = Queue(store, "t")
    await queue.append([waiting("a"), waiting("b")])
    await target.put(datum("a", 7))
    await queue.append_erasure(QueuedErasure("default", Erasure("a"), 2.0))
    await queue.append([waiting("a", 2)])
    fails = {"erase": ["erase"], "move": ["put", "put", "put"], "purge": ["purge", "purge"]}[verb]

    def before(called: str) -> None:
        if fails and called == fails[0]:
            fails.pop(0)
            if not fails:
                raise BackendUnavailable("broken off")

    broken.before = before
    clock = iter(range(100, 10_000, 10))
    with pytest.raises(Exception, match="broken off"):
        await Deliverer(queue, target, clock=lambda: float(next(clock))).run()
    await Deliverer(queue, target, clock=lambda: float(next(clock))).run()
    assert {found.id: found for found in await target.list()} == {"a": datum("a", 2), "b": datum("b")}
    assert [entry.version for entry in await target.history("a")] == [1]
