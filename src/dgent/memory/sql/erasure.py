"""How versions are erased for good, in SQL that SQLite and PostgreSQL share. Plain functions over a `Connection`.

An eraser locks the head rows of its namespaces before it looks at what is to go, as writers do: an id that somebody
puts meanwhile is looked at before the put, or after it. What is damaged can be purged; no sweep takes it.

What goes is read first, because the indexes are told of it, and only its digest tells whether it is damaged: some at a
time, so that it need not fit into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, delete, func, literal_column, or_, select, tuple_

from dgent.erasure_request import Erased
from dgent.memory.datum_index import registered
from dgent.memory.sql.datum_tables import Row, datums, heads, is_whole
from dgent.memory.sql.last_versions import latest_rows
from dgent.memory.sql.namespace_head import forget, lock, touch
from dgent.memory.sql.reads import end_of, in_range
from dgent.sql.constructs import one_of
from dgent.sql.maintained import BATCH, BATCH_BYTES
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection

    from dgent.erasure_request import Erasure

d, h = datums.c, heads.c

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
_SIZES_IN_RANGE = Statement(select(d.id, func.max(_size)).where(in_range).group_by(d.id).order_by(d.id), "ns first end")
_COUNT_IDS = Statement(select(func.count(d.id.distinct())).where(d.namespace == bindparam("ns")), "ns")
_ERASE = Statement(delete(datums).where(d.namespace == bindparam("ns")), "ns")
_WITH_THOSE_BELOW = Statement(
    select(h.namespace)
    .where(
        or_(
            h.namespace == bindparam("ns"),
            and_(h.namespace > bindparam("first"), h.namespace < bindparam("end")),
        )
    )
    .order_by(h.namespace),
    "ns first end",
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


def erase_ids(connection: Connection, namespace: str, sized: Iterable[tuple[str, int]]) -> int:
    """Erase every version of these ids, each with its size; return how many. Whoever calls it holds the namespace."""
    went = 0
    for some in _pages(sized):
        went += _erase(connection, namespace, list(latest_rows(connection, namespace, some).values()))
    return went


def erase(connection: Connection, home: str, erasure: Erasure) -> tuple[Erased, list[str]]:
    """Erase what is asked for in a namespace, and return what went and from which namespaces.

    What is put meanwhile into one that is new below it is put after it.
    """
    names = _below(connection, home) if erasure.below else [home]
    held = {name: head for name in names if (head := lock(connection, name, _no_time)) is not None}
    if erasure.prefix is None:
        went = {name: _erase_all(connection, name) for name in held}
        if held:
            forget(connection, held)
    else:
        went = {name: _erase_range(connection, name, erasure.prefix) for name in held}
    return sum(went.values(), Erased()), [name for name, erased in went.items() if erased.versions]


def _below(connection: Connection, home: str) -> list[str]:
    """Return a namespace and those under it; in bytes `0` comes right behind `/`."""
    return [name for (name,) in _WITH_THOSE_BELOW.rows(connection, home, f"{home}/", f"{home}0")]


def _erase_all(connection: Connection, namespace: str) -> Erased:
    ids = _COUNT_IDS.rows(connection, namespace)[0][0]
    for index in registered():
        index.erase(connection, namespace)
    went = _ERASE.run(connection, namespace)
    return Erased(went, ids, int(went > 0))


def _erase_range(connection: Connection, namespace: str, prefix: str) -> Erased:
    sized = _SIZES_IN_RANGE.rows(connection, namespace, prefix, end_of(prefix))
    went = _touched(connection, namespace, erase_ids(connection, namespace, sized))
    return Erased(went, len(sized), int(went > 0))


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


def _no_time() -> float:
    return 0.0
