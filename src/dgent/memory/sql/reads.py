"""How datums are found, in SQL that SQLite and PostgreSQL share. Plain functions over a `Connection`.

`now` is the time in Unix seconds by which datums have expired or not, where the database has no clock of its own: see
`constructs.statement_time`.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from blake3 import blake3
from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
)

from dgent.cursor import Position, open_cursor, seal_cursor
from dgent.exceptions import Corrupt, LimitExceeded
from dgent.memory.metadata_index import also, terms, terms_for
from dgent.memory.sql.datum_tables import READ, corrupt, datum_of, datums, datums_of, each_of, heads
from dgent.page import Page
from dgent.query import Query, prefix_end
from dgent.sql.constructs import BYTEWISE, last_of_each, statement_time, unindexed
from dgent.sql.damaged_pages import Source, is_undecodable, page_of
from dgent.sql.keyset import behind, first_of, in_order
from dgent.sql.statement import Statement
from dgent.store import Revision, StoreStats
from dgent.validation import ID_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dgent.datum import Datum

d, t = datums.c, terms.c
_WIDTH: Final = len(READ)
_EXPIRES_AT: Final = [each.name for each in READ].index("expires_at")

NARROW: Final = 1000
"""A prefix or a term with fewer rows than this is read whole and sorted; a wider one is walked in its order."""


def _end(prefix: str) -> str:
    """Return a text above every id that starts with a prefix."""
    return prefix_end(prefix) or prefix + "\U0010ffff" * ID_LENGTH


def _unexpired(columns: Any) -> ColumnElement[bool]:
    return or_(columns.expires_at.is_(None), columns.expires_at > statement_time("now"))


_last = (
    select(*READ, d.live)
    .where(d.namespace == bindparam("ns"), d.id == bindparam("id"))
    .order_by(d.version.desc())
    .limit(literal_column("1"))
    .offset(literal_column("0"))  # without it SQLAlchemy writes OFFSET ?, which every read would have to bind
)
_GET = Statement(_last, "ns id", timed=_last.add_columns(statement_time("now")))
_GET_VERSION = Statement(
    select(*READ).where(d.namespace == bindparam("ns"), d.id == bindparam("id"), d.version == bindparam("v")),
    "ns id v",
)
# "is not false", because for "live" PostgreSQL would walk a partial index until it has statistics of the table; and it
# looks at all versions. On SQLite a last version that has a content and is not live is damage, which has to be seen.
_these = select(*READ, d.live).where(last_of_each(datums, "ns", "ids"))
_GET_MANY = Statement(
    _these.where(or_(d.live.is_not(false()), d.content.is_not(None))),
    "ns ids",
    lists="ids",
    timed=_these.where(d.live.is_not(false())).add_columns(statement_time("now")),
)
_live_ones = select(func.count()).where(d.namespace == bindparam("ns"), d.live).scalar_subquery()
_expired_ones = (
    select(func.count())
    .where(d.namespace == bindparam("ns"), d.live, d.expires_at.is_not(None), d.expires_at <= statement_time("now"))
    .scalar_subquery()
)
_COUNT = Statement(select(_live_ones - _expired_ones), "ns now")  # as at one moment
_in_range = and_(d.namespace == bindparam("ns"), d.id >= bindparam("first"), d.id < bindparam("end"))
_COUNT_RANGE = Statement(select(func.count()).where(_in_range, d.live, _unexpired(d)), "ns first end now")
_WIDTH_OF_RANGE = Statement(
    select(func.count()).select_from(
        select(literal_column("1")).where(_in_range).limit(literal_column(str(NARROW))).subquery()
    ),
    "ns first end",
)
_WIDTH_OF_TERM = Statement(
    select(func.count()).select_from(
        select(literal_column("1"))
        .where(t.namespace == bindparam("ns"), t.term == bindparam("term"))
        .limit(literal_column(str(NARROW)))
        .subquery()
    ),
    "ns term",
)


def _chain() -> Statement:
    """Walk the parents with the keys of rows alone, then fetch the rows of the chain."""
    start = (
        select(d.id, d.parent, d.version, literal_column("0", Integer).label("depth"))
        .where(d.namespace == bindparam("ns"), d.id == bindparam("id"), d.live, _unexpired(d))
        .cte("chain", recursive=True)
    )
    above = datums.alias("above")
    chain = start.union_all(
        select(above.c.id, above.c.parent, above.c.version, start.c.depth + literal_column("1")).join(
            start,
            and_(
                above.c.namespace == bindparam("ns"),
                above.c.id == start.c.parent,
                above.c.live,
                _unexpired(above.c),
                start.c.depth < bindparam("most"),
            ),
        )
    )
    found = select(*READ).join(
        chain, and_(d.namespace == bindparam("ns"), d.id == chain.c.id, d.version == chain.c.version)
    )
    return Statement(found.order_by(chain.c.depth.desc()), "ns id now most")


_CHAIN = _chain()
_history = select(*READ).where(d.namespace == bindparam("ns"), d.id == bindparam("id")).order_by(d.version.desc())
_history = _history.limit(bindparam("most", type_=Integer))
_HISTORY = Statement(_history, "ns id most")
_HISTORY_BELOW = Statement(_history.where(d.version < bindparam("before")), "ns id most before")


def _as_of() -> Statement:
    later = datums.alias("later")
    last_then = (
        select(func.max(later.c.version))
        .where(later.c.namespace == bindparam("ns"), later.c.id == d.id, later.c.stored_at <= bindparam("time"))
        .scalar_subquery()
    )
    return Statement(
        select(*READ)
        .where(
            d.namespace == bindparam("ns"),
            d.id > bindparam("last"),
            d.id >= bindparam("first"),
            or_(bindparam("end", type_=BYTEWISE).is_(None), d.id < bindparam("end", type_=BYTEWISE)),
            d.version == last_then,
            or_(d.content.is_not(None), d.live),  # a live row without a content is damaged, and is named
            or_(d.expires_at.is_(None), d.expires_at > bindparam("time")),
        )
        .order_by(d.id)
        .limit(bindparam("most", type_=Integer)),
        "ns last first end time most",
    )


_AS_OF = _as_of()
_VERSIONS = Statement(select(func.count()).where(d.namespace == bindparam("ns")), "ns")
_HEAD = Statement(select(heads.c.seq).where(heads.c.namespace == bindparam("ns")), "ns")
_NAMESPACES = Statement(
    select(heads.c.namespace)
    .where(
        heads.c.namespace >= bindparam("first"),
        exists().where(d.namespace == heads.c.namespace),
    )
    .order_by(heads.c.namespace),
    "first",
)


def get(connection: Connection, namespace: str, id: str, version: int | None, now: float) -> Datum | None:
    """Return the live datum, or the one that was put as `version`."""
    if version is not None:
        row = _GET_VERSION.row(connection, namespace, id, version)
    else:
        row = _GET.row(connection, namespace, id)
    if row is None:
        return None
    if version is not None:
        return datum_of(namespace, row)
    found = datum_of(namespace, row[:_WIDTH])  # first: what is damaged may only seem to have expired
    if found is None:
        return None
    _check_last(namespace, row)
    return found if _lives(row, now) else None


def _check_last(namespace: str, row: Any) -> None:
    """Refuse a last version that was superseded: the one behind it is damaged so that it does not count any more."""
    if not row[_WIDTH]:
        raise corrupt(namespace, row[0], row[1])


def _lives(row: Any, now: float) -> bool:
    """Tell whether a row has not expired, by the clock of the database, which stands behind the rest, if it has one."""
    expires_at = row[_EXPIRES_AT]
    return expires_at is None or expires_at > (row[_WIDTH + 1] if len(row) > _WIDTH + 1 else now)


def get_each(
    connection: Connection, namespace: str, asked: list[tuple[str, int | None]], now: float
) -> list[Datum | Exception | None]:
    """Return what `get` returns for each of these (id, version); one damaged row is the error of its own asker."""
    ids = list({id: None for id, version in asked if version is None})
    rows = {row[0]: row for row in (_GET_MANY.rows(connection, namespace, ids) if ids else [])}

    def one(id: str, version: int | None) -> Datum | Exception | None:
        try:
            if version is not None:
                return get(connection, namespace, id, version, now)
            return next(_whole(namespace, [rows[id]], now), None) if id in rows else None
        except Corrupt as error:
            return error

    return [one(id, version) for id, version in asked]


def get_many(connection: Connection, namespace: str, ids: list[str], now: float) -> dict[str, Datum]:
    """Return the live ones of these ids, by id."""
    found = {datum.id: datum for datum in _whole(namespace, _GET_MANY.rows(connection, namespace, ids), now)}
    return {id: found[id] for id in ids if id in found}


def _whole(namespace: str, rows: list[Any], now: float) -> Iterator[Datum]:
    """Return the datums of last versions that have not expired, once all are known to be whole."""
    read = datums_of(namespace, [row[:_WIDTH] for row in rows])
    for row in rows:
        _check_last(namespace, row)
    return (datum for row, datum in zip(rows, read, strict=True) if _lives(row, now))


def count(connection: Connection, namespace: str, prefix: str | None, now: float) -> int:
    """Return how many datums are live."""
    if prefix:
        return int(_COUNT_RANGE.rows(connection, namespace, prefix, _end(prefix), now)[0][0])
    return int(_COUNT.rows(connection, namespace, now)[0][0])


def causal_chain(connection: Connection, namespace: str, id: str, now: float, most: int) -> list[Datum]:
    """Return the live datum and its live ancestors, oldest first.

    Raises:
        LimitExceeded: there are more than `most`.
    """
    rows = _CHAIN.rows(connection, namespace, id, now, most)
    if len(rows) > most and len(rows := _once(rows)) > most:
        raise LimitExceeded(f"the causal chain of {id!r} is longer than {most:,}: raise the setting max_chain")
    return datums_of(namespace, rows)


def _once(rows: list[Any]) -> list[Any]:
    """Return the rows of a chain up to the first that comes again: a clock that went back may bring a cycle to life."""
    passed: dict[str, Any] = {}
    for row in reversed(rows):
        if row[0] in passed:
            break
        passed[row[0]] = row
    return list(passed.values())[::-1]


def history(connection: Connection, namespace: str, id: str, limit: int, before: int | None) -> list[Revision]:
    """Return the last `limit` versions below `before`, oldest first."""
    if before is None:
        rows = _HISTORY.rows(connection, namespace, id, limit)
    else:
        rows = _HISTORY_BELOW.rows(connection, namespace, id, limit, before)
    return [_revision(namespace, row) for row in reversed(rows)]


def _revision(namespace: str, row: Any) -> Revision:
    _, version, seq, _, stored_at, *_ = row
    return Revision(version, seq, stored_at, datum_of(namespace, row))


def as_of(
    connection: Connection, namespace: str, time: float, prefix: str | None, limit: int, cursor: str | None
) -> Page:
    """Return a page of what was live at a time, in the order of the ids."""
    fingerprint = blake3(orjson.dumps(["as_of", time, prefix])).digest(16)
    last = "" if cursor is None else open_cursor(cursor, fingerprint)[1]
    end = _end(prefix) if prefix else None

    def rows(behind: str | None, most: int) -> list[Any]:
        return _AS_OF.rows(connection, namespace, behind or "", prefix or "", end, time, most)

    try:
        found = datums_of(namespace, rows(last, limit + 1))
    except Exception as error:
        _check_passable(error)
        each: Source[Datum, str] = Source(rows, partial(each_of, namespace), lambda datum: datum.id)
        part = page_of(connection, each, last, limit, lambda _: True, f"namespace {namespace!r}")
        return Page(
            part.found, None if part.last is None else seal_cursor((0, part.last.id), fingerprint), part.damaged
        )
    if len(found) <= limit or not limit:
        return Page(found[:limit])
    return Page(found[:limit], seal_cursor((0, found[limit - 1].id), fingerprint))


def _check_passable(error: Exception) -> None:
    """Raise an error again, unless it is that of a row that is damaged, which the others can be read without."""
    if not isinstance(error, Corrupt) and not is_undecodable(error):
        raise error


def head(connection: Connection, namespace: str) -> int:
    """Return the highest seq of a namespace; 0 where nothing was ever put."""
    row = _HEAD.row(connection, namespace)
    return int(row[0]) if row else 0


def stats(connection: Connection, namespace: str, now: float) -> StoreStats:
    """Return what a namespace holds."""
    seq = head(connection, namespace)
    versions = int(_VERSIONS.rows(connection, namespace)[0][0])
    return StoreStats(count(connection, namespace, None, now), versions, seq)


def namespaces(connection: Connection, prefix: str | None, limit: int) -> list[str]:
    """Return the namespaces that hold something: `prefix` and those below it, or all."""
    names = (name for (name,) in _NAMESPACES.rows(connection, prefix or ""))
    wanted = [name for name in names if not prefix or name == prefix or name.startswith(f"{prefix}/")]
    return wanted[:limit]


class _QueryShape(NamedTuple):
    """What a statement that lists datums looks like, apart from its values."""

    order: str
    by: str  # what is walked: "order", an "id" range that is sorted, or a "term"
    terms: int
    prefix: bool
    bounds: frozenset[str]  # of since, until, after, after_seq
    resumed: bool


def query(connection: Connection, namespace: str, query: Query, now: float) -> Page:
    """Return a page of the live datums that match.

    Terms and ranges narrow what is read; where conditions remain that no index knows, rows are read in batches and
    looked into until the page is full.
    """
    at = query.start()
    if query.limit == 0:
        return Page()
    wanted = terms_for(query)
    if len(wanted) > 1:
        wanted.sort(key=lambda term: _width_of_term(connection, namespace, term))
    by = "term" if wanted else _walk(connection, namespace, query)

    def rows(behind: Position | None, most: int) -> list[Any]:
        return _rows(connection, namespace, query, by, wanted, behind, most, now)

    try:
        return _whole_page(namespace, query, at, rows)
    except Exception as error:
        _check_passable(error)
    each = Source(rows, partial(each_of, namespace), query.position)
    part = page_of(connection, each, at, query.limit, query.looks_right, f"namespace {namespace!r}")
    cursor = None if part.last is None else seal_cursor(query.position(part.last), query.fingerprint)
    return Page(part.found, cursor, part.damaged)


def _whole_page(
    namespace: str, query: Query, at: Position | None, rows: Callable[[Position | None, int], list[Any]]
) -> Page:
    def read(behind: Position | None, most: int) -> list[Datum]:
        return datums_of(namespace, rows(behind, most))

    wanted = query.looks_right if query.looks_inside else None
    return query.page(first_of(read, query.position, wanted, at, query.limit, query.limit + 1))


def _walk(connection: Connection, namespace: str, query: Query) -> str:
    """Choose between the order's own index and the id range: SQLite's planner picks wrong by a factor of 100."""
    if not query.prefix:
        return "order"
    width = _WIDTH_OF_RANGE.rows(connection, namespace, query.prefix, _end(query.prefix))[0][0]
    return "id" if width < NARROW else "order"


def _width_of_term(connection: Connection, namespace: str, term: int) -> int:
    return int(_WIDTH_OF_TERM.rows(connection, namespace, term)[0][0])


def _rows(
    connection: Connection,
    namespace: str,
    query: Query,
    by: str,
    wanted: list[int],
    at: Position | None,
    batch: int,
    now: float,
) -> list[Any]:
    bounds = {name: getattr(query, name) for name in ("since", "until", "after", "after_seq")}
    given = {name: value for name, value in bounds.items() if value is not None}
    shape = _QueryShape(query.order, by, len(wanted), bool(query.prefix), frozenset(given), at is not None)
    values: list[Any] = [namespace, now, batch, *wanted]
    if query.prefix:
        values += [query.prefix, _end(query.prefix)]
    values += [given[name] for name in sorted(given)]
    if at is not None:
        values += [at[0]] if query.order == "seq" else list(at)
    return _listing(shape).rows(connection, *values)


@lru_cache(maxsize=256)
def _listing(shape: _QueryShape) -> Statement:
    """Write the statement of a shape; its parameters come in the order in which `_rows` gives them."""
    names = ["ns", "now", "most", *(f"term{at}" for at in range(shape.terms))]
    created: Any = t.created_at if shape.by == "term" else d.created_at
    id = t.id if shape.by == "term" else d.id
    where: list[ColumnElement[bool]] = [d.live, _unexpired(d)]
    source = select(*READ)
    if shape.by == "term":
        source = source.select_from(terms).join(
            datums, and_(d.namespace == bindparam("ns"), d.id == t.id, d.version == t.version)
        )
        where += [t.namespace == bindparam("ns"), t.term == bindparam("term0")]
        where += [also(at) for at in range(1, shape.terms)]
    else:
        where.append(d.namespace == bindparam("ns"))
    if shape.prefix:
        ranged: Any = id if shape.by == "id" else unindexed(id)
        where += [ranged >= bindparam("first", type_=BYTEWISE), ranged < bindparam("end", type_=BYTEWISE)]
        names += ["first", "end"]
    seq: Any = d.seq
    if shape.by != "order":
        seq = unindexed(seq)
    if shape.by == "id" or (shape.by == "term" and shape.order == "seq"):
        created = unindexed(created)
    tests = {
        "since": created >= bindparam("since"),
        "until": created < bindparam("until"),
        "after": created > bindparam("after"),
        "after_seq": seq > bindparam("after_seq"),
    }
    where += [tests[name] for name in sorted(shape.bounds)]
    names += sorted(shape.bounds)
    keys: list[Any] = [seq] if shape.order == "seq" else [created, id]
    if shape.resumed:
        place = ["at"] if shape.order == "seq" else ["at", "at_id"]
        where.append(behind(keys, place, descending=shape.order == "newest"))
        names += place
    listed = source.where(*where).order_by(*in_order(keys, descending=shape.order == "newest"))
    return Statement(listed.limit(bindparam("most", type_=Integer)), " ".join(names))
