"""How versions are appended, in SQL that SQLite and PostgreSQL share. Plain functions over a `Connection`.

Writers of a namespace first lock its head row (see `sql_head`), so they go one after another and their seqs are in the
order of their commits: a reader of `seq > s` never misses a later commit with a smaller seq. What waits together is
written together. What is refused, or changes nothing, moves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

from sqlalchemy import Connection, and_, bindparam, delete, func, literal_column, or_, select, update

from dgent.checks import check_expect, check_id, check_namespace, check_ttl
from dgent.database.careful import is_undecodable, lenient_text
from dgent.database.constructs import one_of
from dgent.database.statement import BulkInsert, Statement
from dgent.datum import Datum, Limits, stamped
from dgent.exceptions import CausalCycle, DgentError, InvalidDatum, VersionConflict
from dgent.memory.sql_head import MOVE, Head, take
from dgent.memory.tables import Row, corrupt, datums, digest, is_whole, terms
from dgent.memory.terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dgent.protocol import TTL

d, t = datums.c, terms.c


class _Put(NamedTuple):
    datum: Datum
    expect: int | None
    ttl: TTL


class Put(_Put):
    """A datum to append, the version that must be live, and how long it lives.

    Raises:
        InvalidDatum: one of them is none.
    """

    __slots__ = ()

    def __new__(cls, datum: Datum, expect: int | None = None, ttl: TTL = None) -> Self:
        """Check what a planner relies on: whatever door it comes through, nothing else is planned."""
        if not isinstance(datum, Datum):
            raise InvalidDatum(f"{type(datum).__name__} is not a Datum: make one with Datum.create(...)")
        if expect is not None:
            check_expect(expect)
        return tuple.__new__(cls, (datum, expect, None if ttl is None else check_ttl(ttl)))


class _Delete(NamedTuple):
    id: str
    expect: int | None


class Delete(_Delete):
    """An id to append a tombstone to, and the version that must be live.

    Raises:
        InvalidDatum: one of them is none.
    """

    __slots__ = ()

    def __new__(cls, id: str, expect: int | None = None) -> Self:
        """Check what a planner relies on."""
        check_id(id)
        return tuple.__new__(cls, (id, check_expect(expect)))


Operation = Put | Delete


class Outcome(NamedTuple):
    """What an operation led to: the live datum, or None after a delete; and whether anything was appended."""

    datum: Datum | None
    changed: bool
    version: int = 0
    seq: int = 0


_newest = datums.alias("newest")
_LATEST = Statement(
    select(datums).where(
        d.namespace == bindparam("ns"),
        one_of(d.id, "ids"),
        d.version
        == select(func.max(_newest.c.version))
        .where(_newest.c.namespace == bindparam("ns"), _newest.c.id == d.id)
        .scalar_subquery(),
    ),
    "ns ids",
    lists="ids",
)
_LATEST_OF_ONE = Statement(
    select(datums)
    .where(d.namespace == bindparam("ns"), d.id == bindparam("id"))
    .order_by(d.version.desc())
    .limit(literal_column("1")),
    "ns id",
)
_SUPERSEDE = Statement(
    update(datums)
    .where(d.namespace == bindparam("ns"), d.id == bindparam("of_id"), d.version == bindparam("of_version"))
    .values(live=literal_column("false")),
    "ns of_id of_version",
)
_FORGET_TERM = Statement(
    delete(terms).where(
        t.namespace == bindparam("ns"),
        t.term == bindparam("of_term"),
        t.created_at == bindparam("created"),
        t.id == bindparam("of_id"),
    ),
    "ns of_term created of_id",
)
_FORGET_IDS = Statement(delete(terms).where(t.namespace == bindparam("ns"), one_of(t.id, "ids")), "ns ids", lists="ids")
_ARE_PARENTS = Statement(
    select(d.parent).where(d.namespace == bindparam("ns"), one_of(d.parent, "ids"), d.live).distinct(),
    "ns ids",
    lists="ids",
)
_up = (
    select(d.id, d.parent)
    .where(
        d.namespace == bindparam("ns"),
        d.id == bindparam("start"),
        d.live,
        or_(d.expires_at.is_(None), d.expires_at > bindparam("now")),
    )
    .cte("up", recursive=True)
)
_above = datums.alias("above")
_up = _up.union(  # each once: a clock that went back may have brought a cycle to life
    select(_above.c.id, _above.c.parent).join(
        _up,
        and_(
            _above.c.namespace == bindparam("ns"),
            _above.c.id == _up.c.parent,
            _above.c.live,
            or_(_above.c.expires_at.is_(None), _above.c.expires_at > bindparam("now")),
        ),
    )
)
_ANCESTORS = Statement(select(_up), "ns start now")
_MOMENT: Final = {float, type(None)}
_new_row: Callable[[tuple[Any, ...]], Row] = partial(tuple.__new__, Row)
"""As `Row(...)`, without the call of a function of Python for each write."""
_INSERT, _INSERT_TERMS = BulkInsert(datums, MOVE), BulkInsert(terms)
_REPLACE_TERMS = BulkInsert(terms, replace=["version"])
"""For ids that are there: where one is damaged, its terms could not all be forgotten."""


@dataclass
class Flush:
    """The operations that are written together: what is in the database, and what they make of it.

    `now` decides what is live and when it expires, `stored_at` is what history says. `latest` are the last versions of
    their ids, `referenced` those of their ids that are live parents, and `ancestors` returns an id and the live ids
    above it, each with its parent.
    """

    namespace: str
    limits: Limits
    now: float
    stored_at: float
    seq: int
    latest: dict[str, Row]
    referenced: set[str]
    ancestors: Callable[[str], dict[str, str | None]]
    rows: list[Row] = field(default_factory=list)
    pending: dict[str, Row] = field(default_factory=dict)

    def apply_each(self, batches: Iterable[Iterable[Operation]]) -> list[list[Outcome] | Exception]:
        """Apply batches of operations in order; each whole, or not at all and answered with its error."""
        return [self._apply(batch) for batch in batches]

    def _apply(self, operations: Iterable[Operation]) -> list[Outcome] | Exception:
        mark = len(self.rows)
        try:
            return [self._put(one) if isinstance(one, Put) else self._delete(one) for one in operations]
        except DgentError as error:
            if len(self.rows) > mark:
                self.seq -= len(self.rows) - mark
                del self.rows[mark:]
                self.pending = {row.id: row for row in self.rows}
            return error

    def _last(self, id: str) -> Row | None:
        row = self.pending.get(id) or self.latest.get(id)
        if row is not None and not (type(row.version) is int and type(row.expires_at) in _MOMENT):
            raise corrupt(self.namespace, id, row.version)
        return row

    def _live(self, row: Row | None) -> Row | None:
        if row is None or not row.live or (row.expires_at is not None and row.expires_at <= self.now):
            return None
        return row

    def _put(self, put: Put) -> Outcome:
        datum, expect, ttl = put
        self.limits.admit(datum)
        id, parent = datum.id, datum.causal_parent
        last = self._last(id)
        live = self._live(last) if last else None
        if expect is not None:
            _check_expected(id, expect, live)
        expires_at = None if ttl is None else self._expiry(ttl, live)
        if live is not None and ttl in {None, "keep"} and live.expires_at == expires_at and _same(live, datum):
            return Outcome(stamped(datum, live.version, live.seq), changed=False)
        if parent is not None and (live is None or live.parent != parent):
            self._check_acyclic(id, parent)
        version, seq = self._append(last, id, datum.created_at, expires_at, parent, datum.metadata_json, datum.content)
        return Outcome(stamped(datum, version, seq), True, version, seq)

    def _expiry(self, ttl: float | Literal["keep"], live: Row | None) -> float | None:
        if ttl != "keep":
            return self.now + ttl
        if live is None or live.expires_at is None:
            return None
        if not is_whole(live):
            raise corrupt(self.namespace, live.id, live.version)
        return live.expires_at

    def _delete(self, operation: Delete) -> Outcome:
        last = self._last(operation.id)
        live = self._live(last)
        _check_expected(operation.id, operation.expect, live)
        if live is None:
            return Outcome(None, changed=False)
        version, seq = self._append(last, operation.id, self.now, None, None, "{}", None)
        return Outcome(None, changed=True, version=version, seq=seq)

    def _append(
        self,
        last: Row | None,
        id: str,
        created_at: float,
        expires_at: float | None,
        parent: str | None,
        metadata: str,
        content: bytes | None,
    ) -> tuple[int, int]:
        version = last.version + 1 if last else 1
        seq = self.seq = self.seq + 1
        namespace, at = self.namespace, self.stored_at
        checked = digest(namespace, id, version, seq, created_at, at, expires_at, parent, metadata, content)
        live = content is not None
        row = _new_row(
            (namespace, id, version, seq, live, created_at, at, expires_at, parent, metadata, content, checked)
        )
        self.rows.append(row)
        self.pending[id] = row
        if parent is not None:
            self.referenced.add(parent)
        return version, seq

    def _check_acyclic(self, id: str, parent: str) -> None:
        """Refuse a parent below `id`. Where nothing has `id` as its parent there is nothing below it.

        A clock that went back may have brought a cycle to life, in which nobody walks twice.
        """
        if parent == id:
            raise CausalCycle(f"{id!r} cannot be its own parent")
        if id not in self.referenced:
            return
        known: dict[str, str | None] = {}
        passed: set[str] = set()
        above: str | None = parent
        while above is not None and above not in passed:
            if above == id:
                raise CausalCycle(f"{parent!r} descends from {id!r}, so it cannot be its parent")
            passed.add(above)
            if above in self.pending:
                row = self._live(self.pending[above])
                above = row.parent if row else None
                continue
            if above not in known:
                known[above] = None  # unless it is there
                known.update(self.ancestors(above))
            above = known[above]

    def write(self, connection: Connection) -> None:
        """Write the rows that the operations made, and where the namespace stands then."""
        rows = [row for id in self.pending if (row := self.latest.get(id)) is not None and row.live]
        if rows:  # they are no longer the last: take the mark and the terms from them
            _SUPERSEDE.run_many(connection, [(self.namespace, row.id, row.version) for row in rows])
            forget(connection, self.namespace, rows)
        _INSERT.run(connection, self.new_rows(), self.namespace, self.seq, self.stored_at)
        (_REPLACE_TERMS if rows else _INSERT_TERMS).run(connection, self.new_terms())

    def new_rows(self) -> list[Row]:
        """Return the rows to insert. Of an id that comes twice only the last version is live."""
        rows, last = self.rows, self.pending
        if len(last) == len(rows):
            return rows
        return [row if last[row.id] is row else row._replace(live=False) for row in rows]

    def new_terms(self) -> list[tuple[str, int, float, str, int]]:
        """Return the rows to insert into the index of terms."""
        return [
            (self.namespace, term, row.created_at, row.id, row.version)
            for row in self.pending.values()
            if row.metadata != "{}"
            for term in terms_of(row.metadata)
        ]


def apply_each(
    connection: Connection,
    namespace: str,
    batches: Sequence[Sequence[Operation]],
    clock: Callable[[], float],
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> list[list[Outcome] | Exception]:
    """Apply batches of operations in order; each is applied whole, or not at all and answered with its error.

    `clock` is asked for Unix seconds on SQLite, whose file has none; a server goes by its own.

    Raises:
        InvalidNamespace: not every store can keep it.
    """
    return flushed(connection, check_namespace(namespace), batches, clock, limits)[0]


def flushed(
    connection: Connection,
    namespace: str,
    batches: Sequence[Sequence[Operation]],
    clock: Callable[[], float],
    limits: Limits,
) -> tuple[list[list[Outcome] | Exception], Flush, Head]:
    """Apply batches to a namespace that was checked; return also what they made, and where it stood before."""
    head = take(connection, namespace, clock)
    ids = list({_id(one): None for batch in batches for one in batch})
    children = {one.datum.id for batch in batches for one in batch if isinstance(one, Put) and one.datum.causal_parent}
    flush = Flush(
        namespace,
        limits,
        head.now,
        head.next_stored_at,
        head.seq,
        latest_rows(connection, namespace, ids),
        _parents_among(connection, namespace, children),
        partial(_ancestors, connection, namespace, now=head.now),
    )
    results = flush.apply_each(batches)
    if flush.rows:
        flush.write(connection)
    return results, flush, head


def latest_rows(connection: Connection, namespace: str, ids: list[str]) -> dict[str, Row]:
    """Return the last version of each id, tombstones included."""
    try:
        rows = _latest(connection, namespace, ids)
    except Exception as error:
        if not is_undecodable(error):
            raise
        with lenient_text(connection):  # who else writes here has nothing to do with it
            rows = _latest(connection, namespace, ids)
    return {row.id: row for row in (Row(*found) for found in rows)}


def _latest(connection: Connection, namespace: str, ids: list[str]) -> list[Any]:
    if len(ids) == 1:
        return _LATEST_OF_ONE.rows(connection, namespace, ids[0])
    return _LATEST.rows(connection, namespace, ids)


def _ancestors(connection: Connection, namespace: str, start: str, *, now: float) -> dict[str, str | None]:
    try:
        return dict(map(tuple, _ANCESTORS.rows(connection, namespace, start, now)))
    except Exception as error:
        if is_undecodable(error):
            raise corrupt(namespace, start, "of an ancestor") from None
        raise


def _parents_among(connection: Connection, namespace: str, ids: set[str]) -> set[str]:
    return {found for (found,) in _ARE_PARENTS.rows(connection, namespace, list(ids))} if ids else set()


def is_parent(connection: Connection, namespace: str, id: str) -> bool:
    """Tell whether a live datum names this id as its parent."""
    return bool(_parents_among(connection, namespace, {id}))


def forget(connection: Connection, namespace: str, rows: Iterable[Row]) -> None:
    """Take rows that are no longer live out of the index of terms; damaged ones by a scan, which cannot say where."""
    found: list[tuple[str, int, float, str]] = []
    unreadable: list[str] = []
    for row in rows:
        try:
            found += [(namespace, term, row.created_at, row.id) for term in terms_of(row.metadata)]
        except (ValueError, TypeError, AttributeError, RecursionError):  # what orjson and we say of garbage
            unreadable.append(row.id)
    if found:
        _FORGET_TERM.run_many(connection, found)
    if unreadable:
        forget_ids(connection, namespace, unreadable)


def forget_ids(connection: Connection, namespace: str, ids: list[str]) -> None:
    """Take ids out of the index of terms by a scan of their namespace."""
    _FORGET_IDS.run(connection, namespace, ids)


def _id(operation: Operation) -> str:
    return operation.datum.id if isinstance(operation, Put) else operation.id


def _check_expected(id: str, expect: int | None, live: Row | None) -> None:
    actual = live.version if live else 0
    if expect is not None and expect != actual:
        raise VersionConflict(id, expect, actual)


def _same(row: Row, datum: Datum) -> bool:
    return (
        row.created_at == datum.created_at
        and row.parent == datum.causal_parent
        and row.metadata == datum.metadata_json
        and row.content == datum.content
        and is_whole(row)  # else the put mends it
    )
