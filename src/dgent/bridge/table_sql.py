"""The statements of a typed table, and the reads that need one of them.

A statement is written once per mapping, in SQL that SQLite and PostgreSQL share. Identifiers come from the mapper
alone; whatever a caller says is bound. What runs them are plain functions over a `Connection`.
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

from dgent.exceptions import LimitExceeded
from dgent.query import prefix_end
from dgent.sql.advisory_locks import causes_of
from dgent.sql.constructs import bytewise, one_of, transaction_lock
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.bridge.mapping import TableMapping
    from dgent.datum import Datum

_one = literal_column("1", Integer)


class Statements:
    """What is asked of one table; compiled at first use. Make it with `statements_of`."""

    def __init__(self, mapping: TableMapping) -> None:
        self.mapping = mapping
        self.key_names = [f"k{at}" for at in range(len(mapping.keys))]
        named, here = " ".join(self.key_names), self.is_row()
        self.get = Statement(select(*mapping.columns).where(here), named)
        # Nobody else writes the row until the commit; on SQLite the transaction of a writer is that lock.
        self.hold = Statement(select(*mapping.columns).where(here).with_for_update(key_share=True), named)
        self.exists = Statement(select(_one).select_from(mapping.table).where(here), named)
        self.count = Statement(select(func.count()).select_from(mapping.table))
        self.keys = Statement(select(*(field.column for field in mapping.keys)))
        self.delete = Statement(delete(mapping.table).where(here), named)
        if mapping.version is not None:
            expected = mapping.version == bindparam("expected", type_=BigInteger)
            self.delete_expected = Statement(delete(mapping.table).where(here, expected), f"{named} expected")
        if mapping.textual:
            key = mapping.keys[0].column
            many = select(*mapping.columns).where(one_of(key, "ids"))
            self.get_many = Statement(many, "ids", lists="ids")
            held = many.order_by(key).with_for_update(key_share=True)  # in one order, whoever holds several
            self.hold_many = Statement(held, "ids", lists="ids")
            within = and_(bytewise(key) >= bindparam("first"), bytewise(key) < bindparam("end"))
            first = select(key).where(within).order_by(bytewise(key)).limit(_one)
            self.first_key = Statement(first, "first end")
            self.count_range = Statement(select(func.count()).select_from(mapping.table).where(within), "first end")
        if mapping.parent is not None:
            # Two causes that are written at once could close a cycle that neither writer sees.
            self.lock, self.lock_key = Statement(select(transaction_lock(0)), "lock_key"), causes_of(mapping.name)
            self.chain, self.descends = _chain(mapping), _descends(mapping)
            child = select(_one).where(mapping.parent.column == bindparam("k0")).limit(_one)
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
            *(field.column == bindparam(name) for field, name in zip(self.mapping.keys, self.key_names, strict=True))
        )

    def _write(self, kind: str, names: tuple[str, ...]) -> Statement:
        mapping, version = self.mapping, self.mapping.version
        fields = [*(mapping.by_name[name] for name in names), *mapping.kept]
        params = [f"v{at}" for at in range(len(fields))]
        values: dict[Any, Any] = {field.column: bindparam(param) for field, param in zip(fields, params, strict=True)}
        changed = [
            field.column for field in fields if field not in mapping.keys and (field.stamp or field not in mapping.kept)
        ]
        raised: dict[Any, Any] = {} if version is None else {version: version + _one}
        element: Any
        if kind == "update":
            element = update(mapping.table).values({column: values[column] for column in changed} | raised)
            element = element.where(self.is_row(), version == bindparam("expected", type_=BigInteger))
        else:
            element = insert(mapping.table).values(values if version is None else {**values, version: _one})
            if kind == "upsert" and (changed or raised):
                replaced = {column: element.excluded[column.key] for column in changed} | raised
                element = element.on_conflict_do_update(
                    index_elements=[key.column for key in mapping.keys], set_=replaced
                )
            else:
                element = element.on_conflict_do_nothing(index_elements=[key.column for key in mapping.keys])
        return Statement(element.returning(*mapping.columns), " ".join([*params, *self.key_names, "expected"]))


def _chain(mapping: TableMapping) -> Statement:
    """Walk the parents with the keys of rows alone, then fetch the rows of the chain."""
    assert mapping.parent is not None  # noqa: S101  # the caller looked
    key, parent = mapping.keys[0].column, mapping.parent.column
    start = select(key.label("id"), parent.label("parent"), literal_column("0", Integer).label("depth"))
    chain = start.where(key == bindparam("k0")).cte("chain", recursive=True)
    above = mapping.table.alias("above")
    further = select(above.c[key.key], above.c[parent.key], chain.c.depth + _one)
    chain = chain.union_all(
        further.join(chain, and_(above.c[key.key] == chain.c.parent, chain.c.depth < bindparam("most", type_=Integer)))
    )
    found = select(*mapping.columns).join(chain, key == chain.c.id).order_by(chain.c.depth.desc())
    return Statement(found, "k0 most")


def _descends(mapping: TableMapping) -> Statement:
    """Tell whether the row k0 is among the ancestors of the row `start`; ends even if the table holds a cycle."""
    assert mapping.parent is not None  # noqa: S101  # the caller looked
    key, parent = mapping.keys[0].column, mapping.parent.column
    start = select(key.label("id"), parent.label("parent")).where(key == bindparam("start"))
    chain = start.cte("up", recursive=True)
    above = mapping.table.alias("above")
    chain = chain.union(select(above.c[key.key], above.c[parent.key]).join(chain, above.c[key.key] == chain.c.parent))
    return Statement(select(_one).select_from(chain).where(chain.c.parent == bindparam("k0")).limit(_one), "start k0")


@lru_cache(maxsize=1024)
def statements_of(mapping: TableMapping) -> Statements:
    """Return the statements of a mapping."""
    return Statements(mapping)


def bound_key(connection: Connection, mapping: TableMapping, key: Sequence[Any]) -> list[Any]:
    """Return the driver's values of a key."""
    return mapping.bind(mapping.keys, key, connection.dialect)


