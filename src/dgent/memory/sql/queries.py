"""How datums are listed by what a `Query` says: by an index of the order, of ids or of metadata, a page at a time.

Plain functions over a `Connection`, in SQL that SQLite and PostgreSQL share. `now` is as in `reads`.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    false,
    func,
    literal_column,
    or_,
    select,
)

from dgent.memory.metadata_index import also, terms, terms_for, terms_of_any
from dgent.memory.sql import past_queries
from dgent.memory.sql.condition_sql import condition_on, prefilter_of
from dgent.memory.sql.datum_tables import KEYS, READ, datums, datums_of, each_of
from dgent.memory.sql.query_bounds import NARROW, bounds_of, is_narrow
from dgent.memory.sql.reads import check_passable, get_many, unexpired
from dgent.page import Page
from dgent.query import ORDERS
from dgent.sql.condition_shape import padded
from dgent.sql.constructs import BYTEWISE, unindexed
from dgent.sql.damaged_pages import Source, page_of
from dgent.sql.json_part import can_test_json
from dgent.sql.keyset import BATCH, behind, first_of, in_order
from dgent.sql.statement import Statement
from dgent.sql.table_set import formats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dgent.condition_tree import Node
    from dgent.cursor import Position
    from dgent.datum import Datum
    from dgent.memory.datum_index import DatumIndex
    from dgent.query import Order, Query
    from dgent.sql.condition_shape import Prefilter, Shape

d, t = datums.c, terms.c

_MOST_TERMS: Final = 64
"""Of how many terms rows are looked for that have any of them."""

_MORE: Final = 4
"""How many times as much is asked of an index, where too little of what it found was an answer."""


class _QueryShape(NamedTuple):
    """What a statement that lists datums looks like, apart from its values."""

    order: Order
    by: str  # what is walked: "order" or a "term"; or few rows, sorted: an "id" range, a "parent", any of some "terms"
    terms: int
    bounds: frozenset[str]  # of since, until, after, after_seq, before_seq, and of ids the first and the end
    resumed: bool  # in the orders by time: whether it goes on behind a position
    keys: bool = False  # whether to read `KEYS` alone
    past: bool = False  # whether the time that is given tells what has expired, on a server, too
    expired: bool = False  # whether to read what has expired, too
    condition: Shape | None = None  # on the metadata


class _Narrowing(NamedTuple):
    """By what few rows are read.

    Attributes:
        by: as in a shape.
        terms: of "term" those that each row has, the rarest first; of "terms" those of which each has one.
        condition: what SQL says of the conditions that no term stands for.
    """

    by: str
    terms: list[int]
    condition: Prefilter | None


def query(connection: Connection, namespace: str, query: Query, now: float) -> Page:
    """Return a page of the live datums that match, or of those that were live at a time.

    Terms and ranges narrow what is read; where conditions remain that no index knows, rows are read in batches and
    looked into until the page is full.
    """
    if query.as_of is not None:
        time = float(query.as_of)  # type: ignore[arg-type]  # it was made one on entry
        unchanged = partial(reader, connection, namespace, now=time, past=True)
        return past_queries.query(connection, namespace, query, unchanged)
    at = query.start()
    if query.limit == 0:
        return Page()
    rows = reader(connection, namespace, query, now)
    try:
        return _whole_page(namespace, query, at, rows)
    except Exception as error:
        check_passable(error)
    each = Source(rows, partial(each_of, namespace), query.position)
    part = page_of(connection, each, at, query.limit, query.matches, f"namespace {namespace!r}")
    cursor = None if part.last is None else query.cursor_at(query.position(part.last))
    return Page(part.found, cursor, part.damaged)


def reader(
    connection: Connection,
    namespace: str,
    query: Query,
    now: float,
    *,
    keys: bool = False,
    past: bool = False,
) -> Callable[[Position | None, int], list[Any]]:
    """Return what reads the next rows behind a position of what is live and may match.

    With `keys` they are of the columns `KEYS` alone. With `past`, `now` is the time by which something has expired or
    not, whatever clock the store goes by.
    """
    narrowing = _narrowing(connection, namespace, query)
    if narrowing is None:
        return lambda *_: []

    def rows(behind: Position | None, most: int) -> list[Any]:
        statement, values = _asked(query, narrowing, behind, keys=keys, past=past)
        return statement.rows(connection, namespace, now, most, *values)

    return rows


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


def _narrowing(connection: Connection, namespace: str, query: Query) -> _Narrowing | None:
    """Choose what is walked; None if nothing can match.

    The children of a datum are few nearly always, and found by its id; those of many are sorted.
    """
    alternatives = [terms_of_any(condition) for condition in query.conditions]
    if frozenset() in alternatives:
        return None
    if query.causal_parent is not None:
        return _Narrowing("parent", [], _prefilter(connection, query.conditions))
    left = [node for node, among in zip(query.conditions, alternatives, strict=True) if among is None or len(among) > 1]
    condition = _prefilter(connection, left)
    wanted = terms_for(query)
    if len(wanted) > 1:
        wanted.sort(key=lambda term: _width_of_terms(connection, namespace, [term]))
    if wanted:
        return _Narrowing("term", wanted, condition)
    for among in sorted((each for each in alternatives if each is not None and len(each) <= _MOST_TERMS), key=len):
        some = padded(sorted(among))
        if _width_of_terms(connection, namespace, some) < NARROW:
            return _Narrowing("terms", some, condition)
    # SQLite's planner picks wrong by a factor of 100 between the order's own index and the id range.
    narrow = query.ordered_by != "id" and is_narrow(connection, namespace, query)
    return _Narrowing("id" if narrow else "order", [], condition)


def _prefilter(connection: Connection, conditions: Sequence[Node]) -> Prefilter | None:
    return prefilter_of(conditions) if conditions and can_test_json(connection) else None


def _width_of_terms(connection: Connection, namespace: str, terms: list[int]) -> int:
    return int(_width_statement(len(terms)).rows(connection, namespace, *terms)[0][0])


@lru_cache(maxsize=16)
def _width_statement(count: int) -> Statement:
    names = [f"term{at}" for at in range(count)]
    rows: Any = select(literal_column("1")).where(t.namespace == bindparam("ns"), _has_any(names))
    rows = rows.limit(literal_column(str(NARROW)))
    return Statement(select(func.count()).select_from(rows.subquery()), " ".join(["ns", *names]))


def _has_any(names: list[str]) -> ColumnElement[bool]:
    given: list[Any] = [bindparam(name) for name in names]
    return t.term == given[0] if len(given) == 1 else t.term.in_(given)


def _asked(
    query: Query, narrowing: _Narrowing, at: Position | None, *, keys: bool, past: bool
) -> tuple[Statement, list[Any]]:
    """Return a statement and its values, but for the namespace, the time and how many rows."""
    given, resumed = bounds_of(query, at)
    by, wanted, condition = narrowing
    looks = None if condition is None else condition.shape
    shape = _QueryShape(query.order, by, len(wanted), frozenset(given), resumed, keys, past, query.expired, looks)
    values: list[Any] = [*wanted]
    if by == "parent":
        values.append(query.causal_parent)
    values += [given[name] for name in sorted(given)]
    if resumed and at is not None:
        values += at
    if condition is not None:
        values += condition.values
    return _listing(shape), values


def _still_there(shape: _QueryShape) -> list[ColumnElement[bool]]:
    if shape.expired:
        return []
    if shape.past:
        return [or_(d.expires_at.is_(None), d.expires_at > bindparam("now", type_=Float(53)))]
    return [unexpired(d)]


@lru_cache(maxsize=256)
def _listing(shape: _QueryShape) -> Statement:
    """Write the statement of a shape; its parameters come in the order in which `_asked` gives them."""
    ordered_by, descending = ORDERS[shape.order]
    names = ["ns", "now", "most", *(f"term{at}" for at in range(shape.terms))]
    created: Any = t.created_at if shape.by == "term" else d.created_at
    id: Any = t.id if shape.by == "term" else d.id
    by_id = shape.by == "order" and ordered_by == "id"
    # "is not false" where the key is walked, because for "live" a planner may take a partial index, and sort it all.
    where: list[ColumnElement[bool]] = [d.live.is_not(false()) if by_id else d.live, *_still_there(shape)]
    source = select(*(KEYS if shape.keys else READ))
    if shape.by == "term":
        source = source.select_from(terms).join(
            datums, and_(d.namespace == bindparam("ns"), d.id == t.id, d.version == t.version)
        )
        where += [t.namespace == bindparam("ns"), t.term == bindparam("term0")]
        where += [also(at) for at in range(1, shape.terms)]
    else:
        where.append(d.namespace == bindparam("ns"))
    if shape.by == "terms":
        these = _has_any([f"term{at}" for at in range(shape.terms)])
        where.append(d.id.in_(select(t.id).where(t.namespace == bindparam("ns"), these)))
    if shape.by == "parent":
        where += [d.parent == bindparam("parent", type_=BYTEWISE), d.parent.is_not(None)]  # as in its partial index
        names.append("parent")
    ranged: Any = id if shape.by == "id" or by_id else unindexed(id)
    seq: Any = d.seq
    if shape.by != "order" or by_id:
        seq = unindexed(seq)
    if shape.by in {"id", "parent", "terms"} or by_id or (shape.by == "term" and ordered_by != "time"):
        created = unindexed(created)
    if shape.by == "parent" or (shape.by in {"term", "terms"} and ordered_by == "id"):
        id = unindexed(id)
    tests = {
        "since": created >= bindparam("since"),
        "until": created < bindparam("until"),
        "after": created > bindparam("after"),
        "after_seq": seq > bindparam("after_seq"),
        "before_seq": seq < bindparam("before_seq"),
        "first": ranged >= bindparam("first", type_=BYTEWISE),
        "end": ranged < bindparam("end", type_=BYTEWISE),
    }
    where += [tests[name] for name in sorted(shape.bounds)]
    names += sorted(shape.bounds)
    keys = [created, id] if ordered_by == "time" else [id] if ordered_by == "id" else [seq]
    if shape.resumed:
        where.append(behind(keys, ["at", "at_id"], descending=descending))
        names += ["at", "at_id"]
    if shape.condition is not None:
        where.append(condition_on(d.metadata, shape.condition, names))
    listed = source.where(*where).order_by(*in_order(keys, descending=descending))
    return Statement(listed.limit(bindparam("most", type_=Integer)), " ".join(names))
