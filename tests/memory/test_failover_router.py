"""The router is a backend; it falls back aloud, never forks, and finds again what was written meanwhile."""

from __future__ import annotations

import asyncio
import time
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.switchable_backend import Switch, Switchable
from tests.sql.proxy import Proxy

from dgent.datum import Datum
from dgent.delivery import Progress
from dgent.exceptions import (
    BackendUnavailable,
    CapabilityMissing,
    CausalCycle,
    Corrupt,
    InvalidDatum,
    InvalidNamespace,
    LimitExceeded,
    OutcomeUnknown,
    StorageTimeout,
    StoreClosed,
    UnknownBackend,
    VersionConflict,
)
from dgent.limits import Limits
from dgent.memory.change import Change
from dgent.memory.event_bus import DataBus, Failover
from dgent.memory.failover import state as failover_state
from dgent.memory.failover.manifest import KnownStore, Manifest, ManifestFile
from dgent.memory.failover.router import DgentRouter
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.memory.write_batch import check_acyclic_within
from dgent.operations import Delete, Purge, Put, Touch
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.testing import DgentContract
from dgent.testing.contract_base import patience
from dgent.warnings import DegradedWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dgent.store import Backend

DEFAULT = Limits()


class TestRouter(DgentContract):
    """Over SQLite with everything behind it, it obeys the contract of SQLite."""

    capabilities = SQLiteBackend.capabilities
    chain_depth = 10_000

    async def open(
        self, place: Any, namespace: str, *, clock: Callable[[], float] = time.time, limits: Limits = DEFAULT
    ) -> DgentRouter:
        first = SQLiteBackend(place / "membrane.db", namespace, clock=clock, limits=limits)
        later = [JSONLBackend(place / "memory.jsonl"), MemoryBackend()]
        return DgentRouter(Settings.load(data_dir=place), backends=[first, *later], namespace=namespace, spill=True)


def datum(id: str, n: int = 1) -> Datum:
    return Datum(id, b"%d" % n, float(n))


