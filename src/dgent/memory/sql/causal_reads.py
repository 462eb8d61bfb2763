"""Causal chains: what led to a datum, as it is live, as it was live at a time, or when a version was stored.

Plain functions over a `Connection`, in SQL that SQLite and PostgreSQL share. `now` is as in `reads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Float, Integer, and_, bindparam, func, literal_column, or_, select

from dgent.exceptions import LimitExceeded
from dgent.memory.sql.datum_tables import READ, datums, datums_of
from dgent.memory.sql.reads import unexpired
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.datum import Datum

d = datums.c
_time = bindparam("time", type_=Float(53))


def _walk(
    first: ColumnElement[bool], next_above: Callable[[Any, Any], ColumnElement[bool]], parameters: str
) -> Statement:
    """Walk the parents with the keys of rows alone, then fetch the rows of the chain.

    `first` chooses among the versions of the id, `next_above(above, below)` among those of a parent.
    """
    start = (
        select(d.id, d.parent, d.version, d.seq, d.stored_at, literal_column("0", Integer).label("depth"))
        .where(d.namespace == bindparam("ns"), d.id == bindparam("id"), first)
        .cte("chain", recursive=True)
    )
    above, below = datums.alias("above"), start.c
    higher = select(*(above.c[name] for name in below.keys()[:-1]), below.depth + literal_column("1"))
    is_parent = and_(above.c.namespace == bindparam("ns"), above.c.id == below.parent, next_above(above.c, below))
    higher = higher.select_from(start).join(above, and_(is_parent, below.depth < bindparam("most")))
    chain = start.union_all(higher)
    found = select(*READ).join(
        chain, and_(d.namespace == bindparam("ns"), d.id == chain.c.id, d.version == chain.c.version)
    )
    return Statement(found.order_by(chain.c.depth.desc()), f"ns id most {parameters}")


def _is_put(columns: Any) -> ColumnElement[bool]:
    """Return the condition that a row is no tombstone; a live one without a content is damaged, and is to be seen."""
    return or_(columns.content.is_not(None), columns.live)


def _stood(columns: Any, id: Any, passed: Callable[[Any], ColumnElement[bool]], time: Any) -> ColumnElement[bool]:
    """Return the condition that a row is the last version of an id that had passed, and was live at that time."""
    last = datums.alias("last").c
    version = select(func.max(last.version)).where(last.namespace == bindparam("ns"), last.id == id, passed(last))
    return and_(
        columns.version == version.scalar_subquery(),
        _is_put(columns),
        or_(columns.expires_at.is_(None), columns.expires_at > time),
    )


def _stood_at_time(columns: Any, id: Any) -> ColumnElement[bool]:
    return _stood(columns, id, lambda last: last.stored_at <= _time, _time)


_CHAIN = _walk(and_(d.live, unexpired(d)), lambda above, _: and_(above.live, unexpired(above)), "now")
_CHAIN_AT_TIME = _walk(
    _stood_at_time(d, bindparam("id")), lambda above, below: _stood_at_time(above, below.parent), "time"
)
_CHAIN_OF_VERSION = _walk(
    and_(d.version == bindparam("version"), _is_put(d)),
    lambda above, below: _stood(above, below.parent, lambda last: last.seq < below.seq, below.stored_at),
    "version",
)


def causal_chain(
    connection: Connection,
    namespace: str,
    id: str,
    now: float,
    most: int,
    *,
    version: int | None = None,
    as_of: float | None = None,
    limit: int | None = None,
) -> list[Datum]:
    """Return the nearest `limit` of the datum and its ancestors, oldest first: see `DgentProtocol.causal_chain`.

    Raises:
        LimitExceeded: there are more than `most`.
    """
    statement, moment = _CHAIN, now
    if version is not None:
        statement, moment = _CHAIN_OF_VERSION, version
    elif as_of is not None:
        statement, moment = _CHAIN_AT_TIME, as_of
    wanted = most + 1 if limit is None or limit > most else limit  # one more tells that it is longer
    rows = statement.rows(connection, namespace, id, wanted - 1, moment)
    if len(rows) == wanted and len(rows := _once(rows)) > most:
        raise LimitExceeded(f"the causal chain of {id!r} is longer than {most:,}: raise the setting max_chain")
    return datums_of(namespace, rows)


def _once(rows: list[Any]) -> list[Any]:
    """Return the rows of a chain up to the first that comes again: a clock that went back may bring a cycle to life."""
    passed: dict[Any, Any] = {}
    for row in reversed(rows):
        if row[:2] in passed:
            break
        passed[row[:2]] = row
    return list(passed.values())[::-1]
