"""How what was live at a time is listed: `Query(as_of=)`, with its filters and in its orders.

Plain functions over a `Connection`, in SQL that SQLite and PostgreSQL share. No index knows what was live then, so
there are four ways, of which all but the last cost the same at any size:

* in the order of ids, and below a narrow prefix, the key is walked;
* in the order of seq, the commits up to then;
* in an order by time, where little was written since: what is live now and was there already is found as ever, and what
  was superseded since is read whole beside it;
* else every version up to then is looked at, and sorted.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Connection, Float, Integer, bindparam, func, literal_column, or_, select

from dgent.memory.sql import changes
from dgent.memory.sql.datum_tables import READ, datums, datums_of, each_of
from dgent.memory.sql.query_bounds import NARROW, bounds_of, is_narrow
from dgent.memory.sql.reads import check_passable
from dgent.page import Page
from dgent.query import ORDERS
from dgent.sql.constructs import BYTEWISE, one_of, unindexed
from dgent.sql.damaged_pages import Source, page_of
from dgent.sql.keyset import BATCH, behind, first_of, in_order
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dgent.cursor import Position
    from dgent.datum import Datum
    from dgent.query import Order, Query

d = datums.c
_Read: TypeAlias = "Callable[[Position | None, int], list[Any]]"
_time = bindparam("time", type_=Float(53))
_SEQ: Final = [each.name for each in READ].index("seq")
_ALL: Final = 2**31 - 1
_NEVER: Any = literal_column("1e308")
"""Later than every time that can be asked for."""


class _Shape(NamedTuple):
    """What a statement looks like, apart from its values."""

    order: Order
    by_id: bool  # whether the key is walked, or the commits
    in_order: bool  # whether rows come in that order, or in that of the walk
    bounds: frozenset[str]  # of those of a query; `until_seq` ends the walk of the commits
    resumed: bool
    expired: bool = False  # whether to read what had expired by then, too


_not_yet = or_(d.expires_at.is_(None), d.expires_at > _time)
_changed = select(d.id).where(d.namespace == bindparam("ns"), d.seq > bindparam("until"))
_CHANGED = Statement(_changed.limit(bindparam("most", type_=Integer)), "ns until most")


def query(connection: Connection, namespace: str, query: Query, unchanged: Callable[[Query], _Read]) -> Page:
    """Return a page of what was live at `query.as_of` and matches.

    `unchanged` returns what reads the rows of a query that are the last ones of their ids, and had not expired by then,
    behind a position.
    """
    at = query.start()
    if query.limit == 0:
        return Page()
    past = _Past(connection, namespace, query, unchanged)
    try:
        until = changes.sure_seq_at(connection, namespace, past.time)
        return past.page(at, until) if until else Page()
    except Exception as error:
        check_passable(error)
    each = Source(past.rows, partial(each_of, namespace), query.position)
    part = page_of(connection, each, at, query.limit, query.matches, f"namespace {namespace!r}")
    cursor = None if part.last is None else query.cursor_at(query.position(part.last))
    return Page(part.found, cursor, part.damaged)


class _Past:
    """What one query reads."""

    def __init__(
        self, connection: Connection, namespace: str, query: Query, unchanged: Callable[[Query], _Read]
    ) -> None:
        self.time = float(query.as_of)  # type: ignore[arg-type]  # it was made one on entry
        self._connection, self._namespace = connection, namespace
        self._query, self._unchanged = query, unchanged
        self._by_id = query.ordered_by == "id" or is_narrow(connection, namespace, query)

    def page(self, at: Position | None, until: int) -> Page:
        """Return a page of what is whole; `until` is the seq of the last version at the time."""
        query = self._query
        if query.ordered_by == "time" and not self._by_id:
            if len(self._changed(until, NARROW)) < NARROW:
                return self._sorted({each.id: each for each in self._recent(at, until)}.values())
            if query.looks_inside:  # else all would be sorted for each batch
                return self._sorted(filter(query.matches, self._walked(at, until)))

        def read(behind: Position | None, most: int) -> list[Datum]:
            return datums_of(self._namespace, self.rows(behind, most, until_seq=until))

        wanted = query.matches if query.looks_inside else None
        return query.page(first_of(read, query.position, wanted, at, query.limit, query.limit + 1))

    def _sorted(self, datums: Iterable[Datum]) -> Page:
        """Return the first of some datums."""
        first = heapq.nlargest if self._query.descending else heapq.nsmallest
        return self._query.page(first(self._query.limit + 1, datums, self._query.position))

    def _recent(self, at: Position | None, until: int) -> Iterator[Datum]:
        """Return the first of what is still there, then all that was there and is superseded.

        In this order: what is superseded in between comes twice, and nothing is missed; nor is what is touched.
        """
        query = self._query
        rows = self._unchanged(replace(query, as_of=None))

        def read(behind: Position | None, most: int) -> list[Datum]:
            return datums_of(self._namespace, rows(behind, most))

        def was_there(datum: Datum) -> bool:  # not in SQL, which would walk the seqs for it, and sort
            return datum.seq <= until and query.matches(datum)

        yield from first_of(read, query.position, was_there, at, query.limit, query.limit + 1)
        ids = list(dict.fromkeys(self._changed(until, _ALL)))
        for datum in datums_of(self._namespace, self.rows(None, len(ids), by_id=True, ids=ids)):
            if query.matches(datum) and (at is None or query.is_behind(query.position(datum), at)):
                yield datum

    def _changed(self, until: int, most: int) -> list[str]:
        """Return the ids of the versions behind a seq."""
        return [id for (id,) in _CHANGED.rows(self._connection, self._namespace, until, most)]

    def _walked(self, at: Position | None, until: int) -> Iterator[Datum]:
        """Go through all that is behind a position, in the order of the commits."""
        seq: int | None = self._query.after_seq
        while True:
            named: dict[str, Any] = {} if seq is None else {"after_seq": seq}
            rows = self.rows(at, BATCH, in_order=False, until_seq=until, **named)
            yield from datums_of(self._namespace, rows)
            if len(rows) < BATCH:
                return
            seq = rows[-1][_SEQ]

    def rows(
        self, at: Position | None, most: int, *, in_order: bool = True, by_id: bool = False, **narrower: Any
    ) -> list[Any]:
        """Return rows behind a position, in the order of the query or in that of the commits."""
        bounds, resumed = bounds_of(self._query, at)
        bounds |= narrower
        if self._query.causal_parent is not None:
            bounds["parent"] = self._query.causal_parent
        if self._by_id:
            bounds.pop("until_seq", None)
        shape = _Shape(
            self._query.order, by_id or self._by_id, in_order, frozenset(bounds), resumed, self._query.expired
        )
        values = [bounds[name] for name in sorted(bounds)]
        place = at if resumed and at is not None else ()
        return _standing(shape).rows(self._connection, self._namespace, self.time, most, *values, *place)


@lru_cache(maxsize=256)
def _standing(shape: _Shape) -> Statement:
    """Write the statement of a shape: versions stored by then, of which the next one, if there is one, came later."""
    later = datums.alias("later").c
    next_one = select(later.stored_at).where(
        later.namespace == bindparam("ns"), later.id == d.id, later.version > d.version
    )
    next_stored_at = next_one.order_by(later.version).limit(literal_column("1")).scalar_subquery()
    ordered_by, descending = ORDERS[shape.order]
    id: Any = d.id if shape.by_id else unindexed(d.id)
    seq: Any = unindexed(d.seq) if shape.by_id else d.seq
    tests = {
        "since": d.created_at >= bindparam("since"),
        "until": d.created_at < bindparam("until"),
        "after": d.created_at > bindparam("after"),
        "after_seq": seq > bindparam("after_seq"),
        "before_seq": seq < bindparam("before_seq"),
        "until_seq": seq <= bindparam("until_seq"),
        "first": id >= bindparam("first", type_=BYTEWISE),
        "end": id < bindparam("end", type_=BYTEWISE),
        "ids": one_of(d.id, "ids"),
        "parent": unindexed(d.parent) == bindparam("parent", type_=BYTEWISE),
    }
    keys = [d.created_at, id] if ordered_by == "time" else [id] if ordered_by == "id" else [seq]
    found = select(*READ).where(
        d.namespace == bindparam("ns"),
        d.stored_at <= _time,
        func.coalesce(next_stored_at, _NEVER) > _time,
        or_(d.content.is_not(None), d.live),  # a live row without a content is damaged, and is named
        *([] if shape.expired else [_not_yet]),
        *(tests[name] for name in sorted(shape.bounds)),
        *([behind(keys, ["at", "at_id"], descending=descending)] if shape.resumed else []),
    )
    found = found.order_by(*(in_order(keys, descending=descending) if shape.in_order else [d.seq]))
    names = ["ns", "time", "most", *sorted(shape.bounds), *(["at", "at_id"] if shape.resumed else [])]
    lists = "ids" if "ids" in shape.bounds else ""
    return Statement(found.limit(bindparam("most", type_=Integer)), " ".join(names), lists=lists)
