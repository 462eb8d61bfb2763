"""What conditions mean, said again in other words; how they are spelled; what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings

from dgent.condition_tree import MOST_TESTS, MOST_VALUES, Moment, moment_in
from dgent.conditions import AllOf, AnyOf, Condition, Eq, Exists, Ge, Gt, In, Le, Lt, Ne, Not
from dgent.datum import Datum
from dgent.exceptions import InvalidQuery
from dgent.jsonvalue import parse_path
from dgent.query import Query
from dgent.testing.condition_laws import NOON, any_condition, any_datum, any_where

from .test_query import same

ABSENT = object()
ORDERS = {Gt: (1,), Ge: (0, 1), Lt: (-1,), Le: (-1, 0)}


# The meaning, written as plainly as it can be


def naive(where: Any, datum: Datum) -> bool:
    if isinstance(where, AllOf):
        return all(naive(part, datum) for part in where.parts)
    if isinstance(where, AnyOf):
        return any(naive(part, datum) for part in where.parts)
    if isinstance(where, Not):
        return not naive(where.part, datum)
    joined = {"$and": all, "$or": any}
    for name, value in where.items():
        if name in joined:
            held = joined[name](naive(part, datum) for part in value)
        else:
            held = not naive(value, datum) if name == "$not" else naive_at(value, found_at(name, datum))
        if not held:
            return False
    return True


def found_at(text: str, datum: Datum) -> Any:
    root, *path = parse_path(text)
    try:
        value: Any = dict(datum.metadata) if root == "metadata" else orjson.loads(datum.content)
        for step in path:
            if not isinstance(value, dict if isinstance(step, str) else list):
                return ABSENT
            value = value[step]
    except (LookupError, ValueError):
        return ABSENT
    return value


JOINS: dict[str, Any] = {"$and": all, "$or": any}
LEAVES: dict[str, Any] = {each.spelling: each for each in (Eq, Ne, Gt, Ge, Lt, Le, In, Exists)}


def naive_at(condition: Any, found: Any) -> bool:
    if isinstance(condition, AllOf | AnyOf):
        return JOINS[condition.spelling](naive_at(part, found) for part in condition.parts)  # type: ignore[no-any-return]
    if isinstance(condition, Not):
        return not naive_at(condition.part, found)
    if isinstance(condition, Condition):
        return naive_leaf(condition, found)
    if not isinstance(condition, dict) or not condition or not all(name.startswith("$") for name in condition):
        return equals(found, condition)
    for name, value in condition.items():
        if name in JOINS:
            held = JOINS[name](naive_at(part, found) for part in value)
        else:
            held = not naive_at(value, found) if name == "$not" else naive_leaf(LEAVES[name](value), found)
        if not held:
            return False
    return True


def naive_leaf(condition: Any, found: Any) -> bool:
    match condition:
        case Eq():
            return equals(found, condition.value)
        case Ne():
            return not equals(found, condition.value)
        case In():
            return any(equals(found, value) for value in condition.values)
        case Exists():
            return (found is not ABSENT) == condition.there
    return compared(found, condition.value) in ORDERS[type(condition)]


def equals(found: Any, wanted: Any) -> bool:
    if found is ABSENT:
        return False
    return compared(found, wanted) == 0 if isinstance(wanted, datetime) else same(found, wanted)


def compared(found: Any, bound: Any) -> int | None:
    """Return -1, 0 or 1, or None where there is no order."""
    if isinstance(bound, datetime):
        moment = moment_in(found) if isinstance(found, str) else None
        if moment is None:
            return None
        found, bound = moment.micros, (bound - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    elif isinstance(bound, str):
        if not isinstance(found, str):
            return None
        found, bound = [*map(ord, found)], [*map(ord, bound)]
    elif isinstance(found, bool) or not isinstance(found, int | float):
        return None
    else:
        found, bound = Fraction(found), Fraction(bound)
    return (found > bound) - (found < bound)


@settings(max_examples=settings().max_examples * 5)
@given(any_where(), any_datum("a"))
def test_l_q1_matches_agrees_with_a_naive_reading(where: Any, datum: Datum) -> None:
    assert Query(where=where).matches(datum) == naive(where, datum)


@settings(max_examples=settings().max_examples * 2)
@given(any_condition(), any_datum("a"))
@example(Gt(2**53), Datum("a", b"", 0.0, None, {"n": 2**53 + 1}))
@example(Gt(2.0**53), Datum("a", b"", 0.0, None, {"n": 2**53 + 1}))
@example(Eq(1), Datum("a", b"", 0.0, None, {"n": 1.0}))
@example(Ge(1), Datum("a", b"", 0.0, None, {"n": True}))
@example(Gt("\ue000"), Datum("a", b"", 0.0, None, {"n": "\U0001f600"}))
def test_l_q1_a_not_holds_where_its_part_does_not(condition: Any, datum: Datum) -> None:
    plain = Query(where={"metadata.n": condition}).matches(datum)
    assert Query(where={"metadata.n": Not(condition)}).matches(datum) is not plain
    assert Query(where=Not({"metadata.n": condition})).matches(datum) is not plain
    assert Query(where={"$not": {"metadata.n": condition}}).matches(datum) is not plain
    assert Query(where=AnyOf({"metadata.n": condition}, AnyOf())).matches(datum) is plain
    assert Query(where={"metadata.n": AllOf(condition, AllOf())}).matches(datum) is plain


# How they are spelled

SPELLED: list[tuple[Any, Any]] = [
    ({"a": 3}, {"a": {"$eq": 3}}),
    ({"a": Eq({"$x": 1})}, {"a": {"$eq": {"$x": 1}}}),
    ({"a": Not(3)}, {"a": {"$ne": 3.0}}),
    ({"a": AllOf(Ge(0), Lt(10))}, {"a": {"$ge": 0, "$lt": 10.0}}),
    ({"a": In([1, "x", None])}, {"a": {"$in": [None, "x", 1.0, 1]}}),
    ({"a": Exists(False)}, {"a": {"$not": {"$exists": True}}}),
    ({"a": AnyOf(1, Gt(3))}, {"a": {"$or": [{"$gt": 3}, 1]}}),
    (AnyOf({"a": 1}, {"b": 2}), {"$or": [{"b": 2}, {"a": 1}]}),
    (Not({"a": 1, "b": 2}), {"$not": {"$and": [{"a": 1}, {"b": 2}]}}),
    ({"a": 1, "b": Lt("x")}, AllOf({"a": 1}, {"$and": [{"b": {"$lt": "x"}}]})),
    ({"a": Gt(NOON)}, {"a": {"$gt": {"$time": "2026-03-29T14:00:00+02:00"}}}),
    ({"a": Eq(NOON)}, {"a": {"$eq": {"$time": "2026-03-29T12:00:00Z"}}}),
    ({"a": Ne(NOON)}, {"a": {"$ne": {"$time": "2026-03-29T12:00:00Z"}}}),
    ({"a": In([1, NOON])}, {"a": {"$in": [{"$time": "2026-03-29T12:00:00Z"}, 1]}}),
    ({"a": Eq(NOON)}, {"a": AllOf(Ge(NOON), Le(NOON.astimezone(timezone(timedelta(hours=-3)))))}),
    ({'content["$a"]': 1}, {'["$a"]': 1}),
]


@pytest.mark.parametrize(("one", "other"), SPELLED)
def test_spellings_of_one_condition_are_one_query(one: Any, other: Any) -> None:
    first, second = Query(where=one), Query(where=other)
    assert first == second
    assert hash(first) == hash(second)
    assert first != Query(where={"a": 4})


@given(any_condition().filter(lambda each: isinstance(each, Condition)))
def test_a_condition_equals_what_is_spelled_like_it(condition: Condition) -> None:
    again: Condition = eval(repr(condition), None, {**globals(), "datetime": __import__("datetime")})  # noqa: S307
    assert again == condition
    assert hash(again) == hash(condition)
    assert Query(where={"a": again}) == Query(where={"a": condition})
    assert condition != Gt(-7)


def test_a_moment_is_text_with_a_date_a_time_and_a_zone() -> None:
    assert moment_in("1970-01-01T00:00:00.000001Z") == moment_in("1970-01-01 01:00:00.0000019+01:00") == Moment(1)
    for text in ("1970-01-01", "1970-01-01T00:00:00", "19700101T000000Z", "1970-13-01T00:00Z", "1970-01-01T00:00z",
                 " 1970-01-01T00:00Z", "1970-01-01T24:01Z", "\u0661970-01-01T00:00Z", "1970-W01-4T00:00Z"):  # fmt: skip
        assert moment_in(text) is None
    assert moment_in("0001-01-01T00:00:00+23:59") < moment_in("0001-01-01T00:00:00Z")  # type: ignore[operator]


# What is refused


def deep(levels: int) -> Any:
    where: Any = {"a": 1}
    for _ in range(levels):
        where = {"$not": where}
    return where


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"a": {"$gte": 1}}, r"no condition is called '\$gte'.*\$ge, "),
        ({"a": {"$regex": "x"}}, r"there are \$and, \$eq, \$exists, \$ge, \$gt, \$in, \$le, \$lt, \$ne, \$not, \$or"),
        ({"$gt": 3}, r"no condition is called '\$gt'.*\$and, \$not, \$or.*content\[\"\$\.\.\.\"\]"),
        ({"a": {"$gt": 1, "b": 2}}, r"names with \$ and names without"),
        ({"a": {"$gt": None}}, "has no order"),
        ({"a": {"$gt": True}}, "has no order"),
        ({"a": {"$gt": [1]}}, "has no order"),
        ({"a": {"$lt": {"$time": "2026-01-01"}}}, "with a zone"),
        ({"a": {"$lt": {"$time": 5}}}, "with a zone"),
        ({"a": {"$in": 9}}, "takes a list of values, not an int"),
        ({"a": {"$in": {"x": 1}}}, "takes a list of values"),
        ({"a": {"$exists": 1}}, "true or false"),
        ({"$or": {"a": 1}}, "takes a list of conditions, not a dict"),
        ({"$and": [1]}, "where is int"),
        ({"a": {"$gt": float("nan")}}, "no number"),
        ({"a": {"$gt": float("inf")}}, "no number"),
        ({"a": {"$gt": 2**63}}, "64 bits"),
        ({"a": {"$gt": "\0"}}, "NUL"),
        ({"a": {"$in": ["\ud800"]}}, "surrogate"),
        ({"a": {"$eq": {1: 2}}}, "not str"),
        ({"a": {"$time": "2026-01-01T00:00:00Z"}}, r"no condition is called '\$time'"),
        ({"a": {"$ne": object()}}, "not JSON"),
        (Gt(3), "stands at no path"),
        (AllOf(Gt(3)), "stands at no path"),
        ([("a", 1)], "where is list"),
        (deep(33), "nested deeper"),
        ({"a": In([*range(MOST_VALUES + 1)])}, "more than 10,000"),
        (AnyOf(*({"a": n} for n in range(MOST_TESTS + 1))), "1,001 conditions"),
    ],
)
def test_what_means_nothing_is_refused(where: Any, said: str) -> None:
    with pytest.raises(InvalidQuery, match=said):
        Query(where=where)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gt(None), lambda: Ge(True), lambda: Lt([]), lambda: Le({}), lambda: Gt(float("nan")),
        lambda: Gt(datetime(2026, 1, 1)), lambda: Eq(datetime(2026, 1, 1)), lambda: In("abc"), lambda: In(7),  # noqa: DTZ001
        lambda: In([object()]), lambda: Exists(1), lambda: Exists(None), lambda: Eq(b"x"), lambda: Ne(float("nan")),
    ],
)  # fmt: skip
def test_a_condition_that_means_nothing_is_refused_where_it_is_made(make: Any) -> None:
    with pytest.raises(InvalidQuery):
        make()


def test_a_condition_says_at_which_path_it_is_wrong() -> None:
    with pytest.raises(InvalidQuery, match=r"^where\['metadata.n'\]: .*has no order"):
        Query(where={"metadata.n": {"$gt": None}})


@given(any_where())
def test_a_query_does_not_depend_on_the_order_of_its_parts(where: Any) -> None:
    assert Query(where=AllOf(where, {"z": 1})) == Query(where=AllOf({"z": 1.0}, where))
    assert Query(where=where) == Query(where=AllOf(where))
