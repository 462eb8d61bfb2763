"""How an export of agent memory is read and stored: what no store could have written is refused.

The records of a namespace follow each other: where it stands, then its versions by seq. A digest tells that a version
is what was written, not that a store wrote it: whoever has the bytes can compute one. So the numbers are looked at.

Causes that form a cycle are taken: a store whose clock went back may have them, and once old versions are compacted
nobody can tell how they came to be.
"""

from __future__ import annotations

import base64
import math
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from sqlalchemy import bindparam, literal_column, select

from dgent.datum import Datum
from dgent.exceptions import Conflict, InvalidFile
from dgent.memory.sql import namespace_head
from dgent.memory.sql.datum_tables import Row, datums, digest_of, is_whole
from dgent.memory.sql.last_versions import latest_rows
from dgent.memory.sql.writes import append
from dgent.memory.write_batch import NamespaceHead
from dgent.sql.maintained import check_fields
from dgent.sql.statement import Statement
from dgent.validation import check_held_id, check_namespace, check_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

    from dgent.sql.maintained import Record

d = datums.c
MOST: Final = 2**62
"""Up to where versions and seqs are taken: half of what a column holds is left to count on from there."""
_FIELDS: Final = [name for name in Row._fields if name != "live"]  # that follows from the versions
_ANY = Statement(select(d.seq).where(d.namespace == bindparam("ns")).limit(literal_column("1")), "ns")


class _Stand(NamedTuple):
    """Where a namespace stood when it was exported."""

    namespace: str
    seq: int
    stored_at: float


