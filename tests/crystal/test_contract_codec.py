"""Law L-C2: a value comes back from JSON as it was, or is refused before anything is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from dgent.crystal import Ref, Schema
from dgent.exceptions import DgentError, InvalidCrystal, UpgradeFailed

many = settings(max_examples=settings().max_examples * 4)
T = TypeVar("T")
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # in the zone of whatever it is taken from
NEW_YORK, KATHMANDU = ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"
    ONE = 1


class Word(StrEnum):
    YES = "yes"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Leaf:
    name: str
    at: datetime
    price: Decimal = Decimal(0)
    raw: bytes = b""


@dataclass(frozen=True)
class LongerLeaf(Leaf):
    more: str = ""


@dataclass(frozen=True)
class Tree:
    value: int
    children: tuple[Tree, ...] = ()
    by_name: dict[str, Tree] = field(default_factory=dict)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    id: UUID
    at: datetime
    leaf: Leaf | None = None
    keys: tuple[int, ...] = ()  # named as a method of mappings


class Box(BaseModel, Generic[T]):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    inside: T
    leaves: list[Leaf] = Field(default_factory=list, alias="the leaves")


@dataclass(frozen=True, eq=False)
class Unequal:
    """Equals only itself."""

    x: tuple[int, ...]


class Pair(NamedTuple):
    a: int
    b: str


# Types and their values

texts = st.text(st.characters(codec="utf-8"), max_size=5)
zones = st.sampled_from([UTC, NEW_YORK, KATHMANDU, timezone(timedelta(hours=-3, minutes=-7))])
repeated = st.builds(  # in the hour that a clock change repeats
    lambda minute, fold: datetime(2026, 11, 1, 1, minute, fold=fold, tzinfo=NEW_YORK),
    st.integers(0, 59),
    st.integers(0, 1),
)
skipped = st.just(datetime(2026, 3, 8, 2, 30, tzinfo=NEW_YORK))
times = (
    st.datetimes(datetime(1921, 1, 1), timezones=zones)  # noqa: DTZ001  # before, local offsets had seconds
    | repeated
    | skipped
)
decimals = (
    st.decimals(allow_nan=False, allow_infinity=False)
    | st.builds(lambda digits, exponent: Decimal(f"{digits}E{exponent}"), st.integers(), st.integers(-(10**6), 10**6))
    | st.sampled_from(["0E-50", "-0", "1.10", "1E+999999999999"]).map(Decimal)
)
leaves = st.builds(Leaf, texts, times, decimals, st.binary(max_size=5))
trees = st.recursive(
    st.builds(Tree, st.integers()),
    lambda inner: st.builds(
        Tree, st.integers(), st.lists(inner, max_size=3).map(tuple), st.dictionaries(texts, inner, max_size=2)
    ),
    max_leaves=8,
)
models = st.builds(
    Model, id=st.uuids(), at=times, leaf=st.none() | leaves, keys=st.lists(st.integers(), max_size=2).map(tuple)
)
boxes = st.builds(
    lambda inside, held: Box[int](inside=inside, **{"the leaves": held}), st.integers(), st.lists(leaves, max_size=2)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
HASHABLE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers() | st.integers(-(10**300), 10**300)),
    (str, texts),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bytes, st.binary(max_size=6)),
    (Decimal, decimals),
    (UUID, st.uuids()),
    (datetime, times),
    (date, st.dates()),
    (timedelta, st.timedeltas()),
    (Colour, st.sampled_from(Colour)),
    (Word, st.sampled_from(Word)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    (Ref[Any], texts.filter(bool).map(Ref)),
]
OTHER: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (time, st.times() | st.times(timezones=st.just(UTC))),
    (Any, json_values),
    (Leaf, leaves),
    (Tree, trees),
    (Model, models),
    (Box[int], boxes),
    (Unequal, st.builds(Unequal, st.tuples(st.integers()))),
    (Pair, st.builds(Pair, st.integers(), texts)),
]
KEYS = [each for each in HASHABLE if each[0] not in {Colour, float, Literal["a", 1, None], bool}]

hashable = st.sampled_from(HASHABLE)
typed = st.recursive(
    hashable | st.sampled_from(OTHER),
    lambda inner: st.one_of(
        inner.map(lambda of: (of[0] | None if of[0] is not Any else Any, st.none() | of[1])),
        inner.map(lambda of: (tuple[of[0], ...], st.lists(of[1], max_size=3).map(tuple))),  # type: ignore[name-defined]
        inner.map(lambda of: (list[of[0]], st.lists(of[1], max_size=3))),  # type: ignore[name-defined]
        st.tuples(inner, inner).map(lambda of: (tuple[of[0][0], of[1][0]], st.tuples(of[0][1], of[1][1]))),  # type: ignore[name-defined]
        hashable.map(lambda of: (frozenset[of[0]], st.frozensets(of[1], max_size=3))),  # type: ignore[name-defined]
        st.tuples(st.sampled_from(KEYS), inner).map(
            lambda of: (dict[of[0][0], of[1][0]], st.dictionaries(of[0][1], of[1][1], max_size=2))  # type: ignore[name-defined]
        ),
    ),
    max_leaves=3,
)


def contract_of(types: list[Any]) -> type[Any]:
    return make_dataclass("Made", [(f"f{at}", each) for at, each in enumerate(types)], frozen=True)


def spelled(value: Any) -> Any:
    """Return what a value is, types and all, as text: the test's own word for being the same."""
    kind = type(value).__name__
    if isinstance(value, datetime):
        return "datetime", str(value.replace(tzinfo=None) - EPOCH - value.utcoffset())  # type: ignore[operator]
    if isinstance(value, time):
        return "time", value.replace(tzinfo=None).isoformat(), str(value.utcoffset())
    if is_dataclass(value):
        return kind, [(each.name, spelled(getattr(value, each.name))) for each in fields(value)]
    if isinstance(value, BaseModel):
        return kind, [(name, spelled(getattr(value, name))) for name in type(value).model_fields]
    if isinstance(value, dict):
        return "dict", sorted((str(spelled(key)), spelled(item)) for key, item in value.items())
    if isinstance(value, frozenset | set):
        return kind, sorted(str(spelled(item)) for item in value)
    if isinstance(value, list | tuple):
        return kind, [spelled(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return "int", str(int(value))  # 1 and 1.0 are one number to Python and to JSON
    return "str" if type(value) is Ref else kind, str(value)


@many
@given(st.lists(typed, min_size=1, max_size=3), st.data())
def test_l_c2_a_value_comes_back_as_it_was(types: list[tuple[Any, Any]], data: Any) -> None:
    contract = contract_of([each for each, _ in types])
    made = Schema("made", 1, contract)
    value = contract(*(data.draw(strategy) for _, strategy in types))
    try:
        content = made.encode(value)
    except InvalidCrystal:
        # Of a union, two members may share their JSON, as the text "1" and the day 1 do in `Any`; nothing here has one.
        pytest.fail(f"{value!r} was refused")
    json.loads(content)
    back = made.decode(content)
    assert spelled(back) == spelled(value)
    assert spelled(made.decode(made.encode(back))) == spelled(value)
    assert spelled(made.parse(json.loads(content))) == spelled(value)


@given(leaves, trees, models, boxes)
def test_l_c2_a_contract_of_every_kind(leaf: Leaf, tree: Tree, model: Model, box: Box[int]) -> None:
    for contract, value in ((Leaf, leaf), (Tree, tree), (Model, model), (Box[int], box)):
        known: Schema[Any] = Schema("made", 1, contract)
        assert spelled(known.decode(known.encode(value))) == spelled(value)
        assert known.parse(json.loads(known.encode(value))) is not None


@given(leaves)
def test_l_c2_what_was_read_can_be_parsed_from_python_too(leaf: Leaf) -> None:
    known = Schema("leaf", 1, Leaf)
    data = {each.name: getattr(leaf, each.name) for each in fields(leaf)}
    assert spelled(known.parse(data)) == spelled(leaf)


def test_l_c2_in_the_repeated_hour_both_times_stay_themselves() -> None:
    known = Schema("leaf", 1, Leaf)
    first, second = (Leaf("x", datetime(2026, 11, 1, 1, 30, fold=fold, tzinfo=NEW_YORK)) for fold in (0, 1))
    back = [known.decode(known.encode(each)).at for each in (first, second)]
    assert [each.astimezone(UTC).hour for each in back] == [5, 6]


# The far ends: they come back, or are refused

odd_times = st.datetimes(timezones=zones) | st.sampled_from(
    [edge.replace(tzinfo=zone) for edge in (datetime.min, datetime.max) for zone in (UTC, NEW_YORK, KATHMANDU)]  # noqa: DTZ901
)
odd_values: st.SearchStrategy[Any] = st.one_of(
    json_values,
    typed.flatmap(lambda each: each[1]),
    odd_times,
    st.builds(lambda moment: moment.replace(tzinfo=None), times),
    st.floats(),
    st.decimals(),
    st.text(st.characters(), max_size=3),  # lone surrogates
    st.sets(st.integers(), max_size=2),
    st.dictionaries(st.integers() | st.none() | texts | st.booleans(), st.integers(), max_size=2),
    st.builds(LongerLeaf, texts, times, more=texts),
    st.builds(Leaf, texts, times, st.floats() | st.integers() | st.booleans()),
    st.sampled_from(
        [print, object(), 1j, range(3), Ellipsis, bytearray(b"x"), memoryview(b"x"), Leaf, int, Decimal("sNaN"),
         time(1, 2, tzinfo=NEW_YORK), 10**5000, Box(inside=1), Model.model_construct(id="x", at="y"),
         Unequal([1]), Leaf("x", None), {"x": float("nan")}, [float("inf")], 1e400]  # type: ignore[arg-type]
    ),
)  # fmt: skip


def back_or_refused(contract: type[Any], value: Any) -> bool:
    """Tell whether a value came back; fail if it came back as another, or was refused in no words of ours."""
    made = Schema("made", 1, contract)
    try:
        content = made.encode(value)
    except InvalidCrystal:
        return False
    assert spelled(made.decode(content)) == spelled(value), f"{value!r} was changed"
    return True


@many
@given(typed, odd_values)
@example((int, None), True)
@example((int, None), Level.LOW)
@example((float, None), Decimal("1.5"))
@example((Literal["a", 1, None], None), True)
@example((bytes, None), bytearray(b"x"))
@example((Any, None), Word.YES)
@example((Any, None), 2**70)
@example((datetime, None), datetime(1800, 1, 1, tzinfo=NEW_YORK))
@example((datetime, None), datetime.min.replace(tzinfo=KATHMANDU))
@example((datetime, None), datetime.max.replace(tzinfo=NEW_YORK))
@example((time, None), time(1, 2, tzinfo=NEW_YORK))
@example((Leaf, None), LongerLeaf("x", datetime.now(UTC), more="y"))
@example((frozenset[Model], None), frozenset([Model(id=UUID(int=1), at=datetime.now(UTC))]))
def test_l_c2_what_is_no_such_thing_is_refused_or_comes_back(each: tuple[Any, Any], value: Any) -> None:
    contract = contract_of([each[0]])
    back_or_refused(contract, contract(value))


@dataclass(frozen=True)
class Loose:
    x: Any
    at: datetime | None = None


@dataclass(frozen=True)
class Uncompared:
    """Equals whatever has the same key."""

    key: int
    x: Any = field(compare=False)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


REFUSED: list[Any] = [
    Loose((1, 2)), Loose({1}), Loose(frozenset()), Loose({1: 2}), Loose({"x": (1,)}), Loose(float("nan")),
    Loose([float("inf")]), Loose(b"x"), Loose(Decimal(1)), Loose(UUID(int=1)), Loose(datetime.now(UTC)),
    Loose(date(2026, 1, 1)), Loose(Colour.RED), Loose(Level.LOW), Loose(Word.YES), Loose("\ud800"),
    Loose({"\ud800": 1}), Loose(object()), Loose(print), Loose(Leaf("x", datetime.now(UTC))), Loose(nested(10_000)),
    Loose(endless()), Loose(None, datetime(2026, 1, 1)), Loose(nested(10_000), datetime.now(UTC)),  # noqa: DTZ001
    Loose(None, "2026-01-01T00:00:00Z"), Loose(None, 0), Loose(None, date(2026, 1, 1)),  # type: ignore[arg-type]
    Uncompared(1, (1, 2)), Uncompared(1, b"x"), Uncompared(True, None),
    Leaf(5, datetime.now(UTC)), Leaf("x", datetime.now(UTC), 1.5), Leaf("x", datetime.now(UTC), Decimal("NaN")),  # type: ignore[arg-type]
    Leaf("x", datetime.now(UTC), Decimal("Infinity")), Leaf("x", datetime.now(UTC), raw="text"),  # type: ignore[arg-type]
    LongerLeaf("x", datetime.now(UTC), more="lost"), Tree("1"), Tree(1, [Tree(2)]), Tree(1, (None,)),  # type: ignore[arg-type]
    Tree(1, (), {1: Tree(2)}), Tree(10**5000), Tree(1.0), Tree(True), Tree(1, ({"value": 1},)),  # type: ignore[dict-item, arg-type]
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_l_c2_what_would_not_come_back_is_refused(value: Any) -> None:
    contracts: dict[type[Any], type[Any]] = {LongerLeaf: Leaf}
    contract = contracts.get(type(value), type(value))
    assert not back_or_refused(contract, value)


@pytest.mark.parametrize("value", [None, 5, {"x": 1}, Loose, Tree(1), "Loose"])
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(InvalidCrystal, match="takes Loose, not"):
        Schema("loose", 1, Loose).encode(value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"5", b"null", b'"x"', b"\xff", b'{"x": "\xff"}', b'{"x": NaN}', b'{"x": [-Infinity]}',
     b'{"x": 1e400}', b'{"x": 1, "y": 2}', b"{}", b'{"x": 1, "at": "2026-01-01T00:00:00"}', b'{"x": 1, "at": 5}',
     b'{"x": "\\ud800"}', b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", b'{"x": 1}}', b'\x00', b'{"x": '],
)  # fmt: skip
def test_l_c2_data_that_does_not_fit_is_refused(content: bytes) -> None:
    known = Schema("loose", 2, Loose, {1: dict})
    with pytest.raises(InvalidCrystal, match="loose: the data"):
        known.decode(content)
    with pytest.raises((InvalidCrystal, UpgradeFailed)):
        known.decode(content, 1)


@pytest.mark.parametrize(
    "data", [None, [], [1], 5, "{}", {"x": {1}, "at": print}, {"x": "\ud800"}, {"x": float("nan")}, {"x": 1, "at": datetime(2026, 1, 1)}, {"x": nested(10_000)}, {"x": endless()}, {}, {"x": 1, "y": 2}]  # noqa: DTZ001, E501
)  # fmt: skip
def test_l_c2_python_data_that_does_not_fit_is_refused(data: Any) -> None:
    with pytest.raises(InvalidCrystal, match="loose: the data"):
        Schema("loose", 1, Loose).parse(data)


@dataclass(frozen=True)
class Measure:
    """Has nothing but a number."""

    x: float


@pytest.mark.parametrize("spelling", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"NaN"', b"null"])
def test_l_c2_a_float_is_a_finite_number(spelling: bytes) -> None:
    with pytest.raises(InvalidCrystal, match="measure: the data"):
        Schema("measure", 1, Measure).decode(b'{"x": ' + spelling + b"}")


def test_the_message_names_the_field() -> None:
    known = Schema("tree", 1, Tree)
    with pytest.raises(
        InvalidCrystal, match=r"tree: the value is wrong at children\.0\.value: Input should be a valid"
    ):
        known.encode(Tree(1, (Tree("x"),)))  # type: ignore[arg-type]
    with pytest.raises(InvalidCrystal, match="as another at x: "):
        Schema("loose", 1, Loose).encode(Loose((1,)))
    with pytest.raises(InvalidCrystal, match="as another at LongerLeaf: "):
        Schema("leaf", 1, Leaf).encode(LongerLeaf("x", datetime.now(UTC)))
    with pytest.raises(InvalidCrystal, match="no_such: Unexpected keyword"):
        known.decode(b'{"value": 1, "no_such": 2}')


SECRET = "hunter2-Zq9"
HIDING: list[Any] = [
    SECRET, [SECRET], {"x": SECRET}, (SECRET, {SECRET}), SECRET.encode(), {"x": {"y": (SECRET,)}}, SECRET + "\ud800",
    Leaf(SECRET, SECRET), Loose({SECRET}), frozenset([SECRET]), bytearray(SECRET.encode()), Ref(SECRET),  # type: ignore[arg-type]
    Pair(SECRET, 5),  # type: ignore[arg-type]
]  # fmt: skip


@many
@given(st.lists(typed, min_size=1, max_size=2), st.sampled_from(HIDING), st.data())
def test_no_message_quotes_a_value(types: list[tuple[Any, Any]], hiding: Any, data: Any) -> None:
    contract = contract_of([each for each, _ in types])
    known = Schema("made", 2, contract, {1: lambda data: data})
    at = data.draw(st.integers(0, len(types) - 1))
    values = [hiding if here == at else data.draw(strategy) for here, (_, strategy) in enumerate(types)]
    plain = {f"f{here}": json.loads(json.dumps(value, default=repr)) for here, value in enumerate(values) if at == here}
    content = json.dumps(plain).encode()
    ways: list[Callable[[], object]] = [
        lambda: known.encode(contract(*values)),
        lambda: known.decode(content),
        lambda: known.decode(content, 1),
        lambda: known.decode(content[:-1]),
        lambda: known.parse(plain),
        lambda: known.upgrade(1, {"x": SECRET + "\ud800"}),
    ]
    errors = [error for way in ways if (error := refused(way)) is not None]
    assert errors
    assert all(SECRET not in str(error) for error in errors)
    assert all(error.__cause__ is None for error in errors)
    assert all(error.__suppress_context__ or error.__context__ is None for error in errors)


def refused(way: Callable[[], object]) -> DgentError | None:
    try:
        way()
    except DgentError as error:
        return error
    return None


def test_a_time_in_a_message_is_a_value_too() -> None:
    with pytest.raises(InvalidCrystal, match="without a zone") as caught:
        Schema("loose", 1, Loose).encode(Loose(None, datetime(1987, 6, 5)))  # noqa: DTZ001
    assert "1987" not in str(caught.value)


@given(st.recursive(st.builds(Tree, st.integers()), lambda inner: st.builds(lambda of: Tree(0, (of,)), inner)))
def test_a_deep_tree_comes_back(tree: Tree) -> None:
    assert back_or_refused(Tree, tree)


def test_how_deep_a_tree_may_be() -> None:
    came_back = []
    for depth in (10, 50, 90, 150, 2_000):
        tree = Tree(0)
        for _ in range(depth):
            tree = Tree(0, (tree,))
        came_back.append(back_or_refused(Tree, tree))
    assert came_back == [True, True, True, False, False]


def test_a_time_with_seconds_in_its_offset_is_not_shifted() -> None:
    assume_local = datetime(1900, 1, 1, tzinfo=KATHMANDU)
    assert assume_local.utcoffset() == timedelta(hours=5, minutes=41, seconds=16)
    assert not back_or_refused(Loose, Loose(None, assume_local))
    assert back_or_refused(Loose, Loose(None, assume_local.astimezone(UTC)))


def test_names_that_are_not_defined_yet_do_not_wait_for_the_first_value() -> None:
    assert Schema("tree", 1, Tree).decode(b'{"value": 1, "children": [{"value": 2}]}') == Tree(1, (Tree(2),))


@many
@given(json_values | st.lists(st.floats(), max_size=2))
def test_whatever_is_encoded_is_strict_json(value: Any) -> None:
    try:
        content = Schema("loose", 1, Loose).encode(Loose(value))
    except InvalidCrystal:
        assert "nan" in str(value) or "inf" in str(value)
        return
    json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
