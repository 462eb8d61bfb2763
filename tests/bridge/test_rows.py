"""A row is a datum and back, for every model and every column type."""

from __future__ import annotations

import base64
import math
import os
import time as clock
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import JSON, PickleType, inspect, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dgent import models
from dgent.bridge import TableAdapter
from dgent.bridge.mapping import mapping_of
from dgent.datum import Datum
from dgent.exceptions import CapabilityMissing, Corrupt, IntegrityViolation, InvalidDatum, InvalidRow
from dgent.models import Base, Crystal
from dgent.testing.contract_base import examples

from .wide_models import Color, Counted, Note, Paired, Uniquely, Wide

if TYPE_CHECKING:
    from dgent.sql import Database

MODELS = sorted(
    (mapper.class_ for mapper in Base.registry.mappers if mapper.class_.__module__.startswith("dgent.")), key=str
)
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
jsons = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda it: st.lists(it, max_size=3) | st.dictionaries(texts, it, max_size=3),
)
zones = [UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu"), timezone(timedelta(hours=-14))]
moments = st.datetimes(
    datetime(2, 1, 1),  # noqa: DTZ001  # hypothesis adds the zone
    datetime(9998, 12, 31),  # noqa: DTZ001
    timezones=st.sampled_from(zones),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "created_at": moments,
    "updated_at": moments,
    "tags": st.lists(texts, max_size=3),
    "body": st.dictionaries(texts, jsons, max_size=3),
    "small": st.integers(-(2**15), 2**15 - 1),
    "whole": st.integers(-(2**31), 2**31 - 1),
    "big": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "exact": st.decimals(-(10**8) + 1, 10**8 - 1, places=4),
    "short": texts.map(lambda value: value[:5]),
    "flag": st.booleans(),
    "raw": st.binary(max_size=9),
    "uid": st.uuids(),
    "day": st.dates(),
    "hour": st.times(),
    "local": st.datetimes(),
    "zoned": moments,
    "moment": moments,
    "span": st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000)),
    "color": st.sampled_from(Color),
    "word": st.sampled_from("ab"),
    "plain": jsons,
    "score": st.integers(-9, 9),
    "column_name": texts,
}
REQUIRED = {"created_at", "updated_at", "tags", "body", "score"}


def rows() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {name: values if name in REQUIRED else st.none() | values for name, values in VALUES.items()}
    )


async def wide(database: Database, **options: Any) -> TableAdapter:
    await database.write(Wide.metadata.create_all)
    return TableAdapter(Wide, database, **options)


async def insert(database: Database, *instances: Any) -> None:
    """Write rows as a program does that has never heard of datums."""

    def work(connection: Any) -> None:
        with Session(connection) as session:
            session.add_all(instances)
            session.flush()

    await database.write(work)


async def load(database: Database, model: Any, key: Any) -> Any:
    def work(connection: Any) -> Any:
        with Session(connection, expire_on_commit=False) as session:
            return session.get(model, key)

    return await database.read(work)


@examples()
@given(row=rows())
async def test_l_b1_what_the_orm_wrote_comes_back_as_it_was(database: Database, row: dict[str, Any]) -> None:
    table = await wide(database)
    await table.purge("x")
    await insert(database, Wide(id="x", **row))
    before = await load(database, Wide, "x")
    found = await table.get("x")
    assert found is not None
    assert await table.put(found) == found
    after = await load(database, Wide, "x")
    for name in VALUES:
        assert getattr(after, name) == getattr(before, name), name
    await table.purge("x")
    assert await table.put(found) == found
    assert await table.get("x") == found
    again = await load(database, Wide, "x")
    for name in VALUES:
        assert getattr(again, name) == getattr(before, name), name


