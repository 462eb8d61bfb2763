"""Logs that nobody can edit unseen: for each stream and writer a chain of entries, from seq 1, without a gap.

Plain functions over a SQLAlchemy `Connection`, for programs with and without an event loop. After `agent-store`.
"""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from heapq import merge
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dgent.causal.hash_chain import OWN, Entries, Entry, Format, chained
from dgent.causal.head import START, Head, Position, check_ends_at, check_still, position
from dgent.causal.log_rows import entry_of, head_of, malformed, row_of, statements_of, texts_of
from dgent.exceptions import ChainBroken, DgentError, InvalidDatum, LimitExceeded, MalformedRow
from dgent.limits import Limits
from dgent.page import Damaged
from dgent.sql.damaged_pages import Source, as_bytes, is_undecodable, page_of
from dgent.validation import KEY_BYTES, as_list, check_key, check_kind, check_limit, utf8_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy import Connection

    from dgent.causal.hash_chain import Hasher

PAGE: Final = 500
"""Entries that `verify` reads at a time."""
LIMIT: Final = 1000


class Batch(NamedTuple):
    """Payloads for one log, in order."""

    stream: str
    writer: str
    payloads: list[bytes]
    expect_head: Position | None = None


class WriterLog:
    """The logs of one format, in the tables of `log_tables.TABLES`. Each verb runs in a transaction of the caller's.

    Where none is open, a verb begins one, as SQLAlchemy does; the caller commits it.

    Args:
        format: how entries are chained: ours, or `AGENT_STORE`, which the crate of that name reads and writes.
        limits: how large a payload may be.
    """

    def __init__(self, format: Format = OWN, limits: Limits = Limits()) -> None:  # noqa: B008  # frozen
        check_kind(format, Format, "pass OWN or AGENT_STORE, or nothing")
        check_kind(limits, Limits, "pass Limits(...), or nothing")
        self.format = format
        self._limits = limits
        self._sql = statements_of(format)

    def append(
        self, connection: Connection, stream: str, writer: str, payload: bytes, *, expect_head: Position | None = None
    ) -> Entry:
        """Add an entry behind the last one of a writer in a stream, and return it.

        Whoever appends to the same log at the same time comes before or after it. With `expect_head`, a `Head` or a
        seq, it is appended only if the log ends there; 0 for an empty one.

        Raises:
            InvalidDatum: stream or writer are no text, longer than 2,400 bytes together, or the payload is no bytes.
            LimitExceeded: the payload is larger than `limits.max_content`.
            MalformedRow: the last entry has a form that it cannot have, and nothing can follow it.
            HeadConflict: the log ends elsewhere than at `expect_head`.
        """
        return self.append_many(connection, stream, writer, [payload], expect_head=expect_head)[0]

    def append_many(
        self,
        connection: Connection,
        stream: str,
        writer: str,
        payloads: Iterable[bytes],
        *,
        expect_head: Position | None = None,
    ) -> list[Entry]:
        """Add entries in order, next to each other, and return them.

        Raises:
            InvalidDatum: as for `append`; nothing was written.
            LimitExceeded: as for `append`; nothing was written.
            MalformedRow: as for `append`; nothing was written.
            HeadConflict: as for `append`; nothing was written.
        """
        listed = as_list(payloads, "payloads")
        check_place(stream, writer)
        expected = None if expect_head is None else position(expect_head, "expect_head")
        for payload in listed:
            check_payload(payload, self._limits)
        while True:
            head = self.head(connection, stream, writer)
            if expected is not None:
                check_ends_at(stream, writer, head, expected)
            if not listed:
                return []
            entries = chained(self.format, stream, writer, *head, listed)
            first, *rest = [row_of(entry) for entry in entries]
            if self._sql.claim.run(connection, *first, topic(self.format, stream)):
                self._sql.insert.run(connection, rest)
                return entries
            # Another transaction took that seq and has committed: its entry is the head now.

    def append_each(self, connection: Connection, batches: list[Batch]) -> list[list[Entry] | Exception]:
        """Append batches that came together; each is answered with its entries, or with an error of its own.

        The logs come in the order of their names, so that no two transactions wait for each other.
        """
        found: list[list[Entry] | Exception] = [[] for _ in batches]
        together: dict[tuple[str, str], list[int]] = {}
        for at, batch in enumerate(batches):
            together.setdefault((batch.stream, batch.writer), []).append(at)
        for (stream, writer), places in sorted(together.items()):
            for some in _runs(batches, places):
                payloads = chain.from_iterable(batches[at].payloads for at in some)
                expect = batches[some[0]].expect_head
                try:
                    entries = iter(self.append_many(connection, stream, writer, payloads, expect_head=expect))
                except DgentError as error:  # before it wrote anything
                    for at in some:
                        found[at] = copy.copy(error)
                else:
                    for at in some:
                        found[at] = [*islice(entries, len(batches[at].payloads))]
        return found

    def head(self, connection: Connection, stream: str, writer: str) -> Head:
        """Return where the log of a writer in a stream ends.

        Raises:
            MalformedRow: what stands there has a form that no entry can have.
        """
        check_names(stream, writer)
        return head_of(stream, writer, self._sql.head.row(connection, stream, writer))

    def at(self, connection: Connection, stream: str, writer: str, seq: int) -> Head:
        """Return where the log ended when it had no more than so many entries; nothing is recomputed.

        Raises:
            MalformedRow: as for `head`.
        """
        check_names(stream, writer)
        check_limit(seq, "seq")
        return head_of(stream, writer, self._sql.at.row(connection, stream, writer, seq))

    def entries(
        self, connection: Connection, stream: str, writer: str, *, after: Position = 0, limit: int = LIMIT
    ) -> Entries:
        """Return the entries behind a position, in order; `damaged` names those whose hash is not theirs.

        That an entry was taken out, exchanged or cut off is what `verify` sees.

        Raises:
            ChainBroken: `after` is a head that the log has not, or no longer.
            InvalidQuery: `after` or `limit` mean nothing.
        """
        check_names(stream, writer)
        seen = position(after)
        check_limit(limit)
        if seen.hash is not None:
            check_still(stream, writer, self.at(connection, stream, writer, seen.seq), seen)

        def rows(behind: int | None, most: int) -> list[Any]:
            return self._sql.entries.rows(connection, stream, writer, behind or 0, most)

        try:
            hash_of = self.format.hasher(stream, writer)
            return Entries([self._whole(stream, writer, hash_of, row) for row in rows(seen.seq, limit)])
        except Exception as error:
            if not isinstance(error, MalformedRow) and not is_undecodable(error):
                raise
        each: Source[Entry, int] = Source(rows, partial(self._each, stream, writer), lambda entry: entry.seq)
        part = page_of(
            connection, each, seen.seq, limit, lambda _: True, f"the log of {writer!r:.80} in {stream!r:.80}"
        )
        return Entries(part.found, part.damaged)

    def next_entries(
        self, connection: Connection, stream: str, writer: str, *, after: int, limit: int = LIMIT
    ) -> list[Entry]:
        """Return the entries behind a seq, in order, for who must not pass over any.

        Raises:
            MalformedRow: a stored value has a form that it cannot have.
        """
        check_names(stream, writer)
        rows = self._sql.entries.rows(connection, stream, writer, check_limit(after, "after"), check_limit(limit))
        return [entry_of(self.format, stream, writer, row) for row in rows]

    def merged(
        self, connection: Connection, stream: str, *, after: Mapping[str, Position] | None = None, limit: int = LIMIT
    ) -> Entries:
        """Return entries of all writers of a stream by seq, those of one seq by writer: so each writer's in order.

        `after` says for each writer behind which position to go on; a writer that it does not name begins at 1. Only
        the entries that are returned are read.

        Raises:
            ChainBroken: as for `entries`.
            MalformedRow: as for `entries`.
            InvalidQuery: as for `entries`.
        """
        check_limit(limit)
        behind = {} if after is None else {name: position(seen) for name, seen in after.items()}
        for writer, seen in behind.items():
            if seen.hash is not None:
                check_still(stream, writer, self.at(connection, stream, writer, seen.seq), seen)
        turns = merge(
            *(
                zip(range(behind.get(writer, START).seq + 1, last + 1), repeat(writer))
                for writer, last in self.heads(connection, stream).items()
            )
        )
        found: list[Entry] = []
        damaged: list[Damaged] = []
        for writer, count in Counter(writer for _, writer in islice(turns, limit)).items():
            page = self.entries(connection, stream, writer, after=behind.get(writer, START).seq, limit=count)
            found += page
            damaged += page.damaged
        return Entries(sorted(found, key=lambda entry: (entry.seq, entry.writer)), tuple(damaged))

    def heads(self, connection: Connection, stream: str) -> dict[str, int]:
        """Return the last seq of each writer of a stream.

        Raises:
            MalformedRow: what stands there has a form that no entry can have.
        """
        check_names(stream)
        rows = self._sql.ends.rows(connection, stream)
        for writer, last in rows:
            if type(writer) is not str or type(last) is not int:
                raise malformed(stream, writer, last)
        return dict(map(tuple, rows))

    def ends(self, connection: Connection, stream: str) -> dict[str, Head]:
        """Return where the log of each writer of a stream ends.

        Raises:
            MalformedRow: as for `heads`.
        """
        check_names(stream)
        found = {}
        for writer, last, own in self._sql.heads.rows(connection, stream):
            if type(writer) is not str:
                raise malformed(stream, writer, last)
            found[writer] = head_of(stream, writer, (last, own))
        return found

    def streams(self, connection: Connection) -> list[str]:
        """Return the streams that have an entry, sorted by their UTF-8 bytes.

        Raises:
            MalformedRow: one of them is no text.
        """
        return texts_of(self._sql.streams.rows(connection))

    def writers(self, connection: Connection, stream: str) -> list[str]:
        """Return the writers that have an entry in a stream, sorted by their UTF-8 bytes.

        Raises:
            MalformedRow: one of them is no text.
        """
        check_names(stream)
        return texts_of(self._sql.writers.rows(connection, stream))

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

        Only the entries behind `since`, a head that is known to be good and still has to be there, are recomputed, and
        none behind the seq `until`. `progress` is told how many were, page by page.

        Raises:
            ChainBroken: names the first seq that is not what was written.
        """
        check_names(stream, writer)
        if since.seq:
            check_still(stream, writer, self.at(connection, stream, writer, since.seq), since)
        head = since
        while (until is None or head.seq < until) and (rows := self.page(connection, stream, writer, head)):
            rows = rows if until is None else rows[: until - head.seq]
            head = self.verify_page(stream, writer, head, rows)
            if progress is not None:
                progress(len(rows))
        return head

    def page(self, connection: Connection, stream: str, writer: str, head: Head) -> list[Any]:
        """Return the next rows behind a head that was verified: whatever stands there, also what no seq can be."""
        if not head.seq:
            return self._sql.start.rows(connection, stream, writer, PAGE)
        return self._sql.entries.rows(connection, stream, writer, head.seq, PAGE)

    def verify_page(self, stream: str, writer: str, head: Head, page: list[Any]) -> Head:
        """Recompute the chain over the rows of a `page` behind a head, and return where they end.

        Raises:
            ChainBroken: as for `verify`.
        """
        hash_of = self.format.hasher(stream, writer)
        expected, prev = head
        for seq, before, own, payload in page:
            expected += 1
            if type(seq) is not int or seq != expected:
                raise ChainBroken(stream, writer, expected, f"{seq!r:.80} stands there: it was taken out or moved")
            if before != prev:
                raise ChainBroken(stream, writer, seq, "it does not follow the entry before it")
            if type(payload) is not bytes or hash_of(seq, prev, payload) != own:
                raise ChainBroken(stream, writer, seq, "its hash is not that of what it holds: it was changed or moved")
            prev = own
        return Head(expected, prev)

    def _whole(self, stream: str, writer: str, hash_of: Hasher, row: Any) -> Entry:
        entry = entry_of(self.format, stream, writer, row)
        begins = entry.prev_hash is None  # the hash of the first covers as much as if 32 zeros came before it
        if begins != (entry.seq == 1) or hash_of(entry.seq, entry.prev_hash, entry.payload) != entry.content_hash:
            raise malformed(stream, writer, entry.seq)
        return entry

    def _each(self, stream: str, writer: str, rows: list[Any]) -> Iterator[Entry | Damaged]:
        hash_of = self.format.hasher(stream, writer)
        for row in rows:
            try:
                yield self._whole(stream, writer, hash_of, row)
            except MalformedRow:
                seq = row[0] if type(row[0]) is int else 0
                yield Damaged(writer, seq, "its hash is not that of what is stored", as_bytes(row[3]))


def _runs(batches: list[Batch], places: list[int]) -> list[list[int]]:
    """Cut the batches of one log, in their order, into those that go together: who expects a head goes alone."""
    if all(batches[at].expect_head is None for at in places):
        return [places]
    return [[at] for at in places]


def check_place(stream: str, writer: str) -> None:
    """Refuse what names no log, with InvalidDatum."""
    check_key(stream, "a stream")
    check_key(writer, "a writer")
    together = utf8_size(stream) + utf8_size(writer)
    if together > KEY_BYTES:
        raise InvalidDatum(
            f"a stream and its writer have {together:,} bytes together, and {KEY_BYTES:,} fit into an index: shorten"
        )


def check_names(*names: object) -> None:
    """Refuse what is no Unicode text, with InvalidDatum; another program may have names that `append` does not take."""
    for name in names:
        if not isinstance(name, str):
            raise InvalidDatum(f"streams and writers are text, not {type(name).__name__}")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidDatum("the name of a stream or writer holds a lone surrogate") from None


def check_payload(payload: object, limits: Limits) -> None:
    """Refuse a payload that is not bytes, with InvalidDatum, or too large, with LimitExceeded."""
    if type(payload) is not bytes:
        raise InvalidDatum(f"a payload is bytes, not {type(payload).__name__}: encode it")
    if len(payload) > limits.max_content:
        raise LimitExceeded(
            f"the payload has {len(payload):,} bytes, the limit is {limits.max_content:,}: raise the setting "
            "max_content, or append a reference to it"
        )


def topic(format: Format, stream: str) -> str:
    """Return what an append to a stream announces to those who watch the database."""
    return f"{format.name} {stream}"
