"""How versions are erased for good, in SQL that SQLite and PostgreSQL share. Plain functions over a `Connection`.

An eraser locks the head row of the namespace before it looks at what is to go, as writers do: an id that somebody puts
meanwhile is looked at before the put, or after it. What is damaged can be purged; no sweep takes it.

What goes is read first, because the indexes are told of it, and only its digest tells whether it is damaged: some at a
time, so that it need not fit into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, func, literal_column, or_, select, tuple_

from dgent.memory.datum_index import registered
from dgent.memory.sql.datum_tables import Row, datums, is_whole
from dgent.memory.sql.last_versions import latest_rows
from dgent.memory.sql.namespace_head import lock, touch
from dgent.sql.constructs import one_of
from dgent.sql.maintained import BATCH, BATCH_BYTES
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection

d = datums.c

_PURGE = Statement(delete(datums).where(d.namespace == bindparam("ns"), one_of(d.id, "ids")), "ns ids", lists="ids")
_size = func.coalesce(func.length(d.content), literal_column("0"))
_EXPIRED = Statement(
    select(d.id, _size).where(
        d.namespace == bindparam("ns"), d.live, d.expires_at.is_not(None), d.expires_at <= bindparam("now")
    ),
    "ns now",
)
_SIZES = Statement(
    select(d.id, func.max(_size), func.count())
    .where(d.namespace == bindparam("ns"), one_of(d.id, "ids"))
    .group_by(d.id),
    "ns ids",
    lists="ids",
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


def sizes_of(connection: Connection, namespace: str, ids: list[str]) -> dict[str, tuple[int, int]]:
    """Return the bytes of the largest version of each of these ids, and how many versions there are."""
    return {id: (size, versions) for id, size, versions in _SIZES.rows(connection, namespace, ids)} if ids else {}


def erase(connection: Connection, namespace: str, sized: Iterable[tuple[str, int]]) -> None:
    """Erase every version of these ids, each with its size. Whoever calls it holds the namespace."""
    for some in _pages(sized):
        _erase(connection, namespace, list(latest_rows(connection, namespace, some).values()))


def compact(
    connection: Connection,
    namespace: str,
    clock: Callable[[], float],
    keep_versions: int | None,
    older_than: float | None,
) -> int:
    """Erase the ids that have expired and old superseded versions, and return how many versions went.

    What is damaged is not taken for expired.

    `clock` is asked on SQLite, whose file has none; a server goes by its own.
    """
    head = lock(connection, namespace, clock)
    if head is None:
        return 0
    went = 0
    for some in _pages(_EXPIRED.rows(connection, namespace, head.now)):
        rows = latest_rows(connection, namespace, some).values()
        went += _erase(connection, namespace, [row for row in rows if is_whole(row)])  # else it may only seem to have
    if keep_versions is not None or older_than is not None:
        most = 2**62 if keep_versions is None else keep_versions
        went += _COMPACT.run(connection, namespace, most, float("-inf") if older_than is None else older_than)
    return _touched(connection, namespace, went)


def _pages(sized: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Give ids some at a time, by how many they are and by the size of their contents."""
    page: list[str] = []
    size = 0
    for id, length in sized:
        page.append(id)
        size += length
        if len(page) == BATCH or size > BATCH_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _erase(connection: Connection, namespace: str, rows: list[Row]) -> int:
    """Erase every version of the ids of these last ones, whatever a mark or a digest that is damaged says of them."""
    if not rows:
        return 0
    for index in registered():
        index.remove(connection, namespace, rows)
    return _PURGE.run(connection, namespace, [row.id for row in rows])


def _touched(connection: Connection, namespace: str, went: int) -> int:
    if went:
        touch(connection, namespace)
    return went