class Place:
    """A folder with a store behind a switch, which comes first, and a durable one after it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.first, self.second = folder, Switch(), Switch()
        self.bus = DataBus()
        self.settings = Settings.load(data_dir=folder)

    def stores(self) -> list[Backend]:
        first = SQLiteBackend(self.folder / "first.db", on_change=self.bus.publish)
        second = JSONLBackend(self.folder / "second.jsonl")
        return [Switchable(first, self.first), Switchable(second, self.second), MemoryBackend()]

    @asynccontextmanager
    async def router(self, **named: Any) -> AsyncIterator[DgentRouter]:
        router = DgentRouter(self.settings, bus=self.bus, **{"backends": self.stores(), **named})
        try:
            yield router
        finally:
            await router.close()

    @asynccontextmanager
    async def behind(self) -> AsyncIterator[SQLiteBackend]:
        """Reach the first store as another program does, switch or not."""
        store = SQLiteBackend(self.folder / "first.db")
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(failover_state, "SOONEST", 3600.0)  # no probe unless a test asks for it
    monkeypatch.setattr(failover_state, "LATEST", 3600.0)
    return Place(tmp_path)


async def test_the_first_store_that_answers_serves(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    async with DgentRouter(settings) as router:
        assert (router.name, router.priority) == ("sqlite", SQLiteBackend.priority)
        await router.put(datum("a"))
        status = await router.status()
    assert not (tmp_path / "memory.jsonl").exists()
    assert (status["serving"], status["chain"], status["degraded"]) == ("sqlite", ["sqlite", "jsonl", "memory"], False)
    async with DgentRouter(settings) as router:
        assert await router.get("a") == datum("a")


async def test_an_unknown_backend_is_always_an_error(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    for refused in ("mysql", "SQLite", ""):
        with pytest.raises(UnknownBackend):
            DgentRouter(settings.model_copy(update={"chain": ("sqlite", refused)}))
    for refused in ("mysql", ""):
        with pytest.raises(UnknownBackend):
            DgentRouter(settings, force_backend=refused)
    with pytest.raises(UnknownBackend):
        DgentRouter(settings, backends=[])
    with pytest.raises(UnknownBackend):
        DgentRouter(settings, backends=[MemoryBackend()], force_backend="sqlite")


async def test_a_forced_backend_serves_or_is_an_error(tmp_path: Path, place: Place) -> None:
    settings = Settings.load(data_dir=tmp_path)
    async with DgentRouter(settings, force_backend="jsonl") as router:
        await router.put(datum("a"))
        assert router.name == "jsonl"
    with pytest.raises(BackendUnavailable, match="KGENTS_DATABASE_URL"):
        DgentRouter(settings, force_backend="postgres")
    place.first.on = False
    async with place.router(force_backend="sqlite") as router:
        with pytest.raises(BackendUnavailable, match="switched it off"):
            await router.get("a")


async def test_strict_makes_an_unmet_choice_an_error(place: Place) -> None:
    place.first.on = False
    async with place.router(strict=True) as router:
        with pytest.raises(BackendUnavailable, match="no other store may take its place"):
            await router.put(datum("a"))
        place.first.on = True
        await router.put(datum("a"))


async def test_what_was_written_while_degraded_is_found_again(place: Place) -> None:
    async with place.router() as router:
        await router.put_many([datum("old"), datum("gone")])
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning, match="jsonl serves"):
            await router.open()
        put = await router.put(datum("new"))
        assert (put, put.version, put.seq) == (datum("new"), 0, 0)
        await router.put_many([datum("old", 2), datum("new", 2)])
        assert await router.delete("gone")
        assert await router.delete_many(["new2", "new3"]) == 2
        assert {one.id for one in await router.list()} == {"new", "old"}
        assert await router.get("new") == datum("new", 2)
        status = await router.status()
        assert (status["degraded"], status["waiting"], status["serving"]) == (True, 6, "jsonl")
        assert "only what was written since" in str(status["reads"])
    place.first.on = True
    async with place.router() as router:  # another process, as far as the stores can tell
        assert await router.get_many(["old", "new", "gone"]) == {"old": datum("old", 2), "new": datum("new", 2)}
        assert [one.datum for one in await router.history("new")] == [datum("new"), datum("new", 2)]
        status = await router.status()
        assert (status["degraded"], status["waiting"], status["set_aside"]) == (False, 0, 0)
    async with place.behind() as store:
        assert await store.get("new") == datum("new", 2)


async def test_every_start_without_the_first_warns_again(place: Place) -> None:
    place.first.on = False
    for _ in range(3):
        async with place.router() as router:
            with pytest.warns(DegradedWarning, match="out of reach"):
                await router.open()
            await router.put(datum("a"))
            assert await router.get("a") == datum("a")


async def test_memory_says_on_every_start_that_what_it_held_is_gone(place: Place) -> None:
    place.first.on = place.second.on = False
    for start in range(3):
        async with place.router() as router:
            with pytest.warns(DegradedWarning) as told:
                await router.put(datum("a"))
            texts = [str(one.message) for one in told]
            assert any("memory serves" in text and "gone when the process ends" in text for text in texts)
            assert any("memory served the last time" in text for text in texts) == (start > 0)
            assert not router.capabilities.durable
    place.first.on = True
    async with place.router() as router:
        with pytest.warns(DegradedWarning, match="memory served the last time"):
            assert await router.get("a") is None
    async with place.router() as router:
        await router.open()


async def test_what_memory_held_reaches_the_first_if_that_comes_back_in_time(place: Place) -> None:
    place.first.on = place.second.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning, match="memory serves"):
            await router.put(datum("a"))
        place.first.on = True
        assert (await router.recover()).delivered == 1
        assert (await router.get("a") or datum("no")).version == 1
    async with place.router() as router:  # and nothing is said to be lost
        assert await router.get("a") == datum("a")


async def test_an_outage_in_mid_run_is_never_not_found(place: Place) -> None:
    async with place.router() as router:
        await router.put(datum("a"))
        place.first.on = False
        for verb in (router.get, router.exists, router.causal_chain, router.history, router.purge):
            with pytest.raises(BackendUnavailable):
                await verb("a")
        for read in (router.list, router.count, router.stats, router.namespaces, router.compact):
            with pytest.raises(BackendUnavailable):
                await read()
        with pytest.raises(BackendUnavailable):
            await router.put(datum("b"))
        assert (await router.status())["degraded"] is True
        assert await router.is_available() is False
        place.first.on = True
        assert await router.get("a") == datum("a")
        assert (await router.status())["degraded"] is False
        assert await router.list() == [datum("a")]


async def test_with_spill_writes_go_on_and_reads_wait(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put_many([datum("a"), datum("b")])
        place.first.on = False
        with pytest.warns(DegradedWarning, match="kept in jsonl"):
            await router.put(datum("a", 2))
        await router.put_many([datum("c", n) for n in range(3)])
        await router.delete("b")
        await router.within("other").put(datum("a", 7))
        with pytest.raises(BackendUnavailable, match="reads wait"):
            await router.get("a")
        assert (await router.recover()).complete is False
        assert (await router.status())["waiting"] == 6
        place.first.on = True
        with pytest.raises(BackendUnavailable):  # until everything is replayed
            await router.get("a")
        report = await router.recover()
        assert (report.complete, report.delivered, report.set_aside) == (True, 6, ())
        assert {one.id: one.content for one in await router.list()} == {"a": b"2", "c": b"2"}
        assert await router.within("other").get("a") == datum("a", 7)
        assert [one.version for one in await router.history("c")] == [1, 2, 3]
        assert (await router.put(datum("a", 3), expect=2)).version == 3
        assert await router.is_available()


async def test_a_spill_is_durable_before_it_is_acknowledged_and_outlives_the_process(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 2))
        place.second.on = False
        with pytest.raises(BackendUnavailable):
            await router.put(datum("a", 3))
    place.first.on = place.second.on = True
    async with place.router() as router:
        assert await router.get("a") == datum("a", 2)


async def test_a_busy_moment_is_no_outage(place: Place) -> None:
    def busy(verb: str) -> None:
        if verb == "apply":
            raise StorageTimeout("somebody else is writing")

    async with place.router(spill=True) as router:
        await router.open()
        place.first.before = busy
        with pytest.raises(StorageTimeout):
            await router.put(datum("a"))
        assert (await router.status())["degraded"] is False
        place.first.on = False  # now it does not answer a probe either
        with pytest.warns(DegradedWarning):
            await router.put(datum("a"))


async def test_without_a_durable_store_a_write_is_refused_in_mid_run(place: Place) -> None:
    stores = place.stores()
    async with place.router(backends=[stores[0], stores[2]], spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.raises(BackendUnavailable, match="can take over"):
            await router.put(datum("b"))
        place.first.on = True
        assert await router.list() == [datum("a")]
    await stores[1].close()


@pytest.mark.parametrize("at_start", [True, False])
async def test_while_degraded_nothing_is_compared_or_erased(place: Place, at_start: bool) -> None:
    place.first.on = not at_start
    async with place.router(spill=True) as router:
        if not at_start:
            await router.put(datum("a"))
            place.first.on = False
            with pytest.raises(BackendUnavailable):  # it is not spilled
                await router.put(datum("a", 9), expect=1)
            with pytest.raises(BackendUnavailable):
                await router.put(datum("a", 9), ttl="keep")
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 2))
        for refused in (
            lambda: router.put(datum("a", 3), expect=0),
            lambda: router.put(datum("a", 3), ttl="keep"),
            lambda: router.put_many([datum("a", 3)], ttl="keep"),
            lambda: router.delete("a", expect=1),
            lambda: router.purge("a"),
            lambda: router.purge_many(["a"]),
            lambda: router.apply([Touch("a", 1, 1)]),
            router.compact,
            lambda: router.changes(0),  # what stands for the first has other seqs
            lambda: router.seq_at(1.0),
            router.head,
        ):
            with pytest.raises(BackendUnavailable, match="out of reach"):
                await refused()
        with pytest.raises(BackendUnavailable):
            _ = router.serving
        place.first.on = True
        await router.recover()
        assert await router.get("a") == datum("a", 2)


@pytest.mark.parametrize("at_start", [True, False])
async def test_a_batch_that_closes_a_cycle_by_itself_is_refused_while_degraded(place: Place, at_start: bool) -> None:
    place.first.on = not at_start
    async with place.router(spill=True) as router:
        if not at_start:
            await router.put(datum("live"))
            place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("before"))
        for batch in (
            [below("s", "s")],
            [below("a", "b"), below("b", "a")],
            [datum("z"), below("a", "b"), below("b", "c"), below("c", "a"), datum("y")],
            [below("a", "b"), below("a", "c"), below("c", "a")],
        ):
            with pytest.raises(CausalCycle):
                await router.put_many(batch)
        await router.apply([Put(below("a", "b")), Delete("a"), Put(below("b", "a"))])  # as a store takes it
        if at_start:  # then it sees what waits
            with pytest.raises(CausalCycle):
                await router.put_many([datum("z"), below("a", "b")])
            assert await router.get_many(["a", "z"]) == {}
        await router.put_many([below(f"deep{n}", f"deep{n + 1}") for n in range(2000)])
        assert (await router.status())["waiting"] == 1 + 3 + 2000
        place.first.on = True
        assert (await router.recover()).set_aside == ()
        assert {one.id for one in await router.list(limit=5000) if not one.id.startswith("deep")} == {
            "before",
            "b",
            *([] if at_start else ["live"]),
        }


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.just("") | st.sampled_from("abcd")), max_size=8))
async def test_a_batch_is_refused_without_a_store_where_an_empty_one_refuses_it(steps: list[Any]) -> None:
    batch = [Delete(id) if parent is None else Put(Datum(id, b"", 1.0, parent or None)) for id, parent in steps]
    try:
        await MemoryBackend().apply(batch)
    except CausalCycle:
        with pytest.raises(CausalCycle):
            check_acyclic_within(batch)
    else:
        check_acyclic_within(batch)


async def test_of_a_batch_that_waited_only_what_the_first_store_refuses_is_set_aside(place: Place) -> None:
    """It is kept whole, and delivered write by write."""
    async with place.router(spill=True) as router:
        await router.put_many([datum("top"), below("child", "top")])
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put_many([datum("x"), below("top", "child"), datum("y")])
        assert await router.delete_many(["x", "never", "was"]) == 3  # how many were taken: nobody can tell more
        place.first.on = True
        report = await router.recover()
        assert [(entry.id, entry.reason[:11]) for entry in report.set_aside] == [("top", "CausalCycle")]
        assert sorted([one.id for one in await router.list()]) == ["child", "top", "y"]
        assert [one.datum for one in await router.history("x")] == [datum("x"), None]


async def test_a_touch_waits_for_the_first_store_and_a_purge_does_not(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put_many([datum("a"), datum("b")], ttl=1000)
        place.first.on = False
        with pytest.warns(DegradedWarning):
            assert await router.touch(["a", "never"], None) == 2  # how many were given
        with pytest.raises(BackendUnavailable, match="out of reach"):
            await router.apply([Touch("b", None), Purge("b")])
        place.first.on = True
        report = await router.recover()
        assert report.set_aside == ()
        assert [one.expires_at is None for one in (await router.get_many(["a", "b"])).values()] == [True, False]
        assert [len(await router.history(id)) for id in ("a", "b", "never")] == [1, 1, 0]


def below(id: str, parent: str) -> Datum:
    return Datum(id, b"", 1.0, parent)


async def test_a_bad_write_is_refused_before_it_is_spilled(place: Place) -> None:
    place.first.on = False
    place.settings = Settings.load(data_dir=place.folder, max_content=4)
    bad: Any = "no datum"
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        with pytest.raises(InvalidDatum):
            await router.put(bad)
        with pytest.raises(InvalidDatum):
            await router.delete("\0")
        with pytest.raises(InvalidDatum):
            await router.put(datum("a"), ttl=-1)
        with pytest.raises(LimitExceeded):
            await router.put_many([datum("a"), Datum("b", b"12345", 0.0)])
        assert (await router.status())["waiting"] == 0


async def test_a_true_conflict_is_set_aside_and_reported(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put_many([datum("a"), datum("b"), datum("c")])
        place.first.on = False
        async with place.behind() as store:
            await store.put(datum("a", 100))  # before and after ours: the first is never overwritten unseen
            with pytest.warns(DegradedWarning):
                await router.put(datum("a", 2))
            await router.put_many([datum("b", 2), datum("b", 3), datum("c", 2)])
            await store.put(datum("b", 100))
        place.first.on = True
        report = await router.recover()
        assert (report.complete, report.delivered) == (True, 1)
        assert [(one.id, one.datum) for one in report.set_aside] == [
            ("a", datum("a", 2)),
            ("b", datum("b", 2)),
            ("b", datum("b", 3)),
        ]
        assert all(one.reason for one in report.set_aside)
        assert await router.get_many([*"abc"]) == {"a": datum("a", 100), "b": datum("b", 100), "c": datum("c", 2)}
        assert (await router.status())["set_aside"] == 3
    async with place.router() as router:  # they are kept until somebody decides
        await router.open()
        assert (await router.status())["set_aside"] == 3
        for conflict in await router.set_aside():
            assert await router.discard(conflict)
        assert (await router.status())["set_aside"] == 0


async def test_what_the_router_could_have_seen_is_no_conflict(place: Place) -> None:
    async with place.router(spill=True) as router, place.behind() as store:
        await router.put(datum("a"))
        await store.put(datum("a", 100))
        assert await router.list() == [datum("a", 100)]
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 2))
        place.first.on = True
        assert (await router.recover()).set_aside == ()
        assert [one.datum for one in await router.history("a")] == [datum("a"), datum("a", 100), datum("a", 2)]


async def test_the_same_value_written_by_two_is_no_conflict(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 2))
        async with place.behind() as store:
            await store.put(datum("a", 2))
        place.first.on = True
        report = await router.recover()
        assert (report.delivered, report.set_aside) == (1, ())
        assert len(await router.history("a")) == 2


async def test_events_tell_of_degradation_recovery_and_changes(place: Place) -> None:
    listener = place.bus.listen()
    async with place.router(spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.delete("a")
        place.first.on = True
        await router.recover()
    events = [await anext(listener) for _ in range(6)]
    assert events == [
        Change("put", "default", "a", 1, 1),
        Failover("degrade", "sqlite", "", "the test has switched it off"),
        Change("delete", "default", "a"),  # no version yet
        Change("delete", "default", "a", 2, 2),
        Progress("sqlite", delivered=1, set_aside=0, waiting=0),
        Failover("recover", "sqlite", "sqlite"),
    ]
    listener.cancel()


async def test_writes_that_race_with_the_recovery_are_in_the_first_in_their_order(place: Place) -> None:
    async with place.router(spill=True) as router:
        await router.put(datum("a", 0))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 1))
        place.first.on = True

        async def write(id: str) -> None:
            for n in range(2, 30):
                await router.put(datum(id, n))

        report, *_ = await asyncio.gather(router.recover(), write("a"), write("b"), write("c"))
        assert report.complete
        assert not report.set_aside
        for id in "abc":
            wanted = range(30) if id == "a" else range(2, 30)
            assert [one.datum for one in await router.history(id)] == [datum(id, n) for n in wanted]
        assert (await router.status())["waiting"] == 0


async def test_a_probe_beside_the_calls_finds_the_first_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover_state, "SOONEST", 0.0)
    monkeypatch.setattr(failover_state, "LATEST", 0.0)
    async with place.router(spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("a", 2))
        place.first.on = True
        for _ in range(1000):
            try:
                found = await router.get("a")
            except BackendUnavailable:
                await asyncio.sleep(0.005)
            else:
                break
        assert found == datum("a", 2)


async def test_the_probe_backs_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(failover_state.time, "monotonic", lambda: now)
    monkeypatch.setattr(failover_state, "SOONEST", 1.0)
    monkeypatch.setattr(failover_state, "LATEST", 4.0)
    monkeypatch.setattr("dgent.runtime.backoff.random.uniform", lambda least, most: most)
    place.first.on = False
    probed = []
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.open()
        for step in range(40):
            now = step / 2
            place.first.calls.clear()
            await router.count()
            if router._failover._replaying._task is not None:
                await asyncio.wait([router._failover._replaying._task])
            if place.first.calls:
                probed.append(now)
    assert probed == [1.0, 3.0, 7.0, 11.0, 15.0, 19.0]


async def test_two_programs_share_one_spill(place: Place) -> None:
    async with place.router() as router:
        await router.put(datum("a"))
    place.first.on = False
    async with place.router() as one, place.router() as two:
        with pytest.warns(DegradedWarning):
            await asyncio.gather(one.open(), two.open())
        await one.put(datum("x"))
        assert await two.get("x") == datum("x")
        await two.put(datum("x", 2))
        await two.put(datum("y"))
        assert await one.get("x") == datum("x", 2)
        place.first.on = True
        assert (await one.recover()).delivered == 3
        await two.put(datum("y", 2))  # it has not noticed yet
        report = await two.recover()
        assert (report.complete, report.set_aside) == (True, ())
        assert await one.get_many(["x", "y"]) == {"x": datum("x", 2), "y": datum("y", 2)}


async def test_two_recoveries_at_once_replay_everything_once(place: Place) -> None:
    place.first.on = False
    async with place.router() as one, place.router() as two:
        with pytest.warns(DegradedWarning):
            await asyncio.gather(one.open(), two.open())
        for n in range(40):
            await (one if n % 2 else two).put(datum(f"k{n % 3}", n))
        place.first.on = True
        reports = await asyncio.gather(one.recover(), two.recover())
        assert all(report.complete and not report.set_aside for report in reports)
        for k in range(3):
            assert [item.datum for item in await one.history(f"k{k}")] == [datum(f"k{k}", n) for n in range(k, 40, 3)]


async def test_a_preferred_store_that_is_no_longer_configured_is_missed_aloud(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    gone = "postgres:postgresql+asyncpg://host/name"

    def change(known: Manifest) -> None:
        known.first, known.stores[gone] = gone, KnownStore("an id", filled=True)

    ManifestFile(settings.manifest_path).update(change)
    for _ in range(2):
        router = DgentRouter(settings)
        with pytest.warns(DegradedWarning, match="was the first choice"):
            await router.put(datum("a"))
        await router.close()
    async with DgentRouter(settings, force_backend="jsonl") as router:  # an explicit choice
        assert await router.get("a") is None
    async with DgentRouter(settings.model_copy(update={"chain": ("jsonl", "postgres")})) as router:  # and another
        assert await router.get("a") is None


async def test_a_store_that_was_replaced_or_emptied_is_corrupt_not_new(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    for name, path in (("sqlite", settings.sqlite_path), ("jsonl", settings.jsonl_path)):
        async with DgentRouter(settings, force_backend=name) as router:
            await router.open()
        path.unlink()
        async with DgentRouter(settings, force_backend=name) as router:  # it had held nothing
            await router.put(datum("a"))
        kept = path.rename(path.with_suffix(".kept"))
        for replace in (lambda path: None, lambda path: path.touch(0o600)):
            replace(path)
            with pytest.raises(Corrupt, match="held data"):
                async with DgentRouter(settings, force_backend=name):
                    pass
            assert not path.exists() or path.stat().st_size == 0
            path.unlink(missing_ok=True)
        other = SQLiteBackend(path) if name == "sqlite" else JSONLBackend(path)
        await other.put(datum("b"))
        await other.close()
        with pytest.raises(Corrupt, match="was here"):
            async with DgentRouter(settings, force_backend=name):
                pass
        kept.rename(path)
        async with DgentRouter(settings, force_backend=name) as router:
            assert await router.get("a") == datum("a")


async def test_the_loss_of_the_manifest_loses_no_spill(place: Place) -> None:
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.put(datum("a"))
    place.first.on = True
    place.settings.manifest_path.write_bytes(b'{"format": 1, "st')
    async with place.router() as router:
        with pytest.warns(DegradedWarning, match="damaged"):
            assert await router.get("a") == datum("a")
    async with place.router() as router:
        await router.open()


async def test_spilled_writes_wait_for_the_store_that_they_were_meant_for(place: Place) -> None:
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.put(datum("a"))
    place.first.on = True
    stores = place.stores()
    other = SQLiteBackend(place.folder / "other.db")
    async with place.router(backends=[other, stores[1]]) as router:
        with pytest.warns(DegradedWarning, match=r"writes for sqlite:.*first.db wait in jsonl"):
            assert await router.get("a") is None
    await stores[0].close()
    async with place.router() as router:
        assert await router.get("a") == datum("a")


async def test_what_the_router_keeps_is_out_of_everybodys_reach(place: Place) -> None:
    async with place.router() as router:
        for name in (".dgent", ".dgent/spill/x"):
            with pytest.raises(InvalidNamespace):
                router.within(name)
        assert router.within(".dgents").namespace == ".dgents"


async def test_it_opens_once_for_many_and_never_after_close(place: Place) -> None:
    async with place.router() as router:
        await asyncio.gather(*(router.put(datum(f"k{n}")) for n in range(20)))
        assert place.first.calls.count("prepare") == 1
    with pytest.raises(StoreClosed):
        await router.open()
    with pytest.raises(StoreClosed):
        await router.recover()
    assert await router.is_available() is False


@pytest.mark.parametrize(
    ("store", "verb"),
    [("first", "prepare"), ("first", "namespaces"), ("second", "prepare"), ("second", "query"), ("second", "compact")],
)
async def test_who_closes_it_while_it_opens_has_closed_it(place: Place, store: str, verb: str) -> None:
    """Whatever `open` is waiting for; a verb that came to a router half open would look at its state for ever."""
    place.settings.manifest_path.write_bytes(b"{damaged")  # so that something may wait in the second
    switch = getattr(place, store)
    gate = switch.held[verb] = asyncio.Event()
    router = DgentRouter(place.settings, backends=place.stores(), spill=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedWarning)  # it tells of the damaged manifest
        opening = asyncio.create_task(router.open())
        async with asyncio.timeout(patience(10)):
            while verb not in switch.calls:
                await asyncio.sleep(0.001)
        await router.close()
        gate.set()
        with pytest.raises(StoreClosed):
            await opening
    for late in (
        lambda: router.put(datum("a"), expect=0),
        lambda: router.put(datum("a")),
        lambda: router.delete("a"),
        lambda: router.get("a"),
        router.count,
        router.compact,
        router.recover,
        router.settled,
    ):
        with pytest.raises(StoreClosed):
            await late()
    with pytest.raises(StoreClosed):
        _ = router.serving
    assert not await router.is_available()
    assert (await router.status())["state"] == "closed"


async def test_a_write_under_way_when_it_is_closed_hears_so(place: Place) -> None:
    """It found the first store gone, and would have cut the router off."""
    async with place.router(spill=True) as router:
        await router.put(datum("a"))
        place.first.on = False
        gate = place.second.held["prepare"] = asyncio.Event()
        writing = asyncio.create_task(router.put(datum("a", 2)))
        async with asyncio.timeout(patience(10)):
            while "prepare" not in place.second.calls:
                await asyncio.sleep(0.001)
        await router.close()
        gate.set()
        with pytest.raises(StoreClosed):
            await writing
        assert (await router.status())["state"] == "closed"


async def test_it_joins_a_transaction_of_its_database(place: Place) -> None:
    store = SQLiteBackend(place.folder / "first.db")
    async with place.router(backends=[store]) as router:
        await router.open()
        async with store.database.transaction() as transaction:
            await router.joined(transaction).put(datum("a"))
        assert await router.get("a") == datum("a")
        with pytest.raises(VersionConflict):
            await router.put(datum("a", 2), expect=0)
    async with place.router(backends=[MemoryBackend()]) as router:
        await router.open()
        with pytest.raises(CapabilityMissing):
            router.joined(transaction)
    assert not place.folder.joinpath("nothing").exists()


async def test_both_tracks_share_one_database(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    database = open_database(settings)
    bus = DataBus()
    listener = bus.listen()
    async with DgentRouter(settings, database=database, bus=bus) as router:
        await router.put(datum("a"))
        assert (router.name, router.serving.database) == ("sqlite", database)  # type: ignore[attr-defined]
        assert await anext(listener) == Change("put", "default", "a", 1, 1)
    await database.close()


async def test_a_spill_out_of_reach_is_said_and_replayed_later(place: Place) -> None:
    place.first.on = False
    async with place.router() as router:
        with pytest.warns(DegradedWarning):
            await router.put(datum("a"))
    place.first.on, place.second.on = True, False
    async with place.router() as router:
        with pytest.warns(DegradedWarning, match="may wait in jsonl"):
            await router.put(datum("b"))
        assert "may wait in jsonl" in str((await router.status())["left"])
        place.second.on = True
        assert (await router.recover()).delivered == 1
        assert "left" not in await router.status()
        assert await router.count() == 2


def test_it_serves_one_event_loop_after_another(place: Place) -> None:
    router = DgentRouter(place.settings, backends=place.stores(), spill=True)

    async def first() -> None:
        await router.put(datum("a"))
        place.first.on = False
        with pytest.warns(DegradedWarning):
            await router.put(datum("b"))

    async def second() -> None:
        await router.put(datum("c"))
        place.first.on = True
        assert (await router.recover()).delivered == 2
        assert await router.count() == 3
        await router.close()

    asyncio.run(first())
    asyncio.run(second())


async def test_memory_alone_touches_no_disk(place: Place) -> None:
    async with place.router(backends=[MemoryBackend()]) as router:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await router.put(datum("a"))
    assert list(place.folder.iterdir()) == []


async def test_a_server_that_crashes_and_comes_back_loses_nothing(
    tmp_path: Path, postgres_server: Any, place: Place
) -> None:
    settings = Settings.load(
        data_dir=tmp_path, database_url=postgres_server.url(), spill=True, connect_timeout=patience(2.0)
    )
    listener = place.bus.listen(kinds=["degrade", "recover"])
    async with DgentRouter(settings, bus=place.bus) as router:
        assert router.name == "postgres"
        await router.put_many([datum("a"), datum("b")])
        postgres_server.stop("immediate")
        with pytest.raises(BackendUnavailable):
            await router.get("a")
        with pytest.warns(DegradedWarning, match="kept in sqlite"):
            await router.put(datum("a", 2))
        await router.delete("b")
        assert not (await router.recover()).complete
    for start in range(2):  # and other processes begin while it is down
        router = DgentRouter(settings)
        with pytest.warns(DegradedWarning, match="sqlite serves"):
            await router.put(datum(f"c{start}"))
        assert await router.get_many(["a", "c0"]) == {"a": datum("a", 2), "c0": datum("c0")}
        await router.close()
    with pytest.raises(BackendUnavailable, match="no other store may take its place"):
        async with DgentRouter(settings, strict=True):
            pass
    postgres_server.start()
    async with DgentRouter(settings, strict=True) as router:
        assert {one.id: one.content for one in await router.list()} == {"a": b"2", "c0": b"1", "c1": b"1"}
        assert await router.set_aside() == []
        assert router.name == "postgres"
    assert (await anext(listener)).kind == "degrade"


@pytest.mark.parametrize("fault", ["refuse", "fall_silent"])
async def test_a_server_out_of_reach_is_noticed_and_found_again_without_a_restart(
    tmp_path: Path, postgres_url: str, place: Place, fault: str
) -> None:
    async with Proxy(postgres_url) as proxy:
        # Only silence has to be waited for; a busy machine needs its time to open the store and to come back.
        limits = {"connect_timeout": 2.0, "command_timeout": 2.0, "pool_timeout": 2.0} if fault == "fall_silent" else {}
        settings = Settings.load(data_dir=tmp_path, database_url=proxy.url, spill=True, **limits)
        async with DgentRouter(settings) as router:
            await router.put(datum("a"))
            getattr(proxy, fault)()
            if fault == "refuse":
                proxy.cut()
            with pytest.warns(DegradedWarning, match="kept in sqlite"):
                await put_again(router, datum("a", 2))
            proxy.recover()
            assert await delivered(router) == 1
            assert await router.set_aside() == []
            assert await router.get("a") == datum("a", 2)


async def delivered(router: DgentRouter) -> int:
    """Return to a server that is there, but may be slow to answer; tell how much was delivered to it."""
    count = 0
    async with asyncio.timeout(patience(60)):
        while not (report := await router.recover()).complete:
            count += report.delivered
            await asyncio.sleep(0.1)
    return count + report.delivered


async def put_again(router: DgentRouter, value: Datum) -> None:
    """Put as a caller does who was told that the outcome is unknown."""
    try:
        await router.put(value)
    except OutcomeUnknown:
        await router.put(value)