def row_of(connection: Connection, mapping: TableMapping, key: Sequence[Any], *, hold: bool = False) -> Any | None:
    """Return the driver's row with this key; `hold` keeps it as it is until the commit."""
    statements = statements_of(mapping)
    statement = statements.hold if hold else statements.get
    return statement.row(connection, *bound_key(connection, mapping, key))


def rows_of(connection: Connection, mapping: TableMapping, ids: list[str], *, hold: bool = False) -> dict[str, Any]:
    """Return the driver's rows that have one of these ids, by id; `hold` keeps them as they are until the commit."""
    if mapping.textual and len(ids) > 1:
        place, statements = mapping.fields.index(mapping.keys[0]), statements_of(mapping)
        statement = statements.hold_many if hold else statements.get_many
        return {row[place]: row for row in statement.rows(connection, ids)}
    keys = {id: key for id in ids if (key := mapping.key_of(id)) is not None}
    return {id: row for id, key in keys.items() if (row := row_of(connection, mapping, key, hold=hold)) is not None}


def get(connection: Connection, mapping: TableMapping, key: Sequence[Any]) -> Datum | None:
    """Return the row with this key."""
    row = row_of(connection, mapping, key)
    return None if row is None else mapping.datum_of(row, connection.dialect)


def get_many(connection: Connection, mapping: TableMapping, ids: list[str]) -> dict[str, Datum]:
    """Return the rows that have one of these ids, by id, in the order asked."""
    rows = rows_of(connection, mapping, ids)
    present = [id for id in ids if id in rows]
    return dict(zip(present, mapping.datums_of([rows[id] for id in present], connection.dialect), strict=True))


def exists(connection: Connection, mapping: TableMapping, key: Sequence[Any]) -> bool:
    """Tell whether a row has this key."""
    return bool(statements_of(mapping).exists.rows(connection, *bound_key(connection, mapping, key)))


def count(connection: Connection, mapping: TableMapping, prefix: str | None) -> int:
    """Return how many rows there are, or how many whose id starts with `prefix`."""
    statements = statements_of(mapping)
    if not prefix:
        return int(statements.count.rows(connection)[0][0])
    end = prefix_end(prefix)
    if mapping.textual and end is not None:
        return int(statements.count_range.rows(connection, prefix, end)[0][0])
    return sum(mapping.id_of(key, connection.dialect).startswith(prefix) for key in statements.keys.rows(connection))


def causal_chain(
    connection: Connection, mapping: TableMapping, key: Sequence[Any], most: int, limit: int | None = None
) -> list[Datum]:
    """Return the nearest `limit` of the row and its ancestors, oldest first, in one query.

    Raises:
        LimitExceeded: there are more than `most`.
    """
    wanted = most + 1 if limit is None or limit > most else limit
    rows = statements_of(mapping).chain.rows(connection, *bound_key(connection, mapping, key), wanted - 1)
    if len(rows) > most:
        raise LimitExceeded(f"the causal chain in {mapping.name} is longer than {most:,}: raise the setting max_chain")
    return mapping.datums_of(rows, connection.dialect)
