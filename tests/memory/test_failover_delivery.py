"""While what waited is on its way into the first store, that serves, and answers only when it can for all of it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self

import pytest
from tests.memory.switchable_backend import Switchable
from tests.memory.test_failover_router import Place, datum

from dgent.delivery import DeliveryReport, Progress, Queue, digest_of
from dgent.delivery.queued_write import PAGE, group_of
from dgent.exceptions import BackendUnavailable, Corrupt, DeliveryPending, OutcomeUnknown, VersionConflict
from dgent.memory.failover import observed_versions
from dgent.memory.failover import state as failover_state
from dgent.memory.failover.observed_versions import ObservedVersions
from dgent.memory.failover.router import DgentRouter
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.query import Query
from dgent.runtime.backoff import Backoff
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.storage import StorageProvider
from dgent.warnings import DamagedWarning, DegradedWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dgent.datum import Datum

COUNT = 3 * PAGE


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(failover_state, "SOONEST", 3600.0)  # no probe unless a test asks for it
    monkeypatch.setattr(failover_state, "LATEST", 3600.0)
    return Place(tmp_path)


async def spilled(place: Place, count: int = COUNT) -> None:
    """Leave some writes that wait, by a program that had to start without the first store."""
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        await router.put_many([datum(f"k{n:04}") for n in range(count)])
    place.first.on = True


async def test_opening_does_not_wait_for_the_way_home(place: Place) -> None:
    async with place.behind() as store:
        await store.put(datum("here"))
    await spilled(place)
    place.first.held["put"] = asyncio.Event()
    place.settings = Settings.load(data_dir=place.folder, delivery_timeout=0.05)
    async with place.router() as router:
        await router.open()
        status = await router.status()
        assert (status["state"], status["waiting"], status["degraded"]) == ("delivering", COUNT, False)
        assert await router.get("here") == datum("here")
        waiting: list[Callable[[], Any]] = [
            router.list,
            router.count,
            router.stats,
            router.namespaces,
            router.compact,
            lambda: router.query(Query()),
            lambda: router.as_of(time.time()),
            lambda: router.causal_chain("here"),
            lambda: router.changes(0),
            lambda: router.seq_at(time.time()),
            router.head,
            lambda: router.purge("here"),
            lambda: router.put(datum("here", 2), expect=1),
            lambda: router.put(datum("here", 2), ttl="keep"),
            lambda: router.delete("here", expect=1),
            lambda: router.get_many([f"k{n:04}" for n in range(COUNT)]),
            router.settled,
        ]
        for verb in waiting:
            with pytest.raises(DeliveryPending) as told:
                await verb()
            assert (told.value.store, told.value.waiting) == ("sqlite", COUNT)
        with pytest.raises(DeliveryPending):
            _ = router.serving
        place.first.held["put"].set()
        assert (await router.recover()).complete
        assert await router.count() == COUNT + 1
        assert (await router.status())["state"] == "normal"


async def test_a_read_of_an_id_that_waits_brings_it_in_first_and_a_write_goes_behind_it(place: Place) -> None:
    await spilled(place)
    held = place.first.held["put"] = asyncio.Event()
    async with place.router() as router:
        await router.open()
        reads = [
            asyncio.create_task(read)  # type: ignore[arg-type]
            for read in (
                router.get(f"k{COUNT - 1:04}"),
                router.exists("k0001"),
                router.get_many(["k0002", "nowhere"]),
                router.history("k0003"),
                router.put(datum("k0004", 2)),
                router.delete("k0005"),
            )
        ]
        await asyncio.sleep(0)
        held.set()
        last, there, many, history, put, gone = await asyncio.gather(*reads)
        assert last == datum(f"k{COUNT - 1:04}")
        assert there is True
        assert many == {"k0002": datum("k0002")}
        assert [one.datum for one in history] == [datum("k0003")]
        assert (put, put.version) == (datum("k0004", 2), 2)
        assert gone is True
        assert await router.count() == COUNT - 1
        assert [one.datum for one in await router.history("k0004")] == [datum("k0004"), datum("k0004", 2)]
        assert await router.set_aside() == []


async def test_a_first_store_that_flaps_gets_a_page_and_more_in_each_up_time(place: Place) -> None:
    """It takes some forty writes each time before it goes away again, while more are written."""
    async with place.router(spill=True) as router:
        await router.put(datum("a", 0))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put_many([datum(f"k{n:04}") for n in range(COUNT)])
        written, left = COUNT, 40

        def flap(verb: str) -> None:
            nonlocal left
            left -= verb == "put"
            if left < 0:
                place.first.on = False

        place.first.before = flap
        for up in range(20):
            place.first.on, left = True, 40
            report = await router.recover()
            if report.complete:
                break
            assert report.delivered >= 30
            with pytest.warns(DegradedWarning):  # it is cut off again, and keeps what came home
                await router.put(datum(f"more{up}"))
            written += 1
            status = await router.status()
            assert (status["state"], status["waiting"]) == ("cut off", written - int(str(status["delivered"])))
            with pytest.raises(BackendUnavailable):
                await router.get("a")
        place.first.before = None
        assert await router.count() == written + 1
        assert await router.set_aside() == []


async def test_without_spill_a_first_store_that_goes_away_again_is_an_outage(place: Place) -> None:
    await spilled(place)
    place.first.held["put"] = asyncio.Event()
    async with place.router() as router:
        await router.open()
        place.first.on = False
        place.first.held["put"].set()
        for verb in (router.get, router.exists, router.delete):
            with pytest.raises(BackendUnavailable):
                await verb("k0100")
        with pytest.raises(BackendUnavailable):
            await router.list()
        with pytest.raises(BackendUnavailable):
            await router.put(datum("new"))
        assert (await router.status())["degraded"]
        place.first.on = True
        assert (await router.recover()).complete
        assert await router.count() == COUNT


async def test_the_bus_and_the_report_tell_how_far_it_is(place: Place) -> None:
    listener = place.bus.listen(kinds=["deliver"])
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.put_many([datum(f"k{n:04}") for n in range(COUNT)])
        place.first.on = True
        report = await router.recover()
        assert (report.delivered, report.waiting, report.set_aside, report.complete) == (COUNT, 0, (), True)
        assert (await router.status())["delivered"] == COUNT
    for page in (1, 2, 3):
        assert await anext(listener) == Progress("sqlite", page * PAGE, 0, COUNT - page * PAGE)


async def test_a_second_delete_is_not_taken_for_the_first(place: Place) -> None:
    """x = 1 is known; outage; x is deleted and put; another program brings both home; x is deleted once more."""
    async with place.router(spill=True) as one, place.router(spill=True) as two:
        await one.put(datum("x", 1))
        await two.open()
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await one.delete("x")
        await one.put(datum("x", 2))
        with pytest.warns(DegradedWarning):
            await two.put(datum("y"))
        place.first.on = True
        assert (await two.recover()).delivered == 3
        assert await one.delete("x")  # it has not noticed, so this waits
        assert (await one.recover()).complete
        assert await one.get("x") is None
        assert [each.datum for each in await one.history("x")] == [datum("x", 1), None, datum("x", 2), None]
        assert await one.set_aside() == []


def shifted(place: Place, seconds: float) -> SQLiteBackend:
    """Return the first store as a machine sees it whose clock is ahead, or behind."""
    return SQLiteBackend(place.folder / "first.db", clock=lambda: time.time() + seconds)


async def put_by_another(place: Place, one: Datum, seconds: float, *, expect: int | None = None) -> Datum:
    store = shifted(place, seconds)
    try:
        return await store.put(one, expect=expect)
    finally:
        await store.close()


def ahead_of(place: Place) -> list[Any]:
    """Return a chain where all that the first store holds was stored after anybody last heard of it."""
    return [Switchable(shifted(place, 3600), place.first), JSONLBackend(place.folder / "second.jsonl")]


async def overwritten(place: Place, router: DgentRouter, ids: str) -> DeliveryReport:
    """Let a put of each id wait through an outage, and report what came of it."""
    place.first.on = False
    with pytest.warns(DegradedWarning):
        await router.put_many([datum(id, 2) for id in ids])
    place.first.on = True
    return await router.recover()


async def test_what_a_program_wrote_or_saw_itself_is_no_conflict_whatever_the_clocks_say(place: Place) -> None:
    await put_by_another(place, datum("old"), 3600)
    async with place.router(backends=ahead_of(place), spill=True) as router:
        await router.put(datum("a"))
        await router.put_many([datum("b"), datum("c")])
        await put_by_another(place, datum("d"), 3600)
        assert await router.get("d") == datum("d")
        report = await overwritten(place, router, "abcd")
        assert (report.delivered, report.set_aside) == (4, ())


async def test_a_delete_of_its_own_is_no_conflict_whatever_the_clocks_say(place: Place) -> None:
    async with place.router(backends=ahead_of(place), spill=True) as router:
        await router.put_many([datum(id) for id in "abcd"])
        assert await router.delete("a")
        assert (await overwritten(place, router, "a")).set_aside == ()
        assert await router.delete_many(["b", "c"]) == 2
        report = await overwritten(place, router, "bcd")
        assert (report.delivered, report.set_aside) == (3, ())


async def test_what_stood_on_a_page_is_no_conflict_whatever_the_clocks_say(place: Place) -> None:
    async with place.router(backends=ahead_of(place), spill=True) as router:
        for id, look in (("a", router.list), ("b", lambda: router.query(Query()))):
            await put_by_another(place, datum(id), 3600)
            await look()
            report = await overwritten(place, router, id)
            assert (report.delivered, report.set_aside) == (1, ())


@pytest.mark.parametrize("first_use", ["get", "put", "count"])
async def test_what_was_there_when_a_namespace_was_first_used_is_no_conflict(place: Place, first_use: str) -> None:
    await put_by_another(place, datum("a"), 3600)
    async with place.router(backends=ahead_of(place), spill=True) as router:
        await (
            router.get("nothing")
            if first_use == "get"
            else router.count()
            if first_use == "count"
            else router.put(datum("b"))
        )
        report = await overwritten(place, router, "a")
        assert (report.delivered, report.set_aside) == (1, ())


async def test_a_clock_that_is_set_back_hides_no_write_of_somebody_else(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put(datum("a", 1))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 2))
        assert (await put_by_another(place, datum("a", 100), -3600, expect=1)).version == 2
        place.first.on = True
        (entry,) = (await router.recover()).set_aside
        assert "version 2" in entry.reason
        assert await router.get("a") == datum("a", 100)


@pytest.mark.parametrize("error", [OutcomeUnknown, asyncio.CancelledError])
@pytest.mark.parametrize("is_in", [True, False])
async def test_a_write_of_its_own_of_unknown_outcome_is_no_conflict(
    place: Place, *, is_in: bool, error: type[BaseException]
) -> None:
    class Deaf(Switchable):
        deaf = False

        def within(self, namespace: str) -> Self:
            return self

        def __getattr__(self, name: str) -> Any:
            ask = super().__getattr__(name)
            if not self.deaf or name != "apply":
                return ask

            async def lose(*args: Any, **named: Any) -> Any:
                if is_in:
                    await ask(*args, **named)
                raise error("the answer was lost")

            return lose

    first = Deaf(shifted(place, 3600), place.first)
    stores: Any = [first, JSONLBackend(place.folder / "second.jsonl")]
    async with place.router(backends=stores, spill=True) as router:
        await router.put_many([datum(id) for id in "abcdef"])
        first.deaf = True
        with pytest.raises(error):
            await router.put(datum("a", 5))
        with pytest.raises(error):
            await router.delete("b")
        with pytest.raises(error):
            await router.put_many([datum("c", 5), datum("d", 5)])
        with pytest.raises(error):
            await router.delete_many(["e", "f"])
        first.deaf = False
        report = await overwritten(place, router, "abcdef")
        assert (report.delivered, report.set_aside) == (6, ())
        assert router._failover.observed.unknown
        for id in "abcdef":
            assert await router.get(id) == datum(id, 2)
        assert not router._failover.observed.unknown


def test_what_is_in_doubt_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed_versions, "MOST", 3)
    sightings = ObservedVersions()
    for n in range(20):
        sightings.doubt("n", "a", datum("a", n))
    assert sightings.unknown["n", "a"] == tuple(digest_of(datum("a", n)) for n in range(12, 20))
    for id in "bcd":
        sightings.doubt("n", id, None)
    assert sightings.unknown == {("n", id): ("delete",) for id in "bcd"}


async def test_a_page_that_got_in_makes_the_next_probe_soon_again(place: Place) -> None:
    """It flaps: each time it takes some, and goes away again before it has all."""
    async with place.router(spill=True) as router:
        chain = router._failover
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put_many([datum(f"k{n:04}") for n in range(COUNT)])
        chain._backoff = Backoff(1000.0, 32000.0)
        for _ in range(3):
            assert not (await router.recover()).complete
        assert chain._backoff.bound == 8000.0
        for taken in (PAGE + 5, 5):  # a page and a part, and a part of one
            assert chain._backoff.bound in {8000.0, 2000.0}
            while chain._backoff.bound < 8000.0:
                chain._backoff.pause()
            left = taken

            def flap(verb: str) -> None:
                nonlocal left
                left -= verb == "put"
                if left < 0:
                    place.first.on = False

            place.first.on, place.first.before = True, flap
            report = await router.recover()
            assert 0 < report.delivered < COUNT
            assert chain._backoff.bound == 2000.0
        place.first.before, place.first.on = None, True
        assert (await router.recover()).complete


async def test_a_router_hears_of_all_that_this_program_commits_into_its_own_store(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path, spill=True) as storage:
        memory: Any = storage.memory
        async with storage.transaction() as tx:
            await tx.memory.put_many([datum("a"), datum("b")])
        await memory.put(datum("c"))
        for write in (memory.delete("a"), memory.delete_many(["b", "c"])):
            await write
            assert memory._routing._observed.seq == await memory.serving.head()
        async with storage.transaction() as tx:
            await tx.memory.put(datum("a", 2))
            await tx.memory.delete("a")
        assert memory._routing._observed.seq == await memory.serving.head() == 8


@pytest.mark.filterwarnings("default::dgent.warnings.DamagedWarning")
async def test_a_damaged_entry_locks_nobody_out(place: Place) -> None:
    """A flipped byte in one of six writes that wait: the five others go home, and all the verbs work."""
    spare = place.folder / "spare.db"

    def stores() -> list[Any]:
        return [Switchable(SQLiteBackend(place.folder / "first.db"), place.first), SQLiteBackend(spare)]

    place.first.on = False
    async with place.router(backends=stores()) as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        for n in range(6):
            await router.put(datum(f"k{n}"))
    with closing(sqlite3.connect(spare)) as connection:
        ids = [id for (id,) in connection.execute("SELECT id FROM dgent_datums WHERE namespace LIKE '.dgent/queue/%'")]
        connection.execute("UPDATE dgent_datums SET content = X'00' || content WHERE id = ?", ids[2:3])
        connection.commit()
    place.first.on = True
    async with place.router(backends=stores()) as router:
        with pytest.warns(DamagedWarning):
            await router.open()
        await router.put(datum("more"))
        report = await router.recover()
        assert report.complete
        assert await router.count() == 6
        assert (await router.status())["set_aside"] == 1
        (aside,) = await router.set_aside()
        assert aside.raw is not None
        assert not await router.retry(aside)
        assert await router.discard(aside)
    async with place.router(backends=stores()) as router:
        await router.open()
        assert (await router.status())["set_aside"] == 0


@pytest.mark.parametrize("column", ["content", "created_at"])
async def test_a_damaged_place_costs_at_most_its_own_id(place: Place, column: str) -> None:
    """The record of one of four ids is damaged: its writes are set aside, and the others go home."""
    spare = place.folder / "spare.db"
    stores: list[Any] = [Switchable(SQLiteBackend(place.folder / "first.db"), place.first), SQLiteBackend(spare)]
    async with place.router(backends=stores, spill=True) as router:
        await router.put_many([datum(id) for id in "wxyz"])
        await overwritten(place, router, "xy")
        for first_asks in (False, True):
            with closing(sqlite3.connect(spare)) as connection:
                (id, *_) = connection.execute(
                    "SELECT id FROM dgent_datums WHERE namespace LIKE '.dgent/places/%' AND id = ?",
                    [group_of("default", "x")],
                ).fetchone()
                changed = {"content": b"[1,1,1,nul", "created_at": 7.0}[column]
                connection.execute(f"UPDATE dgent_datums SET {column} = ? WHERE id = ?", [changed, id])
                connection.commit()
            place.first.on = False
            with pytest.warns(DegradedWarning):
                await router.put_many([datum(id, 3) for id in "wxyzx"])
            place.first.on = True
            if first_asks:
                await router._failover.bring("default", ["x"])
                await router.recover()
            else:
                report = await router.recover()
                assert (report.delivered, report.waiting, report.reason) == (3, 0, "")
                assert [entry.id for entry in report.set_aside] == ["x", "x"]
            entries = await router.set_aside()
            assert [entry.id for entry in entries] == ["x", "x"]
            assert all("how far the writes of 'x' have come is not known" in entry.reason for entry in entries)
            assert [await router.get(id) for id in "wyz"] == [datum(id, 3) for id in "wyz"]
            assert (await router.status())["waiting"] == 0
            for entry in entries:
                assert await router.retry(entry)
            assert await router.get("x") == datum("x", 3)


async def test_a_report_says_how_much_waits_in_a_queue_that_cannot_be_read_any_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise Corrupt("not what was written")

    async with place.router(spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put_many([datum("b"), datum("c")])
        assert (await router.status())["waiting"] == 2
        place.first.on = True
        with monkeypatch.context() as damage:
            damage.setattr(Queue, "page", broken)
            for verb in ("count", "of"):
                report = await router.recover()
                assert (report.delivered, report.waiting, report.complete) == (0, 2, False)
                assert "may wait in jsonl, which is damaged" in report.reason
                damage.setattr(Queue, verb, broken)
        monkeypatch.setattr(router._failover, "state", "delivering")
        assert (await router.recover()).delivered == 2


async def test_a_queue_that_cannot_be_read_locks_nobody_out(place: Place) -> None:
    await spilled(place, 3)
    file = place.folder / "second.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"#" + lines[1], *lines[1:]]))
    async with place.router() as router:
        with pytest.warns(DegradedWarning, match="may wait in jsonl"):
            await router.put(datum("a"))
        assert await router.list() == [datum("a")]
        report = await router.recover()
        assert "may wait in jsonl" in report.reason
        assert not report.complete
        assert "may wait in jsonl, which is damaged" in str((await router.status())["left"])


async def test_a_conflict_may_be_retried_over_what_is_there(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 2))
        async with place.behind() as store:
            await store.put(datum("a", 100))
        place.first.on = True
        (entry,) = (await router.recover()).set_aside
        assert "version 2" in entry.reason
        assert await router.get("a") == datum("a", 100)
        assert await router.retry(entry)
        assert await router.get("a") == datum("a", 2)
        assert not await router.retry(entry)
        assert await router.set_aside() == []


async def test_a_transaction_waits_for_what_is_on_its_way(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    database = open_database(settings)
    place = Place(tmp_path)
    await spilled(place, 2)
    async with place.router() as router:
        storage = StorageProvider(settings, database, router, place.bus)
        async with storage.transaction() as tx:
            assert await tx.memory.count() == 2
            await tx.memory.put(datum("k0000", 2))
        with pytest.raises(VersionConflict):
            await router.put(datum("k0000", 3), expect=1)
    await database.close()


def test_a_delivery_that_a_loop_left_behind_goes_on_in_the_next(place: Place) -> None:
    asyncio.run(spilled(place))
    router = DgentRouter(place.settings, backends=place.stores())

    async def begin() -> None:
        place.first.held["put"] = asyncio.Event()
        await router.open()
        await asyncio.sleep(0)

    async def go_on() -> None:
        place.first.held.clear()
        assert await router.count() == COUNT
        await router.close()

    asyncio.run(begin())
    asyncio.run(go_on())


async def test_closing_ends_a_delivery(place: Place) -> None:
    await spilled(place)
    place.first.held["put"] = asyncio.Event()
    async with place.router() as router:
        await router.open()
        await asyncio.sleep(0)
    place.first.held.clear()
    async with place.router() as router:
        assert await router.count() == COUNT


async def test_what_waits_in_memory_goes_home_too(place: Place) -> None:
    place.first.on = False
    stores = [place.stores()[0], MemoryBackend()]
    async with place.router(backends=stores) as router:
        with pytest.warns(DegradedWarning):
            await router.put(datum("a"))
        place.first.on = True
        assert (await router.recover()).delivered == 1
