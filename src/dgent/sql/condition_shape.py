"""Conditions as SQL that narrows what is read: the part that metadata and columns of tables have in common.

What SQL says is never the answer: it may let rows through for which a condition does not hold, and leaves out none for
which it does; what it lets through is confirmed by the conditions themselves. Within a `Not` it has to be the other way
round, so each test is written in one of two ways: with `may` as what holds wherever the test does, else as what holds
only where the test does. They differ where a database is not as exact as Python, or knows nothing of what is asked.

A condition becomes a shape and its values: a statement is compiled once for each shape.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, true

from dgent.condition_tree import All, No, Node, Test

T = TypeVar("T")
Shape: TypeAlias = "tuple[Any, ...]"
"""("and" | "or", *shapes), ("not", shape), `ANYTHING`, `NOTHING`, or ("compare", and what is compared)."""
WriteTest: TypeAlias = Callable[[Test, list[Any], bool], Shape]
"""Writes a test, with `may` or without, and adds its values to the list."""

ANYTHING: Final[Shape] = ("true",)
NOTHING: Final[Shape] = ("false",)
MOST_VALUES: Final = 200
"""How many values of a list go into SQL."""
INT64: Final = 2**63
COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}

_MOST_COMPARISONS: Final = 60
"""How many comparisons a statement may have; the depth of its expressions is limited, and so is what it may bind."""
_LEAST: Final = 1e-30
_SLACK: Final = 1e-13
"""The part of a number by which SQLite may misread text, and PostgreSQL turns a float into a decimal, is less."""


class Prefilter(NamedTuple):
    """A condition in SQL: what it looks like, and its values in the order of its parameters."""

    shape: Shape
    values: tuple[Any, ...]


def prefilter(conditions: Iterable[Node], write: WriteTest) -> Prefilter | None:
    """Return what SQL can say of conditions that all have to hold; None if that is nothing."""
    shapes, values, count = list[Shape](), list[Any](), 0
    for condition in conditions:
        taken: list[Any] = []
        shape = _written(condition, taken, write, may=True)
        comparisons = _comparisons(shape)
        if shape != ANYTHING and count + comparisons <= _MOST_COMPARISONS:  # what does not fit is left to Python
            shapes.append(shape)
            values += taken
            count += comparisons
    return Prefilter(_joined("and", shapes), tuple(values)) if shapes else None


def element(shape: Shape, compare: Callable[..., ColumnElement[bool]], *, negated: bool = False) -> ColumnElement[bool]:
    """Return a shape in SQL. `compare` makes the comparisons, in the order of their values; they may be null.

    Where that may not be, within a `not`, it is made false. Elsewhere it would only keep the planner from an index.
    """
    kind, *parts = shape
    if kind == "compare":
        return func.coalesce(compare(*parts), false()) if negated else compare(*parts)
    if kind == "not":
        return not_(element(parts[0], compare, negated=True))
    inner = [element(part, compare, negated=negated) for part in parts]
    return and_(true(), *inner) if kind in {"and", "true"} else or_(false(), *inner)


def either(alternatives: list[list[Shape]]) -> Shape:
    """Return the shape of lists of which one holds as a whole."""
    shapes = [_joined("and", each) for each in alternatives]
    return _joined("or", shapes) if shapes else NOTHING


def padded(given: list[T]) -> list[T]:
    """Return values, the last one again and again, as many as a power of two: each number of them is a statement."""
    return given + given[-1:] * ((1 << (len(given) - 1).bit_length()) - len(given))


def integers(name: str, bound: float) -> tuple[str, int] | None:
    """Return as the name of an order, "ge" or "le", and its bound which integers of 64 bits hold; None if none does."""
    if name in {"gt", "ge"}:
        least = math.floor(bound) + 1 if name == "gt" else math.ceil(bound)
        return ("ge", max(least, -INT64)) if least < INT64 else None
    most = math.ceil(bound) - 1 if name == "lt" else math.floor(bound)
    return ("le", min(most, INT64 - 1)) if most >= -INT64 else None


def nearly(name: str, bound: float, *, may: bool) -> tuple[str, float] | None:
    """Return an order, "ge" or "le", and a bound for real numbers, a little off; None where no float is one.

    With `may` all numbers hold it that hold the order in truth, else no others do.
    """
    upward = name in {"gt", "ge"}
    slack = abs(bound) * _SLACK + _LEAST
    edge = float(bound) - slack if upward == may else float(bound) + slack
    return ("ge" if upward else "le", edge) if abs(edge) < sys.float_info.max else None


def _joined(kind: str, shapes: list[Shape]) -> Shape:
    return shapes[0] if len(shapes) == 1 else (kind, *shapes)


def _written(node: Node, values: list[Any], write: WriteTest, *, may: bool) -> Shape:
    if isinstance(node, Test):
        return write(node, values, may)
    if isinstance(node, No):
        shape = _written(node.part, values, write, may=not may)
        return {ANYTHING: NOTHING, NOTHING: ANYTHING}.get(shape, ("not", shape))
    joins, neutral, absorbing = ("and", ANYTHING, NOTHING) if isinstance(node, All) else ("or", NOTHING, ANYTHING)
    before, parts = len(values), list[Shape]()
    for part in node.parts:
        shape = _written(part, values, write, may=may)
        if shape == absorbing:
            del values[before:]
            return absorbing
        if shape != neutral:
            parts.append(shape)
    return _joined(joins, parts) if parts else neutral


def _comparisons(shape: Shape) -> int:
    return 1 if shape[0] == "compare" else sum(map(_comparisons, shape[1:]))
