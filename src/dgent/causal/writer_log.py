"""Logs that nobody can edit unseen: for each stream and writer a chain of entries, from seq 1, without a gap.

Plain functions over a SQLAlchemy `Connection`, for programs with and without an event loop. After `agent-store`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Integer, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from dgent.causal.chain import HASH_SIZE, OWN, Entry, Format, chained
from dgent.checks import check_id, check_limit, check_version
from dgent.database.statement import BulkInsert, Statement
from dgent.exceptions import ChainBroken, InvalidDatum, MalformedRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy import Connection

PAGE: Final = 2000
"""Entries that `verify` reads at a time."""
LIMIT: Final = 1000


class Head(NamedTuple):
    """Where a chain ends: seq 0 and no hash for one that is empty."""

    seq: int
    hash: bytes | None


START: Final = Head(0, None)


class WriterLog:
    """The logs of one format. The tables are those of `tables.create`; each verb runs in a transaction of the caller's.

    Args:
        format: how entries are chained: ours, or `AGENT_STORE`, which the crate of that name reads and writes.
    """

    def __init__(self, format: Format = OWN) -> None:
        self.format = format
        self._sql = _statements(format)

    def append(self, connection: Connection, stream: str, writer: str, payload: bytes) -> Entry:
        """Add an entry behind the last one of a writer in a stream, and return it.

        Whoever appends to the same log at the same time comes before or after it.

        Raises:
            InvalidDatum: stream or writer are no text of 1 to 512 characters, or the payload is no bytes.
        """
        return self.append_many(connection, stream, writer, [payload])[0]

    def append_many(self, connection: Connection, stream: str, writer: str, payloads: Iterable[bytes]) -> list[Entry]:
        """Add entries in order, next to each other, and return them.

        Raises:
            InvalidDatum: as for `append`; nothing was written.
        """
        listed = [*payloads]
        check_place(stream, writer)
        for payload in listed:
            check_payload(payload)
        while listed:
            entries = chained(self.format, stream, writer, *self.head(connection, stream, writer), listed)
            rows = [_row(entry) for entry in entries]
            if self._sql.claim.run(connection, *rows[0]):  # else another transaction took that seq and has committed
                self._sql.insert.run(connection, rows[1:])
                return entries
        return []

    def head(self, connection: Connection, stream: str, writer: str) -> Head:
        """Return where the log of a writer in a stream ends."""
        row = self._sql.head.row(connection, stream, writer)
        return START if row is None else Head(row[0], row[1])

    def at(self, connection: Connection, stream: str, writer: str, seq: int) -> Head:
        """Return where the log ended when it had no more than so many entries; nothing is recomputed."""
        row = self._sql.at.row(connection, stream, writer, seq)
        return START if row is None else Head(row[0], row[1])

    def entries(
        self, connection: Connection, stream: str, writer: str, *, after: int = 0, limit: int = LIMIT
    ) -> list[Entry]:
        """Return the entries behind a seq, in order.

        Raises:
            MalformedRow: a stored value has a form that it cannot have. InvalidQuery: `after` or `limit` mean nothing.
        """
        check_place(stream, writer)
        check_limit(limit)
        rows = self._sql.entries.rows(connection, stream, writer, check_version(after, "after"), min(limit, 2**31))
        return [self._entry(stream, writer, row) for row in rows]

    def merged(
        self, connection: Connection, stream: str, *, after: Mapping[str, int] | None = None, limit: int = LIMIT
    ) -> list[Entry]:
        """Return entries of all writers of a stream: each writer's in order, the writers' by turns.

        `after` says for each writer behind which seq to go on; a writer that it does not name begins at 1.

        Raises:
            MalformedRow, InvalidQuery: as for `entries`.
        """
        check_limit(limit)
        found: list[Entry] = []
        for writer in self.writers(connection, stream):
            found += self.entries(connection, stream, writer, after=(after or {}).get(writer, 0), limit=limit)
        return sorted(found, key=lambda entry: (entry.seq, entry.writer))[:limit]

    def streams(self, connection: Connection) -> list[str]:
        """Return the streams that have an entry, sorted."""
        return [row[0] for row in self._sql.streams.rows(connection)]

    def writers(self, connection: Connection, stream: str) -> list[str]:
        """Return the writers that have an entry in a stream, sorted."""
        return [row[0] for row in self._sql.writers.rows(connection, stream)]

    def verify(
        self,
        connection: Connection,
        stream: str,
        writer: str,
        *,
        since: Head = START,
        until: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Head:
        """Recompute the chain of a writer in a stream, and return where it ends.

        A tail that was cut off leaves no trace in the chain itself: compare with a checkpoint (`checkpoint.verify`).

        Only the entries behind `since`, a head that is known to be good, are recomputed, and none behind the seq
        `until`. `progress` is told how many were, page by page.

        Raises:
            ChainBroken: names the first seq that is not what was written.
        """
        head = since
        for page in self._pages(connection, stream, writer, since.seq):
            rows = page if until is None else page[: max(0, until - head.seq)]
            head = self._verify(stream, writer, head, rows)
            if progress is not None:
                progress(len(rows))
            if len(rows) < len(page):
                break
        return head

    def _pages(self, connection: Connection, stream: str, writer: str, after: int) -> Iterator[list[Any]]:
        """Read rows in the order of seq; whatever stands there, also what no seq can be."""
        check_place(stream, writer)
        last = after or -(2**63)
        while page := self._sql.entries.rows(connection, stream, writer, last, PAGE):
            yield page
            last = page[-1][0]
            if len(page) < PAGE or type(last) is not int:
                return

    def _verify(self, stream: str, writer: str, head: Head, page: list[Any]) -> Head:
        hash_of = self.format.hasher(stream, writer)
        expected, prev = head
        for seq, prev_hash, content_hash, payload in page:
            expected += 1
            if type(seq) is not int or seq != expected:
                raise ChainBroken(stream, writer, expected, f"{seq!r} stands in its place: it was taken out or moved")
            if prev_hash != prev:
                raise ChainBroken(stream, writer, seq, "it does not follow the entry before it")
            if type(payload) is not bytes or hash_of(seq, prev, payload) != content_hash:
                raise ChainBroken(stream, writer, seq, "its hash is not that of what it holds: it was changed or moved")
            prev = content_hash
        return Head(expected, prev)

    def _entry(self, stream: str, writer: str, row: Any) -> Entry:
        seq, prev, own, payload = row
        fits = isinstance(payload, bytes) and _is_hash(own) and (prev is None or _is_hash(prev))
        if type(seq) is not int or not fits:
            raise MalformedRow(f"the row {seq!r:.80} of {writer!r} in {stream!r} is no entry of a log: verify it")
        return Entry(stream, writer, seq, prev, own, payload, self.format.name)


def check_place(stream: str, writer: str) -> None:
    """Refuse what names no log, with InvalidDatum."""
    check_id(stream, "a stream")
    check_id(writer, "a writer")


def check_payload(payload: object) -> None:
    """Refuse a payload that is not bytes, with InvalidDatum."""
    if type(payload) is not bytes:
        raise InvalidDatum(f"a payload is bytes, not {type(payload).__name__}: encode it")


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_SIZE


def _row(entry: Entry) -> tuple[Any, ...]:
    return entry.stream, entry.writer, entry.seq, entry.prev_hash, entry.content_hash, entry.payload


class _Statements(NamedTuple):
    head: Statement
    at: Statement
    claim: Statement
    insert: BulkInsert
    entries: Statement
    streams: Statement
    writers: Statement


@cache
def _statements(format: Format) -> _Statements:
    log = format.table
    c = log.c
    here = (c.stream == bindparam("in_stream"), c.writer == bindparam("of_writer"))
    claim = insert(log).values({column.name: bindparam(column.name, type_=column.type) for column in c})
    behind = select(c.seq, c.prev_hash, c.content_hash, c.payload).where(*here, c.seq > bindparam("after"))
    return _Statements(
        Statement(
            select(c.seq, c.content_hash).where(*here).order_by(c.seq.desc()).limit(1).offset(0), "in_stream of_writer"
        ),
        Statement(
            select(c.seq, c.content_hash)
            .where(*here, c.seq <= bindparam("until"))
            .order_by(c.seq.desc())
            .limit(1)
            .offset(0),
            "in_stream of_writer until",
        ),
        Statement(
            claim.on_conflict_do_nothing(index_elements=[c.stream, c.writer, c.seq]), " ".join(each.name for each in c)
        ),
        BulkInsert(log),
        Statement(behind.order_by(c.seq).limit(bindparam("most", type_=Integer)), "in_stream of_writer after most"),
        Statement(select(c.stream).distinct().order_by(c.stream)),
        Statement(
            select(c.writer).where(c.stream == bindparam("in_stream")).group_by(c.writer).order_by(c.writer),
            "in_stream",
        ),
    )
