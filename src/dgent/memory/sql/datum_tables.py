"""The tables of agent memory, their format number, and the row that is one version of a datum.

Alembic leaves these tables alone: code here makes them on first use and upgrades older formats in place. The namespace
leads every key, so that the tables shard by it without change.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blake3 import blake3
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    LargeBinary,
    MetaData,
    Table,
    text,
)

from dgent.datum import Datum, load_datum
from dgent.exceptions import Corrupt
from dgent.page import Damaged
from dgent.sql.constructs import BYTEWISE
from dgent.sql.damaged_pages import as_bytes, as_text
from dgent.sql.error_details import declare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT: Final = 1

metadata = MetaData()
declare(metadata)

MARK: Final = ""
"""In place of a namespace, which is never empty: the head row with the highest seq of all whose names were erased."""

heads = Table(
    "dgent_heads",
    metadata,
    Column("namespace", BYTEWISE, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("stored_at", Float(53), nullable=False),
    comment="The last seq and time of a namespace; its row lock puts writers in the order of their commits.",
)

datums = Table(
    "dgent_datums",
    metadata,
    Column("namespace", BYTEWISE, primary_key=True),
    Column("id", BYTEWISE, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("stored_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Column("parent", BYTEWISE),
    Column("metadata", BYTEWISE, nullable=False),
    Column("content", LargeBinary),
    Column("digest", LargeBinary, nullable=False),
    comment="Every version of every datum. content is null in a tombstone; live marks the last version of an id.",
)


def _live_index(name: str, column: str, *more: str, only: str = "") -> None:
    """Index live rows by columns. The conditions are text, since SQLite matches them with a query's word for word."""
    columns = [datums.c[each] for each in ("namespace", column, *more)]
    Index(
        f"ix_dgent_datums_{name}",
        *columns,
        sqlite_where=text(f"live = 1{only}"),
        postgresql_where=text(f"live{only}"),
    )


_live_index("time", "created_at", "id")
_live_index("parent", "parent", only=" AND parent IS NOT NULL")
_live_index("expiry", "expires_at", only=" AND expires_at IS NOT NULL")
Index("ix_dgent_datums_seq", datums.c.namespace, datums.c.seq, unique=True)

READ: Final = [each for each in datums.c if each.name not in {"namespace", "live"}]
"""The columns that `datums_of` takes: a reader knows the other two, and each costs a tenth of a row."""
KEYS: Final = [datums.c.id, datums.c.created_at, datums.c.seq]
"""The columns that say where a datum stands, in the order of `Query.position_of`."""
_CONTENT: Final = [each.name for each in READ].index("content")


class Row(NamedTuple):
    """One row of `dgent_datums`, in the order of its columns."""

    namespace: str
    id: str
    version: int
    seq: int
    live: bool
    created_at: float
    stored_at: float
    expires_at: float | None
    parent: str | None
    metadata: str
    content: bytes | None
    digest: bytes

    def holds(self, datum: Datum) -> bool:
        """Tell whether it is this datum, and as it was written: else a put of it mends the row."""
        return (
            self.created_at == datum.created_at
            and self.parent == datum.causal_parent
            and self.metadata == datum.metadata_json
            and self.content == datum.content
            and is_whole(self)
        )

    def check(self) -> None:
        """Raise Corrupt if it is not what was written."""
        if not is_whole(self):
            raise corrupt(self.namespace, self.id, self.version)

    def until(self, expires_at: float | None) -> Row:
        """Return it with another moment of expiry, which its digest covers."""
        moved = self._replace(expires_at=expires_at)
        return moved._replace(digest=digest_of(moved))


_numbers = struct.Struct("<qqddd").pack
_NEVER: Final = -1.0
_NO_PARENT: Final = "\1"
"""What stands for an absent moment of expiry; and for a parent without a character, which is not an absent one."""


def _moment(expires_at: float) -> float:
    return expires_at if expires_at != _NEVER else math.nan


def digest(
    namespace: str,
    id: str,
    version: int,
    seq: int,
    created_at: float,
    stored_at: float,
    expires_at: float | None,
    parent: str | None,
    metadata: str,
    content: bytes | None,
) -> bytes:
    """Return 16 bytes of BLAKE3 over everything that a version is, `live` excepted.

    NUL separates the texts, none of which can hold one, so no two versions have the same preimage.
    """
    above = "" if parent is None else parent or _NO_PARENT
    texts = f"{namespace}\0{id}\0{above}\0{metadata}\0{'-' if content is None else '+'}"
    numbers = _numbers(version, seq, created_at, stored_at, _NEVER if expires_at is None else _moment(expires_at))
    return blake3(numbers + texts.encode() + (content or b"")).digest(16)


def digest_of(row: Row) -> bytes:
    """Return the digest of what a row holds, whatever digest stands in it."""
    namespace, id, version, seq, _, created_at, stored_at, expires_at, parent, metadata, content, _ = row
    return digest(namespace, id, version, seq, created_at, stored_at, expires_at, parent, metadata, content)


def datums_of(namespace: str, rows: Iterable[Any]) -> list[Datum]:
    """Return the datums in rows of the columns `READ`.

    `digest` stands here once more, unfolded, because a call for each row takes half as long as reading it.

    Raises:
        Corrupt: a row is not what was written.
    """
    found = []
    for row in rows:
        id, version, seq, created_at, stored_at, expires_at, parent, metadata, content, kept = row
        try:
            end = _NEVER if expires_at is None else _moment(expires_at)
            numbers = _numbers(version, seq, created_at, stored_at, end)
            texts = f"{namespace}\0{id}\0{'' if parent is None else parent or _NO_PARENT}\0{metadata}\0+".encode()
            if blake3(numbers + texts + content).digest(16) != kept:
                raise corrupt(namespace, id, version)
        except (TypeError, struct.error, UnicodeEncodeError):  # a column holds another type than was written
            raise corrupt(namespace, id, version) from None
        found.append(load_datum(id, content, created_at, parent, metadata, version, seq, stored_at, expires_at))
    return found


def each_of(namespace: str, rows: Iterable[Any]) -> Iterator[Datum | Damaged]:
    """Return what each row of the columns `READ` is: a datum, or what is left of one."""
    for row in rows:
        try:
            yield datums_of(namespace, [row])[0]
        except Corrupt:
            yield damaged_of(row)


def damaged_of(row: Any) -> Damaged:
    """Return what is left of a row of the columns `READ` that is not what was written."""
    id, version, *_ = row
    number = version if type(version) is int else 0
    return Damaged(as_text(id), number, "its digest is not that of what is stored", as_bytes(row[_CONTENT]))


def datum_of(namespace: str, row: Any) -> Datum | None:
    """Return the datum in a row of the columns `READ`, or None for a tombstone.

    Raises:
        Corrupt: the row is not what was written.
    """
    if row[_CONTENT] is not None:
        return datums_of(namespace, [row])[0]
    *values, kept = row
    try:
        if digest(namespace, *values) != kept:
            raise corrupt(namespace, *row[:2])
    except (TypeError, struct.error, UnicodeEncodeError):
        raise corrupt(namespace, *row[:2]) from None
    return None


def is_whole(row: Row) -> bool:
    """Tell whether a row is what was written, `live` excepted, which is derived."""
    try:
        return row.digest == digest_of(row)
    except (TypeError, struct.error, UnicodeEncodeError):
        return False


def corrupt(namespace: str, id: Any, version: Any) -> Corrupt:
    """Return the error for a version that is not what was written."""
    return Corrupt(
        f"version {version} of {id!r} in namespace {namespace!r} is not what was written: restore it from a backup, or "
        "purge it"
    )
