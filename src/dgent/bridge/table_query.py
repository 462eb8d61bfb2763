"""How rows are listed and searched: keyset pages over (created_at, id), or the id alone.

What a column or an index can say is said in SQL; the rest is looked into, in batches.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    bindparam,
    exists,
    func,
    literal_column,
    select,
)

from dgent.bridge.column_codec import is_text
from dgent.bridge.column_condition import SLACK, ColumnConditions, bound_moment, condition_on
from dgent.bridge.mapping import EPOCH, MICROSECOND, TableMapping, as_utc
from dgent.bridge.table_sql import bound_key
from dgent.exceptions import Corrupt, InvalidCursor, InvalidRow
from dgent.name_listing import BEHIND
from dgent.page import Page
from dgent.query import Query, prefix_end
from dgent.sql.constructs import bytewise, unindexed
from dgent.sql.damaged_pages import Source, is_undecodable, page_of, part_of
from dgent.sql.keyset import BATCH, behind, first_of, in_order
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.datum import Datum
    from dgent.page import Damaged
    from dgent.sql.condition_shape import Shape

NARROW: Final = 1000
"""An id range with fewer rows than this is read whole and sorted; a wider one is walked in the order of time."""

_Pair: TypeAlias = "tuple[Datum, Sequence[Any]]"
_one = literal_column("1", Integer)
_PLANNED: Final = frozenset(
    {
        *("schema", "author", "prefix", "causal_parent", "since", "until", "after", "tags", "where"),
        *("order", "limit", "cursor", "offset"),
    }
)
"""The fields of a query that a plan looks at. One that it does not know is looked into, row by row, never ignored."""


class _ListingShape(NamedTuple):
    """What a statement that lists rows looks like, apart from its values."""

    descending: bool
    by_id: bool = False  # the order of the keys, else of the times
    narrow: bool = False  # few rows are found by id, parent or tag, then sorted; else the order is walked
    prefix: bool = False
    parent: bool = False
    bounds: tuple[str, ...] = ()  # of since, until, after
    tags: int = 0
    condition: Shape | None = None
    resumed: bool = False


class _Plan:
    """A query of one table: what SQL can say of it, and whether that is all.

    Attributes:
        nothing: no row can match.
        exact: SQL says all.
        loose: something is left that no column says, so most rows may be read in vain.
    """

    def __init__(self, connection: Connection, mapping: TableMapping, query: Query) -> None:
        self.connection, self.mapping = connection, mapping
        self.shape = _ListingShape(query.descending, query.ordered_by == "id")
        self.ordered = None if self.shape.by_id else mapping.ordered
        self.values: list[Any] = []
        self.nothing = query.schema is not None or query.author not in {None, "system"}
        self.loose = not query.asked <= _PLANNED
        self._add_prefix(query.prefix)
        self._add_parent(query.causal_parent)
        self._add_bounds(query)
        self._add_tags(sorted(query.tags))
        self._add_conditions(query)
        self.exact = not (self.loose or self.shape.bounds or query.tags or query.conditions)

    def rows(self, at: list[Any] | None, most: int) -> list[Any]:
        """Return the rows behind a position."""
        values = self.values
        if at is not None and self.shape.by_id and self.shape.prefix:
            (here,), (first, end, *rest) = at, values  # it narrows the range: of two bounds SQLite may start at either
            first, end = (first, min(end, here)) if self.shape.descending else (max(first, here + BEHIND), end)
            values, at = [first, end, *rest], None
        listing = _listing(self.mapping, self.shape._replace(resumed=at is not None))
        return listing.rows(self.connection, *values, *(at or ()), most)

    def _add_prefix(self, prefix: str | None) -> None:
        if not prefix:
            return
        end = prefix_end(prefix)
        if end is None or not self.mapping.textual:
            self.loose = True
            return
        narrow = (
            not self.shape.by_id and _width_of_range(self.mapping).rows(self.connection, prefix, end)[0][0] < NARROW
        )
        self.shape = self.shape._replace(prefix=True, narrow=narrow)
        self.values += [prefix, end]

    def _add_parent(self, parent: str | None) -> None:
        field = self.mapping.parent
        if parent is None or field is None:  # a table that keeps none was refused
            return
        cause = self.mapping.cause_of(parent)
        if cause is None:
            self.nothing = True
            return
        self.shape = self.shape._replace(parent=True, narrow=True)
        self.values += self.mapping.bind([field], [cause], self.connection.dialect)

    def _add_bounds(self, query: Query) -> None:
        bounds = {name: getattr(query, name) for name in ("since", "until", "after")}
        given = {name: seconds for name, seconds in bounds.items() if seconds is not None}
        if self.mapping.ordered is None:
            self.loose = self.loose or bool(given)
            return
        self.shape = self.shape._replace(bounds=tuple(given))
        for name, seconds in given.items():
            moment = _moment(seconds, -SLACK if name != "until" else SLACK)
            self.values.append(bound_moment(self.mapping, self.mapping.ordered, moment, self.connection.dialect))

    def _add_tags(self, tags: list[str]) -> None:
        if not tags:
            return
        self.nothing = self.nothing or self.mapping.tags is None
        if self.mapping.tag_table is None:
            self.loose = True
            return
        widths = {tag: _width_of_tag(self.mapping).rows(self.connection, tag)[0][0] for tag in tags}
        rarest = min(tags, key=widths.__getitem__)
        self.shape = self.shape._replace(tags=len(tags), narrow=self.shape.narrow or widths[rarest] < NARROW)
        self.values += [rarest, *(tag for tag in tags if tag != rarest)]

    def _add_conditions(self, query: Query) -> None:
        said = ColumnConditions(self.mapping, query.conditions, self.connection.dialect)
        self.nothing, self.loose = self.nothing or said.nothing, self.loose or said.loose
        if said.prefilter is not None:
            self.shape = self.shape._replace(condition=said.prefilter.shape)
            self.values += said.prefilter.values


def query(connection: Connection, mapping: TableMapping, query: Query) -> Page:
    """Return a page of the rows that match.

    Raises:
        InvalidQuery: a path of `where` begins with no column that the content shows.
    """
    plan = _Plan(connection, mapping, query)
    at = _start(plan, query)
    if plan.nothing or not query.limit:
        return Page()
    try:
        return _whole_page(plan, query, at)
    except (Corrupt, sqlite3.OperationalError) as error:
        if not isinstance(error, Corrupt) and not is_undecodable(error):
            raise

    def wanted(pair: _Pair) -> bool:
        return plan.exact or query.matches(pair[0])

    part = page_of(connection, _source(plan), at, query.limit, wanted, f"table {mapping.name}")
    cursor = None if part.last is None else _cursor(plan, query, *part.last)
    return Page([datum for datum, _ in part.found], cursor, part.damaged)


def damaged(
    connection: Connection, mapping: TableMapping, at: list[Any] | None, limit: int
) -> tuple[tuple[Damaged, ...], list[Any] | None]:
    """Return what is damaged among the next rows, the oldest first, and where the ones behind them begin."""
    plan = _Plan(connection, mapping, Query(order="oldest"))
    part = part_of(connection, _source(plan), at, limit, lambda _: True, f"table {mapping.name}")
    return part.damaged, None if part.last is None else _position(plan, part.last[1])


def _source(plan: _Plan) -> Source[_Pair, list[Any]]:
    mapping = plan.mapping
    return Source(
        plan.rows,
        lambda rows: mapping.each_of(rows, plan.connection.dialect),
        lambda pair: _position(plan, pair[1]),
    )


def _whole_page(plan: _Plan, query: Query, at: list[Any] | None) -> Page:
    connection, mapping = plan.connection, plan.mapping

    def read(behind: list[Any] | None, most: int) -> list[_Pair]:
        rows = plan.rows(behind, most)
        return [*zip(mapping.datums_of(rows, connection.dialect), rows, strict=True)]

    def place(pair: _Pair) -> list[Any]:
        return _position(plan, pair[1])

    def matches(pair: _Pair) -> bool:
        return query.matches(pair[0])

    batch = max(query.limit + 1, BATCH) if plan.loose else query.limit + 1
    found = first_of(read, place, None if plan.exact else matches, at, query.limit, batch)
    kept = found[: query.limit]
    cursor = _cursor(plan, query, *kept[-1]) if len(found) > query.limit else None
    return Page([datum for datum, _ in kept], cursor)


def _cursor(plan: _Plan, query: Query, datum: Datum, row: Any) -> str:
    created = 0
    if plan.ordered is not None:
        moment = plan.mapping.values_of(row, plan.connection.dialect)[plan.ordered.name]
        created = (as_utc(moment) - EPOCH) // MICROSECOND
    return query.cursor_at((created, datum.id))


def _start(plan: _Plan, query: Query) -> list[Any] | None:
    """Return the driver's values of the position in the cursor."""
    position, connection, mapping = query.start(), plan.connection, plan.mapping
    if position is None:
        return None
    at, id = position
    try:
        key, moment = mapping.key_of(id), EPOCH + int(at) * MICROSECOND
    except (OverflowError, InvalidRow):
        key = None
    if key is None:
        raise InvalidCursor("the cursor is no place in this table: start again without it")
    first = [] if plan.ordered is None else [bound_moment(mapping, plan.ordered, moment, connection.dialect)]
    return first + bound_key(connection, mapping, key)


