"""Conditions on the columns of a table in SQL, exact by their types, as far as a type compares like its form in JSON.

| column | an order is with | |
|---|---|---|
| Integer, Float | a number | |
| text, Enum, Uuid | a text | by code point, as everywhere; of Enum and Uuid row by row |
| a time with a zone | an aware datetime | |
| Date, Time, a time without a zone | a text | as it is written in the content; all but Date row by row |
| JSON | anything | row by row |
| Numeric, Boolean, Interval, LargeBinary | nothing: InvalidQuery | their texts are in no order of their values |
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import (
    JSON,
    TEXT,
    VARCHAR,
    BigInteger,
    ColumnElement,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Numeric,
    String,
    Text,
    Time,
    Unicode,
    UnicodeText,
    Uuid,
    bindparam,
)

from dgent.bridge.column_codec import unwrapped
from dgent.bridge.mapping import EPOCH, MICROSECOND, has_zone
from dgent.condition_tree import Moment, tests_in
from dgent.error_messages import nearest
from dgent.exceptions import InvalidQuery
from dgent.sql.condition_shape import (
    ANYTHING,
    COMPARE,
    MOST_VALUES,
    NOTHING,
    either,
    element,
    integers,
    nearly,
    padded,
    prefilter,
)
from dgent.sql.constructs import bytewise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Dialect
    from sqlalchemy.types import TypeEngine

    from dgent.bridge.column import ColumnMapping
    from dgent.bridge.mapping import TableMapping
    from dgent.condition_tree import Node, Test
    from dgent.sql.condition_shape import Shape

SLACK: Final = timedelta(milliseconds=1)
"""By how much more is asked of a column of times, and then checked again: databases round them differently."""

_PLAIN_TEXTS: Final = {String, Text, Unicode, UnicodeText, VARCHAR, TEXT}
"""Those that compare by their characters: CHAR ignores spaces at the end, CITEXT the case."""


class ColumnConditions:
    """The conditions of one query of a table.

    Attributes:
        prefilter: what SQL says of them; None if that is nothing.
        nothing: no row can match.
        loose: something is left that no column says, so most rows may be read in vain.

    Raises:
        InvalidQuery: one begins with no column that the content shows, or asks for an order that its type has not.
    """

    def __init__(self, mapping: TableMapping, conditions: Iterable[Node], dialect: Dialect) -> None:
        self._mapping, self._dialect = mapping, dialect
        self.loose = False
        nodes = [*conditions]
        for test in tests_in(nodes):
            self._check(test)
        self.prefilter = prefilter(nodes, self._write)
        self.nothing = self.prefilter is not None and NOTHING in (self.prefilter.shape, *self.prefilter.shape)

    def _check(self, test: Test) -> None:
        if test.root == "metadata":
            return
        name = str(test.path[0])
        field = self._mapping.by_name.get(name)
        if field is None:
            near = nearest(name, self._mapping.by_name)
            raise InvalidQuery(f"{self._mapping.name} has no column {test.path[0]!r:.80}{near}")
        if len(test.path) == 1 and test.name in COMPARE:
            self._check_order(field, test.value)

    def _check_order(self, field: ColumnMapping, bound: Any) -> None:
        wanted = _ordered_with(field)
        if wanted is None or isinstance(bound, wanted[0]):
            return
        raise InvalidQuery(f"{self._mapping.name}.{field.name} {wanted[1]}")

    def _write(self, test: Test, values: list[Any], may: bool) -> Shape:
        field = self._mapping.by_name[str(test.path[0])] if test.root == "content" else None
        if field is None or _is_json(field):
            shape = None
        elif len(test.path) > 1:
            return NOTHING  # no content leads there
        elif test.value is None:
            return ANYTHING  # it is there, if only as null
        elif isinstance(test.value, frozenset):
            shape = self._equal(field, test.value, values, may=may)
        else:
            shape = self._ordered(field, test, values, may=may)
        self.loose = self.loose or shape is None
        return shape or (ANYTHING if may else NOTHING)

    def _equal(self, field: ColumnMapping, wanted: frozenset[str], values: list[Any], *, may: bool) -> Shape | None:
        exact = isinstance(field.column.type, Integer) or _is_text(field)
        if len(wanted) > MOST_VALUES or not (may or wanted == {"null"} or exact):
            return None
        given = list[Any]()
        for value in map(orjson.loads, wanted - {"null"}):
            try:
                given += self._mapping.bind([field], [field.form.load(value)], self._dialect)
            except ValueError:  # what the column does not take, no row has
                continue
        alternatives: list[list[Shape]] = [[("compare", field.name, "null", 0)]] if "null" in wanted else []
        if given:
            given = padded(given)
            alternatives.append([("compare", field.name, "in", len(given))])
            values += given
        return either(alternatives)

    def _ordered(self, field: ColumnMapping, test: Test, values: list[Any], *, may: bool) -> Shape | None:
        """Return the shape of an order; None where SQL has not this one."""
        if isinstance(field.column.type, Integer):
            found: Any = integers(test.name, test.value)  # type: ignore[arg-type]  # it was checked
            if found is None:
                return NOTHING
        elif _is_text(field):
            found = test.name, test.value
        else:
            found = self._nearly(field, test) if may else None
        if found is None:
            return None
        order, bound = found
        values.append(bound)
        return "compare", field.name, order, 1

    def _nearly(self, field: ColumnMapping, test: Test) -> tuple[str, Any] | None:
        """Return an order and a bound that all rows hold for which a test holds, and few others."""
        kind, bound = field.column.type, test.value
        if isinstance(bound, Moment):
            return self._moment(field, bound, upward=test.name in {"gt", "ge"})
        if isinstance(bound, str):
            day = _date(bound) if type(kind) is Date else None
            return None if day is None else (test.name, self._mapping.bind([field], [day], self._dialect)[0])
        if isinstance(kind, Float) and isinstance(bound, int | float):
            return nearly(test.name, bound, may=True)
        return None

    def _moment(self, field: ColumnMapping, bound: Moment, *, upward: bool) -> tuple[str, Any] | None:
        try:
            moment = EPOCH + bound.micros * MICROSECOND + (-SLACK if upward else SLACK)
        except OverflowError:
            return None
        return "ge" if upward else "le", bound_moment(self._mapping, field, moment, self._dialect)


def condition_on(mapping: TableMapping, shape: Shape, names: list[str]) -> ColumnElement[bool]:
    """Return a condition on the columns of a table, and add the names of its parameters."""

    def compare(name: str, order: str, count: int) -> ColumnElement[bool]:
        field = mapping.by_name[name]
        column: Any = field.column
        if order == "null":
            return column.is_(None)  # type: ignore[no-any-return]
        given: list[Any] = []
        for _ in range(count):
            names.append(f"c{len(names)}")
            given.append(bindparam(names[-1], type_=_bound_type(field, order)))
        if order == "in":
            return column == given[0] if count == 1 else column.in_(given)  # type: ignore[no-any-return]
        compared: ColumnElement[bool] = COMPARE[order](bytewise(column) if _is_text(field) else column, given[0])
        return compared

    return element(shape, compare)


def bound_moment(mapping: TableMapping, field: ColumnMapping, moment: datetime, dialect: Dialect) -> Any:
    """Return the driver's value of a moment as a column keeps it."""
    kept = moment if has_zone(field) else moment.replace(tzinfo=None)
    return mapping.bind([field], [kept], dialect)[0]