def samples() -> dict[type[Base], Base]:
    """Return one row of every model; rows that others refer to come first."""
    m = models
    made = [
        m.Crystal(id="c", content_hash="h", summary="é\n'", tags=["maps", "maps", "%"], access_count=3, datum_id="d"),
        m.CrystalTag(crystal_id="c", tag='"maps", ['),
        m.BrainSetting(key="k/ü", value={"deep": [1, 1.5, None, {"x": True}]}),
        m.Citizen(id="z", name="Ann", traits={"age": 3}),
        m.CitizenConversation(id="v", citizen_name="Ann", citizen_id="z", topic=None, turn_count=1),
        m.ConversationTurn(id="t", conversation_id="v", turn_number=0, role="user", content="hi", causal_parent="gone"),
        m.GardenPlot(id="p", name="north"),
        m.GardenerSession(id="s", plot_id="p", ended_at=datetime(2026, 3, 29, 1, 30, tzinfo=ZoneInfo("Europe/Berlin"))),
        m.GardenIdea(
            id="i", content="grow", lifecycle="TREE", confidence=0.1 + 0.2, session_id="s", causal_parent="i0"
        ),
        m.GrowthProposal(id="g", target="x", content="y", content_hash="z"),
        m.NurseryEntry(id="n", proposal_id="g", usage_count=2, success_count=1, observations={"a": []}),
        m.RollbackToken(id="r", proposal_id="g", previous={"was": 1}),
        m.GrowthBudget(id="b", allowance=10.0, spent=1 / 3),
    ]
    return {type(row): row for row in made}


def test_every_model_has_a_sample() -> None:
    assert set(samples()) == set(MODELS)


async def test_l_b1_for_every_model(database: Database) -> None:
    for row in samples().values():
        await insert(database, row)
    for model in samples():
        table = TableAdapter(model, database)
        page = await table.list()
        assert len(page) == (3 if model is models.CrystalTag else 1)
        for found in page:
            assert await table.put(found) == found
            again = await table.get(found.id)
            assert again == found
            assert again.version == found.version
            assert await table.put_many([found, found]) == [found, found]
            assert found.source == "alembic"
            assert found.metadata["table"] == table.table == model.__tablename__
            names = inspect(model).column_attrs.keys()
            assert found.data.keys() == {name for name in names if name != "version"}
        assert await table.list() == page


async def test_l_b1_for_every_model_put_back_after_it_was_deleted(database: Database) -> None:
    rows = samples()
    for row in rows.values():
        await insert(database, row)
    tables = [TableAdapter(model, database) for model in rows]
    pages = [await table.list() for table in tables]
    for table, page in reversed([*zip(tables, pages, strict=True)]):
        assert await table.delete_many([datum.id for datum in page]) == len(page)
    for table, page in zip(tables, pages, strict=True):
        assert await table.put_many(page) == page
        assert await table.list() == page


@examples(2)
@given(moment=moments, other=moments)
async def test_l_b2_times_survive_in_every_zone(database: Database, moment: datetime, other: datetime) -> None:
    table = await wide(database)
    datum = Datum.create(id="x", data={"moment": moment.isoformat()}, created_at=other.timestamp())
    stored = await table.put(datum)
    moment = moment.astimezone(UTC)  # an hour that comes twice equals nothing in another zone
    assert datetime.fromisoformat(stored.data["moment"]) == moment
    assert stored.created_at == datetime.fromtimestamp(other.timestamp(), UTC).timestamp()
    assert (await load(database, Wide, "x")).moment == moment
    assert await table.put(stored) == stored


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
async def test_l_b2_times_survive_in_the_zones_of_machines(database: Database, zone: str) -> None:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    clock.tzset()
    try:
        table = await wide(database)
        for hour in range(48):  # the clocks of New York went back in this night
            moment = datetime(2026, 11, 1, 0, 30, tzinfo=UTC) + timedelta(hours=hour / 2)
            stored = await table.put(
                Datum.create(id="x", data={"zoned": moment.isoformat()}, created_at=moment.timestamp())
            )
            assert (
                datetime.fromisoformat(stored.data["created_at"])
                == datetime.fromisoformat(stored.data["zoned"])
                == moment
            )
            assert (await table.get("x")) == stored
            assert (await load(database, Wide, "x")).created_at == moment
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        clock.tzset()