def _position(plan: _Plan, row: Any) -> list[Any]:
    """Return the driver's values of where a row stands in the order."""
    mapping = plan.mapping
    fields = [plan.ordered, *mapping.keys] if plan.ordered is not None else mapping.keys
    return [row[mapping.fields.index(field)] for field in fields]


def _moment(seconds: float, slack: timedelta) -> datetime:
    """Return a moment a little beyond, for what is checked again: floats and columns round differently."""
    try:
        return datetime.fromtimestamp(seconds, UTC) + slack
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC) if seconds > 0 else datetime.min.replace(tzinfo=UTC)


@lru_cache(maxsize=1024)
def _width_of_range(mapping: TableMapping) -> Statement:
    key = bytewise(mapping.keys[0].column)
    rows = select(_one).select_from(mapping.table).where(key >= bindparam("first"), key < bindparam("end"))
    rows = rows.limit(literal_column(str(NARROW)))
    return Statement(select(func.count()).select_from(rows.subquery()), "first end")


@lru_cache(maxsize=1024)
def _width_of_tag(mapping: TableMapping) -> Statement:
    assert mapping.tag_table is not None  # noqa: S101  # the caller looked
    rows = select(_one).where(mapping.tag_table[1] == bindparam("tag")).limit(literal_column(str(NARROW)))
    return Statement(select(func.count()).select_from(rows.subquery()), "tag")