def _bound_type(field: ColumnMapping, order: str) -> TypeEngine[Any]:
    integral = isinstance(unwrapped(field.column.type), Integer) and order != "in"
    return BigInteger() if integral else field.column.type


def _ordered_with(field: ColumnMapping) -> tuple[Any, str] | None:
    """Return what values of a column can stand in an order to, and what to say of others; None if that is anything."""
    kind = unwrapped(field.column.type)
    if isinstance(kind, JSON):
        return None
    if isinstance(kind, Integer) or (isinstance(kind, Numeric | Float) and not kind.asdecimal):
        return (int, float), "holds numbers: compare with a number"
    if isinstance(kind, DateTime) and has_zone(field):
        return Moment, 'holds moments: compare with an aware datetime, in JSON {"$time": "2026-01-31T08:15:00Z"}'
    if isinstance(kind, String | Enum | Uuid):
        return str, "holds texts: compare with a text"
    if isinstance(kind, DateTime | Date | Time):
        return str, "holds times without a zone: compare with a text, written as in its content"
    return (), f"is {type(kind).__name__}, which has no order in its content: ask for it in SQL"


def _is_text(field: ColumnMapping) -> bool:
    """Tell whether the database compares the texts of a column as exactly as its content is compared."""
    kind: Any = field.column.type
    return type(kind) in _PLAIN_TEXTS and kind.collation is None


def _is_json(field: ColumnMapping) -> bool:
    return isinstance(unwrapped(field.column.type), JSON)


def _date(text: str) -> date | None:
    """Return the date that a text is as the content writes it, so that texts are in the order of dates."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if found.isoformat() == text else None
