"""One mapped column as the bridge sees it: its form in JSON, what fills it, and how a driver takes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import orjson
from sqlalchemy import JSON, Column, Float, Numeric, TypeDecorator, inspect

from dgent.bridge.column_codec import Form, form_of, settled, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect

_FLOAT8, _NUMERIC = 701, 1700
"""What PostgreSQL calls the types of numbers; SQLAlchemy asks for it there, and nowhere else."""

CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z
"""How a row and its id are written."""

_LONG_NUMBER: Final = re.compile(r"\d{16}|\d[eE]|-0")
Convert: TypeAlias = "Callable[[Any], Any]"

_SAME = (list, dict, int, float, type(None))
"""What a default that is a function makes the same at each call."""


class ColumnMapping(NamedTuple):
    """One column of a row.

    Attributes:
        default: makes the value of a new row that gives none; None where the database does, or where there is none.
        fresh: the default is new at each call (a time, an id), so it is drawn for new rows only.
        stamp: makes the value that a change leaves.
        optional: the content may leave it out.
    """

    name: str
    column: Column[Any]
    form: Form
    default: Callable[[], Any] | None
    fresh: bool
    stamp: Callable[[], Any] | None
    optional: bool


_UNSEEN = Form(None, lambda value: value)


def shown(field: ColumnMapping, value: Any) -> Any:
    """Return the JSON form of a Python value; datetimes, which orjson writes, stay as they are."""
    return value if value is None or field.form.dump is None else field.form.dump(value)


def column_mapping_of(model: type[Any], name: str, column: Column[Any], *, shown: bool = True) -> ColumnMapping:
    """Return the field that a mapped column is.

    Raises:
        CapabilityMissing: its type has no form in JSON.
    """
    form = form_of(column.type, f"{column.table.name}.{name}") if shown else _UNSEEN
    if shown and isinstance(unwrapped(column.type), JSON):
        form = Form(form.dump, _contained(form.load, _containers(model, name), name))
    default, stamp = _python_side(column.default), _python_side(column.onupdate)
    fresh = callable(getattr(column.default, "arg", None)) and not isinstance(default and default(), _SAME)
    made = (
        column.server_default is not None or column.identity is not None or column is column.table.autoincrement_column
    )
    return ColumnMapping(
        name, column, form, default, fresh, stamp, default is not None or made or bool(column.nullable)
    )


def _python_side(default: Any) -> Callable[[], Any] | None:
    if default is not None and default.is_callable:
        return lambda: default.arg(None)
    return (lambda: default.arg) if default is not None and default.is_scalar else None


def _containers(model: type[Any], name: str) -> list[type[Any]]:
    """Return which of list and dict the ORM takes for a JSON column: a mutable one takes its own kind only."""
    taken: list[type[Any]] = []
    for kind in (list, dict):
        probe = inspect(model).class_manager.new_instance()
        try:
            setattr(probe, name, kind())
        except Exception:  # noqa: S112  # whatever the model's own validators raise
            continue
        taken.append(kind)
    return taken


def _contained(load: Callable[[Any], Any], kinds: list[type[Any]], name: str) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        if len(kinds) == 1 and type(value) is not kinds[0]:
            raise ValueError(f"is {type(value).__name__}, not {kinds[0].__name__}")
        if name == "tags" and not (isinstance(value, list) and all(isinstance(tag, str) for tag in value)):
            raise ValueError("is not a list of texts")
        return load(value)

    return checked


class Processors(NamedTuple):
    """What a column's type does to values for one driver; None where it leaves them as they are.

    Attributes:
        bind: from Python to the driver.
        load: from the driver to Python.
        show: from the driver to JSON.
    """

    bind: Convert | None
    load: Convert | None
    show: Convert | None


def processors(field: ColumnMapping, dialect: Dialect) -> Processors:
    """Return what stands between a column and a driver."""
    kind: Any = field.column.type.dialect_impl(dialect)
    inner, dump = unwrapped(kind), field.form.dump
    oid = _FLOAT8 if isinstance(inner, Float) else _NUMERIC
    bind, load = kind.bind_processor(dialect), kind.result_processor(dialect, oid)
    if load is None or dump is None:
        return Processors(bind, load, load or dump)
    if isinstance(inner, JSON) and _is_plain(kind):
        return Processors(bind, load, _show_json)
    if bind is not None and isinstance(inner, Numeric | Float):
        bind = _exactly(bind, load)
    return Processors(bind, load, lambda value: dump(load(value)))


def _show_json(text: Any) -> Any:
    """Return the settled value of JSON text; most have no number that needs it."""
    if not isinstance(text, str):  # SQLite keeps a JSON number as a number
        return settled(text)
    value = orjson.loads(text)
    return settled(value) if _LONG_NUMBER.search(text) else value


def _exactly(bind: Convert, load: Convert) -> Convert:
    def exactly(value: Any) -> Any:
        bound = bind(value)
        if load(bound) != value:
            raise ValueError("has more digits than this database keeps")
        return bound

    return exactly


def _is_plain(kind: Any) -> bool:
    """Tell whether a type gives back what the type below it does."""
    own = getattr(type(kind), "process_result_value", TypeDecorator.process_result_value)
    return own is TypeDecorator.process_result_value
