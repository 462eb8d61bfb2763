"""The typed tables: columns that are equal on both databases, defaults, keys, versions, tags."""

from __future__ import annotations

import importlib
import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import NullPool, StaticPool, create_engine, delete, event, func, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

import dgent.models
from dgent.exceptions import InvalidRow
from dgent.models import (
    Base,
    BrainSetting,
    Citizen,
    CitizenConversation,
    ConversationTurn,
    Crystal,
    CrystalTag,
    GardenerSession,
    GardenIdea,
    GardenPlot,
    GrowthBudget,
    GrowthProposal,
    InvalidValue,
    NurseryEntry,
    RollbackToken,
    utcnow,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

ZONES = [UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu"), timezone(timedelta(hours=-12))]
STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
WIDE = [chr(code) for code in range(0x10000, 0x12000)]  # four bytes each
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e15, 1e15) | STORABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STORABLE, inner, max_size=3),
    max_leaves=8,
)


def crystal(**values: Any) -> Crystal:
    return Crystal(**{"content_hash": "h", "summary": "s", **values})


def turn(number: int) -> ConversationTurn:
    return ConversationTurn(turn_number=number, role="user", content="x")


EXAMPLES: list[Callable[[], Base]] = [
    crystal,
    lambda: CrystalTag(crystal_id="absent", tag="maps"),
    lambda: BrainSetting(key="theme", value={"dark": True}),
    lambda: Citizen(name="Ada"),
    lambda: CitizenConversation(citizen_name="Ada"),
    lambda: ConversationTurn(conversation_id="absent", turn_number=0, role="user", content="Hello"),
    lambda: GardenPlot(name="kitchen"),
    GardenerSession,
    lambda: GardenIdea(content="compost first"),
    lambda: GrowthProposal(target="prompt", content="be brief", content_hash="h"),
    lambda: NurseryEntry(proposal_id="absent"),
    lambda: RollbackToken(proposal_id="absent", previous={}),
    lambda: GrowthBudget(allowance=1.0),
]


@pytest.fixture(params=["sqlite", "postgres"])
async def engine(request: pytest.FixtureRequest, sqlite_path: Path) -> AsyncIterator[AsyncEngine]:
    """An engine on a database that has every table, of each kind in turn."""
    if request.param == "sqlite":
        engine = create_async_engine(f"sqlite+aiosqlite:///{sqlite_path}", poolclass=StaticPool)
        event.listen(engine.sync_engine, "connect", lambda dbapi, _: dbapi.execute("PRAGMA foreign_keys=ON"))
    else:
        url = make_url(request.getfixturevalue("migrated_postgres_url")).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def saved(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session
        await session.commit()


async def tags_of(session: AsyncSession, id: str) -> list[str]:
    found = await session.scalars(select(CrystalTag.tag).where(CrystalTag.crystal_id == id).order_by(CrystalTag.tag))
    return list(found)


def test_every_table_has_an_example_here() -> None:
    assert {make().__tablename__ for make in EXAMPLES} == dgent.models.TABLES


@pytest.mark.parametrize("make", EXAMPLES)
def test_a_new_row_has_its_defaults_at_once(make: Callable[[], Base]) -> None:
    row = make()
    for column in row.__table__.columns:
        if not column.nullable:
            assert getattr(row, column.key) is not None, column.key
    assert repr(row).startswith(f"{type(row).__name__}(")


def test_rows_do_not_share_their_defaults() -> None:
    first, second = crystal(), crystal()
    first.tags.append("maps")
    assert second.tags == []
    assert first.id != second.id
    with pytest.raises(TypeError):
        Crystal(summry="a slip of the pen")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["base", "brain", "town", "gardener", "self_grow"])
def test_the_checkout_and_the_package_have_the_same_classes(name: str) -> None:
    face, package = importlib.import_module(f"models.{name}"), importlib.import_module(f"dgent.models.{name}")
    assert face.__all__
    assert all(getattr(face, entry) is getattr(package, entry) for entry in face.__all__)


async def test_each_table_takes_a_row_and_gives_it_back(engine: AsyncEngine) -> None:
    kept = [make() for make in EXAMPLES if "absent" not in str(vars(make()))]
    async with saved(engine) as session:
        session.add_all(kept)
    async with AsyncSession(engine) as session:
        for row in kept:
            table = row.__table__
            found = (await session.execute(select(table))).mappings().one()
            assert dict(found) == {column.key: getattr(row, column.key) for column in table.columns}


