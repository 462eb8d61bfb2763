"""The statements of a typed table, and the reads that need one of them.

A statement is written once per layout, in SQL that SQLite and PostgreSQL share. Identifiers come from the mapper alone;
whatever a caller says is bound. What runs them are plain functions over a `Connection`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from dgent.database.constructs import bytewise, one_of, transaction_lock
from dgent.database.locks import causes_of
from dgent.database.statement import Statement
from dgent.exceptions import LimitExceeded
from dgent.query import prefix_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.bridge.layout import Layout
    from dgent.datum import Datum

_one = literal_column("1", Integer)


class Statements:
    """What is asked of one table; compiled at first use. Make it with `statements_of`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.key_names = [f"k{at}" for at in range(len(layout.keys))]
        named, here = " ".join(self.key_names), self.is_row()
        self.get = Statement(select(*layout.columns).where(here), named)
        # Nobody else writes the row until the commit; on SQLite the transaction of a writer is that lock.
        self.hold = Statement(select(*layout.columns).where(here).with_for_update(key_share=True), named)
        self.exists = Statement(select(_one).select_from(layout.table).where(here), named)
        self.count = Statement(select(func.count()).select_from(layout.table))
        self.keys = Statement(select(*(field.column for field in layout.keys)))
        self.delete = Statement(delete(layout.table).where(here), named)
        if layout.version is not None:
            expected = layout.version == bindparam("expected", type_=BigInteger)
            self.delete_expected = Statement(delete(layout.table).where(here, expected), f"{named} expected")
        if layout.textual:
            key = layout.keys[0].column
            many = select(*layout.columns).where(one_of(key, "ids"))
            self.get_many = Statement(many, "ids", lists="ids")
            held = many.order_by(key).with_for_update(key_share=True)  # in one order, whoever holds several
            self.hold_many = Statement(held, "ids", lists="ids")
            within = and_(bytewise(key) >= bindparam("first"), bytewise(key) < bindparam("end"))
            self.count_range = Statement(select(func.count()).select_from(layout.table).where(within), "first end")
        if layout.parent is not None:
            # Two causes that are written at once could close a cycle that neither writer sees.
            self.lock, self.lock_key = Statement(select(transaction_lock(0)), "lock_key"), causes_of(layout.name)
            self.chain, self.descends = _chain(layout), _descends(layout)
            child = select(_one).where(layout.parent.column == bindparam("k0")).limit(_one)
            self.has_child = Statement(child, "k0")
        self._writes: dict[tuple[str, tuple[str, ...]], Statement] = {}

    def write(self, kind: str, names: tuple[str, ...]) -> Statement:
        """Return the statement that writes fields and the kept ones.

        The kind is "upsert", "insert" if absent, or "update" if the version is as expected. Its parameters are the
        values, the key and the expected version. It returns the row, or none if it was not to be.
        """
        found = self._writes.get((kind, names))
        if found is None:
            found = self._writes[kind, names] = self._write(kind, names)
        return found

    def is_row(self) -> ColumnElement[bool]:
        """Return the condition that a row has the key of the parameters `key_names`."""
        return and_(
            *(field.column == bindparam(name) for field, name in zip(self.layout.keys, self.key_names, strict=True))
        )

    def _write(self, kind: str, names: tuple[str, ...]) -> Statement:
        layout, version = self.layout, self.layout.version
        fields = [*(layout.by_name[name] for name in names), *layout.kept]
        params = [f"v{at}" for at in range(len(fields))]
        values: dict[Any, Any] = {field.column: bindparam(param) for field, param in zip(fields, params, strict=True)}
        changed = [
            field.column for field in fields if field not in layout.keys and (field.stamp or field not in layout.kept)
        ]
        raised: dict[Any, Any] = {} if version is None else {version: version + _one}
        element: Any
        if kind == "update":
            element = update(layout.table).values({column: values[column] for column in changed} | raised)
            element = element.where(self.is_row(), version == bindparam("expected", type_=BigInteger))
        else:
            element = insert(layout.table).values(values if version is None else {**values, version: _one})
            if kind == "upsert" and (changed or raised):
                replaced = {column: element.excluded[column.key] for column in changed} | raised
                element = element.on_conflict_do_update(
                    index_elements=[key.column for key in layout.keys], set_=replaced
                )
            else:
                element = element.on_conflict_do_nothing(index_elements=[key.column for key in layout.keys])
        return Statement(element.returning(*layout.columns), " ".join([*params, *self.key_names, "expected"]))