WRONG: list[tuple[str, Any, str]] = [
    ("small", 2**15, "16 bits"),
    ("whole", 2**31, "32 bits"),
    ("whole", 1.0, "not a whole number"),
    ("whole", True, "not a whole number"),
    ("real", "1", "not a number"),
    ("real", 2**53 + 1, "more digits"),
    ("exact", "1.23456", "4 digits after"),
    ("exact", 10**8, "8 digits before"),
    ("exact", "NaN", "no decimal"),
    ("exact", [], "not a number"),
    ("short", "123456", "takes 5"),
    ("short", 1, "not text"),
    ("short", "a\0", "NUL"),
    ("column_name", "a\0", "NUL"),
    ("flag", 1, "not true or false"),
    ("raw", "?", "base64"),
    ("raw", 1, "base64"),
    ("uid", "x", "UUID"),
    ("day", "2026-02-30", "date"),
    ("hour", "25:00", "time of day"),
    ("hour", "12:00Z", "zone"),
    ("local", "2026-01-01T00:00:00Z", "zone"),
    ("moment", "2026-01-01T00:00:00", "no time zone"),
    ("moment", "0001-01-01T00:00:00+14:00", "between the years"),
    ("moment", 5, "ISO 8601"),
    ("span", "1 day", "duration"),
    ("span", "P9999999999D", "longer"),
    ("color", "GREEN", "none of RED, BLUE"),
    ("color", ["RED"], "none of RED, BLUE"),
    ("word", "c", "none of a, b"),
    ("tags", {}, "dict, not list"),
    ("tags", [1], "list of texts"),
    ("tags", None, "is null"),
    ("body", [], "list, not dict"),
    ("plain", {"a": ["\0"]}, "NUL"),
    ("nobody", 1, "no column"),
    ("id", "y", "another key"),
    ("created_at", "2026-01-01T00:00:00Z", "another time"),
]


@pytest.mark.parametrize(("field", "value", "reason"), WRONG)
async def test_what_does_not_fit_is_one_error_that_names_it(
    sqlite_database: Database, field: str, value: Any, reason: str
) -> None:
    table = await wide(sqlite_database)
    with pytest.raises(InvalidRow, match=reason) as caught:
        await table.put(Datum.create(orjson.dumps({field: value}), id="x"))
    assert (caught.value.table, caught.value.field) == ("test_wide", field)
    assert await table.count() == 0


@pytest.mark.parametrize(
    ("datum", "field"),
    [
        (Datum.create(b"\xff", id="x"), None),
        (Datum.create(data=[], id="x"), None),
        (Datum.create(data={}, id="x", author="ann"), "metadata.author"),
        (Datum.create(data={}, id="x", source="memory"), "metadata.source"),
        (Datum.create(data={}, id="x", metadata={"table": "other"}), "metadata.table"),
        (Datum.create(data={}, id="x", metadata={"tags": 1}), "tags"),
        (Datum.create(data={}, id="x", causal_parent="y"), "causal_parent"),
    ],
)
async def test_what_a_row_has_no_place_for_is_refused(
    sqlite_database: Database, datum: Datum, field: str | None
) -> None:
    table = await wide(sqlite_database)
    with pytest.raises(InvalidRow) as caught:
        await table.put(datum)
    assert caught.value.field == field


async def test_a_missing_field_is_named(sqlite_database: Database) -> None:
    with pytest.raises(InvalidRow, match=r"brain_crystals\.content_hash: is missing"):
        await TableAdapter(Crystal, sqlite_database).put(Datum.create(data={"summary": "x"}))


async def test_a_cause_that_the_content_gives_differently_is_refused(sqlite_database: Database) -> None:
    await sqlite_database.write(Note.metadata.create_all)
    table = TableAdapter(Note, sqlite_database)
    assert (
        await table.put(Datum.create(id="x", data={"n": 1, "causal_parent": "p"}, causal_parent="p"))
    ).parent_id == "p"
    for said, parent in (("q", "p"), (None, "p"), ("p", None)):
        with pytest.raises(InvalidRow, match="another cause"):
            await table.put(Datum.create(id="x", data={"n": 1, "causal_parent": said}, causal_parent=parent))


async def test_what_the_content_leaves_out_takes_its_default(database: Database) -> None:
    table = await wide(database)
    first = await table.put(Datum.create(id="x", data={"tags": ["a"], "whole": 1, "score": 3}, created_at=5.0))
    assert (first.data["score"], first.data["body"]) == (3, {})
    stamped = datetime.fromisoformat(first.data["updated_at"])
    assert abs(stamped.timestamp() - clock.time()) < 60
    again = await table.put(Datum.create(id="x", data={"tags": ["a"], "whole": 1, "score": 3}, created_at=5.0))
    assert again == first
    second = await table.put(Datum.create(id="x", data={"score": 4}, created_at=5.0))
    assert (second.data["whole"], second.data["tags"], second.data["score"]) == (None, [], 4)
    assert datetime.fromisoformat(second.data["updated_at"]) > stamped
    fresh = await table.put(Datum.create(id="y", data={}, created_at=5.0))
    assert fresh.data["score"] == 7