MOMENTS = [
    datetime(2026, 1, 31, 8, 15, 0, 123456, UTC),
    datetime(1, 1, 1, 12, tzinfo=UTC),
    datetime(9999, 12, 31, 11, 59, 59, 999999, UTC),
    datetime(1969, 12, 31, 23, 59, 59, 1, UTC),
    datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),  # does not exist
    datetime(2026, 11, 1, 1, 30, tzinfo=ZoneInfo("America/New_York")),  # exists twice: this one,
    datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),  # and an hour later
]


async def test_l_b2_times_survive_zones_and_clock_changes_to_the_microsecond(engine: AsyncEngine) -> None:
    moments = [moment.astimezone(zone) if zone else moment for moment in MOMENTS for zone in [None, *ZONES]]
    async with saved(engine) as session:
        session.add_all(crystal(id=str(number), last_accessed=moment) for number, moment in enumerate(moments))
    async with AsyncSession(engine) as session:
        found = dict((await session.execute(select(Crystal.id, Crystal.last_accessed))).all())  # type: ignore[arg-type]
        ordered = list(await session.scalars(select(Crystal.last_accessed).order_by(Crystal.last_accessed)))
    for number, moment in enumerate(moments):
        assert found[str(number)] == moment.astimezone(UTC)
        assert found[str(number)].utcoffset() == timedelta(0)
    assert ordered == sorted(moment.astimezone(UTC) for moment in moments)


async def test_a_time_that_sql_made_is_in_utc(engine: AsyncEngine) -> None:
    start = utcnow().replace(microsecond=0)
    async with saved(engine) as session:
        session.add(crystal(id="c"))
        await session.flush()
        await session.execute(text("UPDATE brain_crystals SET last_accessed = CURRENT_TIMESTAMP"))
    async with AsyncSession(engine) as session:
        found = await session.scalar(select(Crystal.last_accessed))
    assert found is not None
    assert start <= found <= utcnow()


REFUSED = [
    ("last_accessed", datetime(2026, 1, 31, 8, 15), "no time zone"),  # noqa: DTZ001 - that is the point
    ("last_accessed", "2026-01-31", "not str"),
    ("last_accessed", datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "years 1 and 9999"),
    ("summary", "a\0b", "NUL"),
    ("summary", "\ud800", "surrogate"),
    ("summary", 7, "not int"),
    ("tags", ["a\0b"], "NUL"),
    ("tags", [float("nan")], "nan"),
    ("tags", [2**63], "64 bits"),
    ("tags", [{1, 2}], "set"),
]


@pytest.mark.parametrize(("field", "value", "reason"), REFUSED)
async def test_what_not_both_databases_can_keep_is_refused(
    engine: AsyncEngine, field: str, value: object, reason: str
) -> None:
    async with AsyncSession(engine) as session:
        session.add(crystal(**{field: value}))
        with pytest.raises(InvalidRow, match=reason) as caught:
            await session.flush()
        assert isinstance(caught.value, InvalidValue)
        await session.rollback()
        assert await session.scalar(select(func.count()).select_from(Crystal)) == 0


async def test_text_sorts_and_has_prefixes_byte_by_byte(engine: AsyncEngine) -> None:
    names = ["a", "B", "b", "ä", "Z", "a-b", "a_b", "ab", "aa", "É", "e", "~", " ", "\U0001f600", "\uffff", "%", "a%"]
    async with saved(engine) as session:
        session.add_all(crystal(id=name) for name in names)
    async with AsyncSession(engine) as session:
        assert list(await session.scalars(select(Crystal.id).order_by(Crystal.id))) == sorted(names)
        inside = select(Crystal.id).where(Crystal.id >= "a", Crystal.id < "b").order_by(Crystal.id)
        assert list(await session.scalars(inside)) == ["a", "a%", "a-b", "a_b", "aa", "ab"]


@given(value=JSONS.filter(lambda value: value is not None), words=STORABLE, moment=st.datetimes(timezones=st.just(UTC)))
def test_any_value_is_given_back_by_sqlite(value: Any, words: str, moment: datetime) -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine, [BrainSetting.__table__, Crystal.__table__, CrystalTag.__table__])  # type: ignore[list-item]
    with Session(engine) as session:
        session.add_all([BrainSetting(key="k", value=value), crystal(id="c", summary=words, last_accessed=moment)])
        session.commit()
        assert session.get_one(BrainSetting, "k").value == value
        found = session.get_one(Crystal, "c")
        assert (found.summary, found.last_accessed) == (words, moment)
    engine.dispose()


