"""How versions are appended, in SQL that SQLite and PostgreSQL share. Plain functions over a `Connection`.

Writers of a namespace first lock its head row (see `namespace_head`), so they go one after another and their seqs are
in the order of their commits: a reader of `seq > s` never misses a later commit with a smaller seq. What waits together
is written together. What is refused, or changes nothing, moves nothing.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import Connection, and_, bindparam, literal_column, or_, select, update

from dgent.limits import Limits
from dgent.memory.datum_index import registered
from dgent.memory.sql.datum_tables import Row, corrupt, datums, digest
from dgent.memory.sql.erasure import erase_ids, sizes_of
from dgent.memory.sql.last_versions import latest_rows
from dgent.memory.sql.namespace_head import MOVE, move, take, touch
from dgent.memory.write_batch import Held, NamespaceHead, WriteBatch
from dgent.operations import Purge
from dgent.sql.constructs import one_of
from dgent.sql.damaged_pages import is_undecodable
from dgent.sql.savepoints import in_savepoint
from dgent.sql.statement import BulkInsert, Statement
from dgent.validation import check_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from dgent.datum import Datum
    from dgent.operations import Operation, Outcome

    _Written: TypeAlias = tuple[list[list[Outcome] | Exception], NamespaceHead]

d = datums.c


_SUPERSEDE = Statement(
    update(datums)
    .where(d.namespace == bindparam("ns"), d.id == bindparam("of_id"), d.version == bindparam("of_version"))
    .values(live=literal_column("false")),
    "ns of_id of_version",
)
_EXPIRE = Statement(
    update(datums)
    .where(d.namespace == bindparam("ns"), d.id == bindparam("of_id"), d.version == bindparam("of_version"))
    .values(expires_at=bindparam("until"), digest=bindparam("covering")),
    "ns of_id of_version until covering",
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
_NONE: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({})
_MOMENT: Final = {float, type(None)}
_new_row: Callable[[tuple[Any, ...]], Row] = partial(tuple.__new__, Row)
"""As `Row(...)`, without the call of a function of Python for each write."""
_INSERT = BulkInsert(datums, MOVE)


def planned(
    namespace: str,
    limits: Limits,
    head: NamespaceHead,
    latest: Mapping[str, Row],
    parents: Container[str],
    ancestors: Callable[[str], Mapping[str, str | None]],
    purged: Mapping[str, tuple[int, int]] = _NONE,
) -> WriteBatch[Row]:
    """Return a batch over the last versions of its ids, and which of them live datums have as their parents.

    `purged` has the size of what is purged, and how many versions of it there are.
    """

    def readable(id: str) -> Row | None:
        row = latest.get(id)
        if row is not None and not (type(row.version) is int and type(row.expires_at) in _MOMENT):
            raise corrupt(namespace, id, row.version)
        if row is not None and row.content is not None and not row.live:
            return row._replace(live=True, digest=b"")  # it lost its mark: there, and not what was written
        return row

    def made(
        id: str, version: int, seq: int, stored_at: float, expires_at: float | None, datum: Datum | None, note: str
    ) -> Row:
        if datum is None:
            created_at, parent, metadata, content = head.now, None, note, None
        else:
            id, content, created_at, parent, metadata, *_ = datum._fields
        kept = digest(namespace, id, version, seq, created_at, stored_at, expires_at, parent, metadata, content)
        live = content is not None
        return _new_row(
            (namespace, id, version, seq, live, created_at, stored_at, expires_at, parent, metadata, content, kept)
        )

    def counted(id: str) -> int:
        return purged[id][1] if id in purged else 0

    return WriteBatch(namespace, limits, head, Held(readable, counted, parents.__contains__, ancestors, made))


def append(
    connection: Connection,
    rows: list[Row],
    last: Mapping[str, Row],
    latest: Mapping[str, Row],
    head: NamespaceHead,
) -> None:
    """Append rows of one namespace, say where it stands then, and tell the indexes.

    `last` are the last of the rows by id, and `latest` the last versions of these ids that are stored.
    """
    namespace = rows[0].namespace
    before = [row for id in last if (row := latest.get(id)) is not None]
    superseded = [row for row in before if row.live or row.content is not None]  # whatever a damaged mark says
    if superseded:  # they are no longer the last: take the mark and what they are found by from them
        _SUPERSEDE.run_many(connection, [(namespace, row.id, row.version) for row in superseded])
        for index in registered():
            index.remove(connection, namespace, superseded)
    _INSERT.run(connection, _marked(rows, last), namespace, head.seq, head.stored_at)
    live = [row for row in last.values() if row.live]
    for index in registered():
        index.add(connection, namespace, live)


def _marked(rows: list[Row], last: Mapping[str, Row]) -> list[Row]:
    """Return the rows to insert. Of an id that comes twice only the last version is live."""
    if len(last) == len(rows):
        return rows
    return [row if last[row.id] is row else row._replace(live=False) for row in rows]


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
    return write(connection, check_namespace(namespace), batches, clock, limits)[0]


def write(
    connection: Connection,
    namespace: str,
    batches: Sequence[Sequence[Operation]],
    clock: Callable[[], float],
    limits: Limits,
) -> _Written:
    """Apply batches to a namespace that was checked; return also where it stands then.

    An index of a third party may refuse what it is told, and thereby undo its savepoint: then each batch has its own.
    """
    if len(batches) == 1 or len(registered()) == 1:
        return _write_together(connection, namespace, batches, clock, limits)

    def together(some: Sequence[Sequence[Operation]]) -> _Written | Exception:
        return in_savepoint(connection, lambda inside: _write_together(inside, namespace, some, clock, limits))

    written = together(batches)
    if not isinstance(written, Exception):
        return written
    alone = [together([batch]) for batch in batches]
    results = [one if isinstance(one, Exception) else one[0][0] for one in alone]
    return results, take(connection, namespace, clock)


def _write_together(
    connection: Connection,
    namespace: str,
    batches: Sequence[Sequence[Operation]],
    clock: Callable[[], float],
    limits: Limits,
) -> _Written:
    head = take(connection, namespace, clock)
    purged = [one.id for batch in batches for one in batch if isinstance(one, Purge)]
    ids = list({one.id: None for batch in batches for one in batch if not purged or _compares(one)})
    latest = latest_rows(connection, namespace, ids) if ids else {}
    children = {one.id for batch in batches for one in batch if one.datum is not None and one.datum.causal_parent}
    parents = parents_among(connection, namespace, children)
    sizes = sizes_of(connection, namespace, purged)
    above = partial(ancestors, connection, namespace, now=head.now)
    batch = planned(namespace, limits, head, latest, parents, above, sizes)
    results = batch.apply_each(batches)
    if not batch:
        return results, head
    moved = NamespaceHead(batch.seq, batch.stored_at, head.now) if batch.moves else head
    if batch.purged:
        erase_ids(connection, namespace, [(id, sizes[id][0]) for id in batch.purged if id in sizes])
    _keep(connection, batch, latest, moved)
    return results, moved


def _compares(one: Operation) -> bool:
    """Tell whether the last version of its id is read: not of what only goes, which need not fit into memory."""
    return not isinstance(one, Purge) or one.expect is not None


def _keep(connection: Connection, batch: WriteBatch[Row], latest: dict[str, Row], head: NamespaceHead) -> None:
    """Write what was planned to touch and to append, and where the namespace stands then."""
    namespace, rows = batch.namespace, batch.rows
    if batch.touched:
        moments = [(namespace, row.id, row.version, row.expires_at, row.digest) for row in batch.touched.values()]
        _EXPIRE.run_many(connection, moments)
    if rows:
        stored = {id: row for id, row in latest.items() if id not in batch.purged} if batch.purged else latest
        append(connection, rows, batch.appended, stored, head)
    elif batch.moves:
        move(connection, namespace, head.seq, head.stored_at)
    else:
        touch(connection, namespace)


def ancestors(connection: Connection, namespace: str, start: str, *, now: float) -> dict[str, str | None]:
    """Return the parents of an id and of any ids above it that are live at a time, by id."""
    try:
        return dict(map(tuple, _ANCESTORS.rows(connection, namespace, start, now)))
    except Exception as error:
        if is_undecodable(error):
            raise corrupt(namespace, start, "of an ancestor") from None
        raise


def parents_among(connection: Connection, namespace: str, ids: set[str]) -> set[str]:
    """Return which of these ids live datums name as their parents."""
    return {found for (found,) in _ARE_PARENTS.rows(connection, namespace, list(ids))} if ids else set()


def is_parent(connection: Connection, namespace: str, id: str) -> bool:
    """Tell whether a live datum names this id as its parent."""
    return bool(parents_among(connection, namespace, {id}))
