"""The statements of a typed table, written once per layout, in SQL that SQLite and PostgreSQL share.

Plain functions over a `Connection`. Identifiers come from the mapper alone; whatever a caller says is bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from dgent.bridge.draft import as_datum, completed, stamp
from dgent.bridge.fields import Field
from dgent.bridge.layout import Layout
from dgent.database.constructs import bytewise, texts
from dgent.database.statement import Statement
from dgent.datum import Datum
from dgent.exceptions import CausalCycle, LimitExceeded, VersionConflict
from dgent.query import prefix_end


class Put(NamedTuple):
    """A row to write: its id, its key, the values that were given, and the version that must be live."""

    id: str
    key: list[Any]
    given: Mapping[str, Any]
    expect: int | None = None


class Statements:
    """What is asked of one table, compiled at first use. Make it with `statements_of`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        names = " ".join(f"k{at}" for at in range(len(layout.keys)))
        here = self.is_row()
        self.get = Statement(select(*layout.columns).where(here), names)
        self.exists = Statement(select(literal_column("1")).where(here), names)
        self.count = Statement(select(func.count()).select_from(layout.table))
        self.keys = Statement(select(*(field.column for field in layout.keys)))
        self.delete = Statement(delete(layout.table).where(here), names)
        if layout.version is not None:
            expected = layout.version == bindparam("expected")
            self.delete_expected = Statement(delete(layout.table).where(here, expected), f"{names} expected")
        if layout.textual:
            key = layout.keys[0].column
            given = texts("ids")
            self.get_many = Statement(
                select(*layout.columns).where(key.in_(select(given.c.value))), "ids", lists="ids"
            )
            within = and_(bytewise(key) >= bindparam("first"), bytewise(key) < bindparam("end"))
            self.count_range = Statement(select(func.count()).select_from(layout.table).where(within), "first end")
        if layout.parent is not None:
            self.chain, self.descends = _chain(layout), _descends(layout)
            self.has_child = Statement(
                select(literal_column("1")).where(layout.parent.column == bindparam("k0")).limit(literal_column("1")), "k0"
            )
        self._writes: dict[tuple[str, frozenset[str]], Statement] = {}

    def is_row(self) -> ColumnElement[bool]:
        """Return the condition that a row has the key k0, k1, ..."""
        return and_(*(field.column == bindparam(f"k{at}") for at, field in enumerate(self.layout.keys)))

    def write(self, kind: str, names: frozenset[str]) -> Statement:
        """Return the statement that writes these fields: "upsert", "insert" if absent, or "update" if as expected."""
        found = self._writes.get((kind, names))
        if found is None:
            found = self._writes[kind, names] = _write(self.layout, self.is_row(), kind, names)
        return found


@lru_cache(maxsize=1024)
def statements_of(layout: Layout) -> Statements:
    """Return the statements of a layout."""
    return Statements(layout)


def get(connection: Connection, layout: Layout, key: list[Any]) -> Datum | None:
    """Return the row with this key."""
    row = statements_of(layout).get.row(connection, *_bound(layout, key, connection))
    return None if row is None else layout.datum_of(row, connection.dialect)


def get_many(connection: Connection, layout: Layout, ids: list[str]) -> dict[str, Datum]:
    """Return the rows that have one of these ids, by id, in the order asked."""
    rows = _rows(connection, layout, ids)
    return {id: layout.datum_of(rows[id], connection.dialect) for id in ids if id in rows}


def exists(connection: Connection, layout: Layout, key: list[Any]) -> bool:
    """Tell whether a row has this key."""
    return bool(statements_of(layout).exists.rows(connection, *_bound(layout, key, connection)))


def count(connection: Connection, layout: Layout, prefix: str | None) -> int:
    """Return how many rows there are, or how many whose id starts with `prefix`."""
    statements = statements_of(layout)
    if not prefix:
        return int(statements.count.rows(connection)[0][0])
    end = prefix_end(prefix)
    if layout.textual and end is not None:
        return int(statements.count_range.rows(connection, prefix, end)[0][0])
    keys = statements.keys.rows(connection)
    return sum(layout.id_of(key, connection.dialect).startswith(prefix) for key in keys)


def causal_chain(connection: Connection, layout: Layout, key: list[Any], most: int) -> list[Datum]:
    """Return the row and its ancestors, oldest first, in one query.

    Raises:
        LimitExceeded: there are more than `most`.
    """
    rows = statements_of(layout).chain.rows(connection, *_bound(layout, key, connection), most)
    if len(rows) > most:
        raise LimitExceeded(f"the causal chain in {layout.name} is longer than {most:,}: raise the setting max_chain")
    dialect = connection.dialect
    return [layout.datum_of(row, dialect) for row in rows]


def rows_of(connection: Connection, layout: Layout, ids: list[str]) -> dict[str, Any]:
    """Return the driver's rows that have one of these ids, by id."""
    statements = statements_of(layout)
    if layout.textual and len(ids) > 1:
        place = layout.fields.index(layout.keys[0])
        return {row[place]: row for row in statements.get_many.rows(connection, ids)}
    found = {}
    for id in ids:
        key = layout.key_of(id)
        if key is not None and (row := statements.get.row(connection, *bound_key(connection, layout, key))) is not None:
            found[id] = row
    return found


def bound_key(connection: Connection, layout: Layout, key: list[Any]) -> list[Any]:
    """Return the driver's values of a key."""
    return [layout.bind(field, part, connection.dialect) for field, part in zip(layout.keys, key, strict=True)]


def _write(layout: Layout, here: ColumnElement[bool], kind: str, names: tuple[str, ...]) -> Statement:
    fields = [*(layout.by_name[name] for name in names), *layout.kept]
    params = [f"v{at}" for at in range(len(fields))]
    values = {field.column.name: bindparam(param, type_=field.column.type) for field, param in zip(fields, params, strict=True)}
    changed = [field.column.name for field in fields if field not in layout.keys and (field not in layout.kept or field.stamp)]
    if layout.version is not None:
        raised = {layout.version.name: layout.version + literal_column("1")}
    else:
        raised = {}
    if kind == "update":
        for field, param in zip(fields, params, strict=True):
            if field.column.name not in changed:
                del values[field.column.name]
                params.remove(param)