class DatumImport:
    """One import, in one transaction."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._stand: _Stand | None = None
        self._seq = 0
        self._raised_by = 0  # what the namespace that is being stored had counted to before
        self._head = NamespaceHead(0, 0.0, 0.0)

    def read(self, record: Record) -> Row | _Stand:
        """Return what a record says, once it is known that it may come here.

        Raises:
            InvalidFile: it may not.
            KeyError: a field is missing.
            TypeError: a field is of another type.
            ValueError: a field has a value that it cannot have.
        """
        match record:
            case {"store": "memory", "kind": "namespace"}:
                return self._begin(_stand(record))
            case {"store": "memory", "kind": "version"}:
                return self._go_on(_version(record))
        raise InvalidFile("it is none of agent memory")

    def _begin(self, stand: _Stand) -> _Stand:
        if stand.namespace in self._names:
            raise InvalidFile(f"namespace {stand.namespace!r} comes twice")
        self._names.add(stand.namespace)
        self._stand, self._seq = stand, 0
        return stand

    def _go_on(self, row: Row) -> Row:
        if self._stand is None or row.namespace != self._stand.namespace:
            raise InvalidFile(f"where namespace {row.namespace!r} stands has to come before its versions")
        if not self._seq < row.seq <= self._stand.seq:
            raise InvalidFile(
                f"the seq {row.seq} comes behind {self._seq}, in a namespace that stands at {self._stand.seq}"
            )
        self._seq = row.seq
        return row

    def storing(self, items: list[Row | _Stand]) -> Callable[[Connection], int]:
        """Return the work that stores what was read, and returns how many versions it was.

        The work raises InvalidFile or Conflict.
        """

        def work(connection: Connection) -> int:
            return sum(
                self._store(connection, namespace, [*run])
                for namespace, run in groupby(items, lambda one: one.namespace)
            )

        return work

    def _store(self, connection: Connection, namespace: str, items: list[Row | _Stand]) -> int:
        if isinstance(items[0], _Stand):
            self._take(connection, items[0])
        else:
            self._check_unmoved(connection, namespace)
        rows = [self._raised(row) for row in items if isinstance(row, Row)]
        if rows:
            self._head = self._head._replace(stored_at=max(self._head.stored_at, *(row.stored_at for row in rows)))
            _append(connection, namespace, rows, self._head)
        return len(rows)

    def _take(self, connection: Connection, stand: _Stand) -> None:
        """Lock a namespace until the commit, and move it to where it will stand: writers find that it has moved."""
        head = namespace_head.take(connection, stand.namespace, time.time)
        if _ANY.row(connection, stand.namespace) is not None:
            raise Conflict(
                f"namespace {stand.namespace!r} holds something already: erase it first, or import into another store"
            )
        if head.seq + stand.seq > MOST:
            raise Conflict(f"namespace {stand.namespace!r} stands at the seq {head.seq}: import into another store")
        self._raised_by = head.seq
        self._head = NamespaceHead(head.seq + stand.seq, max(head.stored_at, stand.stored_at), head.now)
        namespace_head.move(connection, stand.namespace, self._head.seq, self._head.stored_at)

    def _check_unmoved(self, connection: Connection, namespace: str) -> None:
        """Refuse to go on where something else was written in the same transaction: it took a seq that comes later."""
        if namespace_head.take(connection, namespace, time.time).seq != self._head.seq:
            raise Conflict(
                f"namespace {namespace!r} was written to while it was imported, in the same transaction: write to it "
                "after the import"
            )

    def _raised(self, row: Row) -> Row:
        if not self._raised_by:
            return row
        moved = row._replace(seq=row.seq + self._raised_by)
        return moved._replace(digest=digest_of(moved))


def _append(connection: Connection, namespace: str, rows: list[Row], head: NamespaceHead) -> None:
    last = {row.id: row for row in rows}
    latest = latest_rows(connection, namespace, [*last])
    _check_rising(rows, latest)
    append(connection, rows, last, latest, head)


def _check_rising(rows: list[Row], latest: Mapping[str, Row]) -> None:
    known = {id: row.version for id, row in latest.items()}
    for row in rows:
        if row.version <= known.get(row.id, 0):
            raise InvalidFile(f"version {row.version} of {row.id!r:.200} comes behind version {known[row.id]}")
        known[row.id] = row.version


def _stand(record: Record) -> _Stand:
    check_fields(record, "namespace", "seq", "stored_at")
    seq = _count(record["seq"], "seq", least=0)
    return _Stand(check_namespace(record["namespace"]), seq, check_time(record["stored_at"], "stored_at"))


def _version(record: Record) -> Row:
    """Return the row that a record says, once it is known that it is whole and that a store could have written it."""
    check_fields(record, *_FIELDS)
    content = None if record["content"] is None else base64.b64decode(record["content"], validate=True)
    id, parent = check_held_id(record["id"]), record["parent"]
    datum = Datum("any", content or b"", record["created_at"], None, orjson.loads(record["metadata"]))
    row = Row(
        check_namespace(record["namespace"]),
        id,
        _count(record["version"], "version"),
        _count(record["seq"], "seq"),
        content is not None,
        datum.created_at,
        check_time(record["stored_at"], "stored_at"),
        _moment(record["expires_at"]),
        None if parent is None else check_held_id(parent, "causal_parent"),
        datum.metadata_json,
        content,
        bytes.fromhex(record["digest"]),
    )
    if not is_whole(row) or row.metadata != record["metadata"]:
        raise InvalidFile(f"the digest of version {row.version} of {row.id!r:.200} is that of another")
    if row.parent == row.id or (content is None and not _is_tombstone(row, datum)):
        raise InvalidFile(f"version {row.version} of {row.id!r:.200} is none that a store could have written")
    return row


def _is_tombstone(row: Row, datum: Datum) -> bool:
    """Tell whether a delete could have left it: it says who and why, and no more."""
    told = datum.metadata
    texts = all(isinstance(text, str) for text in told.values())
    return row.parent is None and row.expires_at is None and told.keys() <= {"author", "reason"} and texts


def _count(value: Any, what: str, *, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= MOST:
        raise InvalidFile(f"{what} is {value!r:.40}, and no whole number from {least} to 2**62")
    return value


def _moment(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in {int, float} or not math.isfinite(value):
        raise InvalidFile(f"expires_at is {value!r:.40}, and no number of seconds")
    return float(value) + 0.0
