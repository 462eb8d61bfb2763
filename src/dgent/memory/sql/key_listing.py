"""How ids, their segments and namespaces are listed without contents: what is seen is jumped over, not read.

Plain functions over a `Connection`, in SQL that SQLite and PostgreSQL share. `now` is as in `reads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    CTE,
    Connection,
    Integer,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    literal_column,
    select,
)

from dgent.memory.sql.datum_tables import READ, corrupt, datums, datums_of, heads
from dgent.memory.sql.queries import query as datums_that_match
from dgent.memory.sql.queries import reader
from dgent.memory.sql.reads import check_passable, end_of, unexpired
from dgent.name_listing import BEHIND
from dgent.page import KeyPage
from dgent.sql.constructs import BYTEWISE, position
from dgent.sql.statement import Statement
from dgent.validation import HELD_ID_BYTES

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from dgent.name_listing import NamespaceListing, SegmentListing
    from dgent.query import Query

d = datums.c
_one: Final = literal_column("1", Integer)
_OF_SEQ = Statement(select(*READ).where(d.namespace == bindparam("ns"), d.seq == bindparam("seq")), "ns seq")
_NAMESPACES = Statement(
    select(heads.c.namespace)
    .where(
        heads.c.namespace >= bindparam("first"),
        heads.c.namespace < bindparam("end"),
        exists().where(d.namespace == heads.c.namespace),
    )
    .order_by(heads.c.namespace)
    .limit(bindparam("most", type_=Integer)),
    "first end most",
)
_HOLDS = Statement(select(_one).where(d.namespace == bindparam("ns")).limit(_one), "ns")


def keys(connection: Connection, namespace: str, query: Query, now: float) -> KeyPage:
    """Return a page of ids, of a query for nothing but a prefix."""
    at = query.start()
    if query.limit == 0:
        return KeyPage()
    try:
        rows = reader(connection, namespace, query, now, keys=True)(at, query.limit + 1)
        kept = rows[: query.limit]
        _check_ids(namespace, kept)
        if len(rows) > query.limit:
            _check_end(connection, namespace, kept[-1])
    except Exception as error:
        check_passable(error)
        page = datums_that_match(connection, namespace, query, now)
        return KeyPage([datum.id for datum in page], page.cursor)
    cursor = query.cursor_at(query.position_of(*kept[-1])) if len(rows) > query.limit else None
    return KeyPage([row[0] for row in kept], cursor)


def _check_ids(namespace: str, rows: list[Any]) -> None:
    """Raise Corrupt, if an id is no text."""
    for row in rows:
        if type(row[0]) is not str:
            raise corrupt(namespace, row[0], "some")


def _check_end(connection: Connection, namespace: str, key: Any) -> None:
    """Raise Corrupt, if a page would go on behind what is damaged: that could lead past others."""
    datums_of(namespace, _OF_SEQ.rows(connection, namespace, key[2]))


def segments(
    connection: Connection, namespace: str, listing: SegmentListing, limit: int, cursor: str | None, now: float
) -> KeyPage:
    """Return a page of segments, in one statement: one step in the index of ids for each."""
    first = listing.first_behind(listing.after(cursor))
    if first is None or not limit:
        return KeyPage()
    end, delimiter = end_of(listing.prefix), listing.delimiter
    shape = (len(listing.prefix), len(delimiter), min(listing.depth, HELD_ID_BYTES))  # no id has more
    rows = _SEGMENTS.rows(connection, namespace, first, end, now, delimiter, end_of(delimiter), *shape, limit + 1)
    _check_ids(namespace, rows)
    return listing.page([listing.segment_of(id) for (id,) in rows], limit)


def _segments() -> Statement:
    """Write the walk: from an id over its delimiters, as many as are wanted, then to the first id behind the segment.

    `at` is how many characters of the id have been passed, `left` how many delimiters have not.
    """
    size, depth = bindparam("size", type_=Integer), bindparam("depth", type_=Integer)
    delimiter, width = bindparam("delimiter", type_=BYTEWISE), bindparam("width", type_=Integer)
    walk = select(_first_id(bindparam("first", type_=BYTEWISE)).label("id"), size.label("at"), depth.label("left"))
    seen = walk.cte("walk", recursive=True)
    found, inside = _next_delimiter(seen, delimiter)
    behind = case(
        (seen.c.left > literal_column("0"), seen.c.id + literal(BEHIND, BYTEWISE)),
        else_=func.substr(seen.c.id, _one, seen.c.at - width, type_=BYTEWISE)
        + bindparam("delimiter_end", type_=BYTEWISE),
    )
    step = select(
        case((inside, seen.c.id), else_=_first_id(behind)),
        case((inside, seen.c.at + found + width - _one), else_=size),
        case((inside, seen.c.left - _one), else_=depth),
    ).where(seen.c.id.is_not(None))
    walked = seen.union_all(step)
    _, inside = _next_delimiter(walked, delimiter)
    return Statement(
        select(walked.c.id).where(walked.c.id.is_not(None), ~inside).limit(bindparam("most", type_=Integer)),
        "ns first end now delimiter delimiter_end size width depth most",
    )


def _next_delimiter(walk: CTE, delimiter: ColumnElement[str]) -> tuple[ColumnElement[int], ColumnElement[bool]]:
    """Return where the walk finds the next delimiter of its id, and whether it goes there."""
    found = position(func.substr(walk.c.id, walk.c.at + _one), delimiter)
    return found, and_(walk.c.left > literal_column("0"), found > literal_column("0"))


def _first_id(at_least: ColumnElement[str]) -> Any:
    """Return the first live id of the range, from a text on."""
    these = select(d.id).where(
        d.namespace == bindparam("ns"),
        d.id >= at_least,
        d.id < bindparam("end", type_=BYTEWISE),
        d.live.is_not(false()),  # as where ids are walked: no partial index is to be taken
        unexpired(d),
    )
    return these.order_by(d.id).limit(_one).offset(literal_column("0")).scalar_subquery()


_SEGMENTS = _segments()


def namespaces(connection: Connection, listing: NamespaceListing, limit: int, cursor: str | None = None) -> KeyPage:
    """Return a page of the namespaces that hold something, in their order."""
    after, prefix = listing.after(cursor), listing.prefix
    below = "" if prefix is None else f"{prefix}/"
    first = below if after is None else max(below, after + BEHIND)
    found = [prefix] if prefix is not None and after is None and _HOLDS.rows(connection, prefix) else []
    rows = _NAMESPACES.rows(connection, first, end_of(below), limit + 1)
    return listing.page(found + [name for (name,) in rows], limit)
