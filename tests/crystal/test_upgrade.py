"""An upgrade rewrites each old crystal exactly once or none of them, whoever else writes, and loses nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.crystal.old_versions import KNOWN, MARK, Mark, datum, mark, version_of
from tests.crystal.stores import snapshot

from dgent.crystal import Crystal, Schema, Schemas, Universe
from dgent.datum import Datum
from dgent.exceptions import (
    BackendUnavailable,
    CrystalTooNew,
    InvalidCrystal,
    InvalidDatum,
    InvalidQuery,
    SchemaNotFound,
    UpgradeFailed,
    VersionConflict,
)
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.query import Query
from dgent.store import Backend
from dgent.testing.contract_base import fresh

MANY = 120


async def filled(store: Backend, many: int = MANY) -> Universe:
    """Put marks of every version, and what is none of ours."""
    await store.put_many(datum(n, version_of(n)) for n in range(many))
    await store.put(Datum("other", b'{"did":"x","n":0}', 1000.0, metadata={"schema": "law.other"}))
    await store.put(Datum("raw", b"\xff", 1000.0))
    return Universe(store, schemas=KNOWN)


async def check(universe: Universe, many: int = MANY) -> None:
    """Every mark is there once, of the current version, with all that it had; its old self is in its history."""
    store = await universe.backend()
    found = await universe.query(Query(schema="law.mark", limit=10_000, order="oldest"))
    assert [each.id for each in found] == [f"m{n:04}" for n in range(many)]
    for n, each in enumerate(found):
        before, now = datum(n, version_of(n)), each.datum  # type: ignore[union-attr]
        assert each == Crystal.from_datum(now, MARK)
        assert each.value == mark(n)  # type: ignore[union-attr]
        assert (now.created_at, now.causal_parent) == (before.created_at, before.causal_parent)
        tags = [f"n{n % 5}", "upgraded"]
        assert dict(now.metadata) == {**before.metadata, "schema_version": 3, "tags": tags}
        history = await store.history(now.id)
        assert [revision.datum for revision in history] == ([before] if version_of(n) == 3 else [before, now])
    tagged = await universe.query(Query(tags=frozenset(["n2", "upgraded"]), limit=1000, order="oldest"))
    assert [each.id for each in tagged] == [f"m{n:04}" for n in range(2, many, 5)]
    assert len(await store.causal_chain(f"m{many - 1:04}")) == many


async def test_an_upgrade_rewrites_what_is_old_and_counts(store: Backend) -> None:
    universe, steps = await filled(store), list[int]()
    before = await snapshot(store)
    dry = await universe.upgrade("law.mark", dry_run=True, batch=7, progress=steps.append)
    counts = {1: MANY * 3 // 5, 2: MANY // 5, 3: MANY // 5}
    assert (dry.found, dry.older, dry.upgraded, dry.failed, dry.failures) == (counts, MANY * 4 // 5, 0, 0, {})
    assert (dry.schema, dry.version) == ("law.mark", 3)
    assert sum(steps) == MANY
    assert await snapshot(store) == before, "a dry run wrote"
    steps.clear()
    done = await universe.upgrade(MARK, batch=7, progress=steps.append)
    assert (done.found, done.upgraded, done.failed) == (counts, MANY * 4 // 5, 0)
    assert sum(steps) == 2 * MANY, "each is tried, then written"
    await check(universe)
    for id in ("other", "raw"):
        assert len(await store.history(id)) == 1
    after = await snapshot(store)
    again = await universe.upgrade("law.mark")
    assert (again.found, again.older, again.upgraded) == ({3: MANY}, 0, 0)
    assert await snapshot(store) == after, "a second run wrote"


async def test_nothing_to_upgrade_is_no_error() -> None:
    report = await Universe(MemoryBackend(), schemas=KNOWN).upgrade("law.mark")
    assert (report.found, report.older, report.upgraded, report.failed) == ({}, 0, 0, 0)


async def test_a_schema_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(SchemaNotFound, match=r"did you mean law\.mark"):
        await Universe(MemoryBackend(), schemas=KNOWN).upgrade("law.mrak")


@pytest.mark.parametrize("batch", [0, -1, True, 1.5, "7"])
async def test_a_batch_is_a_whole_number_from_1(batch: Any) -> None:
    universe = await filled(MemoryBackend(), 5)
    with pytest.raises(InvalidQuery, match="batch"):
        await universe.upgrade("law.mark", batch=batch)


BAD: list[tuple[str, bytes, Any, type[Exception]]] = [
    ("a migration raises", b'{"did": "x"}', 1, UpgradeFailed),
    ("the contract refuses", b'{"did": 5, "n": 1}', 1, UpgradeFailed),
    ("no JSON", b"\xff", 2, InvalidCrystal),
    ("no object", b"[]", 1, InvalidCrystal),
    ("too new", b"{}", 4, CrystalTooNew),
    ("no version", b"{}", "three", InvalidCrystal),
    ("labels that no store takes", b'{"action": "x", "n": 1, "tags": ["\\u0000"]}', 1, InvalidDatum),
]


async def test_with_a_bad_one_nothing_is_written_and_a_dry_run_tells_all(store: Backend) -> None:
    for at, (_, content, version, error) in enumerate(BAD):
        here = store.within(f"bad/{at}")
        universe = await filled(here, 10)
        keeps = Schema("law.mark", 3, Mark, {1: lambda data: data, 2: lambda data: data})
        law = keeps if error is InvalidDatum else MARK
        if law is keeps:
            await here.delete_many([each.id for each in await here.query(Query(schema="law.mark"))])
        bad = Datum("bad", content, 5000.0, metadata={"schema": "law.mark", "schema_version": version})
        await here.put(bad)
        await here.put(bad.replace(id="worse"))
        before = await snapshot(here)
        with pytest.raises(error, match=r"'bad': .*nothing was written"):
            await universe.upgrade(law, batch=3)
        report = await universe.upgrade(law, dry_run=True, batch=3)
        assert (report.failed, list(report.failures), report.upgraded) == (2, ["bad", "worse"], 0)
        assert await snapshot(here) == before
        await here.delete_many(["bad", "worse"])
        if law is MARK:
            assert (await universe.upgrade(law)).upgraded == 8


async def test_a_report_names_the_first_failures_and_counts_all() -> None:
    store = MemoryBackend()
    bad = Datum("x", b"[]", 1.0, metadata={"schema": "law.mark"})
    await store.put_many(bad.replace(id=f"b{n:03}") for n in range(50))
    report = await Universe(store, schemas=KNOWN).upgrade("law.mark", dry_run=True, batch=7)
    assert (report.failed, list(report.failures)) == (50, [f"b{n:03}" for n in range(20)])
    assert all("not a JSON object" in reason for reason in report.failures.values())


# The labels follow the value


@dataclass(frozen=True)
class Labelled:
    tags: tuple[str, ...] = ()
    author: str | None = None


@dataclass(frozen=True)
class Bare:
    x: int = 0


async def test_labels_that_were_the_values_own_follow_it() -> None:
    first = Schema("law.labelled", 1, Labelled)
    given = {
        "changed": Crystal.create(Labelled(("old",), "Ada"), first, id="changed"),
        "emptied": Crystal.create(Labelled(("gone",), "gone"), first, id="emptied"),
        "beside": Crystal.create(Labelled(), first, id="beside", tags=["kept"], author="Bob"),
    }

    def next_version(data: dict[str, Any]) -> dict[str, Any]:
        return {"tags": ("new",), "author": "Eve"} if data["tags"] == ["old"] else {"tags": (), "author": None}

    store = MemoryBackend()
    universe = Universe(store, schemas=Schemas([Schema("law.labelled", 2, Labelled, {1: next_version})]))
    await store.put_many(crystal.datum for crystal in given.values())
    await universe.upgrade("law.labelled")
    labels = {id: (datum.tags, datum.author) for id, datum in (await store.get_many(given)).items()}
    assert labels == {"changed": ({"new"}, "Eve"), "emptied": (set(), "system"), "beside": ({"kept"}, "Bob")}
    for tag, found in (("old", []), ("gone", []), ("new", ["changed"]), ("kept", ["beside"])):
        assert [each.id for each in await universe.query(Query(tags=frozenset([tag])))] == found


async def test_labels_stay_where_the_contract_gives_them_up() -> None:
    store = MemoryBackend()
    before = Crystal.create(Labelled(("a",), "Ada"), Schema("law.labelled", 1, Labelled), id="x").datum
    await store.put(before)
    universe = Universe(store, schemas=Schemas([Schema("law.labelled", 2, Bare, {1: lambda _: {}})]))
    await universe.upgrade("law.labelled")
    found: Any = await universe.get("x")
    assert (found.value, found.datum.tags, found.datum.author) == (Bare(), {"a"}, "Ada")


# Others write meanwhile


async def test_writers_during_an_upgrade_lose_nothing(store: Backend) -> None:
    """Mutant: an upgrade that puts what it read first, without `expect`, loses some of these in every run."""
    universe, stop, written = await filled(store, 60), asyncio.Event(), dict[str, Mark]()

    async def write(numbers: range) -> None:
        while not stop.is_set():
            for n in numbers:
                await asyncio.sleep(0)
                live = await store.get(f"m{n:04}")
                assert live is not None
                value = Mark(f"written {n}", live.version, ("written",))
                fresh = Crystal.create(value, MARK, id=live.id, created_at=live.created_at)
                try:
                    await universe.store(fresh, expect=live.version)
                except VersionConflict:
                    continue
                written[live.id] = value

    writers = [asyncio.create_task(write(range(at, 20, 4))) for at in range(4)]
    while len(written) < 5:
        await asyncio.sleep(0)
    report = await universe.upgrade("law.mark", batch=10)
    stop.set()
    await asyncio.gather(*writers)
    assert 0 < report.upgraded <= report.older
    for n in range(60):
        found: Any = await universe.get(f"m{n:04}")
        assert found.value == written.get(found.id, mark(n))
        assert found.meta.crystallized_from is None, "it is still of an old version"


async def test_what_is_written_between_the_look_and_the_rewrite_stays(store: Backend) -> None:
    universe = await filled(store, 10)
    newer = Crystal.create(Mark("mine", 1, ()), MARK, id="m0001")
    moved = Datum("m0002", b"elsewhere now", 1.0, metadata={"schema": "law.other"})

    query, looks = store.query, 0

    async def query_and_meddle(asked: Query) -> Any:
        nonlocal looks
        page, looks = await query(asked), looks + 1
        if looks == 2:  # the first was to try them, this one is to rewrite them
            await universe.store(newer)
            await store.put(moved)
            await store.delete("m0004")
        return page

    store.query = query_and_meddle  # type: ignore[method-assign]
    report = await universe.upgrade("law.mark", batch=100)
    assert (report.older, report.upgraded) == (8, 5)
    found: Any = await universe.get("m0001")
    assert found.value == newer.value
    assert await universe.get("m0002") == moved
    assert await universe.get("m0004") is None


async def test_two_upgrades_at_once_write_each_once(store: Backend) -> None:
    universe = await filled(store)
    reports = await asyncio.gather(
        *(Universe(store, schemas=KNOWN).upgrade("law.mark", batch=batch) for batch in (10, 25, 200))
    )
    assert sum(report.upgraded for report in reports) == MANY * 4 // 5
    await check(universe)


class Failing(MemoryBackend):
    """Takes some puts, then none."""

    left = 10_000
    asked = running = 0

    async def put(self, datum: Datum, **named: Any) -> Datum:
        self.running, self.asked = self.running + 1, self.asked + 1
        try:
            await asyncio.sleep(0.001 * (self.asked % 3))
            self.left -= 1
            if self.left < 0:
                raise BackendUnavailable("gone")
            return await super().put(datum, **named)
        finally:
            self.running -= 1


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, 40), st.integers(1, 30))
async def test_an_upgrade_that_failed_half_way_goes_on_where_it_ended(left: int, batch: int) -> None:
    store = Failing(fresh())
    universe = await filled(store, 40)
    tasks = asyncio.all_tasks()
    store.left = left
    if left < 32:
        with pytest.raises(BackendUnavailable):
            await universe.upgrade("law.mark", batch=batch)
        assert store.running == 0, "a rewrite goes on after the upgrade has ended"
        assert asyncio.all_tasks() == tasks
        store.left = 10_000
        assert (await universe.upgrade("law.mark", batch=batch)).upgraded == 32 - left
    else:
        assert (await universe.upgrade("law.mark", batch=batch)).upgraded == 32
    await check(universe, 40)


async def test_a_cancelled_upgrade_goes_on_where_it_ended(store: Backend) -> None:
    universe = await filled(store)
    for pause in (0.0, 0.002, 0.01):
        task = asyncio.create_task(universe.upgrade("law.mark", batch=10))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await universe.upgrade("law.mark")
    await check(universe)


async def test_what_expires_is_upgraded_and_expires_all_the_same() -> None:
    now = 1000.0
    store = MemoryBackend(clock=lambda: now)
    await store.put(datum(0, 1), ttl=60)
    universe = Universe(store, schemas=KNOWN)
    assert (await universe.upgrade(MARK)).upgraded == 1
    found = await store.get("m0000")
    assert found is not None
    assert found.version == 2
    now += 61
    assert await store.get("m0000") is None
