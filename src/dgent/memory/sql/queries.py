"""How datums are listed by what a `Query` says: by an index of the order, of ids or of metadata, a page at a time.

Plain functions over a `Connection`, in SQL that SQLite and PostgreSQL share. `now` is as in `reads`.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, and_, bindparam, func, literal_column, select

from dgent.cursor import Position, seal_cursor
from dgent.memory.metadata_index import also, terms, terms_for
from dgent.memory.sql.datum_tables import READ, datums, datums_of, each_of
from dgent.memory.sql.reads import check_passable, end_of, get_many, in_range, unexpired
from dgent.page import Page
from dgent.sql.constructs import BYTEWISE, unindexed
from dgent.sql.damaged_pages import Source, page_of
from dgent.sql.keyset import BATCH, behind, first_of, in_order
from dgent.sql.statement import Statement
from dgent.sql.table_set import formats

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.datum import Datum
    from dgent.memory.datum_index import DatumIndex
    from dgent.query import Query

d, t = datums.c, terms.c

NARROW: Final = 1000
"""A prefix or a term with fewer rows than this is read whole and sorted; a wider one is walked in its order."""

_MORE: Final = 4
"""How many times as much is asked of an index, where too little of what it found was an answer."""

_WIDTH_OF_RANGE = Statement(
    select(func.count()).select_from(
        select(literal_column("1")).where(in_range).limit(literal_column(str(NARROW))).subquery()
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


class _QueryShape(NamedTuple):
    """What a statement that lists datums looks like, apart from its values."""

    order: str
    by: str  # what is walked: "order", an "id" range that is sorted, or a "term"
    terms: int
    prefix: bool
    bounds: frozenset[str]  # of since, until, after, after_seq
    resumed: bool
    expired: bool


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
        check_passable(error)
    each = Source(rows, partial(each_of, namespace), query.position)
    part = page_of(connection, each, at, query.limit, query.matches, f"namespace {namespace!r}")
    cursor = None if part.last is None else seal_cursor(query.position(part.last), query.fingerprint)
    return Page(part.found, cursor, part.damaged)


def search(
    connection: Connection, namespace: str, index: DatumIndex, question: Any, limit: int, now: float
) -> list[Datum]:
    """Return the first live datums that an index finds and that answer the question.

    Of what it finds some may have expired, or be no answer: then it is asked for more, and what was seen is passed.

    Raises:
        SchemaOutdated: the index is not there.
    """
    index.tables.check_noted(connection, formats(connection))
    passed: set[str] = set()
    found: list[Datum] = []
    most = max(limit, 1)
    while len(found) < limit:
        ids = index.search(connection, namespace, question, most)
        fresh = [id for id in dict.fromkeys(ids) if id not in passed]
        for at in range(0, len(fresh), BATCH):
            read = get_many(connection, namespace, fresh[at : at + BATCH], now)
            found += [datum for datum in read.values() if index.confirms(question, datum)]
        if len(ids) < most:
            break
        passed.update(fresh)
        most *= _MORE
    return found[:limit]


def _whole_page(
    namespace: str, query: Query, at: Position | None, rows: Callable[[Position | None, int], list[Any]]
) -> Page:
    def read(behind: Position | None, most: int) -> list[Datum]:
        return datums_of(namespace, rows(behind, most))

    wanted = query.matches if query.looks_inside else None
    return query.page(first_of(read, query.position, wanted, at, query.limit, query.limit + 1))


def _walk(connection: Connection, namespace: str, query: Query) -> str:
    """Choose between the order's own index and the id range: SQLite's planner picks wrong by a factor of 100."""
    if not query.prefix:
        return "order"
    width = _WIDTH_OF_RANGE.rows(connection, namespace, query.prefix, end_of(query.prefix))[0][0]
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
    shape = _QueryShape(
        query.order, by, len(wanted), bool(query.prefix), frozenset(given), at is not None, query.expired
    )
    values: list[Any] = [namespace, now, batch, *wanted]
    if query.prefix:
        values += [query.prefix, end_of(query.prefix)]
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
    where: list[ColumnElement[bool]] = [d.live] if shape.expired else [d.live, unexpired(d)]
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