async def test_any_json_is_given_back_by_both(engine: AsyncEngine) -> None:
    values = [0, -(2**63), 2**63 - 1, 0.1, 1e15, True, False, "", '"', "☃\u2028", [], {}, {"": [None, {"a": [1.5]}]}]
    async with saved(engine) as session:
        session.add_all(BrainSetting(key=f"k{number}", value=value) for number, value in enumerate(values))
    async with AsyncSession(engine) as session:
        found = await session.scalars(select(BrainSetting).order_by(BrainSetting.created_at))
        assert {row.key: (type(row.value), row.value) for row in found} == {
            f"k{number}": (type(value), value) for number, value in enumerate(values)
        }
        inside = select(BrainSetting.key).where(BrainSetting.value["", 1, "a", 0].as_float() == 1.5)
        assert list(await session.scalars(inside)) == ["k12"]


async def test_a_version_rises_with_each_write_and_a_stale_one_is_refused(engine: AsyncEngine) -> None:
    async with saved(engine) as session:
        row = crystal(id="c")
        session.add(row)
    assert row.version == 1
    async with saved(engine) as session:
        stale = await session.get_one(Crystal, "c")
        await session.execute(
            update(Crystal)
            .values(summary="t", version=Crystal.version + 1)
            .execution_options(synchronize_session=False)
        )
        stale.summary = "u"
        with pytest.raises(StaleDataError):
            await session.flush()
        await session.rollback()
    async with saved(engine) as session:
        row = await session.get_one(Crystal, "c")
        before = row.updated_at
        row.access_count += 1
        await session.flush()
        assert row.version == 2
        await session.refresh(row)
        assert row.updated_at > before
        assert row.created_at <= before


async def test_tags_can_be_searched_and_follow_the_crystal(engine: AsyncEngine) -> None:
    async with saved(engine) as session:
        row = crystal(id="c", tags=["maps", "maps", "Maps"])
        session.add_all([row, crystal(id="d", tags=["maps"])])
        await session.flush()
        assert await tags_of(session, "c") == ["Maps", "maps"]
        row.tags.append("ink")
        row.tags.remove("Maps")
        await session.flush()
        assert row.tags == ["maps", "maps", "ink"]
        assert await tags_of(session, "c") == ["ink", "maps"]
        row.summary = "another"
        await session.flush()
        assert await tags_of(session, "c") == ["ink", "maps"]
        found = select(Crystal.id).join(CrystalTag).where(CrystalTag.tag == "maps").order_by(Crystal.id)
        assert list(await session.scalars(found)) == ["c", "d"]
        await session.delete(row)
        await session.flush()
        assert await tags_of(session, "c") == []