@lru_cache(maxsize=4096)
def _listing(mapping: TableMapping, shape: _ListingShape) -> Statement:
    """Write the statement of a shape; its parameters come in the order in which a plan gives them."""
    names: list[str] = []
    where: list[ColumnElement[bool]] = []
    keys: list[Any] = [bytewise(key.column) if is_text(key.column.type) else key.column for key in mapping.keys]
    if shape.prefix:
        ranged = keys[0] if shape.narrow or shape.by_id or mapping.ordered is None else unindexed(keys[0])
        where += [ranged >= bindparam("first"), ranged < bindparam("end")]
        names += ["first", "end"]
    if shape.parent and mapping.parent is not None:
        where.append(mapping.parent.column == bindparam("parent"))
        names.append("parent")
    order = list(keys)
    if mapping.ordered is not None:
        created = unindexed(mapping.ordered.column) if shape.narrow or shape.by_id else mapping.ordered.column
        if not shape.by_id:
            order.insert(0, created)
        tests = {
            "since": created >= bindparam("since"),
            "until": created < bindparam("until"),
            "after": created > bindparam("after"),
        }
        where += [tests[name] for name in shape.bounds]
        names += shape.bounds
    where += [_tagged(mapping, at, find=shape.narrow and not at and not shape.prefix) for at in range(shape.tags)]
    names += [f"tag{at}" for at in range(shape.tags)]
    if shape.condition is not None:
        where.append(condition_on(mapping, shape.condition, names))
    if shape.resumed:
        here = [f"at{at}" for at in range(len(order))]
        where.append(behind(order, here, descending=shape.descending))
        names += here
    listed = select(*mapping.columns).where(*where).order_by(*in_order(order, descending=shape.descending))
    return Statement(listed.limit(bindparam("most", type_=Integer)), " ".join([*names, "most"]))


def _tagged(mapping: TableMapping, at: int, *, find: bool) -> ColumnElement[bool]:
    """Return the condition that a row has a tag: as the way to find few rows, or as a look at each of many."""
    assert mapping.tag_table is not None  # noqa: S101  # the caller looked
    refers, tag = mapping.tag_table
    key = mapping.keys[0].column
    if find:
        return key.in_(select(refers).where(tag == bindparam(f"tag{at}")))
    other = refers.table.alias(f"tagged{at}")
    return exists().where(other.c[refers.key] == key, other.c[tag.key] == bindparam(f"tag{at}"))
