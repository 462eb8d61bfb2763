"""The universe: which store serves, what it stores and gives back, and what it says of what it cannot read."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.crystal.stores import opened
from tests.faults.damaged_datum_rows import execute
from tests.memory.switchable_backend import Switchable

from dgent.crystal import (
    DECLARED,
    Crystal,
    Ref,
    Schema,
    Schemas,
    Universe,
    get_universe,
    set_universe,
)
from dgent.crystal.default_schemas import Trail, TrailStep, WitnessMark
from dgent.datum import Datum
from dgent.exceptions import (
    BackendUnavailable,
    Corrupt,
    CrystalTooNew,
    InvalidCrystal,
    InvalidDatum,
    InvalidInput,
    InvalidSchema,
    LimitExceeded,
    NoBackendAvailable,
    NotFound,
    SchemaNotFound,
    VersionConflict,
)
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.query import Query
from dgent.store import Backend
from dgent.warnings import DamagedWarning, DegradedWarning


@dataclass(frozen=True)
class Note:
    text: str


@dataclass(frozen=True)
class Labelled:
    tags: tuple[str, ...] = ()
    author: str | None = None


NOTE, LABELLED = Schema("law.note", 1, Note), Schema("law.labelled", 1, Labelled)
KNOWN = Schemas([NOTE, LABELLED])


# Which store serves


class Named(Switchable):
    """A store with a name and a place of its own in the order."""

    def __init__(self, name: str, priority: int, *, on: bool = True) -> None:
        super().__init__(MemoryBackend())
        self.name, self.priority, self.switch.on = name, priority, on

    async def is_available(self) -> bool:
        await asyncio.sleep(0)  # as a probe of a server
        return await super().is_available()


def universe_of(*stores: Any) -> Universe:
    return Universe(*stores, schemas=KNOWN)


async def test_the_first_by_priority_serves_without_a_word() -> None:
    last, first = Named("last", 100), Named("first", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await universe_of(last, first).backend() is first  # type: ignore[comparison-overlap]


async def test_a_later_one_serves_with_a_warning_and_goes_on_serving() -> None:
    last, middle, first = Named("last", 100), Named("middle", 50, on=False), Named("first", 1, on=False)
    universe = universe_of(last, middle, first)
    told = r"last serves: first: the test has switched it off; middle: the test has switched it off"
    with pytest.warns(DegradedWarning, match=told) as caught:
        id = await universe.store(universe.crystal(Note("x")))
    assert [warning.filename for warning in caught] == [__file__]
    first.switch.on = True
    found: Any = await universe.get(id)
    assert found.value == Note("x")
    assert await first.inner.count() == 0
    last.switch.on = False
    with pytest.raises(BackendUnavailable):
        await universe.get(id)  # two stores would be two truths


async def test_none_that_answers_is_an_error_that_names_each_and_why() -> None:
    dead = Named("dead", 1, on=False)
    closed = MemoryBackend()
    await closed.close()
    with pytest.raises(NoBackendAvailable, match=r"dead: the test has switched it off; memory: .*closed"):
        await universe_of(closed, dead).store(NOTE_CRYSTAL)
    dead.switch.on = True
    assert await universe_of(dead).get("x") is None
    with pytest.raises(NoBackendAvailable, match="none to choose from"):
        await Universe().query(Query())


NOTE_CRYSTAL = Crystal.create(Note("x"), NOTE)


async def test_a_probe_without_a_reason_is_told() -> None:
    class Mute(Named):
        async def is_available(self) -> bool:
            return False

    with pytest.raises(NoBackendAvailable, match="mute: it does not answer its probe"):
        await universe_of(Mute("mute", 1)).get("x")


async def test_an_outage_of_all_is_not_remembered() -> None:
    store = Named("late", 1, on=False)
    universe = universe_of(store)
    with pytest.raises(NoBackendAvailable):
        await universe.get("x")
    store.switch.on = True
    assert await universe.get("x") is None


@pytest.mark.filterwarnings("ignore::dgent.warnings.DegradedWarning")
async def test_all_tasks_at_first_use_choose_the_same() -> None:
    first, second = Named("first", 1), Named("second", 2)
    flapping = iter([False, True, False, True, True])

    async def is_available() -> bool:
        answer = next(flapping, True)
        await asyncio.sleep(0 if answer else 0.001)
        return answer

    first.is_available = is_available  # type: ignore[method-assign]
    universe = universe_of(first, second)
    chosen = await asyncio.gather(*(universe.backend() for _ in range(5)))
    assert len(set(chosen)) == 1
    assert await universe.backend() is chosen[0]


# What is stored, and what comes back


async def test_what_is_stored_comes_back(store: Backend) -> None:
    universe = universe_of(store)
    crystal = universe.crystal(
        Note("x"), id="n", created_at=5.0, parent="p", tags=["t"], author="Ada", source="here", metadata={"more": [1]}
    )
    assert await universe.store(crystal) == "n" == crystal.id == crystal.ref
    found: Any = await universe.get("n")
    assert found == crystal
    assert (found.datum.version, found.datum.tags, found.datum.author) == (1, {"t"}, "Ada")
    assert (found.datum.source, found.datum.parent_id, found.meta.created_at.timestamp()) == ("here", "p", 5.0)
    assert dict(found.datum.metadata) == {
        "schema": "law.note", "schema_version": 1, "tags": ["t"], "author": "Ada", "source": "here", "more": [1]
    }  # fmt: skip
    assert await universe.get("absent") is None
    assert await universe.delete("n")
    assert not await universe.delete("n")
    assert await universe.get("n") is None
    before: Any = await universe.get("n", version=1)
    assert before == crystal


async def test_store_compares_and_swaps(store: Backend) -> None:
    universe = universe_of(store)
    one, two = (universe.crystal(Note(text), id="n") for text in ("one", "two"))
    await universe.store(one, expect=0)
    with pytest.raises(VersionConflict):
        await universe.store(two, expect=0)
    await universe.store(two, expect=1)
    found: Any = await universe.get("n")
    assert (found.value, found.datum.version) == (Note("two"), 2)
    ends = await asyncio.gather(
        *(universe.store(universe.crystal(Note(f"{n}"), id="n"), expect=2) for n in range(8)), return_exceptions=True
    )
    assert sorted(type(end).__name__ for end in ends) == ["VersionConflict"] * 7 + ["str"]


async def test_another_value_takes_the_place_of_one(store: Backend) -> None:
    universe = universe_of(store)
    crystal = await universe.remember(Note("one"), id="n", parent="p", source="here", tags=["kept"], created_at=5.0)
    await universe.store(crystal.replace(Note("two")), expect=crystal.datum.version)
    found: Any = await universe.get("n")
    assert (found.value, found.datum.version) == (Note("two"), 2)
    assert dict(found.datum.metadata) == dict(crystal.datum.metadata)
    assert (found.datum.causal_parent, found.datum.created_at) == ("p", 5.0)
    with pytest.raises(VersionConflict):
        await universe.store(crystal.replace(Note("three")), expect=crystal.datum.version)
    with pytest.raises(InvalidCrystal):
        crystal.replace(Labelled())  # type: ignore[arg-type]


async def test_what_was_stored_to_live_for_a_while_goes() -> None:
    now = 1000.0
    store = MemoryBackend(clock=lambda: now)
    universe = universe_of(store)
    id = await universe.store(universe.crystal(Note("x")), ttl=5)
    now += 4
    assert await universe.get(id)
    now += 2
    assert await universe.get(id) is None
    assert await universe.query(Query(schema="law.note")) == []


async def test_many_are_stored_all_or_none(store: Backend) -> None:
    universe = universe_of(store)
    crystals = [universe.crystal(Note(f"{n}")) for n in range(5)]
    assert await universe.store_many(crystals) == [crystal.id for crystal in crystals]
    assert await store.count() == 5
    huge = universe.crystal(Note("x"), metadata={"x": "x" * 70_000})
    with pytest.raises(LimitExceeded):
        await universe.store_many([universe.crystal(Note("6")), huge])
    with pytest.raises(InvalidCrystal, match="Note is no Crystal"):
        await universe.store_many([universe.crystal(Note("7")), Note("8")])  # type: ignore[list-item]
    assert await store.count() == 5
    assert await universe.store_many([]) == []


async def test_a_value_alone_is_no_crystal() -> None:
    universe = universe_of(MemoryBackend())
    with pytest.raises(InvalidCrystal, match=r"Datum is no Crystal: make one with universe\.crystal"):
        await universe.store(Datum("x", b"", 1.0))  # type: ignore[arg-type]


async def test_an_unknown_schema_gives_the_datum_as_memory_gives_it(store: Backend) -> None:
    universe = universe_of(store)
    given: list[dict[str, Any]] = [
        {}, {"schema": "elsewhere"}, {"schema": "elsewhere", "schema_version": "three"}, {"schema": 5},
        {"schema": ["law.note"]}, {"schema_version": 1}, {"schema": None}, {"schema": "law.note "},
    ]  # fmt: skip
    for at, metadata in enumerate(given):
        await store.put(Datum(f"d{at}", b"\xff no JSON", 1.0, metadata=metadata))
    for at in range(len(given)):
        found = await universe.get(f"d{at}")
        assert isinstance(found, Datum)
        assert found == await store.get(f"d{at}")
        assert (found.version, found.seq) == (1, at + 1)
    page = await universe.query(Query(order="seq", limit=len(given) - 1))
    assert page == list(await store.query(Query(order="seq", limit=len(given) - 1)))
    assert page.cursor is not None
    assert len(await universe.query(Query(order="seq", limit=5, cursor=page.cursor))) == 1


@pytest.mark.parametrize(
    ("content", "version"),
    [(b'{"text": 5}', 1), (b"\xff", 1),
     (b"", 1), (b"[]", 1), (b'{"text": "x"}', 0), (b'{"text": "x"}', "1"), (b'{"text": "x"}', 1.0)],
)  # fmt: skip
async def test_one_broken_crystal_is_named(content: bytes, version: Any) -> None:
    store = MemoryBackend()
    universe = universe_of(store)
    await universe.store(universe.crystal(Note("good"), id="good"))
    await store.put(Datum("broken", content, 1.0, metadata={"schema": "law.note", "schema_version": version}))
    with pytest.raises(InvalidCrystal, match="'broken'"):
        await universe.get("broken")
    page = await universe.query(Query())
    assert [(each.id, type(each)) for each in page] == [("good", Crystal), ("broken", Datum)]
    ((id, schema, reason),) = page.unreadable
    assert (id, schema) == ("broken", "law.note")
    assert reason
    assert (await universe.query(Query(after=1.0))).unreadable == ()


async def test_data_that_cannot_be_upgraded_hides_no_other() -> None:
    store = MemoryBackend()
    universe = universe_of(store)
    await universe.store(universe.crystal(Note("good"), id="good"))
    await store.put(Datum("newer", b"\xff", 1.0, metadata={"schema": "law.note", "schema_version": NOTE.version + 1}))
    page = await universe.query(Query())
    assert [type(each) for each in page] == [Crystal, Datum]
    assert [(each.id, "upgrade the program" in each.reason) for each in page.unreadable] == [("newer", True)]
    with pytest.raises(CrystalTooNew):
        await universe.get("newer")


async def test_a_damaged_crystal_hides_no_other(tmp_path: Path) -> None:
    async with opened("sqlite", str(tmp_path)) as store:
        universe = universe_of(store)
        for id in "abc":
            await universe.store(universe.crystal(Note(id), id=id, created_at=1.0))
        execute(f"sqlite:///{tmp_path}/memory.db", "UPDATE dgent_datums SET content = ? WHERE id = ?", b"{}", "b")
        with pytest.warns(DamagedWarning) as said:
            page = await universe.query(Query(order="oldest"))
        assert len(said) == 1
        assert ([each.id for each in page], [each.id for each in page.damaged]) == (["a", "c"], ["b"])
        for dry_run in (True, False):
            with pytest.raises(Corrupt), pytest.warns(DamagedWarning):
                await universe.upgrade(NOTE, dry_run=dry_run)


async def test_a_schema_registered_later_makes_crystals_of_datums() -> None:
    store = MemoryBackend()
    universe = Universe(store, schemas=Schemas())
    await store.put(Datum("n", b'{"text":"x"}', 1.0, metadata={"schema": "law.note", "schema_version": 1}))
    assert isinstance(await universe.get("n"), Datum)
    with pytest.raises(SchemaNotFound, match="no schema is for Note"):
        universe.crystal(Note("x"))
    universe.register(NOTE)
    assert universe.schema_for(Note) is NOTE
    found: Any = await universe.get("n")
    assert found.value == Note("x")
    with pytest.raises(InvalidSchema):
        universe.register(Schema("law.note", 1, Labelled))


def test_a_universe_knows_what_was_declared() -> None:
    assert Universe().schemas is DECLARED
    assert {"brain.crystal", "brain.setting", "trail.step", "trail.trail", "witness.mark", "witness.trust"} <= {
        schema.name for schema in DECLARED
    }


# The envelope of a crystal


def test_a_contract_with_labels_of_its_own_is_found_by_them() -> None:
    def labels(value: Labelled, **about: Any) -> dict[str, Any]:
        metadata = dict(Crystal.create(value, LABELLED, **about).datum.metadata)
        return {name: label for name, label in metadata.items() if not name.startswith("schema")}

    own = Labelled(("a", "b"), "Ada")
    assert labels(own) == {"tags": ["a", "b"], "author": "Ada"}
    assert labels(own, tags=["a", "b"], author="Ada") == {"tags": ["a", "b"], "author": "Ada"}
    assert labels(Labelled()) == {}
    assert labels(Labelled(), tags="given", author="Bob") == {"tags": ["given"], "author": "Bob"}
    assert labels(Labelled(), metadata={"tags": ["given"], "author": "Bob"}) == {"tags": ["given"], "author": "Bob"}
    for about in ({"tags": ["c"]}, {"author": "Bob"}, {"metadata": {"tags": ["c"]}}, {"metadata": {"author": "Bob"}}):
        with pytest.raises(InvalidCrystal, match="of its own"):
            labels(own, **about)


@pytest.mark.parametrize(
    "about", [{"id": ""}, {"tags": 5}, {"tags": [{1}]}, {"author": 5j}, {"metadata": {"x": 1j}}, {"parent": "\0"},
              {"created_at": "now"}, {"source": "\ud800"}, {"tags": ["\0"]}]
)  # fmt: skip
def test_what_no_store_takes_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(InvalidDatum):
        Crystal.create(Note("x"), NOTE, **about)


def test_the_envelope_is_not_for_others_to_write() -> None:
    crystal = Crystal.create(Note("x"), NOTE, metadata={"schema": "other", "schema_version": 9})
    assert (crystal.datum.schema, crystal.datum.metadata["schema_version"]) == ("law.note", 1)


def test_a_datum_becomes_a_crystal_of_its_own_schema_only() -> None:
    bare = Datum("x", b'{"text":"t"}', 5.0)
    crystal = Crystal.from_datum(bare, NOTE)
    assert (crystal.value, crystal.meta.crystallized_from, crystal.meta.schema_version) == (Note("t"), None, 1)
    with pytest.raises(InvalidCrystal, match=r"is of the schema law\.note"):
        Crystal.from_datum(Crystal.create(Note("x"), NOTE).datum, LABELLED)


def test_a_crystal_is_immutable() -> None:
    with pytest.raises(AttributeError):
        NOTE_CRYSTAL.value = Note("y")  # type: ignore[misc]


# Crystals that refer to each other


async def test_crystals_refer_to_each_other(store: Backend) -> None:
    universe = Universe(store)
    trail = await universe.remember(Trail("T", tags=("a",)))
    mark = await universe.remember(WitnessMark("did", "because", "Ada"))
    step = await universe.remember(TrailStep(trail.ref, 0, "found a mark", found=mark.ref), parent=trail.id)
    read = await universe.get(step.ref)
    assert isinstance(read, Crystal)
    assert isinstance(read.value.trail, Ref)
    assert read.value == step.value
    back: Any = await universe.get(read.value.trail)
    assert back.value == trail.value
    found: Any = await universe.get(read.value.found)  # type: ignore[arg-type]
    assert found.value == mark.value
    assert [each.id for each in await universe.query(Query(where={"trail": trail.id}))] == [step.id]
    assert [datum.id for datum in await store.causal_chain(step.id)] == [trail.id, step.id]
    await universe.delete(trail.id)
    assert await universe.get(read.value.trail) is None
    await universe.store(universe.crystal(TrailStep("a text will do", 1, "note")))  # type: ignore[arg-type]
    with pytest.raises(InvalidCrystal):
        universe.crystal(TrailStep(Ref(""), 1, "note"))


async def test_remember_gives_what_is_stored(store: Backend) -> None:
    universe = universe_of(store)
    crystal = await universe.remember(Note("x"), id="n", tags=["t"])
    assert crystal == await universe.get("n")
    assert (crystal.datum.version, crystal.datum.seq) == (1, 1)


# The universe of the process


def test_the_universe_of_the_process() -> None:
    with pytest.raises(NotFound, match="set_universe"):
        get_universe()
    universe = Universe()
    set_universe(universe)
    try:
        assert get_universe() is universe
        with pytest.raises(InvalidInput, match="MemoryBackend is no Universe"):
            set_universe(MemoryBackend())  # type: ignore[arg-type]
        assert get_universe() is universe
    finally:
        set_universe(None)
    with pytest.raises(NotFound):
        get_universe()
