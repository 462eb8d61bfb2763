"""How datums are read by id, cause and time, and counted. What a `Query` says is in `queries`.

Plain functions over a `Connection`, in SQL that SQLite and PostgreSQL share. `now` is the time in Unix seconds by
which datums have expired or not, where the database has no clock of its own: see `constructs.statement_time`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    false,
    func,
    literal_column,
    or_,
    select,
)

from dgent.exceptions import Corrupt
from dgent.memory.sql.datum_tables import READ, corrupt, datum_of, datums, datums_of, heads
from dgent.query import LAST_TEXT, prefix_end
from dgent.sql.constructs import last_of_each, statement_time
from dgent.sql.damaged_pages import is_undecodable
from dgent.sql.statement import Statement
from dgent.store import Revision, StoreStats, revision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgent.datum import Datum

d = datums.c
_WIDTH: Final = len(READ)
_EXPIRES_AT: Final = [each.name for each in READ].index("expires_at")


def end_of(prefix: str) -> str:
    """Return a text above every id that starts with a prefix."""
    return prefix_end(prefix) or prefix + LAST_TEXT


def unexpired(columns: Any) -> ColumnElement[bool]:
    """Return the condition that a row of these columns has not expired."""
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
in_range = and_(d.namespace == bindparam("ns"), d.id >= bindparam("first"), d.id < bindparam("end"))
_COUNT_RANGE = Statement(select(func.count()).where(in_range, d.live, unexpired(d)), "ns first end now")


_history = select(*READ).where(d.namespace == bindparam("ns"), d.id == bindparam("id")).order_by(d.version.desc())
_history = _history.limit(bindparam("most", type_=Integer))
_HISTORY = Statement(_history, "ns id most")
_HISTORY_BELOW = Statement(_history.where(d.version < bindparam("before")), "ns id most before")


_VERSIONS = Statement(select(func.count()).where(d.namespace == bindparam("ns")), "ns")
_HEAD = Statement(select(heads.c.seq).where(heads.c.namespace == bindparam("ns")), "ns")


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
        return int(_COUNT_RANGE.rows(connection, namespace, prefix, end_of(prefix), now)[0][0])
    return int(_COUNT.rows(connection, namespace, now)[0][0])


def history(connection: Connection, namespace: str, id: str, limit: int, before: int | None) -> list[Revision]:
    """Return the last `limit` versions below `before`, oldest first."""
    if before is None:
        rows = _HISTORY.rows(connection, namespace, id, limit)
    else:
        rows = _HISTORY_BELOW.rows(connection, namespace, id, limit, before)
    return [_revision(namespace, row) for row in reversed(rows)]


def _revision(namespace: str, row: Any) -> Revision:
    _, version, seq, _, stored_at, _, _, metadata, *_ = row
    datum = datum_of(namespace, row)
    return revision(version, seq, stored_at, datum, metadata)


def check_passable(error: Exception) -> None:
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
