"""The tables of agent memory, looked after as a whole: all namespaces, all versions, tombstones included."""

from __future__ import annotations

import base64
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from sqlalchemy import Integer, bindparam, delete, func, literal_column, or_, select, tuple_

from dgent.datum import Datum
from dgent.exceptions import Conflict, InvalidFile
from dgent.memory.datum_index import TABLES, registered
from dgent.memory.sql import namespace_head
from dgent.memory.sql.datum_tables import Row, corrupt, datums, heads, is_whole
from dgent.memory.sql.writes import append, latest_rows
from dgent.memory.write_batch import NamespaceHead
from dgent.page import Damaged
from dgent.sql.damaged_pages import Part, Source, as_text, lenient_text, part_of
from dgent.sql.maintained import Damage, Keeper, Record, batches
from dgent.sql.statement import Statement
from dgent.validation import check_id, check_namespace

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator

    from sqlalchemy import Connection

    from dgent.sql import Database

d, h = datums.c, heads.c
PAGE: Final = 500
_FIELDS: Final = [name for name in Row._fields if name != "live"]

_most = bindparam("most", type_=Integer)
_STATS = Statement(select(func.count(), func.coalesce(func.sum(h.seq), literal_column("0"))).select_from(heads))
_HEADS = Statement(select(heads).order_by(h.namespace))
_NAMESPACES = Statement(select(d.namespace).distinct().order_by(d.namespace))
_VERSIONS = Statement(
    select(datums)
    .where(d.namespace == bindparam("ns"), d.seq > bindparam("after"), d.seq <= bindparam("until"))
    .order_by(d.seq)
    .limit(_most),
    "ns after until most",
)
_keyed = select(datums).where(d.namespace == bindparam("ns")).order_by(d.id, d.version).limit(_most)
_ROWS = Statement(_keyed, "ns most")
_ROWS_BEHIND = Statement(
    _keyed.where(tuple_(d.id, d.version) > tuple_(bindparam("at_id", type_=d.id.type), bindparam("at_version"))),
    "ns at_id at_version most",
)
_ANY = Statement(select(d.seq).where(d.namespace == bindparam("ns")).limit(literal_column("1")), "ns")
_last = select(d.namespace, func.max(d.seq).label("seq")).group_by(d.namespace).subquery("last")
_BEHIND = Statement(
    select(_last.c.namespace, _last.c.seq)
    .select_from(_last.outerjoin(heads, h.namespace == _last.c.namespace))
    .where(or_(h.seq.is_(None), h.seq < _last.c.seq))
    .order_by(_last.c.namespace)
)
_ERASE = Statement(delete(datums).where(d.namespace == bindparam("ns")), "ns")


class MaintainedMemory(Keeper):
    """A `Portable` over the tables of agent memory in a database. An owner is a namespace."""

    name = "memory"

    def __init__(self, database: Database) -> None:
        super().__init__(database, TABLES)

    async def stats(self) -> dict[str, int]:
        """Return how many namespaces there are, and how many versions were ever stored in them."""
        namespaces, stored = await self._read(lambda connection: _STATS.rows(connection)[0])
        return {"namespaces": int(namespaces), "stored": int(stored)}

    async def check(self) -> AsyncIterator[Damage]:
        """Read every version, and name those whose digest is not theirs, and heads that stand before what there is."""
        for namespace in await self._read(_namespaces):
            if not isinstance(namespace, str):
                yield Damage(datums.name, as_text(namespace), "", 0, "its namespace is no text")
                continue
            at: Row | None = None
            while True:
                part = await self._read(_checked(namespace, at))
                for id, version, reason, _ in part.damaged:
                    yield Damage(datums.name, namespace, id, version, reason)
                if part.last is None:
                    break
                at = part.last
        for namespace, seq in await self._read(_behind):
            yield Damage(heads.name, as_text(namespace), "", 0, f"it is not there, or stands before the seq {seq}")

    async def export(self, owner: str | None = None) -> AsyncIterator[Record]:
        """Give every version of every namespace, or of one, in the order of the commits; first where each stands.

        Raises:
            Corrupt: a version is not what was written.
        """
        wanted = None if owner is None else check_namespace(owner)
        for namespace, seq, stored_at in await self._read(_HEADS.rows):
            if wanted is not None and namespace != wanted:
                continue
            yield {"store": self.name, "kind": "namespace", "namespace": namespace, "seq": seq, "stored_at": stored_at}
            after = 0
            while rows := await self._read(_page(namespace, after, seq)):
                for row in rows:
                    yield _record(row)
                after = rows[-1].seq

    async def import_(self, records: AsyncIterable[Record]) -> int:
        """Store versions as they were, with their numbers and times, and return how many they were.

        Each namespace has to be empty when its first record comes: erase what an import that broke off has left.

        Raises:
            InvalidFile: a record is none, or its digest is not that of what it holds.
            Conflict: a namespace is not empty.
        """
        await self.prepare()
        begun: set[str] = set()
        return sum([await self._bring(batch, begun) async for batch in batches(records)])

    async def erase(self, owner: str) -> int:
        """Erase a namespace with all its versions, and return how many they were. No bus is told.

        Its name and its last seq stay, so that no reader's cursor is ahead of what comes later. What waits for it in a
        queue of failover or of the outbox is in a namespace of that.
        """
        namespace = check_namespace(owner)
        return 0 if await self._is_empty() else await self._write(lambda connection: _erase(connection, namespace))

    async def _bring(self, records: list[Record], begun: set[str]) -> int:
        runs = [(namespace, [*run]) for namespace, run in groupby(map(_parsed, records), lambda row: row.namespace)]

        def work(connection: Connection) -> int:
            brought, known = 0, {*begun}  # it may run again
            for namespace, rows in runs:
                brought += _insert(connection, namespace, rows, empty=namespace not in known)
                known.add(namespace)
            return brought

        brought = await self._write(work)
        begun |= {namespace for namespace, _ in runs}
        return brought


