"""Conditions on metadata in SQL. Those on the content are left to Python: its bytes need not be text, nor JSON."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from sqlalchemy import ColumnElement, bindparam, case, true

from dgent.condition_tree import EPOCH, Moment
from dgent.sql.condition_shape import (
    ANYTHING,
    COMPARE,
    MOST_VALUES,
    NOTHING,
    Prefilter,
    either,
    element,
    integers,
    nearly,
    padded,
    prefilter,
)
from dgent.sql.json_part import PathParams, is_json, json_number, json_part, sqlite_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.condition_tree import Node, Test
    from dgent.sql.condition_shape import Shape

_DAY: Final = timedelta(days=1)
_SIGNS: Final = {"ge": ">=", "le": "<="}
_CONTAINERS: Final = {"[": "array", "{": "object"}


def prefilter_of(conditions: Iterable[Node]) -> Prefilter | None:
    """Return what SQL can say of conditions that all have to hold; None if that is nothing."""
    return prefilter(conditions, _write)


def condition_on(column: ColumnElement[Any], shape: Shape, names: list[str]) -> ColumnElement[bool]:
    """Return a condition on a column of JSON text, and add the names of its parameters."""

    def new() -> str:
        names.append(f"c{len(names)}")
        return names[-1]

    def compare(kind: Any, order: str, count: int, indexes: tuple[bool, ...]) -> ColumnElement[bool]:
        path = PathParams(new(), [new() for _ in indexes], indexes)
        if kind == "number":
            return json_number(column, path, _SIGNS[order], new(), new())
        part = json_part(column, path, kind)
        given: list[Any] = [bindparam(new(), type_=part.type) for _ in range(count)]
        if order == "exists":
            return part.is_not(None)
        compared: ColumnElement[bool] = part.in_(given) if order == "in" else COMPARE[order](part, given[0])
        return compared

    return case((is_json(column), element(shape, compare)), else_=true())


class _Comparison(NamedTuple):
    kind: str  # which `json_part`, or "number" for a `json_number`
    order: str
    given: list[Any]


def _write(test: Test, values: list[Any], may: bool) -> Shape:
    whole = sqlite_path(test.path) if test.root == "metadata" else None
    if whole is None:
        return ANYTHING if may else NOTHING
    indexes = tuple(isinstance(step, int) for step in test.path)
    alternatives: list[list[Shape]] = []
    for comparisons in _alternatives(test, may=may):
        alternatives.append([("compare", kind, order, len(given), indexes) for kind, order, given in comparisons])
        for _, _, given in comparisons:
            values += [whole, *test.path, *given]
    return either(alternatives)


def _alternatives(test: Test, *, may: bool) -> list[list[_Comparison]]:
    """Return lists of comparisons, of which one holds as a whole."""
    value = test.value
    if isinstance(value, frozenset):
        return _equal(value, may=may)
    if value is None:
        return [[_Comparison("kind", "exists", [])]]
    if isinstance(value, str):
        return [[_Comparison("text", test.name, [value])]]
    if isinstance(value, Moment):
        return [[_dated(value, upward=test.name in {"gt", "ge"})]] if may else []
    return _numbers(test.name, value, may=may)


def _equal(values: frozenset[str], *, may: bool) -> list[list[_Comparison]]:
    wanted = [orjson.loads(value) for value in values]
    texts = [value for value in wanted if isinstance(value, str)]
    numbers = [value for value in wanted if type(value) in {int, float}]
    whole = [value for value in numbers if isinstance(value, int)]
    kinds: list[str] = [value for value in ("null", "true", "false") if value in values]
    if len(wanted) > MOST_VALUES:  # then what is of one of their kinds
        kinds += ["text", "integer", "real"] if may else []
        texts, whole, numbers = [], [], []
    if may:
        kinds += sorted({_CONTAINERS[value[0]] for value in values if value[0] in _CONTAINERS})
    found: list[tuple[str, list[Any]]] = [("kind", kinds), ("text", texts), ("integer", whole)]
    alternatives = [[_Comparison(kind, "in", padded(given))] for kind, given in found if given]
    if numbers and may:
        (low,), (high,) = _reals("ge", min(numbers), may=True), _reals("le", max(numbers), may=True)
        alternatives.append(low + high)
    return alternatives


def _numbers(name: str, bound: float, *, may: bool) -> list[list[_Comparison]]:
    """Compare integers exactly, and other numbers nearly."""
    whole, near = integers(name, bound), nearly(name, bound, may=may)
    if whole and near:
        return [[_Comparison("number", near[0], [whole[1], near[1]])]]
    exact = [[_Comparison("integer", whole[0], [whole[1]])]] if whole else []
    return exact + _reals(name, bound, may=may)


def _reals(name: str, bound: float, *, may: bool) -> list[list[_Comparison]]:
    near = nearly(name, bound, may=may)
    if near is not None:
        return [[_Comparison("real", near[0], [near[1]])]]
    return [[_Comparison("kind", "in", ["real"])]] if may else []


def _dated(moment: Moment, *, upward: bool) -> _Comparison:
    """Compare the date with which a moment begins, in any zone: those differ by less than a day from UTC."""
    try:
        date = (EPOCH + timedelta(microseconds=moment.micros)).date()
        edge = (date - _DAY if upward else date + 2 * _DAY).isoformat()
    except OverflowError:
        edge = "" if upward else ":"  # which comes behind every digit
    return _Comparison("text", "ge" if upward else "le", [edge])
