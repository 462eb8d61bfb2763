"""What stands at a path of a column of JSON text, as a kind, a text or a number, in SQLite and PostgreSQL alike.

Each is null where the path leads nowhere, or to something else. They are for text that `is_json`: a row of which the
JSON is damaged would end the whole statement. SQLite and PostgreSQL read numbers differently in the last digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from sqlalchemy import Boolean, ColumnElement, Integer, Numeric, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine

As: TypeAlias = Literal["kind", "text", "integer", "real"]
"""What of the value: "null", "true", "false", "integer", "real", "text", "array" or "object"; or the value itself."""

_IS_JSON_SINCE = (16,)
_TYPES: dict[str, TypeEngine[Any]] = {"kind": Text(), "text": Text(), "integer": Numeric(), "real": Numeric()}


class PathParams(NamedTuple):
    """The names of the parameters of a path: the whole for SQLite, each step for PostgreSQL, and which are indexes."""

    whole: str
    steps: Sequence[str]
    indexes: Sequence[bool]


def can_test_json(connection: Connection) -> bool:
    """Tell whether the database has `is_json`: SQLite, and PostgreSQL since 16."""
    version = connection.dialect.server_version_info or ()
    return connection.dialect.name == "sqlite" or version >= _IS_JSON_SINCE


def sqlite_path(path: Sequence[str | int]) -> str | None:
    """Return a path as SQLite spells it; None where it cannot: an empty key, or one that JSON writes with escapes."""
    text = "$"
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]" if step >= 0 else f"[#{step}]"
        elif not step or not step.isprintable() or '"' in step or "\\" in step:
            return None
        else:
            text += f'."{step}"'
    return text


class is_json(ColumnElement[bool]):  # noqa: N801  # reads as a function in SQL expressions
    """Tell whether a column of text is JSON without escapes, of which PostgreSQL cannot read some; never null."""

    inherit_cache = True
    type = Boolean()

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.column = column

    _traverse_internals = [("column", InternalTraversal.dp_clauseelement)]  # noqa: RUF012  # SQLAlchemy's own form


@compiles(is_json, "sqlite")
def _is_json_sqlite(element: is_json, compiler: SQLCompiler, **kw: Any) -> str:
    return f"coalesce(json_valid({compiler.process(element.column, **kw)}), 0)"


@compiles(is_json, "postgresql")
def _is_json_postgresql(element: is_json, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.column, **kw)
    return f"({text} IS JSON AND strpos({text}, '\\u') = 0)"


class json_part(ColumnElement[Any]):  # noqa: N801  # reads as a function in SQL expressions
    """What stands at a path of a column of JSON text."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], path: PathParams, kind: As) -> None:
        self.column, self.kind, self.type = column, kind, _TYPES[kind]
        self.path = bindparam(path.whole, type_=Text())
        self.steps = [
            bindparam(name, type_=Integer() if index else Text())
            for name, index in zip(path.steps, path.indexes, strict=True)
        ]

    _traverse_internals = [  # noqa: RUF012  # SQLAlchemy's own form
        ("column", InternalTraversal.dp_clauseelement),
        ("kind", InternalTraversal.dp_string),
        ("path", InternalTraversal.dp_clauseelement),
        ("steps", InternalTraversal.dp_clauseelement_list),
    ]


@compiles(json_part, "sqlite")
def _part_sqlite(element: json_part, compiler: SQLCompiler, **kw: Any) -> str:
    def at(function: str) -> str:
        return f"{function}({compiler.process(element.column, **kw)}, {compiler.process(element.path, **kw)})"

    if element.kind == "kind":
        return at("json_type")
    return f"CASE {at('json_type')} WHEN '{element.kind}' THEN {at('json_extract')} END"


_INTEGER = r"^-?\d{1,19}$"
_REAL = r"^-?\d+(\.\d+([eE][+-]?\d{1,3})?|[eE][+-]?\d{1,3})$"


@compiles(json_part, "postgresql")
def _part_postgresql(element: json_part, compiler: SQLCompiler, **kw: Any) -> str:
    steps = [compiler.process(step, **kw).split("::")[0] for step in element.steps]
    kinds = ["integer" if isinstance(step.type, Integer) else "text" for step in element.steps]
    part = f"{compiler.process(element.column, **kw)}::json"
    part = "".join([part, *(f" -> {step}::{kind}" for step, kind in zip(steps, kinds, strict=True))])
    part, kind = f"({part})", f"json_typeof({part})"
    if element.kind == "kind":
        number = f"CASE WHEN {part}::text ~ '{_INTEGER}' THEN 'integer' ELSE 'real' END"
        named = f"WHEN 'string' THEN 'text' WHEN 'boolean' THEN {part}::text WHEN 'number' THEN {number}"
        return f"CASE {kind} {named} ELSE {kind} END"
    if element.kind == "text":
        return f"CASE {kind} WHEN 'string' THEN ({part} #>> '{{}}') COLLATE \"C\" END"
    pattern = _INTEGER if element.kind == "integer" else _REAL
    return f"CASE WHEN {kind} = 'number' AND {part}::text ~ '{pattern}' THEN {part}::text::numeric END"
