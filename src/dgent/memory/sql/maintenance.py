"""The tables of agent memory, looked after as a whole: all namespaces, all versions, tombstones included."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Integer, bindparam, exists, func, literal_column, not_, or_, select, tuple_

from dgent.erasure_request import Erasure
from dgent.exceptions import Conflict, Corrupt
from dgent.memory.datum_index import TABLES
from dgent.memory.sql import erasure
from dgent.memory.sql.datum_import import DatumImport
from dgent.memory.sql.datum_tables import MARK, Row, corrupt, datums, heads, is_whole
from dgent.memory.sql.index_check import checked_indexes, lacking, strays
from dgent.page import Damaged
from dgent.sql.constructs import BYTEWISE
from dgent.sql.damaged_pages import Part, Source, as_text, lenient_text, part_of
from dgent.sql.maintained import Damage, Keeper, Record, batches, sealed
from dgent.sql.statement import Statement
from dgent.validation import check_namespace

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator

    from sqlalchemy import Connection

    from dgent.sql import Database

d, h = datums.c, heads.c
PAGE: Final = 500
_most = bindparam("most", type_=Integer)
_is_namespace = h.namespace != literal_column(f"'{MARK}'")
_STATS = Statement(
    select(func.count(), func.coalesce(func.sum(h.seq), literal_column("0"))).select_from(heads).where(_is_namespace)
)
_kept = select(func.count()).where(d.namespace == h.namespace, d.seq <= h.seq).scalar_subquery()
_STANDS = Statement(  # one statement, so that all of it is of one moment
    select(heads, _kept)
    .where(h.namespace == func.coalesce(bindparam("ns", type_=BYTEWISE), h.namespace), _is_namespace)
    .order_by(h.namespace),
    "ns",
)
_NAMESPACES = Statement(select(d.namespace).union(select(h.namespace).where(_is_namespace)).order_by("namespace"))
_VERSIONS = Statement(
    select(datums)
    .where(d.namespace == bindparam("ns"), d.seq > bindparam("after"), d.seq <= bindparam("until"))
    .order_by(d.seq)
    .limit(_most),
    "ns after until most",
)
_newer = datums.alias("newer")
_is_last = not_(
    exists(literal_column("1")).where(
        _newer.c.namespace == bindparam("ns"), _newer.c.id == d.id, _newer.c.version > d.version
    )
)
_keyed = select(datums, _is_last).where(d.namespace == bindparam("ns")).order_by(d.id, d.version).limit(_most)
_ROWS = Statement(_keyed, "ns most")
_ROWS_BEHIND = Statement(
    _keyed.where(tuple_(d.id, d.version) > tuple_(bindparam("at_id", type_=d.id.type), bindparam("at_version"))),
    "ns at_id at_version most",
)
_last = select(d.namespace, func.max(d.seq).label("seq")).group_by(d.namespace).subquery("last")
_BEHIND = Statement(
    select(_last.c.namespace, _last.c.seq)
    .select_from(_last.outerjoin(heads, h.namespace == _last.c.namespace))
    .where(or_(h.seq.is_(None), h.seq < _last.c.seq))
    .order_by(_last.c.namespace)
)


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
        """Read every version, and name those whose digest is not theirs or whose mark of being live is wrong.

        So are the heads named that stand before what there is, and what an index has too little or too much of.
        """
        for namespace in await self._read(_namespaces):
            if not isinstance(namespace, str):
                yield Damage(datums.name, as_text(namespace), "", 0, "its namespace is no text")
                continue
            async for damage in self._versions(namespace):
                yield damage
            async for damage in self._strays(namespace):
                yield damage
        for namespace, seq in await self._read(_behind):
            yield Damage(heads.name, as_text(namespace), "", 0, f"it is not there, or stands before the seq {seq}")

    async def _versions(self, namespace: str) -> AsyncIterator[Damage]:
        at: _Checked | None = None
        while True:
            part = await self._read(_checked(namespace, at))
            for id, version, reason, _ in part.damaged:
                yield Damage(datums.name, namespace, id, version, reason)
            for row, reason in [(one.row, one.wrong_mark) for one in part.found if one.wrong_mark]:
                yield Damage(datums.name, namespace, row.id, row.version, reason)
            live = {one.row.id: one.row for one in part.found if one.row.live and not one.wrong_mark}
            for damage in await self._read(partial(lacking, namespace=namespace, live=live)):
                yield damage
            if part.last is None:
                break
            at = part.last

    async def _strays(self, namespace: str) -> AsyncIterator[Damage]:
        for index in checked_indexes():
            at: Any = None
            while True:
                found, at = await self._read(partial(strays, namespace=namespace, index=index, at=at))
                for damage in found:
                    yield damage
                if at is None:
                    break

    def export(self, owner: str | None = None) -> AsyncIterator[Record]:
        """Give every version of every namespace, or of one, in the order of the commits; first where each stands.

        What is put meanwhile is not in it.

        Raises:
            Corrupt: a version, or where a namespace stands, is not what was written.
            Conflict: a version was purged, compacted or erased before it was read.
        """
        return sealed(self.name, self._records(owner))

    async def _records(self, owner: str | None) -> AsyncIterator[Record]:
        wanted = None if owner is None else check_namespace(owner)
        for namespace, seq, stored_at, left in await self._read(partial(_stands, wanted=wanted)):
            yield {"store": self.name, "kind": "namespace", "namespace": namespace, "seq": seq, "stored_at": stored_at}
            after = 0
            while rows := await self._read(_page(namespace, after, seq)):
                for row in rows:
                    yield _record(row)
                after, left = rows[-1].seq, left - len(rows)  # noqa: PLW2901  # what is still to come
            if left:  # nothing is added below a seq, so fewer rows are others
                raise Conflict(
                    f"{left:,} versions in namespace {namespace!r} were erased while it was exported: export it again, "
                    "when nobody purges, compacts or erases, or from a backup"
                )

    async def import_(self, records: AsyncIterable[Record]) -> int:
        """Store versions as they were, with their numbers and times, and return how many they were.

        Each namespace has to be empty. Where it was erased here before, the seqs go on behind its last one, by which
        each is raised, so that no reader's cursor is ahead of what comes; its versions and times stay.

        Raises:
            InvalidFile: a record is not what was exported, or one is missing, moved, or comes twice.
            Conflict: a namespace is not empty.
            StorageTimeout: the next record did not come within `transaction_timeout`.
        """
        into, patience = DatumImport(), self.database.settings.transaction_timeout
        async with self._in_one_transaction() as here:
            each = batches(self.name, records, into.read, patience)
            return sum([await here._write(into.storing(batch)) async for batch in each])

    async def erase(self, owner: str) -> int:
        """Erase a namespace with all its versions and its name, and return how many they were. No bus is told.

        It is `Backend.erase(everything=True)` of the tables alone: what waits for it in a queue of failover or of the
        outbox is in a namespace of that.
        """
        namespace = check_namespace(owner)
        if await self._is_empty():
            return 0
        erased, _ = await self._write(lambda connection: erasure.erase(connection, namespace, Erasure(None)))
        return erased.versions


class _Checked(NamedTuple):
    """A whole row, and whether there is no later version of its id."""

    row: Row
    is_last: bool

    @property
    def wrong_mark(self) -> str:
        """Why the mark of being live is wrong; empty where it is right."""
        if self.row.live == (bool(self.is_last) and self.row.content is not None):
            return ""
        if not self.row.live:
            return "it is the last version, and not marked as live"
        return "it is marked as live, and is not the last version" if not self.is_last else "its mark is none"


def _namespaces(connection: Connection) -> list[Any]:
    with lenient_text(connection):
        return [name for (name,) in _NAMESPACES.rows(connection)]


def _behind(connection: Connection) -> list[Any]:
    with lenient_text(connection):
        return _BEHIND.rows(connection)


def _stands(connection: Connection, wanted: str | None) -> list[Any]:
    """Return where each namespace stands, or the one that is wanted, and how many versions it has.

    Raises:
        Corrupt: there are versions beyond that, or in a namespace that stands nowhere.
    """
    for namespace, seq in _behind(connection):
        if wanted is None or namespace == wanted:
            raise Corrupt(f"namespace {namespace!r:.80} stands before the seq {seq} that it has: restore a backup")
    return _STANDS.rows(connection, wanted)


def _checked(namespace: str, at: _Checked | None) -> Callable[[Connection], Part[_Checked]]:
    """Return the work that looks at a page of rows behind one."""

    def work(connection: Connection) -> Part[_Checked]:
        def rows(behind: tuple[str, int] | None, most: int) -> list[Any]:
            if behind is None:
                return _ROWS.rows(connection, namespace, most)
            return _ROWS_BEHIND.rows(connection, namespace, *behind, most)

        each: Source[_Checked, tuple[str, int]] = Source(rows, _sorted, _place)
        return part_of(connection, each, None if at is None else _place(at), PAGE, _every, f"namespace {namespace!r}")

    return work


def _sorted(rows: list[Any]) -> Iterator[_Checked | Damaged]:
    for *values, is_last in rows:
        row = Row._make(values)
        if is_whole(row):
            yield _Checked(row, is_last)
        else:
            version = row.version if type(row.version) is int else 0
            yield Damaged(as_text(row.id), version, "its digest is not that of what is stored")


def _place(one: _Checked) -> tuple[str, int]:
    return one.row.id, one.row.version


def _every(one: _Checked) -> bool:
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