async def test_a_changed_row_is_stamped_unless_it_says_otherwise(sqlite_database: Database) -> None:
    table = await wide(sqlite_database)
    first = await table.put(Datum.create(id="x", data={"updated_at": "2020-01-01T00:00:00Z"}))
    assert first.data["updated_at"] == "2020-01-01T00:00:00Z"
    changed = await table.put(first.replace(content=orjson.dumps({**first.data, "whole": 1})))
    assert changed.data["updated_at"] > "2026"
    said = await table.put(
        changed.replace(content=orjson.dumps({**changed.data, "updated_at": "2021-01-01T00:00:00Z"}))
    )
    assert said.data["updated_at"] == "2021-01-01T00:00:00Z"


async def test_hidden_columns_are_neither_shown_nor_written(database: Database) -> None:
    await database.write(Note.metadata.create_all)
    await insert(database, Note(id="a", n=1, secret="s3cret"))
    table = TableAdapter(Note, database, hidden=["secret", "updated_at"])
    found = await table.get("a")
    assert found is not None
    assert found.data.keys() == {"id", "n", "tags", "created_at", "causal_parent"}
    before = (await load(database, Note, "a")).updated_at
    await table.put(found.replace(content=orjson.dumps({**found.data, "n": 2})))
    after = await load(database, Note, "a")
    assert (after.n, after.secret, after.version) == (2, "s3cret", 2)
    assert after.updated_at > before
    with pytest.raises(InvalidRow, match="is no column"):
        await table.put(found.replace(content=orjson.dumps({**found.data, "secret": "mine"})))
    await table.put(Datum.create(id="b", data={"n": 3}))
    assert (await load(database, Note, "b")).secret == "unset"


