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

    from sqlalchemy import BindParameter, Connection
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
        self.path, self.steps = _bound(path)

    _traverse_internals = [  # noqa: RUF012  # SQLAlchemy's own form
        ("column", InternalTraversal.dp_clauseelement),
        ("kind", InternalTraversal.dp_string),
        ("path", InternalTraversal.dp_clauseelement),
        ("steps", InternalTraversal.dp_clauseelement_list),
    ]


class json_number(ColumnElement[bool]):  # noqa: N801  # reads as a function in SQL expressions
    """Tell whether a number at a path of a column of JSON text is at least a bound, or at most: one for each kind.

    It stands for two comparisons of a `json_part`, and takes half of their time.
    """

    inherit_cache = True
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], path: PathParams, sign: str, integer: str, real: str) -> None:
        self.column, self.sign = column, sign
        self.path, self.steps = _bound(path)
        self.integer, self.real = bindparam(integer, type_=Numeric()), bindparam(real, type_=Numeric())

    _traverse_internals = [  # noqa: RUF012  # SQLAlchemy's own form
        ("column", InternalTraversal.dp_clauseelement),
        ("sign", InternalTraversal.dp_string),
        ("path", InternalTraversal.dp_clauseelement),
        ("steps", InternalTraversal.dp_clauseelement_list),
        ("integer", InternalTraversal.dp_clauseelement),
        ("real", InternalTraversal.dp_clauseelement),
    ]


def _bound(path: PathParams) -> tuple[BindParameter[str], list[BindParameter[Any]]]:
    typed = zip(path.steps, path.indexes, strict=True)
    steps: list[BindParameter[Any]] = [bindparam(name, type_=Integer() if index else Text()) for name, index in typed]
    return bindparam(path.whole, type_=Text()), steps


def _sqlite(element: json_part | json_number, function: str, compiler: SQLCompiler, **kw: Any) -> str:
    return f"{function}({compiler.process(element.column, **kw)}, {compiler.process(element.path, **kw)})"


@compiles(json_part, "sqlite")
def _part_sqlite(element: json_part, compiler: SQLCompiler, **kw: Any) -> str:
    kind = _sqlite(element, "json_type", compiler, **kw)
    if element.kind == "kind":
        return kind
    return f"CASE {kind} WHEN '{element.kind}' THEN {_sqlite(element, 'json_extract', compiler, **kw)} END"


@compiles(json_number, "sqlite")
def _number_sqlite(element: json_number, compiler: SQLCompiler, **kw: Any) -> str:
    cases = [f"CASE {_sqlite(element, 'json_type', compiler, **kw)}"]  # in the order of the parameters
    for kind, bound in (("integer", element.integer), ("real", element.real)):
        value = _sqlite(element, "json_extract", compiler, **kw)
        cases.append(f"WHEN '{kind}' THEN {value} {element.sign} {compiler.process(bound, **kw)}")
    return " ".join([*cases, "END"])


# What a cast of a damaged number could not take, and would end the statement with, is not cast. Patterns would take
# longer than all the rest.
_NUMBER = "v::text::numeric"
_IS_INTEGER = "translate(v::text, '-0123456789', '') = ''"
_IS_REAL = "length(split_part(lower(v::text), 'e', 2)) < 5"
_PARTS = {
    "kind": (
        f"CASE json_typeof(v) WHEN 'string' THEN 'text' WHEN 'boolean' THEN v::text WHEN 'number' THEN "
        f"CASE WHEN {_IS_INTEGER} THEN 'integer' ELSE 'real' END ELSE json_typeof(v) END"
    ),
    "text": "CASE json_typeof(v) WHEN 'string' THEN (v #>> '{}') COLLATE \"C\" END",
    "integer": f"CASE WHEN json_typeof(v) = 'number' AND {_IS_INTEGER} THEN {_NUMBER} END",
    "real": f"CASE WHEN json_typeof(v) <> 'number' OR {_IS_INTEGER} THEN NULL WHEN {_IS_REAL} THEN {_NUMBER} END",
}


def _postgresql(element: json_part | json_number, what: str, compiler: SQLCompiler, **kw: Any) -> str:
    """Return a subquery of what stands at the path, so that it is looked for once; OFFSET keeps it one."""
    part = f"{compiler.process(element.column, **kw)}::json"
    for step in element.steps:
        name = compiler.process(step, **kw).split("::")[0]
        part += f" -> {name}::{'integer' if isinstance(step.type, Integer) else 'text'}"
    return f"(SELECT {what} FROM (SELECT {part} AS v OFFSET 0) AS part)"  # noqa: S608  # our names, parameters bound


@compiles(json_part, "postgresql")
def _part_postgresql(element: json_part, compiler: SQLCompiler, **kw: Any) -> str:
    return _postgresql(element, _PARTS[element.kind], compiler, **kw)


@compiles(json_number, "postgresql")
def _number_postgresql(element: json_number, compiler: SQLCompiler, **kw: Any) -> str:
    cases = ["CASE WHEN json_typeof(v) <> 'number' THEN NULL"]
    for test, bound in ((_IS_INTEGER, element.integer), (_IS_REAL, element.real)):
        cases.append(f"WHEN {test} THEN {_NUMBER} {element.sign} {compiler.process(bound, **kw)}")
    return _postgresql(element, " ".join([*cases, "END"]), compiler, **kw)
