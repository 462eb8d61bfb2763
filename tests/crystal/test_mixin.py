"""What an agent remembers, the examples of the specification, and a crystal beside a row in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dgent import Datum, StorageProvider
from dgent.crystal import Crystal, DataMixin, Schema, Schemas, Universe, default_schemas, set_universe
from dgent.crystal.default_schemas import WitnessMark, WitnessTrust
from dgent.exceptions import InvalidCrystal, NotFound, SchemaNotFound
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.models.brain import BrainSetting
from dgent.query import Query
from dgent.store import Backend


@dataclass(frozen=True)
class Thought:
    text: str


@dataclass(frozen=True)
class Signed:
    text: str
    author: str


KNOWN = Schemas([Schema("law.thought", 1, Thought), Schema("law.signed", 1, Signed)])


class Thinker(DataMixin):
    """An agent without a name."""


class Named(DataMixin):
    def __init__(self, name: Any) -> None:
        self.name = name


class Apart(DataMixin):
    def __init__(self, universe: Universe) -> None:
        self.own = universe

    @property
    def data(self) -> Universe:
        return self.own


@pytest.fixture
def universe() -> Iterator[Universe]:
    universe = Universe(MemoryBackend(), schemas=KNOWN)
    set_universe(universe)
    yield universe
    set_universe(None)


async def test_an_agent_remembers_recalls_and_forgets(universe: Universe) -> None:
    agent = Thinker()
    crystal = await agent.remember(Thought("x"), tags=["eureka"])
    assert (crystal.value, crystal.datum.author) == (Thought("x"), "Thinker")
    assert crystal.datum.source == f"{__name__}.Thinker"
    assert await agent.recall(Query(schema="law.thought", tags=frozenset(["eureka"]))) == [crystal]
    assert await agent.recall(Query(author="Thinker")) == [crystal]
    assert await agent.recall(Query(author="Somebody")) == []
    assert await agent.forget(crystal)
    assert not await agent.forget(crystal.id)
    assert await agent.recall(Query()) == []
    assert await universe.get(crystal.id, version=1) == crystal


@pytest.mark.parametrize(("name", "author"), [("Ada", "Ada"), (5, "Named"), (None, "Named"), (lambda: "Ada", "Named")])
async def test_a_name_is_the_author_where_it_is_text(universe: Universe, name: Any, author: str) -> None:
    assert (await Named(name).remember(Thought("x"))).datum.author == author


async def test_what_is_said_about_it_counts_first(universe: Universe) -> None:
    crystal = await Named("Ada").remember(Thought("x"), author="Bob", source="a book", id="t", parent="p")
    assert (crystal.datum.author, crystal.datum.source, crystal.id) == ("Bob", "a book", "t")
    assert crystal.datum.causal_parent == "p"


async def test_a_contract_with_an_author_keeps_it(universe: Universe) -> None:
    agent = Named("Ada")
    crystal = await agent.remember(Signed("x", author="Eve"))
    assert (crystal.value.author, crystal.datum.author, crystal.datum.source) == ("Eve", "Eve", f"{__name__}.Named")
    assert await agent.recall(Query(author="Ada")) == []
    with pytest.raises(InvalidCrystal, match="of its own"):
        await agent.remember(Signed("x", author="Eve"), author="Ada")


async def test_an_agent_may_have_a_universe_of_its_own(universe: Universe) -> None:
    own = Universe(MemoryBackend(), schemas=KNOWN)
    agent = Apart(own)
    crystal = await agent.remember(Thought("x"))
    assert await own.get(crystal.id) == crystal
    assert await universe.get(crystal.id) is None
    assert await agent.forget(crystal.ref)


async def test_a_value_of_no_schema_is_refused(universe: Universe) -> None:
    with pytest.raises(SchemaNotFound, match="no schema is for int"):
        await Thinker().remember(5)
    assert await universe.query(Query()) == []


async def test_without_a_universe_an_agent_says_so() -> None:
    with pytest.raises(NotFound, match="set_universe"):
        await Thinker().remember(Thought("x"))


# The examples of the specification


@dataclass(frozen=True)
class WitnessMarkV1:
    action: str
    reasoning: str
    author: str


@dataclass(frozen=True)
class WitnessMarkV2:
    action: str
    reasoning: str
    author: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class WitnessMarkV3:
    action: str
    reasoning: str
    author: str
    tags: tuple[str, ...] = ()
    principles: tuple[str, ...] = ()


V1 = Schema("witness.mark", 1, WitnessMarkV1)
V2 = Schema("witness.mark", 2, WitnessMarkV2, {1: lambda d: {**d, "tags": ()}})
WITNESS_MARK_SCHEMA = Schema(
    name="witness.mark",
    version=3,
    contract=WitnessMarkV3,
    migrations={
        1: lambda d: {**d, "tags": ()},  # v1 -> v2
        2: lambda d: {**d, "principles": ()},  # v2 -> v3
    },
)


async def test_the_specification_three_versions_are_read_as_the_third(store: Backend) -> None:
    written = [
        Crystal.create(WitnessMarkV1("a", "because", "kent"), V1, tags=["eureka"]),
        Crystal.create(WitnessMarkV2("b", "because", "kent", ("eureka",)), V2),
        Crystal.create(WitnessMarkV3("c", "because", "kent", ("eureka",), ("joy",)), WITNESS_MARK_SCHEMA),
        Crystal.create(WitnessMarkV3("d", "because", "kent"), WITNESS_MARK_SCHEMA),
    ]
    for crystal, known in zip(written, (V1, V2, WITNESS_MARK_SCHEMA, WITNESS_MARK_SCHEMA), strict=True):
        await Universe(store, schemas=Schemas([known])).store(crystal)
    universe = Universe(store, schemas=Schemas([WITNESS_MARK_SCHEMA]))
    wanted = [
        WitnessMarkV3("a", "because", "kent"),
        WitnessMarkV3("b", "because", "kent", ("eureka",)),
        WitnessMarkV3("c", "because", "kent", ("eureka",), ("joy",)),
    ]
    for _ in range(2):
        marks = await universe.query(
            Query(
                schema="witness.mark",
                tags=frozenset(["eureka"]),
                since=datetime(2025, 1, 1, tzinfo=UTC),
                limit=50,
            )
        )
        assert sorted((each.value for each in marks), key=lambda mark: mark.action) == wanted  # type: ignore[union-attr]
        await universe.upgrade("witness.mark")
    assert await universe.query(Query(schema="witness.mark", until=datetime(2025, 1, 1, tzinfo=UTC))) == []
    assert isinstance(await Universe(store, schemas=Schemas()).get(written[0].id), Datum)


def test_the_specification_the_shipped_mark_is_the_same() -> None:
    shipped: Schema[WitnessMark] = WitnessMark.schema
    assert (shipped.name, shipped.version, shipped.gaps) == ("witness.mark", 3, [])
    old = {"action": "a", "reasoning": "because", "author": "kent"}
    assert shipped.upgrade(1, old) == WITNESS_MARK_SCHEMA.upgrade(1, old)
    value = WitnessMark("a", "because", "kent", ("eureka",), ("joy",))
    assert asdict(value) == asdict(WitnessMarkV3("a", "because", "kent", ("eureka",), ("joy",)))
    assert shipped.decode(WITNESS_MARK_SCHEMA.encode(WitnessMarkV3(**asdict(value)))) == value


def test_every_shipped_schema_has_its_migrations() -> None:
    assert all(getattr(default_schemas, name).schema.gaps == [] for name in default_schemas.__all__)


# Both tracks


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_crystal_beside_a_row_in_one_transaction(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: dict[str, Any] = {"data_dir": tmp_path / "data"}
    if database == "postgres":
        place["database_url"] = request.getfixturevalue("postgres_url")
    async with await StorageProvider.from_config(**place) as storage:
        await storage.run_migrations()
        universe = Universe(storage.memory)
        crystal = universe.crystal(WitnessTrust("kent", 0.9, "kept his word"))
        async with storage.transaction() as tx:
            await tx.memory.put(crystal.datum)
            tx.session.add(BrainSetting(key="trusted", value=crystal.id))
        lost = universe.crystal(WitnessTrust("nobody", 0.1, "never came"))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the whole block is what fails
            async with storage.transaction() as tx:
                await tx.memory.put(lost.datum)
                tx.session.add(BrainSetting(key="lost", value=lost.id))
                await tx.session.flush()
                1 / 0  # noqa: B018
        assert await universe.get(crystal.ref) == crystal
        assert await universe.get(lost.ref) is None
        assert await universe.query(Query(schema="witness.trust", where={"subject": "kent"})) == [crystal]
        row = await storage.table(BrainSetting).get("trusted")
        assert row is not None
        assert row.data["value"] == crystal.id
