"""Core statements, compiled to text once per dialect and run on the driver's own cursor.

SQLAlchemy's execution path costs 60 to 500 microseconds a statement; a point read of SQLite takes 6. The text, the
order of the parameters and the dialect's spelling still come from SQLAlchemy: a statement is written once.
"""

from __future__ import annotations

from itertools import chain, compress, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import orjson
from sqlalchemy import Connection, Executable, LargeBinary, Table, Update, bindparam
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql import ClauseElement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.engine import Dialect

Row: TypeAlias = "Sequence[Any]"

COPY_FROM: Final = 64
"""Rows from which on a COPY is quicker on PostgreSQL: a round trip more, and two thirds of the time for each row."""
_AT_ONCE: Final = (32, 8, 1)
"""Rows in one INSERT on SQLite, as many as there are: thirty-two take half of the time that each alone would."""
_SHORT: Final = 64 * 1024
"""Bytes up to which rows go together, because sqlite3 copies whatever it binds."""


SYNC_SQLITE: Final = "pysqlite_sync"
"""What the dialect of our synchronous SQLite engine calls its driver, so that it begins as others do."""
_BEGUN: Final = {"pysqlite", "aiosqlite", "asyncpg"}
"""Drivers whose connections come with a transaction of ours or of a session, or in an autocommit that is meant."""


class _Compiled(NamedTuple):
    sql: str
    arrange: Callable[[Sequence[Any]], Any] | None  # None where the parameters already stand in the driver's order
    run: Callable[[Any, str, Any], tuple[list[Any], int]]
    run_many: Callable[[Any, str, list[Any]], None]
    begins: bool  # as SQLAlchemy does before a statement of its own, so that its commit() is one


