"""How versions are appended, in SQL that SQLite and PostgreSQL share. Plain functions over a `Connection`.

Writers of a namespace first lock its head row, so they go one after another and their seqs are in the order of their
commits: a reader of `seq > s` never misses a later commit with a smaller seq. What waits together is written together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, delete, func, literal_column, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert

from dgent.database.constructs import one_of
from dgent.database.statement import BulkInsert, Statement
from dgent.datum import Datum, stamped
from dgent.exceptions import CausalCycle, DgentError, VersionConflict
from dgent.memory.tables import Row, datums, digest, heads, terms
from dgent.memory.terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

d, t, h = datums.c, terms.c, heads.c


class Put(NamedTuple):
    """A datum to append, the version that must be live, and the seconds until it expires."""

    datum: Datum
    expect: int | None = None
    ttl: float | None = None


class Delete(NamedTuple):
    """An id to append a tombstone to, and the version that must be live."""

    id: str
    expect: int | None = None


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
_head = upsert(heads).values(namespace=bindparam("ns"), seq=bindparam("more"), stored_at=bindparam("now"))
_TAKE_HEAD = Statement(
    _head.on_conflict_do_update(
        index_elements=[h.namespace],
        set_={
            "seq": h.seq + _head.excluded.seq,
            "stored_at": case((h.stored_at > _head.excluded.stored_at, h.stored_at), else_=_head.excluded.stored_at),
        },
    ).returning(h.seq, h.stored_at),
    "ns more now",
)
"""Locks the head row of a namespace and takes as many seqs as there may be versions; what is left is given back."""
_GIVE_BACK = Statement(update(heads).where(h.namespace == bindparam("ns")).values(seq=bindparam("to_seq")), "ns to_seq")
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
_up = _up.union_all(
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
_PURGE = Statement(delete(datums).where(d.namespace == bindparam("ns"), d.id == bindparam("id")), "ns id")
_EXPIRED = Statement(
    select(d.id).where(
        d.namespace == bindparam("ns"), d.live, d.expires_at.is_not(None), d.expires_at <= bindparam("now")
    ),
    "ns now",
)
_ranked = (
    select(
        d.id, d.version, d.stored_at, func.row_number().over(partition_by=d.id, order_by=d.version.desc()).label("age")
    )
    .where(d.namespace == bindparam("ns"))
    .subquery()
)
_COMPACT = Statement(
    delete(datums).where(
        d.namespace == bindparam("ns"),
        tuple_(d.id, d.version).in_(
            select(_ranked.c.id, _ranked.c.version).where(
                _ranked.c.age > literal_column("1"),
                or_(_ranked.c.age > bindparam("keep"), _ranked.c.stored_at < bindparam("before")),
            )
        ),
    ),
    "ns keep before",
)
_INSERT, _INSERT_TERMS = BulkInsert(datums), BulkInsert(terms)


@dataclass
class _Flush:
    """The operations that are written together: what is in the database, and what they make of it."""

    connection: Connection
    namespace: str
    now: float
    seq: int
    latest: dict[str, Row]
    referenced: set[str]
    rows: list[Row] = field(default_factory=list)
    pending: dict[str, Row] = field(default_factory=dict)

    def apply(self, operations: Iterable[Operation]) -> list[Outcome]:
        """Apply operations in order, all or none."""
        mark = len(self.rows)
        try:
            return [self._put(one) if isinstance(one, Put) else self._delete(one) for one in operations]
        except DgentError:
            if len(self.rows) > mark:
                self.seq -= len(self.rows) - mark
                del self.rows[mark:]
                self.pending = {row.id: row for row in self.rows}
            raise

    def _last(self, id: str) -> Row | None:
        return self.pending.get(id) or self.latest.get(id)

    def _live(self, row: Row | None) -> Row | None:
        if row is None or not row.live or (row.expires_at is not None and row.expires_at <= self.now):
            return None
        return row

    def _put(self, put: Put) -> Outcome:
        datum, expect, ttl = put
        last = self._last(datum.id)
        live = self._live(last) if last else None
        if expect is not None:
            _check_expected(datum.id, expect, live)
        if live is not None and ttl is None and live.expires_at is None and _same(live, datum):
            return Outcome(stamped(datum, live.version, live.seq), changed=False)
        parent = datum.causal_parent
        if parent is not None and (live is None or live.parent != parent):
            self._check_acyclic(datum.id, parent)
        expires_at = None if ttl is None else self.now + ttl
        version, seq = self._append(
            last, datum.id, datum.created_at, expires_at, parent, datum.metadata_json, datum.content
        )
        return Outcome(stamped(datum, version, seq), changed=True, version=version, seq=seq)

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
        namespace, now = self.namespace, self.now
        checked = digest(namespace, id, version, seq, created_at, now, expires_at, parent, metadata, content)
        live = content is not None
        # _make, because calling a NamedTuple costs three times as much and this runs once for each write
        row = Row._make(
            (namespace, id, version, seq, live, created_at, now, expires_at, parent, metadata, content, checked)
        )
        self.rows.append(row)
        self.pending[id] = row
        if parent is not None:
            self.referenced.add(parent)
        return version, seq

    def _check_acyclic(self, id: str, parent: str) -> None:
        """Refuse a parent below `id`. Where nothing has `id` as its parent there is nothing below it."""
        if parent == id:
            raise CausalCycle(f"{id!r} cannot be its own parent")
        if id not in self.referenced:
            return
        known: dict[str, str | None] = {}
        above: str | None = parent
        while above is not None:
            if above == id:
                raise CausalCycle(f"{parent!r} descends from {id!r}, so it cannot be its parent")
            if above in self.pending:
                row = self._live(self.pending[above])
                above = row.parent if row else None
                continue
            if above not in known:
                known[above] = None  # unless it is there
                known.update(map(tuple, _ANCESTORS.rows(self.connection, self.namespace, above, self.now)))
            above = known[above]

    def write(self) -> None:
        """Write what the operations made."""
        if not self.rows:
            return
        rows, last = self.rows, self.pending
        self._retire(row for id in last if (row := self.latest.get(id)) is not None and row.live)
        if len(last) < len(rows):  # an id twice: only its last version is live
            rows = [row if last[row.id] is row else row._replace(live=False) for row in rows]
        _INSERT.run(self.connection, rows)
        _INSERT_TERMS.run(
            self.connection,
            [
                (self.namespace, term, row.created_at, row.id, row.version)
                for row in last.values()
                if row.metadata != "{}"
                for term in terms_of(row.metadata)
            ],
        )

    def _retire(self, superseded: Iterable[Row]) -> None:
        """Take the mark and the terms from versions that are no longer the last."""
        rows = list(superseded)
        if not rows:
            return
        _SUPERSEDE.run_many(self.connection, [(self.namespace, row.id, row.version) for row in rows])
        _forget(self.connection, self.namespace, rows)


def apply_each(
    connection: Connection, namespace: str, batches: Sequence[Sequence[Operation]], clock: Callable[[], float]
) -> list[list[Outcome] | Exception]:
    """Apply batches of operations in order; each is applied whole, or not at all and answered with its error."""
    most = sum(map(len, batches))
    taken, now = _TAKE_HEAD.rows(connection, namespace, most, clock())[0]
    ids = list({_id(one): None for batch in batches for one in batch})
    children = {one.datum.id for batch in batches for one in batch if isinstance(one, Put) and one.datum.causal_parent}
    flush = _Flush(
        connection,
        namespace,
        now,
        taken - most,
        latest_rows(connection, namespace, ids),
        _parents_among(connection, namespace, children),
    )
    results: list[list[Outcome] | Exception] = []
    for batch in batches:
        try:
            results.append(flush.apply(batch))
        except DgentError as error:
            results.append(error)
    flush.write()
    if flush.seq < taken:
        _GIVE_BACK.run(connection, namespace, flush.seq)
    return results


def latest_rows(connection: Connection, namespace: str, ids: list[str]) -> dict[str, Row]:
    """Return the last version of each id, tombstones included."""
    if len(ids) == 1:
        rows = _LATEST_OF_ONE.rows(connection, namespace, ids[0])
    else:
        rows = _LATEST.rows(connection, namespace, ids)
    return {row.id: row for row in (Row(*found) for found in rows)}


def _parents_among(connection: Connection, namespace: str, ids: set[str]) -> set[str]:
    return {found for (found,) in _ARE_PARENTS.rows(connection, namespace, list(ids))} if ids else set()


def purge(connection: Connection, namespace: str, ids: Iterable[str]) -> int:
    """Erase every version of these ids and return how many there were."""
    _TAKE_HEAD.rows(connection, namespace, 0, 0.0)
    rows = latest_rows(connection, namespace, list(ids)).values()
    _forget(connection, namespace, (row for row in rows if row.live))
    return sum(_PURGE.run(connection, namespace, row.id) for row in rows)


def compact(
    connection: Connection, namespace: str, now: float, keep_versions: int | None, older_than: float | None
) -> int:
    """Erase the ids that have expired and old superseded versions, and return how many versions went."""
    went = purge(connection, namespace, [id for (id,) in _EXPIRED.rows(connection, namespace, now)])
    if keep_versions is None and older_than is None:
        return went
    most = 2**62 if keep_versions is None else keep_versions
    return went + _COMPACT.run(connection, namespace, most, float("-inf") if older_than is None else older_than)


def _forget(connection: Connection, namespace: str, rows: Iterable[Row]) -> None:
    """Take rows that are no longer live out of the index of terms."""
    forgotten = [(namespace, term, row.created_at, row.id) for row in rows for term in terms_of(row.metadata)]
    if forgotten:
        _FORGET_TERM.run_many(connection, forgotten)


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
    )
