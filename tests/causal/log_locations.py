"""Where the logs of these tests lie, and the chains as the document says them, without a line of the library's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from blake3 import blake3

from dgent.exceptions import ChainBroken
from dgent.settings import Settings
from dgent.sql import Database, open_database
from dgent.sql.errors import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Engine

    from dgent.causal.hash_chain import Format
    from dgent.causal.writer_log import WriterLog

Row: TypeAlias = "tuple[Any, Any, Any, Any, Any, Any]"
"""stream, writer, seq, prev_hash, content_hash, payload"""
COLUMNS = ("stream", "writer", "seq", "prev_hash", "content_hash", "payload")
CONTEXT = "dgent 2026-11 writer log v1"


def async_database(place: str) -> Database:
    url = place if place.startswith("postgresql") else f"sqlite:///{place}"
    return open_database(Settings.load(database_url=url))


def own_hash(stream: str, writer: str, seq: int, prev: bytes | None, payload: bytes) -> bytes:
    names = b"".join(len(name.encode()).to_bytes(8, "big") + name.encode() for name in (stream, writer))
    key = blake3(names, derive_key_context=CONTEXT).digest()
    return blake3(seq.to_bytes(8, "big") + (prev or bytes(32)) + payload, key=key).digest()


def crate_hash(stream: str, writer: str, seq: int, prev: bytes | None, payload: bytes) -> bytes:
    return blake3((prev or b"") + payload).digest()


HASHES = {"dgent/1": own_hash, "agent-store/1": crate_hash}


def chain(format: str, stream: str, writer: str, payloads: Iterable[bytes]) -> list[Row]:
    """Return the rows that payloads become."""
    prev, rows = None, []
    for seq, payload in enumerate(payloads, 1):
        own = HASHES[format](stream, writer, seq, prev, payload)
        rows.append((stream, writer, seq, prev, own, payload))
        prev = own
    return rows


def first_bad(format: str, rows: Sequence[Row]) -> int | None:
    """Return the first seq that is wrong in the rows of one log, in their order, or None."""
    prev = None
    for expected, (stream, writer, seq, before, own, payload) in enumerate(rows, 1):
        kinds = (type(stream), type(writer), type(seq), type(payload))
        if kinds != (str, str, int, bytes) or seq != expected or before != prev:
            return expected
        if own != HASHES[format](stream, writer, seq, prev, payload):
            return expected
        prev = own
    return None


def split(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return rows by the log that they are in, those of each in the order in which a database has them."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (isinstance(row[2], str), row[2])):  # SQLite has text behind all numbers
        found.setdefault((row[0], row[1]), []).append(row)
    return found


def held(connection: Connection, format: Format) -> list[Row]:
    """Return every row, past the library."""
    found = connection.exec_driver_sql(f"SELECT {', '.join(COLUMNS)} FROM {format.table.name}").all()
    return [tuple(row) for row in found]


def put(connection: Connection, format: Format, rows: Iterable[Row]) -> None:
    """Put these rows in the place of all, past the library."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    name = format.table.name
    connection.exec_driver_sql(f"DELETE FROM {name}")
    for row in rows:
        connection.exec_driver_sql(f"INSERT INTO {name} ({', '.join(COLUMNS)}) VALUES ({', '.join([mark] * 6)})", row)


def verified(connection: Connection, log: WriterLog) -> dict[tuple[str, str], int | None]:
    """Verify each log that is found, and return the first bad seq of it, or None.

    Raises:
        StorageError: the names of the logs cannot be read.
    """
    found: dict[tuple[str, str], int | None] = {}
    with translated("the logs"):
        for stream in log.streams(connection):
            for writer in log.writers(connection, stream):
                try:
                    log.verify(connection, stream, writer)
                    found[stream, writer] = None
                except ChainBroken as error:
                    found[error.stream, error.writer] = error.seq
    return found


@contextmanager
def undone(engine: Engine) -> Iterator[Connection]:
    """Give a connection in a transaction that is rolled back."""
    with engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()