async def test_a_write_past_the_orm_brings_the_tags_up_to_date(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        values = {"content_hash": "h", "summary": "s", "created_at": utcnow(), "updated_at": utcnow()}
        rows = [{"id": "c", "tags": ["a", "b"], **values}, {"id": "d", "tags": [], **values}]
        await connection.execute(Crystal.__table__.insert(), rows)  # type: ignore[attr-defined]
        await connection.run_sync(Crystal.derive, ["c", "d"])
        await connection.execute(update(Crystal).where(Crystal.id == "c").values(tags=["b", "z"]))
        await connection.run_sync(Crystal.derive, ["c"])
        await connection.run_sync(Crystal.derive, ["absent"])
        await connection.run_sync(Crystal.derive, [])
    async with AsyncSession(engine) as session:
        assert await tags_of(session, "c") == ["b", "z"]
        assert await tags_of(session, "d") == []


def test_a_search_by_tag_uses_the_index() -> None:
    search = (
        "EXPLAIN QUERY PLAN SELECT * FROM brain_crystal_tags t"
        " JOIN brain_crystals c ON c.id = t.crystal_id WHERE t.tag = 'x'"
    )
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        steps = [row[3] for row in connection.execute(text(search))]
    engine.dispose()
    assert "ix_brain_crystal_tags_tag_crystal_id" in steps[0]
    assert not [step for step in steps if step.startswith("SCAN")]


async def test_what_belongs_to_a_row_goes_with_it_and_what_only_points_to_it_stays(engine: AsyncEngine) -> None:
    async with saved(engine) as session:
        ada = Citizen(id="z", name="Ada")
        talk = CitizenConversation(id="v", citizen_name="Ada", citizen=ada)
        talk.turns = [ConversationTurn(turn_number=number, role="user", content="x") for number in (0, 1)]
        plot = GardenPlot(id="g", name="kitchen")
        work = GardenerSession(id="s", plot=plot)
        session.add_all([ada, talk, GardenIdea(id="i", content="x", plot=plot, session=work)])
        proposal = GrowthProposal(id="p", target="t", content="c", content_hash="h")
        proposal.nursery = [NurseryEntry()]
        proposal.rollback_tokens = [RollbackToken(previous={})]
        session.add(proposal)
    async with engine.begin() as connection:
        for table in (Citizen, GardenPlot, GardenerSession, GrowthProposal):
            await connection.execute(delete(table))
    async with AsyncSession(engine) as session:
        talk = await session.get_one(CitizenConversation, "v")
        assert talk.citizen_id is None
        assert [turn.turn_number for turn in await talk.awaitable_attrs.turns] == [0, 1]
        idea = await session.get_one(GardenIdea, "i")
        assert (idea.plot_id, idea.session_id) == (None, None)
        for gone in (NurseryEntry, RollbackToken):
            assert await session.scalar(select(func.count()).select_from(gone)) == 0
        await session.delete(talk)
        await session.commit()
        assert await session.scalar(select(func.count()).select_from(ConversationTurn)) == 0


REJECTED: list[tuple[str, Callable[[], list[Base]]]] = [
    ("unknown parent", lambda: [ConversationTurn(conversation_id="absent", turn_number=0, role="user", content="x")]),
    ("turn twice", lambda: [CitizenConversation(id="v", citizen_name="a", turns=[turn(0), turn(0)])]),
    ("turn below 0", lambda: [CitizenConversation(id="v", citizen_name="a", turns=[turn(-1)])]),
    ("count below 0", lambda: [CitizenConversation(citizen_name="a", turn_count=-1)]),
    ("access below 0", lambda: [crystal(access_count=-1)]),
    ("no summary", lambda: [Crystal(content_hash="h")]),
    ("empty id", lambda: [crystal(id="")]),
    ("long id", lambda: [crystal(id="x" * 513)]),
    ("long tag", lambda: [crystal(tags=["x" * 129])]),
    ("empty tag", lambda: [crystal(tags=[""])]),
    ("long name", lambda: [Citizen(name="x" * 513)]),
    ("long datum id", lambda: [crystal(datum_id="x" * 513)]),
    ("long parent", lambda: [GardenIdea(content="x", causal_parent="x" * 513)]),
    ("same id", lambda: [crystal(id="c"), crystal(id="c")]),
    ("same name", lambda: [Citizen(name="Ada"), Citizen(name="Ada")]),
    ("lifecycle", lambda: [GardenIdea(content="x", lifecycle="WEED")]),
    ("confidence over 1", lambda: [GardenIdea(content="x", confidence=1.01)]),
    ("confidence below 0", lambda: [GardenIdea(content="x", confidence=-0.01)]),
    ("confidence NaN", lambda: [GardenIdea(content="x", confidence=float("nan"))]),
    ("status", lambda: [GrowthProposal(target="t", content="c", content_hash="h", status="MAYBE")]),
    ("overspent", lambda: [GrowthBudget(allowance=1.0, spent=1.5)]),
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in REJECTED])
@pytest.mark.filterwarnings("ignore:New instance .* conflicts:sqlalchemy.exc.SAWarning")
async def test_the_database_refuses(engine: AsyncEngine, make: Callable[[], list[Base]]) -> None:
    async with AsyncSession(engine) as session:
        for row in make():
            session.add(row)
        with pytest.raises(IntegrityError):
            await session.flush()


async def test_the_longest_ids_tags_and_names_fit_every_index(engine: AsyncEngine) -> None:
    letters = ["".join(random.Random(seed).choices(WIDE, k=512)) for seed in range(4)]  # so that nothing compresses
    async with saved(engine) as session:
        session.add(crystal(id=letters[0], datum_id=letters[1], content_hash=letters[2], tags=[letters[3][:128]]))
        session.add(CitizenConversation(id=letters[0], citizen_name=letters[1]))
        session.add(GardenIdea(id=letters[0], content="x", causal_parent=letters[1]))
    async with AsyncSession(engine) as session:
        assert await session.get(Crystal, letters[0]) is not None
        assert await tags_of(session, letters[0]) == [letters[3][:128]]
