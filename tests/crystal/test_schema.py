"""Law L-C1: data of an old version becomes data of the current one, always the same, or a typed error says why not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from tests.crystal.stores import snapshot

from dgent.crystal import DECLARED, Schema, Schemas, Universe, schema
from dgent.datum import Datum
from dgent.exceptions import (
    CrystalTooNew,
    DgentError,
    InvalidCrystal,
    InvalidSchema,
    SchemaNotFound,
    UpgradeFailed,
    UpgradeGap,
)
from dgent.query import Query
from dgent.store import Backend

many = settings(max_examples=settings().max_examples * 4)  # pure functions are cheap to try
T = TypeVar("T")
Step = Callable[[dict[str, Any]], dict[str, Any]]


class Anything(BaseModel):
    """Takes every JSON object."""

    model_config = ConfigDict(extra="allow", strict=True)


def in_place(data: dict[str, Any]) -> dict[str, Any]:
    """Change what was given, and deep inside of it."""
    for value in data.values():
        if isinstance(value, list):
            value.append("changed")
        if isinstance(value, dict):
            value["changed"] = True
    data.setdefault("a", 0)
    data.pop("b", None)
    return data


def renamed(data: dict[str, Any]) -> dict[str, Any]:
    return {("renamed" if key == "a" else key): value for key, value in data.items()}


def wrapped(data: dict[str, Any]) -> dict[str, Any]:
    """Change the types of fields, to ones that JSON has no word for."""
    kinds: list[Callable[[Any], Any]] = [
        lambda value: (value, (value,)),
        lambda value: {str(value)},
        lambda value: frozenset([len(str(value))]),
        lambda _: datetime(2026, 3, 29, 2, 30, tzinfo=UTC),
        lambda value: Decimal(len(str(value))) / 8,
        lambda value: str(value).encode("utf-8", "surrogatepass") + b"\xff\xfe",
        lambda _: UUID(int=7),
    ]
    return {key: kinds[at % len(kinds)](value) for at, (key, value) in enumerate(sorted(data.items()))}


STEPS: dict[str, Step] = {
    "add a field": lambda data: {**data, "added": len(data)},
    "add a tuple": lambda data: {**data, "b": ()},
    "rename": renamed,
    "drop": lambda data: {key: value for key, value in data.items() if key != "b"},
    "change the type": lambda data: {**data, "a": str(data.get("a"))},
    "wrap": wrapped,
    "change in place": in_place,
    "nest": lambda data: {"inner": data, "keys": tuple(data)},
    "leave": lambda data: data,
}
names = st.sampled_from(["a", "b", "renamed", "é", ""]) | st.text(st.characters(codec="utf-8"), max_size=3)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
datas = st.dictionaries(names, values, max_size=4)
chains = st.lists(st.sampled_from(sorted(STEPS)), max_size=5)


def schema_of(chain: list[str]) -> Schema[Anything]:
    return Schema("law", len(chain) + 1, Anything, {at: STEPS[step] for at, step in enumerate(chain, 1)})


@many
@given(datas, chains, st.data())
@example({"a": [1], "b": {"x": 1.0}}, ["change in place", "wrap", "nest"], None)
def test_l_c1_an_upgrade_in_one_go_is_one_with_a_rest(data: dict[str, Any], chain: list[str], draw: Any) -> None:
    law, before = schema_of(chain), copy.deepcopy(data)
    cuts = st.lists(st.integers(1, law.version), min_size=3, max_size=3).map(sorted)
    a, b, c = draw.draw(cuts) if draw else (1, 2, 4)
    straight = law.upgrade(a, data, to=c)
    halfway = law.upgrade(a, data, to=b)
    assert law.upgrade(b, halfway, to=c) == straight
    stored = json.loads(json.dumps(halfway))
    assert text(law.upgrade(b, stored, to=c)) == text(straight)
    assert text(data) == text(before), "what was passed has changed"
    assert text(law.upgrade(c, straight, to=c)) == text(straight)


@many
@given(datas, chains, st.data())
def test_l_c1_upgrading_is_idempotent_on_re_read(data: dict[str, Any], chain: list[str], draw: Any) -> None:
    law = schema_of(chain)
    version = draw.draw(st.integers(1, law.version))
    content = json.dumps(data).encode()
    value = law.decode(content, version)
    assert law.decode(content, version) == value
    rewritten = law.encode(value)
    assert law.decode(rewritten) == value
    assert law.encode(law.decode(rewritten)) == rewritten


def text(data: Any) -> str:
    """Return JSON in which 1, 1.0 and true are three things."""
    return json.dumps(data, sort_keys=True)


def test_an_upgrade_without_a_step_is_a_copy() -> None:
    data = {"inner": [1]}
    found = schema_of([]).upgrade(1, data)
    assert found == data
    found["inner"].append(2)
    assert data == {"inner": [1]}


# What cannot be upgraded


def raising(_: Any) -> Any:
    raise ZeroDivisionError("a secret: hunter2")


@dataclass(frozen=True)
class Point:
    x: int


LATER = "written by a later version, which need not be JSON"
NOT_OBJECTS: list[Any] = [
    None, [], [1], "text", 5, {"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {"x": "\ud800"},
    {"x": {1, 2}, "y": print},
]  # fmt: skip
REFUSED: list[tuple[str, dict[int, Any], int, bytes, type[DgentError], type[Exception] | None]] = [
    ("gap", {2: dict}, 1, b'{"x": 1}', UpgradeGap, None),
    ("later gap", {1: dict}, 1, b'{"x": 1}', UpgradeGap, None),
    ("too new", {}, 4, b'{"x": 1}', CrystalTooNew, None),
    ("too new for JSON", {}, 4, LATER.encode(), CrystalTooNew, None),
    ("raises", {1: dict, 2: raising}, 1, b'{"x": 1}', UpgradeFailed, ZeroDivisionError),
    ("other contract", {2: lambda _: {"x": "one"}}, 2, b'{"x": 1}', UpgradeFailed, None),
    ("field too much", {2: lambda _: {"x": 1, "y": 2}}, 2, b'{"x": 1}', UpgradeFailed, None),
    ("no JSON", {1: dict, 2: dict}, 1, b'{"x": ', InvalidCrystal, None),
    ("NaN", {1: dict, 2: dict}, 1, b'{"x": NaN}', InvalidCrystal, None),
    ("no object", {1: dict, 2: dict}, 1, b"[1]", InvalidCrystal, None),
    ("no UTF-8", {1: dict, 2: dict}, 1, b'{"x": "\xff"}', InvalidCrystal, None),
    ("deep", {1: dict, 2: dict}, 1, b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", InvalidCrystal, None),
    *(
        (f"made {at}", {2: lambda _, made=shown: made}, 2, b'{"x": 1}', UpgradeFailed, None)
        for at, shown in enumerate(NOT_OBJECTS)
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_l_c1_what_cannot_be_upgraded_is_a_typed_error(case: Any) -> None:
    _, migrations, version, content, expected, cause = case
    law = Schema("law.point", 3, Point, migrations)
    with pytest.raises(expected) as caught:
        law.decode(content, version)
    assert type(caught.value) is expected
    assert "law.point" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert type(caught.value.__cause__) is (cause or type(None))


async def test_l_c1_in_each_case_what_is_stored_stays_as_it_is(store: Backend) -> None:
    for at, (_, migrations, version, content, expected, _) in enumerate(REFUSED):
        law = Schema("law.point", 3, Point, migrations)
        here = store.within(f"case/{at}")
        await here.put(Datum("bad", content, 1.0, metadata={"schema": "law.point", "schema_version": version}))
        await here.put(Datum("good", b'{"x":5}', 2.0, metadata={"schema": "law.point", "schema_version": 3}))
        universe, before = Universe(here, schemas=Schemas([law])), await snapshot(here)
        with pytest.raises(expected, match="'bad'"):
            await universe.get("bad")
        page = await universe.query(Query(schema="law.point"))
        assert [found.id for found in page] == ["good", "bad"]
        assert [told.id for told in page.unreadable] == ["bad"]
        with pytest.raises(expected, match=r"'bad'.*nothing was written"):
            await universe.upgrade("law.point")
        report = await universe.upgrade(law, dry_run=True)
        assert (report.failed, list(report.failures)) == (1, ["bad"])
        assert await snapshot(here) == before
        good = await universe.get("good")
        assert good is not None
        assert getattr(good, "value", None) == Point(5)


async def test_l_c1_stored_bytes_stay_until_they_are_rewritten(store: Backend) -> None:
    law = Schema("law.point", 2, Point, {1: lambda data: {"x": data["y"]}})
    old = await store.put(Datum("old", b' {"y":  7}', 1.0, metadata={"schema": "law.point"}))
    universe, before = Universe(store, schemas=Schemas([law])), await snapshot(store)
    for _ in range(2):
        found: Any = await universe.get("old")
        assert (found.value, found.datum, found.meta.crystallized_from) == (Point(7), old, "old")
        assert found.meta.schema_version == 2
        assert [each.value for each in await universe.query(Query())] == [Point(7)]  # type: ignore[union-attr]
    assert await snapshot(store) == before
    assert (await universe.upgrade("law.point")).upgraded == 1
    found = await universe.get("old")
    assert (found.value, found.datum.content, found.datum.version) == (Point(7), b'{"x":7}', 2)
    assert found.meta.crystallized_from is None
    first: Any = await universe.get("old", version=1)
    assert (first.value, first.datum.content) == (Point(7), old.content)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "1", None, b"1"])
def test_a_version_is_a_whole_number_from_1(wrong: Any) -> None:
    law = schema_of(["leave"])
    with pytest.raises(InvalidCrystal):
        law.upgrade(wrong, {})
    if wrong is not None:
        with pytest.raises(InvalidCrystal):
            law.upgrade(1, {}, to=wrong)
    with pytest.raises(InvalidSchema):
        Schema("law", wrong, Anything)


def test_no_way_leads_back() -> None:
    law = schema_of(["leave", "leave"])
    with pytest.raises(CrystalTooNew):
        law.upgrade(3, {}, to=2)
    with pytest.raises(UpgradeGap, match="from version 3 to 4"):
        law.upgrade(1, {}, to=4)


def test_a_gap_names_the_door_that_the_class_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DECLARED, "_by_name", dict(DECLARED._by_name))

    @schema("gap.told", version=2)
    @dataclass(frozen=True)
    class Told:
        x: int

    with pytest.raises(UpgradeGap, match=r"@Told\.migration\(1\)"):
        Told.schema.upgrade(1, {})  # type: ignore[attr-defined]
    with pytest.raises(UpgradeGap, match=r"@schema\.migration\(1\)"):  # the variable that holds it is not known
        Schema("gap.plain", 2, Told).upgrade(1, {})


# What a schema can be


class Changeable:
    """No dataclass."""


@dataclass
class Mutable:
    x: int


@dataclass(frozen=True)
class WithoutJSON:
    x: Changeable


@dataclass(frozen=True)
class Undefined:
    x: NotThere  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("contract", "told"),
    [(Mutable, "frozen=True"), (Changeable, "Changeable"), (dict, "dict"), (Point(1), "Point"), (None, "None"),
     (WithoutJSON, "WithoutJSON"), (Undefined, "NotThere"), (list[int], "list")],
)  # fmt: skip
def test_a_contract_is_a_frozen_dataclass_or_a_pydantic_model(contract: Any, told: str) -> None:
    with pytest.raises(InvalidSchema, match=told):
        Schema("law", 1, contract)


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "1a", "é", "a\n", "a;--", "a" * 201, 5, None, "a/b"]
)
def test_a_name_is_words_joined_by_dots(name: Any) -> None:
    with pytest.raises(InvalidSchema):
        Schema(name, 1, Point)


def test_names_of_schemas() -> None:
    assert [Schema(name, 1, Point).name for name in ("a", "a.b", "_a-1.B_2", "a" * 200)]


def test_a_migration_starts_at_a_version_below_and_is_a_function() -> None:
    for version in (0, 2, 3, True, "1", 1.0):
        with pytest.raises(InvalidSchema, match="no migration starts"):
            Schema("law", 2, Point, {version: dict})  # type: ignore[dict-item]
    with pytest.raises(InvalidSchema, match="is a function"):
        Schema("law", 2, Point, {1: 5})  # type: ignore[dict-item]
    law = Schema("law", 3, Point, {2: dict})
    assert law.gaps == [1]
    with pytest.raises(InvalidSchema, match="already"):
        law.migration(2)
    given = law.migration(1)(raising)
    assert given is raising
    assert law.gaps == []


def test_the_migrations_given_are_copied() -> None:
    given = {1: dict}
    law: Schema[Point] = Schema("law", 2, Point, given)  # type: ignore[arg-type]
    given.clear()
    assert law.gaps == []


class Box(BaseModel, Generic[T]):
    inside: T


def test_the_fields_of_a_contract_have_their_types() -> None:
    class Local(BaseModel):
        x: int

    class Holder(BaseModel):
        held: Local
        among: list[Local]

    assert Schema("law", 1, Point).fields == {"x": int}
    assert Schema("law", 1, Box[int]).fields == {"inside": int}
    assert Schema("law", 1, Holder).fields == {"held": Local, "among": list[Local]}


# Schemas and @schema


def test_a_newer_version_takes_the_place_of_an_older_one() -> None:
    @dataclass(frozen=True)
    class Later:
        x: int

    older, newer = Schema("law", 1, Point), Schema("law", 2, Later)
    known = Schemas([older, newer])
    assert known.named("law") is newer
    assert list(known) == [newer]
    with pytest.raises(InvalidSchema, match="version 2 is registered already, with Later"):
        known.register(older)
    with pytest.raises(InvalidSchema, match="raise the version"):
        known.register(Schema("law", 2, Point))
    with pytest.raises(SchemaNotFound):
        known.schema_for(Point)
    assert known.named("law") is newer


def test_a_declaration_may_run_twice() -> None:
    def declare() -> type[Any]:
        @dataclass(frozen=True)
        class Note:
            x: int

        return Note

    first, second = Schema("law", 1, declare()), Schema("law", 1, declare())
    known = Schemas([first])
    known.register(first)
    known.register(second)
    assert len(known) == 1
    assert known.schema_for(second.contract) is second
    with pytest.raises(SchemaNotFound):
        known.schema_for(first.contract)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    known = Schemas([Schema("witness.mark", 1, Point), Schema("brain.crystal", 1, Point)])
    assert [each.name for each in known] == ["brain.crystal", "witness.mark"]
    assert known.find("witness.mrak") is None
    with pytest.raises(SchemaNotFound, match=r"did you mean witness\.mark"):
        known.named("witness.mrak")
    with pytest.raises(SchemaNotFound, match=r"brain\.crystal, witness\.mark"):
        known.named("zzz")
    with pytest.raises(SchemaNotFound, match="none is registered"):
        Schemas().named("witness.mark")
    with pytest.raises(SchemaNotFound, match="no schema is for Anything"):
        known.schema_for(Anything)


def test_schema_declares_a_class_and_its_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DECLARED, "_by_name", dict(DECLARED._by_name))

    @schema("law.declared", version=2)
    @dataclass(frozen=True)
    class Declared:
        x: int

    @Declared.migration(1)  # type: ignore[attr-defined]
    def _from_1(data: dict[str, Any]) -> dict[str, Any]:
        return {"x": data["y"]}

    known: Schema[Declared] = Declared.schema  # type: ignore[attr-defined]
    assert DECLARED.named("law.declared") is known
    assert known.decode(b'{"y": 3}', 1) == Declared(3)
    with pytest.raises(InvalidSchema, match="'migration' hides"):
        schema("law.hides", version=1)(
            dataclass(frozen=True)(type("Hides", (), {"__annotations__": {"migration": int}}))
        )
    assert DECLARED.find("law.hides") is None
