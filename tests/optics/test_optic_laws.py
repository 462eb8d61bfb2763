"""O1 and O2: every shipped optic is lawful, composition is associative, and the checkers catch what is not."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from sqlalchemy import inspect

from dgent.exceptions import FocusNotFound, InvalidFocus
from dgent.optics import (
    MISSING,
    Lens,
    Optic,
    Prism,
    Traversal,
    as_json,
    at,
    attribute,
    check_lens,
    check_prism,
    check_traversal,
    each,
    field,
    filtered,
    identity,
    index,
    instance,
    key,
    path,
)

from .models import Versioned

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | texts
jsons = st.recursive(
    scalars, lambda it: st.lists(it, max_size=3) | st.dictionaries(texts, it, max_size=3), max_leaves=6
)
KEYS = ["a", "b", "a.b", "", 'q"', "[0]", 0, None, (1, 2)]
keys = st.sampled_from(KEYS)
dicts = st.dictionaries(keys, jsons, max_size=4)
values = st.lists(jsons, min_size=1, max_size=3)


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0
    size: int = dataclass_field(default=0, init=False)


class Pair(NamedTuple):
    x: Any
    y: Any


class Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    x: Any
    y: Any = None


class Tags(list[Any]):
    """A list of a kind of its own."""


@given(states=st.lists(dicts, min_size=1, max_size=3), name=keys, values=values)
def test_l_o1_keys_are_lawful(states: list[Any], name: Any, values: list[Any]) -> None:
    assert check_lens(key(name), states, values) == []
    assert check_lens(at(name), states, [*values, MISSING]) == []
    assert check_traversal(at(name), states, [*values, MISSING]) == []


@given(state=st.lists(jsons, max_size=4), place=st.integers(-5, 5), values=values)
def test_l_o1_indices_are_lawful_from_both_ends(state: list[Any], place: int, values: list[Any]) -> None:
    assert check_lens(index(place), [state, tuple(state), Tags(state)], values) == []
    if not -len(state) <= place < len(state):
        for use in (index(place).get, lambda it: index(place).set(it, 1)):
            with pytest.raises(FocusNotFound, match=str(len(state))):
                use(state)


@given(x=jsons, values=values, extra=jsons)
def test_l_o1_fields_are_lawful(x: Any, values: list[Any], extra: Any) -> None:
    states = [Point(x), Pair(x, 1), Model(x=x), Model(x=x, extra=extra)]
    for name in ("x", "y"):
        assert check_lens(field(name), states, values) == []
    assert check_lens(field("extra"), states[3:], values) == []
    assert type(field("x").set(Pair(1, 2), 3)) is Pair


def row_image(row: Versioned) -> dict[str, Any]:
    return {
        each.key: orjson.dumps(inspect(row).dict[each.key])
        for each in inspect(row).mapper.column_attrs
        if each.key in inspect(row).dict
    }


@given(
    n=st.integers(),
    tags=st.lists(texts, max_size=3),
    values=st.lists(st.lists(texts, max_size=2), min_size=1, max_size=2),
)
def test_l_o1_attributes_of_rows_are_lawful(n: int, tags: list[str], values: list[Any]) -> None:
    row = Versioned(id="x", n=n % 2**31, m=0, tags=tags)
    assert check_lens(attribute("tags"), [row], values, image=row_image) == []
    assert check_lens(attribute("n"), [row], [1, 2], image=row_image) == []


def test_a_row_that_is_set_is_a_new_one_that_shares_nothing() -> None:
    row = Versioned(id="x", n=1, m=2, tags=["a"])
    changed = attribute("n").set(row, 5)
    changed.tags.append("b")
    assert (row.n, row.tags, changed.n, changed.m, changed.tags) == (1, ["a"], 5, 2, ["a", "b"])
    assert inspect(changed).transient
    assert (attribute("tags") >> index(-1)).get(changed) == "b"
    bare = inspect(Versioned).class_manager.new_instance()
    with pytest.raises(FocusNotFound, match="no loaded column 'n'"):
        attribute("n").get(bare)
    with pytest.raises(FocusNotFound, match=r"no column 'colour'; there is .*'body'"):
        attribute("colour").set(row, 1)
    with pytest.raises(InvalidFocus, match=r"an instance of a mapped class for \.n, found dict"):
        attribute("n").get({"n": 1})


PATHS = ["a", "a.b", 'a["a.b"]', "a[0]", "a[-1].b", '[""]', "[0][1]", '["q\\""].b']


@given(state=jsons, text=st.sampled_from(PATHS), values=values)
def test_l_o1_paths_are_lawful_or_refuse(state: Any, text: str, values: list[Any]) -> None:
    lens = path(text)
    assert str(lens) == f"Lens({text})"
    try:
        lens.set(state, None)
    except (InvalidFocus, FocusNotFound) as error:
        with pytest.raises(type(error)):
            lens.get(state)
    else:
        assert check_lens(lens, [state], values) == []
        assert lens.get(lens.set(state, "it")) == "it"


@given(state=jsons, values=values)
def test_l_o1_identity_is_lawful_and_changes_nothing_it_is_composed_with(state: Any, values: list[Any]) -> None:
    assert check_lens(identity(), [state], values) == []
    lens = key("a")
    assert identity() >> lens == lens == lens >> identity()


@given(value=st.integers(-(2**63), 2**63 - 1), states=st.lists(jsons, max_size=4))
def test_l_o2_preview_of_review_is_the_value(value: int, states: list[Any]) -> None:
    assert check_prism(instance(int), states, [value]) == []
    spelled = [orjson.dumps(state) for state in states]
    assert check_prism(as_json(), [*spelled, b"", b"{", b'{"b": 1,  "a":2}'], states, image=json_image) == []
    assert check_prism(as_json() >> instance(list), spelled, [[value], []], image=json_image) == []
    assert (as_json() >> instance(int)).review(value) == str(value).encode()


def json_image(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return content


def test_l_o2_a_prism_without_a_focus_changes_nothing() -> None:
    odd = b'{"n" : 1}'  # not in canonical form, so building it anew would show
    number = as_json() >> instance(int)
    assert number.preview(odd) is MISSING
    assert number.set(odd, 3) is odd
    assert number.modify(b"7 ", lambda n: n + 1) == b"8"
    assert as_json().preview(b"null") is None
    with pytest.raises(InvalidFocus, match="expected int for <int>, found str"):
        instance(int).review("7")  # type: ignore[arg-type]


def positive(value: Any) -> bool:
    return type(value) is int and value > 0


TRAVERSALS: list[tuple[Optic[Any, Any], st.SearchStrategy[Any]]] = [
    (each(), st.lists(jsons, max_size=4) | st.dictionaries(keys, jsons, max_size=4) | st.lists(jsons).map(tuple)),
    (each() >> each(), st.lists(st.lists(jsons, max_size=3) | dicts, max_size=3)),
    (each() >> filtered(positive), st.lists(jsons, max_size=5)),
    (each() >> instance(int) >> filtered(positive), st.lists(jsons, max_size=5)),
    (each() >> key("a"), st.lists(dicts, max_size=3)),
    (each() >> at("a"), st.lists(dicts, max_size=3)),
    (key("a") >> each() >> index(-1), st.fixed_dictionaries({"a": st.dictionaries(keys, st.lists(jsons, min_size=1))})),
    (instance(dict) >> key("a"), jsons),
]


@given(data=st.data(), numbers=st.lists(st.integers(1, 9), min_size=1, max_size=3))
@pytest.mark.parametrize(("traversal", "states"), TRAVERSALS, ids=[str(each) for each, _ in TRAVERSALS])
def test_l_o2_fusion_holds_with_functions_that_change_something(
    traversal: Optic[Any, Any], states: Any, data: Any, numbers: list[int]
) -> None:
    assert check_traversal(traversal, data.draw(st.lists(states, max_size=3)), numbers) == []


@given(data=st.data())
def test_l_o2_composition_is_associative(data: Any) -> None:
    optics = [key("a"), at("b"), index(0), each(), instance(dict), identity(), filtered(bool), field("x")]
    a, b, c = (data.draw(st.sampled_from(optics)) for _ in range(3))
    left, right = (a >> b) >> c, a >> (b >> c)
    assert left == right
    assert type(left) is type(right)
    state, value = data.draw(jsons), data.draw(jsons)
    assert outcome(left.get_all, state) == outcome(right.get_all, state)
    assert outcome(left.set, state, value) == outcome(right.set, state, value)
    # ... and means one after the other, which is what the composition is for
    assert outcome(lambda: [y for x in a.get_all(state) for y in b.get_all(x)]) == outcome((a >> b).get_all, state)


def outcome(run: Any, *args: Any) -> Any:
    try:
        return run(*args)
    except (InvalidFocus, FocusNotFound) as error:
        return type(error)


def test_what_a_composition_is() -> None:
    lens, prism, traversal = key("a"), instance(int), each()
    assert [type(lens >> lens), type(prism >> prism)] == [Lens, Prism]
    for mixed in (lens >> prism, prism >> lens, lens >> traversal, traversal >> lens, traversal >> traversal):
        assert type(mixed) is Traversal
    with pytest.raises(InvalidFocus, match="str is no optic"):
        lens >> "a"  # type: ignore[operator]
    with pytest.raises(AttributeError):
        lens.steps = ()  # type: ignore[misc]
    assert str(key("a") >> key("b.c") >> index(0) >> each() >> key(7)) == 'Traversal(a["b.c"][0][*][7])'


def test_a_traversal_sets_what_a_lens_at_its_end_does_not_find() -> None:
    rows = [{"n": 1}, {}]
    assert (each() >> key("n")).set(rows, 0) == [{"n": 0}, {"n": 0}]
    assert (each() >> key("n")).set_all(rows, [5, 6]) == [{"n": 5}, {"n": 6}]
    for wrong, reason in (([1], "has 2 foci, not 1"), ([1, 2, 3], "fewer foci than 3")):
        with pytest.raises(InvalidFocus, match=reason):
            (each() >> key("n")).set_all(rows, wrong)


def test_what_is_made_anew_is_of_the_same_kind() -> None:
    assert type(key("a").set(OrderedDict(a=1), 2)) is OrderedDict
    state = defaultdict(list, {"a": [1]})
    with pytest.raises(FocusNotFound):
        key("b").get(state)
    assert at("b").get(state) is MISSING
    assert key("b").set(state, 1) == {"a": [1], "b": 1}
    assert dict(state) == {"a": [1]}
    assert type(index(0).set(Tags([1]), 2)) is Tags
    assert index(1).set(Pair(1, 2), 3) == Pair(1, 3)
    assert each().set({"a": 1, "b": 2}, 0) == {"a": 0, "b": 0}


DEEP = path("user.address[0].city")
WRONG_SHAPES: list[tuple[Any, Any, str]] = [
    (DEEP.get, [], "expected a dict for .user, found list"),
    (DEEP.get, {"user": None}, "at user: expected a dict for .address, found null"),
    (DEEP.get, {"user": {"address": {}}}, r"at user.address: expected a list or a tuple for \[0\], found dict"),
    (DEEP.get, {"user": {"adress": []}}, "at user: no key 'address'; there is 'adress'"),
    (DEEP.get, {"user": {"address": []}}, r"at user.address: there is no \[0\], the list has 0"),
    (lambda state: DEEP.set(state, 1), {"user": {}}, "at user: no key 'address'; there is nothing"),
    (
        lambda state: DEEP.set(state, 1),
        {"user": {"address": ["x"]}},
        r"at user.address\[0\]: expected a dict for .city",
    ),
    ((at("a") >> key("b")).get, {}, "at a\\?: expected a dict for .b, found nothing"),
    (each().get_all, "text", r"expected a list, a tuple or a dict for \[\*\], found str"),
    (field("z").get, Point(1), "Point has no field 'z' that can be given; there is 'x', 'y'"),
    (lambda state: field("size").set(state, 1), Point(1), "no field 'size'"),
    (field("x").get, Point, "expected a dataclass.* found type"),
    (field("x").get, {"x": 1}, "expected a dataclass, a pydantic model or a named tuple for .x, found dict"),
    (as_json().preview, "{}", "expected bytes for <json>, found str"),
    (as_json().review, {1, 2}, "the value is set, which is not JSON"),
]


@pytest.mark.parametrize(("use", "state", "message"), WRONG_SHAPES)
def test_a_wrong_shape_says_where_and_what(use: Any, state: Any, message: str) -> None:
    with pytest.raises((InvalidFocus, FocusNotFound), match=message):
        use(state)


@pytest.mark.parametrize("make", [lambda: path("a..b"), lambda: path(""), lambda: index("0"), lambda: key([])])
def test_an_optic_that_cannot_be_is_refused_when_it_is_made(make: Any) -> None:
    with pytest.raises(InvalidFocus):
        make()


def in_place(state: dict[str, Any], value: Any) -> dict[str, Any]:
    state["a"] = value
    return state


def counted(state: dict[str, Any], value: Any) -> dict[str, Any]:
    return {**state, "a": value, "sets": state.get("sets", 0) + 1}


def only_new(state: dict[str, Any], value: Any) -> dict[str, Any]:
    return state if "a" in state else {**state, "a": value}


def fails(*_: Any) -> Any:
    raise KeyError("a")


GET = key("a").get
WRONG_LENSES: list[tuple[Lens[Any, Any], str]] = [
    (Lens(GET, in_place), "Purity"),
    (Lens(GET, counted), "PutPut"),
    (Lens(GET, only_new), "PutGet"),
    (Lens(lambda state: state.get("a", 0), key("b").set), "PutGet"),
    (Lens(GET, lambda state, value: {"a": value}), "GetPut"),
    (Lens(GET, lambda state, value: {**state, "a": value or 1}), "PutGet"),
    (Lens(GET, fails), "GetPut"),
]


@pytest.mark.parametrize(("lens", "law"), WRONG_LENSES)
def test_l_o1_a_wrong_lens_is_caught(lens: Lens[Any, Any], law: str) -> None:
    states = [{"a": 1, "b": 2}, {"b": 2}]
    assert check_lens(key("a"), states, [0, 3]) == []
    violations = check_lens(lens, states, [0, 3])
    assert law in {violation.law for violation in violations}
    assert f"{violations[0].law} fails on {{" in str(violations[0])


WRONG_PRISMS: list[tuple[Prism[Any, Any], str]] = [
    (Prism(lambda state: MISSING, lambda value: value), "PreviewReview"),
    (Prism(lambda state: state, lambda value: value + 1), "PreviewReview"),
    (Prism(abs, lambda value: value), "ReviewPreview"),
]


@pytest.mark.parametrize(("prism", "law"), WRONG_PRISMS)
def test_l_o2_a_wrong_prism_is_caught(prism: Prism[Any, Any], law: str) -> None:
    assert check_prism(instance(int), [-1, 1], [1, 2]) == []
    assert law in {violation.law for violation in check_prism(prism, [-1, 1], [1, 2])}


WRONG_TRAVERSALS: list[tuple[Traversal[Any, Any], str]] = [
    (Traversal(lambda state: state, lambda state, foci: sorted(foci)), "Identity"),
    (Traversal(lambda state: state, lambda state, foci: [foci[0], *state[1:]] if foci else []), "Foci"),
    (Traversal(lambda state: state[:1], lambda state, foci: foci * len(state)), "Identity"),
    (Traversal(lambda state: state, lambda state, foci: foci if foci == state else [*foci, 9]), "Fusion"),
]


@pytest.mark.parametrize(("traversal", "law"), WRONG_TRAVERSALS)
def test_l_o2_a_wrong_traversal_is_caught(traversal: Traversal[Any, Any], law: str) -> None:
    assert check_traversal(each(), [[3, 1, 2], []], [1, 2]) == []
    assert law in {violation.law for violation in check_traversal(traversal, [[3, 1, 2]], [1, 2])}


def test_a_lens_that_checks_its_value_may_say_no() -> None:
    """Validation of one's own is the state's business: replace() runs it, and the old state stays."""

    @dataclass(frozen=True)
    class Positive:
        n: int

        def __post_init__(self) -> None:
            if self.n < 0:
                raise ValueError("below zero")

    state = Positive(1)
    with pytest.raises(ValueError, match="below zero"):
        field("n").set(state, -1)
    assert state == replace(state)
