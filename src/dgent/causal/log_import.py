"""How an export of logs is read and stored: each log from its first entry on, without a gap."""

from __future__ import annotations

import base64
import json
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from dgent.causal.checkpoint import Checkpoint, save
from dgent.causal.generation import Generation
from dgent.causal.hash_chain import Entry
from dgent.causal.head import START
from dgent.causal.log_rows import row_of
from dgent.causal.writer_log import check_place
from dgent.exceptions import ChainBroken, Conflict, InvalidFile
from dgent.sql.maintained import check_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

    from dgent.causal.writer_log import WriterLog
    from dgent.sql.maintained import Record

_FIELDS: Final = ["format", "stream", "writer", "seq", "prev_hash", "content_hash", "payload"]


class _Counter(NamedTuple):
    key: str
    value: int


class LogImport:
    """One import, in one transaction."""

    def __init__(self, logs: Iterable[WriterLog]) -> None:
        self._logs = {log.format.name: log for log in logs}
        self._place: tuple[str, str, str] | None = None
        self._places: set[tuple[str, str, str]] = set()
        self._head = START

    def read(self, record: Record) -> Entry | Checkpoint | _Counter:
        """Return what a record says, once it is known that it may come here.

        Raises:
            InvalidFile: it may not.
            InvalidInput: a name or a value is none that a store takes.
            KeyError: a field is missing.
            TypeError: a field is of another type.
            ValueError: a field has a value that it cannot have.
        """
        match record:
            case {"store": "log", "kind": "entry"}:
                return self._go_on(_entry(record))
            case {"store": "log", "kind": "checkpoint"}:
                return _checkpoint(record)
            case {"store": "log", "kind": "generation"}:
                return _counter(record)
        raise InvalidFile("it is none of a log")

    def _go_on(self, entry: Entry) -> Entry:
        """Return an entry that follows the one before it, or that begins a log."""
        if entry.format not in self._logs:
            raise InvalidFile(f"a log of the format {entry.format!r:.80}, which this version does not know")
        place = (entry.format, entry.stream, entry.writer)
        if place != self._place:
            if place in self._places:
                raise InvalidFile(f"the log of {entry.writer!r:.80} in {entry.stream!r:.80} comes twice")
            self._places.add(place)
            self._place, self._head = place, START
        row = row_of(entry)[2:]
        try:
            self._head = self._logs[entry.format].verify_page(entry.stream, entry.writer, self._head, [row])
        except ChainBroken as error:
            raise InvalidFile(str(error)) from None
        return entry

    def storing(self, items: list[Entry | Checkpoint | _Counter]) -> Callable[[Connection], int]:
        """Return the work that stores what was read, and returns how many were new.

        The work raises Conflict, InvalidCheckpoint or LimitExceeded.
        """

        def work(connection: Connection) -> int:
            new = 0
            for format, run in groupby(items, _place_of):
                if format is None:
                    new += sum(_keep(connection, one) for one in run if not isinstance(one, Entry))
                else:
                    new += _append(connection, self._logs[format[0]], [one for one in run if isinstance(one, Entry)])
            return new

        return work


def _entry(record: Record) -> Entry:
    check_fields(record, *_FIELDS)
    prev, seq = record["prev_hash"], record["seq"]
    check_place(record["stream"], record["writer"])
    if type(seq) is not int or not 1 <= seq < 2**63 - 1:
        raise InvalidFile(f"seq is {seq!r:.40}, and no number of an entry")
    return Entry(
        record["stream"],
        record["writer"],
        seq,
        None if prev is None else bytes.fromhex(prev),
        bytes.fromhex(record["content_hash"]),
        base64.b64decode(record["payload"], validate=True),
        record["format"],
    )


def _checkpoint(record: Record) -> Checkpoint:
    check_fields(record, "checkpoint")
    checkpoint = Checkpoint.from_json(json.dumps(record["checkpoint"]))
    checkpoint.check_signature()
    return checkpoint


def _counter(record: Record) -> _Counter:
    check_fields(record, "key", "value")
    key, value = record["key"], record["value"]
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidFile(f"the generation {key!r:.80} is {value!r:.40}, and no whole number from 0 to 2**63 - 1")
    return _Counter(Generation(key).key, value)


def _place_of(one: Entry | Checkpoint | _Counter) -> tuple[str, str, str] | None:
    return (one.format, one.stream, one.writer) if isinstance(one, Entry) else None


def _append(connection: Connection, log: WriterLog, entries: list[Entry]) -> int:
    """Append the entries of one log that are not there yet, with the hashes that they had."""
    stream, writer = entries[0].stream, entries[0].writer
    head = log.head(connection, stream, writer)
    known = [entry for entry in entries if entry.seq <= head.seq]
    if known and log.at(connection, stream, writer, known[-1].seq).hash != known[-1].content_hash:
        raise Conflict(f"another entry stands at seq {known[-1].seq} of {writer!r:.80} in {stream!r:.80}")
    new = entries[len(known) :]
    if not new:
        return 0
    if new[0].prev_hash != head.hash:
        raise Conflict(f"another entry stands at seq {head.seq} of {writer!r:.80} in {stream!r:.80}")
    if log.append_many(connection, stream, writer, [entry.payload for entry in new]) != new:
        raise Conflict(f"{writer!r:.80} in {stream!r:.80} was appended to meanwhile: import again")
    return len(new)


def _keep(connection: Connection, one: Checkpoint | _Counter) -> int:
    if isinstance(one, Checkpoint):
        save(connection, one)
        return 0  # it is kept once, however often it comes
    counter = Generation(one.key)
    moves = one.value > counter.current(connection)
    if moves:
        counter.set(connection, one.value)
    return moves
