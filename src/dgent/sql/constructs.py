"""The few SQL expressions that SQLite and PostgreSQL spell differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, Boolean, ColumnElement, Float, Integer, Text, and_, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table
    from sqlalchemy.sql.compiler import SQLCompiler

BYTEWISE = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that compares by its UTF-8 bytes: the same order and the same prefixes everywhere."""
CHANNEL: Final = "dgent"
"""Where PostgreSQL announces what `announcing` says."""


class one_of(FunctionElement[bool]):  # noqa: N801  # reads as a function in SQL expressions
    """Tell whether a column of text is in the list that is passed as one parameter.

    PostgreSQL gets `= ANY`, because it would scan for a subquery of `unnest` when its statistics are out of date.
    """

    type = Boolean()
    name = "one_of"
    inherit_cache = True

    def __init__(self, text: ColumnElement[Any], name: str) -> None:
        super().__init__(text, bindparam(name, type_=Text()))

    def self_group(self, against: Any = None) -> Any:  # the signature is SQLAlchemy's
        """Return itself: `= 1`, which SQLite's booleans get, would keep its planner from the index."""
        return self


@compiles(one_of, "sqlite")
def _one_of_sqlite(element: one_of, compiler: SQLCompiler, **kw: Any) -> str:
    text, given = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{text} IN (SELECT value FROM json_each({given}))"  # noqa: S608  # compiled by SQLAlchemy, parameters bound


@compiles(one_of, "postgresql")
def _one_of_postgresql(element: one_of, compiler: SQLCompiler, **kw: Any) -> str:
    text, given = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{text} = ANY({given.split('::')[0]}::text[])"


class last_of_each(ColumnElement[bool]):  # noqa: N801  # reads as a function in SQL expressions
    """Narrow a table of versions to the ids of a namespace that are passed as one parameter.

    SQLite goes straight to the last version of each, however many there are; PostgreSQL looks at them all. So the query
    has to say which it wants.
    """

    inherit_cache = True
    type = Boolean()

    def __init__(self, table: Table, namespace: str, ids: str) -> None:
        self.table = table.name
        self.namespace: ColumnElement[Any] = bindparam(namespace)
        self.ids = bindparam(ids, type_=Text())
        self.any = and_(table.c.namespace == self.namespace, one_of(table.c.id, ids))

    _traverse_internals = [("any", InternalTraversal.dp_clauseelement)]  # noqa: RUF012  # SQLAlchemy's own form

    def self_group(self, against: Any = None) -> Any:  # as for `one_of`
        """Return itself."""
        return self


@compiles(last_of_each, "sqlite")
def _last_of_each_sqlite(element: last_of_each, compiler: SQLCompiler, **kw: Any) -> str:
    namespace: str = compiler.process(element.namespace, **kw)
    ids: str = compiler.process(element.ids, **kw)
    same = f"namespace = {namespace} AND id = value"
    last = f"SELECT rowid FROM {element.table} WHERE {same} ORDER BY version DESC LIMIT 1"  # noqa: S608  # our names
    return f"{element.table}.rowid IN (SELECT ({last}) FROM json_each({ids}))"  # noqa: S608  # our names


@compiles(last_of_each, "postgresql")
def _last_of_each_postgresql(element: last_of_each, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.any, **kw)


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
    """Take a numbered lock of this schema until the end of the transaction; on SQLite the transaction is that lock."""

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
    number = compiler.process(
        element.clauses, **kw
    )  # as the seed of a hash: such locks are the database's, not a schema's
    return f"(pg_advisory_xact_lock(hashtextextended(coalesce(current_schema(), ''), {number})) IS NULL)"


def keep_writers_out(connection: Connection, table: Table) -> None:
    """Wait for the transactions that hold a row of a table, and let no other begin to, until this one ends.

    On SQLite there is none, because this one writes.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE")


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


class announcing(FunctionElement[str]):  # noqa: N801  # reads as a function in SQL expressions
    """A text that is passed as one parameter. Whoever watches the topic, another parameter, hears of it at the commit.

    It comes with a statement that runs anyhow: no round trip is added. On SQLite who watches sees it by itself.
    """

    type = Text()
    name = "announcing"
    inherit_cache = True

    def __init__(self, text: str, topic: str) -> None:
        super().__init__(bindparam(text, type_=Text()), bindparam(topic, type_=Text()))


@compiles(announcing, "sqlite")
def _announcing_sqlite(element: announcing, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(next(iter(element.clauses)), **kw)


@compiles(announcing, "postgresql")
def _announcing_postgresql(element: announcing, compiler: SQLCompiler, **kw: Any) -> str:
    text, topic = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(SELECT {text} FROM pg_notify('{CHANNEL}', {topic}))"  # noqa: S608  # our names, parameters bound


def has_clock(connection: Connection) -> bool:
    """Tell whether the database has a clock of its own: then `statement_time` and `clock_time` are what that shows."""
    return connection.dialect.name != "sqlite"


class position(FunctionElement[int]):  # noqa: N801  # reads as a function in SQL expressions
    """Where a text first has another one in it, in characters from 1; 0 where it has not."""

    type = Integer()
    name = "position"
    inherit_cache = True


@compiles(position, "sqlite")
def _position_sqlite(element: position, compiler: SQLCompiler, **kw: Any) -> str:
    text, other = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"instr({text}, {other})"


@compiles(position, "postgresql")
def _position_postgresql(element: position, compiler: SQLCompiler, **kw: Any) -> str:
    text, other = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"strpos({text}, {other})"


class statement_time(FunctionElement[float]):  # noqa: N801  # reads as a function in SQL expressions
    """The time when the statement began, in Unix seconds: the server's, so that all hosts have one clock.

    A file has no clock: on SQLite it is the parameter of this name, the time of the process. PostgreSQL leaves the
    parameter out. It is the same throughout a statement, so that an index can be asked with it.
    """

    type = Float(53)
    name = "statement_time"
    inherit_cache = True

    def __init__(self, parameter: str) -> None:
        super().__init__(bindparam(parameter, type_=Float(53)))


class clock_time(statement_time):  # noqa: N801  # reads as a function in SQL expressions
    """As `statement_time`, but the time when it is evaluated: after a wait for a lock, say."""

    name = "clock_time"
    inherit_cache = True


_CLOCKS: Final = {"statement_time": "statement_timestamp", "clock_time": "clock_timestamp"}


@compiles(statement_time, "sqlite")
@compiles(clock_time, "sqlite")
def _time_sqlite(element: statement_time, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(next(iter(element.clauses)), **kw)


@compiles(statement_time, "postgresql")
@compiles(clock_time, "postgresql")
def _time_postgresql(element: statement_time, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(extract(epoch FROM {_CLOCKS[element.name]}())::float8)"