def _chain(layout: Layout) -> Statement:
    """Walk the parents with the keys of rows alone, then fetch the rows of the chain."""
    assert layout.parent is not None  # noqa: S101  # the caller looked
    key, parent = layout.keys[0].column, layout.parent.column
    start = select(key.label("id"), parent.label("parent"), literal_column("0", Integer).label("depth"))
    chain = start.where(key == bindparam("k0")).cte("chain", recursive=True)
    above = layout.table.alias("above")
    further = select(above.c[key.key], above.c[parent.key], chain.c.depth + _one)
    chain = chain.union_all(
        further.join(chain, and_(above.c[key.key] == chain.c.parent, chain.c.depth < bindparam("most", type_=Integer)))
    )
    found = select(*layout.columns).join(chain, key == chain.c.id).order_by(chain.c.depth.desc())
    return Statement(found, "k0 most")


def _descends(layout: Layout) -> Statement:
    """Tell whether the row k0 is among the ancestors of the row `start`; ends even if the table holds a cycle."""
    assert layout.parent is not None  # noqa: S101  # the caller looked
    key, parent = layout.keys[0].column, layout.parent.column
    start = select(key.label("id"), parent.label("parent")).where(key == bindparam("start"))
    chain = start.cte("up", recursive=True)
    above = layout.table.alias("above")
    chain = chain.union(select(above.c[key.key], above.c[parent.key]).join(chain, above.c[key.key] == chain.c.parent))
    return Statement(select(_one).select_from(chain).where(chain.c.parent == bindparam("k0")).limit(_one), "start k0")


@lru_cache(maxsize=1024)
def statements_of(layout: Layout) -> Statements:
    """Return the statements of a layout."""
    return Statements(layout)


def bound_key(connection: Connection, layout: Layout, key: Sequence[Any]) -> list[Any]:
    """Return the driver's values of a key."""
    return layout.bind(layout.keys, key, connection.dialect)


def row_of(connection: Connection, layout: Layout, key: Sequence[Any], *, hold: bool = False) -> Any | None:
    """Return the driver's row with this key; `hold` keeps it as it is until the commit."""
    statements = statements_of(layout)
    statement = statements.hold if hold else statements.get
    return statement.row(connection, *bound_key(connection, layout, key))


def rows_of(connection: Connection, layout: Layout, ids: list[str], *, hold: bool = False) -> dict[str, Any]:
    """Return the driver's rows that have one of these ids, by id; `hold` keeps them as they are until the commit."""
    if layout.textual and len(ids) > 1:
        place, statements = layout.fields.index(layout.keys[0]), statements_of(layout)
        statement = statements.hold_many if hold else statements.get_many
        return {row[place]: row for row in statement.rows(connection, ids)}
    keys = {id: key for id in ids if (key := layout.key_of(id)) is not None}
    return {id: row for id, key in keys.items() if (row := row_of(connection, layout, key, hold=hold)) is not None}


def get(connection: Connection, layout: Layout, key: Sequence[Any]) -> Datum | None:
    """Return the row with this key."""
    row = row_of(connection, layout, key)
    return None if row is None else layout.datum_of(row, connection.dialect)


def get_many(connection: Connection, layout: Layout, ids: list[str]) -> dict[str, Datum]:
    """Return the rows that have one of these ids, by id, in the order asked."""
    rows = rows_of(connection, layout, ids)
    present = [id for id in ids if id in rows]
    return dict(zip(present, layout.datums_of([rows[id] for id in present], connection.dialect), strict=True))


def exists(connection: Connection, layout: Layout, key: Sequence[Any]) -> bool:
    """Tell whether a row has this key."""
    return bool(statements_of(layout).exists.rows(connection, *bound_key(connection, layout, key)))


def count(connection: Connection, layout: Layout, prefix: str | None) -> int:
    """Return how many rows there are, or how many whose id starts with `prefix`."""
    statements = statements_of(layout)
    if not prefix:
        return int(statements.count.rows(connection)[0][0])
    end = prefix_end(prefix)
    if layout.textual and end is not None:
        return int(statements.count_range.rows(connection, prefix, end)[0][0])
    return sum(layout.id_of(key, connection.dialect).startswith(prefix) for key in statements.keys.rows(connection))


def causal_chain(connection: Connection, layout: Layout, key: Sequence[Any], most: int) -> list[Datum]:
    """Return the row and its ancestors, oldest first, in one query.

    Raises:
        LimitExceeded: there are more than `most`.
    """
    rows = statements_of(layout).chain.rows(connection, *bound_key(connection, layout, key), most)
    if len(rows) > most:
        raise LimitExceeded(f"the causal chain in {layout.name} is longer than {most:,}: raise the setting max_chain")
    return layout.datums_of(rows, connection.dialect)