async def test_keys_of_every_kind_are_ids(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    uid = UUID("12345678-1234-5678-1234-567812345678")
    await insert(
        database, Counted(id=7, slug="s", causal_parent=3), Uniquely(id=uid, n=1), Paired(left='a"]', right=-2)
    )
    for model, id, others in [
        (Counted, "7", ["7.0", '"7"', "seven", str(2**40)]),
        (Uniquely, str(uid), [str(uid).upper() + "0", "1"]),
        (Paired, '["a\\"]",-2]', ["a", "[]", '["a"]', '["a","b"]', "{}"]),
    ]:
        table = TableAdapter(model, database)
        (found,) = await table.list()
        assert found.id == id
        assert await table.get(id) == await table.put(found) == found
        assert (await table.get_many([id, *others])) == {id: found}
        for other in others:
            assert await table.get(other) is None
            assert not await table.exists(other)
            assert not await table.delete(other)
            with pytest.raises(InvalidRow, match="none of this table's"):
                await table.put(Datum.create(id=other, data={}))
        assert await table.count(prefix=id[:1]) == 1
        assert await table.list(prefix=id[:1]) == [found]
        assert await table.list(prefix="~") == []
        assert await table.delete(id)
        assert await table.put(found) == found
        assert await table.exists(id)


async def test_an_id_of_several_columns_may_be_longer_than_others(database: Database) -> None:
    """What is listed can be fetched and deleted. Mutant: the check of all ids refused it by its length."""
    await database.write(Wide.metadata.create_all)
    await insert(database, Paired(left="é" * 512, right=1), Paired(left="short", right=2))
    table = TableAdapter(Paired, database)
    listed = {datum.id: datum for datum in await table.list()}
    id = max(listed, key=len)
    assert len(id) > 512
    assert await table.get(id) == listed[id] == await table.put(listed[id])
    assert await table.get_many([id, id, '["none",3]']) == {id: listed[id]}
    assert await table.exists(id)
    for bad in ("a\0", "\ud800", "", 7):
        with pytest.raises(InvalidDatum):
            await table.get(bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidDatum):
            await table.delete_many([bad])  # type: ignore[list-item]
    assert await table.delete_many([id, id]) == 1
    assert not await table.exists(id)


async def test_an_id_that_its_column_does_not_take_is_refused(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Wide, database, id_field="code")
    with pytest.raises(InvalidRow, match="takes 5"):
        await table.put(Datum.create(id="123456", data={"id": "x"}))
    assert (await table.put(Datum.create(id="12345", data={"id": "x"}))).id == "12345"
    assert await table.get("123456") is None


async def test_a_chain_of_counted_keys(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Counted, database)
    await insert(database, *(Counted(id=n, slug=str(n), causal_parent=n - 1) for n in range(1, 12)))
    assert [datum.id for datum in await table.causal_chain("11")] == [str(n) for n in range(1, 12)]
    assert (await table.get("5")).causal_parent == "4"  # type: ignore[union-attr]
    assert not table.capabilities.versioned
    with pytest.raises(CapabilityMissing):
        await table.put(Datum.create(id="1", data={"slug": "x"}), expect=1)


async def test_another_unique_column_can_be_the_id(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Counted, database, id_field="slug")
    made = await table.put(Datum.create(id="first", data={}))
    assert made.data["id"] == 1
    assert (await table.put(made.replace(content=b'{"slug": "first"}'))).data["id"] == 1
    assert await table.get("first") == made


async def test_the_database_says_no_in_one_way(database: Database) -> None:
    turns = TableAdapter(models.ConversationTurn, database)
    orphan = Datum.create(data={"conversation_id": "nobody", "turn_number": 0, "role": "user", "content": "x"})
    with pytest.raises(IntegrityViolation):
        await turns.put(orphan)
    with pytest.raises(IntegrityViolation):
        await TableAdapter(models.GardenIdea, database).put(Datum.create(data={"content": "x", "lifecycle": "WEED"}))
    assert await turns.count() == 0


async def test_a_damaged_cell_is_corrupt_and_not_absent(sqlite_database: Database) -> None:
    table = await wide(sqlite_database)
    await table.put(Datum.create(id="x", data={"day": "2026-01-01"}))
    await sqlite_database.write(lambda connection: connection.execute(text("UPDATE test_wide SET day = 'soon'")))
    with pytest.raises(Corrupt, match=r"test_wide\.day"):
        await table.get("x")


def test_a_type_without_a_form_is_refused_at_once() -> None:
    class Own(DeclarativeBase):
        pass

    class Pickled(Own):
        __tablename__ = "pickled"
        id: Mapped[str] = mapped_column(primary_key=True)
        thing: Mapped[Any] = mapped_column(PickleType)
        plain: Mapped[Any] = mapped_column(JSON)

    with pytest.raises(CapabilityMissing, match=r"pickled\.thing"):
        mapping_of(Pickled)
    assert [field.name for field in mapping_of(Pickled, None, frozenset({"thing"})).fields] == ["id", "plain"]
    for wrong in (
        {"hidden": frozenset({"id"})},
        {"hidden": frozenset({"nobody"})},
        {"id_field": "nobody"},
        {"id_field": "plain"},
    ):
        with pytest.raises((InvalidRow, CapabilityMissing)):
            mapping_of(Pickled, **wrong)  # type: ignore[arg-type]


def row(id: str, **values: Any) -> Datum:
    return Datum.create(id=id, data={"content_hash": "h", "summary": "s", "tags": ["t"], **values})


async def test_a_session_factory_serves_as_well(url: str, database: Database) -> None:
    driver = url.replace("sqlite://", "sqlite+aiosqlite://").replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(driver)
    table = TableAdapter(Crystal, async_sessionmaker(engine))
    try:
        put = await table.put(Datum.create(id="a", data={"content_hash": "h", "summary": "s", "tags": ["t"]}), expect=0)
        assert await TableAdapter(Crystal, database).get("a") == await table.get("a") == put
        assert await table.list() == [put]
        assert await TableAdapter(models.CrystalTag, database).count() == 1
        bad = [row("b"), row("c", access_count=-1)]
        with pytest.raises(IntegrityViolation):
            await table.put_many(bad)
        assert await table.delete_many(["a", "b"]) == 1
    finally:
        await engine.dispose()


def test_exact_numbers_in_their_shortest_form() -> None:
    load = mapping_of(Wide).by_name["exact"].form.load
    dump = mapping_of(Wide).by_name["exact"].form.dump
    assert dump is not None
    for said, kept in [("1.50", "1.5"), (100, "100"), (0.1, "0.1"), ("-0", "0"), ("1e3", "1000")]:
        assert dump(load(said)) == kept
    assert mapping_of(Wide).by_name["span"].form.load("-P1DT1H1M1.5S") == -timedelta(1, 3661, 500_000)
    assert mapping_of(Wide).by_name["raw"].form.load(base64.b64encode(b"x").decode()) == b"x"
    with pytest.raises(ValueError, match="JSON cannot"):
        mapping_of(Wide).by_name["real"].form.dump(math.inf)  # type: ignore[misc]
