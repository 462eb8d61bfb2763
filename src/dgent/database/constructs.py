"""The few SQL expressions that SQLite and PostgreSQL spell differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Boolean, ColumnElement, Text, bindparam, column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.selectable import TableValuedAlias

BYTEWISE = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that compares by its UTF-8 bytes: the same order and the same prefixes everywhere."""


class _Texts(FunctionElement[str]):
    """A list of texts, passed as one parameter, as a table with the column `value`."""

    name = "texts"
    inherit_cache = True


def texts(name: str) -> TableValuedAlias:
    """Return a table with one column, `value`: the texts of the list parameter `name`, in order."""
    return _Texts(bindparam(name, type_=Text())).table_valued(column("value", Text())).alias(f"given_{name}")


@compiles(_Texts, "sqlite")
def _texts_sqlite(element: _Texts, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(_Texts, "postgresql")
def _texts_postgresql(element: _Texts, compiler: SQLCompiler, **kw: Any) -> str:
    inner = compiler.process(element.clauses, **kw).split("::")[0]
    return f"(SELECT unnest({inner}::text[]) AS value)"


class unindexed(ColumnElement[Any]):  # noqa: N801  # reads as a function in SQL expressions
    """A column that SQLite's planner must not use an index for: its choice is wrong by a factor of 100 for prefixes."""

    inherit_cache = True

    def __init__(self, inner: ColumnElement[Any]) -> None:
        self.inner = inner
        self.type = inner.type

    _traverse_internals = [("inner", InternalTraversal.dp_clauseelement)]  # noqa: RUF012  # SQLAlchemy's own form


@compiles(unindexed, "sqlite")
def _unindexed_sqlite(element: unindexed, compiler: SQLCompiler, **kw: Any) -> str:
    return f"+{compiler.process(element.inner, **kw)}"


@compiles(unindexed, "postgresql")
def _unindexed_postgresql(element: unindexed, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.inner, **kw)


class transaction_lock(FunctionElement[bool]):  # noqa: N801  # reads as a function in SQL expressions
    """Take a named lock until the end of the transaction; on SQLite the transaction is that lock."""

    type = Boolean()
    name = "transaction_lock"
    inherit_cache = True

    def __init__(self, key: int) -> None:
        super().__init__(bindparam("lock_key", key, type_=BigInteger()))


@compiles(transaction_lock, "sqlite")
def _lock_sqlite(element: transaction_lock, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} IS NOT NULL)"


@compiles(transaction_lock, "postgresql")
def _lock_postgresql(element: transaction_lock, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(pg_advisory_xact_lock({compiler.process(element.clauses, **kw)}) IS NULL)"


class bytewise(ColumnElement[str]):  # noqa: N801  # reads as a function in SQL expressions
    """A text column that compares by its UTF-8 bytes, whatever the collation that it was made with."""

    inherit_cache = True

    def __init__(self, inner: ColumnElement[str]) -> None:
        self.inner = inner
        self.type = inner.type

    _traverse_internals = [("inner", InternalTraversal.dp_clauseelement)]  # noqa: RUF012  # SQLAlchemy's own form


@compiles(bytewise, "sqlite")
def _bytewise_sqlite(element: bytewise, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.inner, **kw)


@compiles(bytewise, "postgresql")
def _bytewise_postgresql(element: bytewise, compiler: SQLCompiler, **kw: Any) -> str:
    return f'({compiler.process(element.inner, **kw)} COLLATE "C")'