class _Stand(NamedTuple):
    """Where a namespace stood when it was exported."""

    namespace: str
    seq: int
    stored_at: float


def _namespaces(connection: Connection) -> list[Any]:
    with lenient_text(connection):
        return [name for (name,) in _NAMESPACES.rows(connection)]


def _behind(connection: Connection) -> list[Any]:
    with lenient_text(connection):
        return _BEHIND.rows(connection)


def _checked(namespace: str, at: Row | None) -> Callable[[Connection], Part[Row]]:
    """Return the work that looks at a page of rows behind one."""

    def work(connection: Connection) -> Part[Row]:
        def rows(behind: tuple[str, int] | None, most: int) -> list[Any]:
            if behind is None:
                return _ROWS.rows(connection, namespace, most)
            return _ROWS_BEHIND.rows(connection, namespace, *behind, most)

        each: Source[Row, tuple[str, int]] = Source(rows, _sorted, _place)
        return part_of(connection, each, None if at is None else _place(at), PAGE, _every, f"namespace {namespace!r}")

    return work


def _sorted(rows: list[Any]) -> Iterator[Row | Damaged]:
    for row in map(Row._make, rows):
        if is_whole(row):
            yield row
        else:
            version = row.version if type(row.version) is int else 0
            yield Damaged(as_text(row.id), version, "its digest is not that of what is stored")


def _place(row: Row) -> tuple[str, int]:
    return row.id, row.version


def _every(row: Row) -> bool:
    return True


def _page(namespace: str, after: int, until: int) -> Callable[[Connection], list[Row]]:
    """Return the work that reads versions behind a seq, in their order.

    The work raises Corrupt where one of them is not what was written.
    """

    def work(connection: Connection) -> list[Row]:
        with lenient_text(connection):
            rows = [Row._make(row) for row in _VERSIONS.rows(connection, namespace, after, until, PAGE)]
        for row in rows:
            if not is_whole(row):
                raise corrupt(namespace, row.id, row.version)
        return rows

    return work


def _record(row: Row) -> Record:
    content = None if row.content is None else base64.b64encode(row.content).decode()
    told = {**row._asdict(), "content": content, "digest": row.digest.hex()}
    del told["live"]  # it follows from the versions
    return {"store": "memory", "kind": "version", **told}


def _parsed(record: Record) -> Row | _Stand:
    """Return what a record says, once it is known that it is what was exported and that a store could hold it."""
    try:
        match record:
            case {"store": "memory", "kind": "namespace", "namespace": str(namespace), "seq": int(seq)}:
                return _Stand(check_namespace(namespace), seq, float(record["stored_at"]))
            case {"store": "memory", "kind": "version"}:
                return _whole(record)
    except (KeyError, TypeError, ValueError) as error:  # InvalidInput is a ValueError
        raise InvalidFile(f"a record of agent memory is not what was exported: {type(error).__name__}") from None
    raise InvalidFile("a record is none of agent memory: it has other fields than `export` gives")


def _whole(record: Record) -> Row:
    content = None if record["content"] is None else base64.b64decode(record["content"], validate=True)
    values = {name: record[name] for name in _FIELDS}
    row = Row(**values | {"live": content is not None, "content": content, "digest": bytes.fromhex(record["digest"])})
    check_namespace(row.namespace)
    check_id(row.id)
    datum = Datum(row.id, content or b"", row.created_at, row.parent, orjson.loads(row.metadata))
    if not is_whole(row) or datum.metadata_json != row.metadata:
        raise InvalidFile(
            f"version {row.version!r:.40} of {row.id!r:.200} is not what was exported: its digest is another"
        )
    return row


def _insert(connection: Connection, namespace: str, items: list[Row | _Stand], *, empty: bool) -> int:
    """Append versions as they are, behind those that are there, and move the namespace to where they end."""
    head = namespace_head.take(connection, namespace, time.time)
    if empty and _ANY.row(connection, namespace) is not None:
        raise Conflict(f"namespace {namespace!r} holds something already: erase it first, or import into another store")
    seq, stored_at = max(head.seq, *(one.seq for one in items)), max(head.stored_at, *(one.stored_at for one in items))
    rows = [one for one in items if isinstance(one, Row)]
    if not rows:
        namespace_head.move(connection, namespace, seq, stored_at)
        return 0
    last = {row.id: row for row in rows}
    latest = latest_rows(connection, namespace, [*last])
    append(connection, rows, last, latest, NamespaceHead(seq, stored_at, head.now))
    return len(rows)


def _erase(connection: Connection, namespace: str) -> int:
    if namespace_head.lock(connection, namespace, time.time) is None:
        return 0
    for index in registered():
        index.erase(connection, namespace)
    went = _ERASE.run(connection, namespace)
    namespace_head.touch(connection, namespace)
    return went