class Statement:
    """A statement with named parameters, called with positional values in the order of `params`.

    A parameter named in `lists` takes a list of texts, for `constructs.one_of`. `timed` is what a database is asked
    instead that has a clock of its own, see `constructs.has_clock`.
    """

    __slots__ = ("_compiled", "_element", "_lists", "_params", "_timed")

    def __init__(
        self, element: Executable, params: str = "", *, lists: str = "", timed: Executable | None = None
    ) -> None:
        self._element = element
        self._timed = element if timed is None else timed
        self._params = params.split()
        self._lists = [self._params.index(name) for name in lists.split()]
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, connection: Connection, *values: Any) -> list[Any]:
        """Run it and return every row, as tuples."""
        return self._run(connection, values)[0]

    def row(self, connection: Connection, *values: Any) -> Any | None:
        """Run it and return the first row, or None."""
        rows = self._run(connection, values)[0]
        return rows[0] if rows else None

    def run(self, connection: Connection, *values: Any) -> int:
        """Run it and return how many rows it changed."""
        return self._run(connection, values)[1]

    def begin(self, connection: Connection) -> None:
        """Begin the transaction that it would begin: who looks at the clock after that has waited for the lock."""
        compiled = self._compiled.get(connection.dialect.driver) or self._for(connection.dialect)
        if compiled.begins and not connection.in_transaction():
            connection.begin()

    def run_many(self, connection: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Run it once per row of values."""
        self.begin(connection)
        compiled = self._for(connection.dialect)
        values = list(rows)
        if compiled.arrange is not None:
            values = [compiled.arrange(value) for value in values]
        compiled.run_many(connection.connection.dbapi_connection, compiled.sql, values)

    def _run(self, connection: Connection, values: Sequence[Any]) -> tuple[list[Any], int]:
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.driver) or self._for(dialect)
        if compiled.begins and not connection.in_transaction():
            connection.begin()
        if compiled.arrange is not None:
            values = compiled.arrange(values)
        return compiled.run(connection.connection.dbapi_connection, compiled.sql, values)

    def _for(self, dialect: Dialect) -> _Compiled:
        found = self._compiled.get(dialect.driver)
        if found is None:
            found = self._compiled[dialect.driver] = self._compile(dialect)
        return found

    def _compile(self, dialect: Dialect) -> _Compiled:
        element = self._element if dialect.name == "sqlite" else self._timed
        assert isinstance(element, ClauseElement)  # noqa: S101  # narrows the type: every Executable here is one
        compiled: Any = element.compile(dialect=dialect)
        names = compiled.positiontup if compiled.positional else list(compiled.params)
        fixed = {name: value for name, value in compiled.params.items() if name not in self._params}
        arrange = _arrangement(self._params, names, fixed, compiled.positional)
        if self._lists and dialect.name == "sqlite":
            arrange = _with_json(self._lists, arrange)
        run, run_many = (_hop, _hop_many) if dialect.driver == "aiosqlite" else (_cursor, _cursor_many)
        if not element.is_text:
            counts = element.is_dml and not compiled.effective_returning
            run = _QUICK.get((dialect.driver, "count" if counts else "rows"), run)
        return _Compiled(compiled.string, arrange, run, run_many, dialect.driver not in _BEGUN)


class BulkInsert:
    """An INSERT of many rows: `executemany` on SQLite; one `unnest` of columns, or a COPY, on PostgreSQL.

    `beside` is an UPDATE, with its parameters, that goes with every INSERT: in the same round trip, if that is of one
    row and to a server. With `replace` a row whose key is there already gets these columns anew.
    """

    def __init__(self, table: Table, beside: tuple[Update, str] | None = None, *, replace: Sequence[str] = ()) -> None:
        self._table = table
        self._beside = beside
        self._alone = None if beside is None else Statement(*beside)
        self._replace = replace
        self._names = [column.name for column in table.columns]
        self._blobs = [at for at, column in enumerate(table.columns) if isinstance(column.type, LargeBinary)]
        self._text = ""
        self._given: dict[tuple[tuple[bool, ...], int, bool], Statement] = {}

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]], *beside: Any) -> None:
        """Insert rows of values in the order of the table's columns; `beside` are the values of what goes with them."""
        if self._alone is not None and (len(rows) > 1 or connection.dialect.driver != "asyncpg"):
            self._alone.run(connection, *beside)
            beside = ()
        if len(rows) == 1:
            given = tuple([value is not None for value in rows[0]])
            self._values(given, 1, together=bool(beside)).run(connection, *compress(rows[0], given), *beside)
        elif rows and connection.dialect.driver == "asyncpg":
            self._run_together(connection, rows)
        elif rows:
            self._run_in_chunks(connection, rows)

    def _run_in_chunks(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert some rows at a time, without the columns that are null throughout.

        sqlite3 takes longer to bind a null than SQLite to store it.
        """
        columns = list(zip(*rows, strict=True))
        given = tuple([column[0] is not None or column.count(None) < len(rows) for column in columns])
        values = zip(*compress(columns, given), strict=True)
        left = len(rows)
        for size in _AT_ONCE if self._longest(columns) <= _SHORT else (1,):
            count, left = divmod(left, size)
            if count:
                chunks = [tuple(chain.from_iterable(islice(values, size))) for _ in range(count)]
                self._values(given, size).run_many(connection, chunks)

    def _longest(self, columns: Sequence[Sequence[Any]]) -> int:
        """Return the size of the longest bytes."""
        return max((len(value) for at in self._blobs for value in columns[at] if value is not None), default=0)

    def _run_together(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        dbapi: Any = connection.connection.dbapi_connection
        if (
            len(rows) < COPY_FROM or self._replace or not dbapi.autocommit
        ):  # who is not has a transaction yet to begin, at the cursor
            columns = [list(column) for column in zip(*rows, strict=True)]
            _execute(dbapi, self._unnest(connection.dialect), columns)
        else:
            name, names = self._table.name, self._names
            dbapi.run_async(lambda driver: driver.copy_records_to_table(name, records=rows, columns=names))

    def _values(self, given: tuple[bool, ...], count: int, *, together: bool = False) -> Statement:
        found = self._given.get((given, count, together))
        if found is None:
            names = list(compress(self._names, given))
            rows: list[dict[str, Any]]
            rows = [{name: bindparam(f"{name}_{at}") for name in names} for at in range(count)]
            params = " ".join(f"{name}_{at}" for at in range(count) for name in names)
            element: Any = self._upserting(insert(self._table).values(rows))
            if together and self._beside is not None:
                update, more = self._beside
                element, params = element.add_cte(update.cte("beside")), f"{params} {more}"
            found = self._given[given, count, together] = Statement(element, params)
        return found

    def _upserting(self, element: Insert) -> Insert:
        if not self._replace:
            return element
        anew = {name: element.excluded[name] for name in self._replace}
        return element.on_conflict_do_update(index_elements=list(self._table.primary_key), set_=anew)

    def _unnest(self, dialect: Dialect) -> str:
        if self._text:
            return self._text
        columns = list(self._table.columns)
        types = [column.type.compile(dialect=dialect).split(" COLLATE ")[0] for column in columns]
        arrays = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(types, 1))
        self._text = f"INSERT INTO {self._table.name} ({', '.join(self._names)}) SELECT * FROM unnest({arrays})"  # noqa: S608  # our names
        if self._replace:
            keys = ", ".join(column.name for column in self._table.primary_key)
            anew = ", ".join(f"{name} = excluded.{name}" for name in self._replace)
            self._text += f" ON CONFLICT ({keys}) DO UPDATE SET {anew}"
        return self._text


def _arrangement(
    given: list[str], wanted: list[str], fixed: dict[str, Any], positional: bool
) -> Callable[[Sequence[Any]], Any] | None:
    """Return what brings values from the order they are given in to the one that the driver wants."""
    if not positional:
        return lambda values: {**fixed, **dict(zip(given, values, strict=True))}
    if not fixed and wanted == given:
        return None
    constants = list(fixed.values())
    index = {name: at for at, name in enumerate(chain(given, fixed))}
    if len(wanted) == 1:
        only = index[wanted[0]]
        return lambda values: ((*values, *constants)[only],)
    if not fixed:
        return itemgetter(*map(given.index, wanted))
    pick = itemgetter(*(index[name] for name in wanted))
    return lambda values: pick((*values, *constants))


def _with_json(lists: list[int], arrange: Callable[[Sequence[Any]], Any] | None) -> Callable[[Sequence[Any]], Any]:
    """Return what writes the lists among the values as JSON, for `json_each`, and arranges the values then."""

    def prepare(values: Sequence[Any]) -> Any:
        given = list(values)
        for at in lists:
            given[at] = orjson.dumps(given[at]).decode()
        return given if arrange is None else arrange(given)

    return prepare


def _cursor(dbapi: Any, sql: str, values: Any) -> tuple[list[Any], int]:
    cursor = dbapi.cursor()
    try:
        cursor.execute(sql, values)
        return (cursor.fetchall() if cursor.description else []), cursor.rowcount
    finally:
        cursor.close()


def _cursor_many(dbapi: Any, sql: str, rows: list[Any]) -> None:
    cursor = dbapi.cursor()
    try:
        cursor.executemany(sql, rows)
    finally:
        cursor.close()


def _rows(dbapi: Any, sql: str, values: Any) -> tuple[list[Any], int]:
    """Fetch on sqlite3, whose cursor closes itself when its rows are read to their end, or when it fails."""
    rows = dbapi.execute(sql, values).fetchall()
    return rows, len(rows)


def _fetch(dbapi: Any, sql: str, values: Any) -> tuple[list[Any], int]:
    """Run what answers with rows on asyncpg itself, at half the overhead of SQLAlchemy's cursor over it.

    Only in autocommit, where the cursor would not begin a transaction first.
    """
    if not dbapi.autocommit:
        return _cursor(dbapi, sql, values)
    rows = dbapi.run_async(lambda driver: driver.fetch(sql, *values))
    return rows, len(rows)


def _execute(dbapi: Any, sql: str, values: Any) -> tuple[list[Any], int]:
    """Run what answers with a count, such as "UPDATE 3", as `_fetch` does."""
    if not dbapi.autocommit:
        return _cursor(dbapi, sql, values)
    status: str = dbapi.run_async(lambda driver: driver.execute(sql, *values))
    return [], int(status.rpartition(" ")[2])


def _hop_rows(dbapi: Any, sql: str, values: Any) -> tuple[list[Any], int]:
    """Fetch on aiosqlite in one hop to its thread, where its cursor would take four.

    Nothing is left open if the caller is cancelled: a cursor that is not read to its end holds on to an old snapshot.
    """
    rows = dbapi.run_async(lambda driver: driver.execute_fetchall(sql, values))
    return rows, len(rows)


def _hop(dbapi: Any, sql: str, values: Any) -> tuple[list[Any], int]:
    """Run what answers with a count on aiosqlite, in one hop."""

    async def fetch(driver: Any) -> tuple[list[Any], int]:
        cursor = await driver.execute(sql, values)
        rows = await cursor.fetchall() if cursor.description else []
        return rows, cursor.rowcount

    return dbapi.run_async(fetch)  # type: ignore[no-any-return]


def _hop_many(dbapi: Any, sql: str, rows: list[Any]) -> None:
    dbapi.run_async(lambda driver: driver.executemany(sql, rows))


_QUICK: Final = {
    ("pysqlite", "rows"): _rows,
    (SYNC_SQLITE, "rows"): _rows,
    ("aiosqlite", "rows"): _hop_rows,
    ("asyncpg", "rows"): _fetch,
    ("asyncpg", "count"): _execute,
}
