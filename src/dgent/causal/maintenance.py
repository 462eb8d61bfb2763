"""The tables of the causal substrate, looked after as a whole: logs of both formats, checkpoints, generations."""

from __future__ import annotations

import base64
import json
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, func, select

from dgent.causal.checkpoint import Checkpoint, agree, checkpoints, places, save
from dgent.causal.generation import Generation
from dgent.causal.hash_chain import FORMATS, Entry
from dgent.causal.head import START
from dgent.causal.log_tables import TABLES, generations
from dgent.causal.log_tables import checkpoints as checkpoint_table
from dgent.causal.writer_log import WriterLog
from dgent.exceptions import ChainBroken, Conflict, Corrupt, InvalidFile, MalformedRow
from dgent.sql.maintained import Damage, Keeper, Record, batches
from dgent.sql.statement import Statement
from dgent.validation import check_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from sqlalchemy import Connection

    from dgent.sql import Database

AT_ONCE: Final = 4000
"""Entries that are recomputed in one call."""
_ALL: Final = 2**31 - 1

_GENERATIONS = Statement(select(generations.c.key, generations.c.ival).order_by(generations.c.key))
_COUNTS = [Statement(select(func.count()).select_from(table)) for table in (checkpoint_table, generations)]
_c = checkpoint_table.c
_ERASE_CHECKPOINTS = Statement(delete(checkpoint_table).where(_c.writer == bindparam("of_writer")), "of_writer")
_ERASE = {
    name: Statement(
        delete(format.table).where(
            format.table.c.stream == bindparam("in_stream"), format.table.c.writer == bindparam("of_writer")
        ),
        "in_stream of_writer",
    )
    for name, format in FORMATS.items()
}


class MaintainedLog(Keeper):
    """A `Portable` over the logs of a database, their checkpoints and the generations. An owner is a writer."""

    name = "log"

    def __init__(self, database: Database) -> None:
        super().__init__(database, TABLES)
        self._logs = [WriterLog(format, database.settings.limits) for format in FORMATS.values()]

    async def stats(self) -> dict[str, int]:
        """Return how many logs there are, one for each writer of a stream, and how many entries and checkpoints."""
        return await self._read(self._stats)

    async def check(self) -> AsyncIterator[Damage]:
        """Recompute every chain, compare it with the checkpoints that are kept here, and name what does not hold."""
        for log in self._logs:
            try:
                found = await self._read(partial(_places, log, None))
            except (MalformedRow, Corrupt) as error:  # the name of a stream or of a writer
                yield Damage(log.format.table.name, "", "", 0, str(error))
                continue
            for stream, writer in found:
                async for damage in self._check(log, stream, writer):
                    yield damage
            for stream, writer, seq, reason in await self._read(partial(_disagreeing, log)):
                yield Damage(checkpoint_table.name, f"{writer} in {stream}", "", seq, reason)
        for key, value in await self._read(_GENERATIONS.rows):
            if type(value) is not int:
                yield Damage(generations.name, "", str(key), 0, f"it is stored as {type(value).__name__}")

    async def export(self, owner: str | None = None) -> AsyncIterator[Record]:
        """Give every entry and every checkpoint, or those of one writer; and the generations, which nobody owns.

        Raises:
            ChainBroken, MalformedRow: something is not what was written.
        """
        for log in self._logs:
            for stream, writer in await self._read(partial(_places, log, owner)):
                async for record in self._entries(log, stream, writer):
                    yield record
            for kept in await self._read(partial(_kept, log)):
                if owner is None or kept.writer == owner:
                    yield {"store": self.name, "kind": "checkpoint", "checkpoint": kept.to_dict()}
        for key, value in [] if owner is not None else await self._read(_GENERATIONS.rows):
            yield {"store": self.name, "kind": "generation", "key": key, "value": value}

    async def import_(self, records: AsyncIterable[Record]) -> int:
        """Append entries to their logs as they were, keep checkpoints, move generations on; return how many were new.

        What is there already, and is the same, stays as it is: an import can be repeated.

        Raises:
            InvalidFile: a record is none, or its hash is another. Conflict: another entry stands there already.
            InvalidCheckpoint: a signature does not hold.
        """
        await self.prepare()
        return sum([await self._write(partial(self._bring, records=batch)) async for batch in batches(records)])

    async def erase(self, owner: str) -> int:
        """Erase the logs of a writer in every stream with their checkpoints, and return how many entries they had.

        The chains of other writers hold as before. Who follows one of these logs hears ChainBroken.
        """
        check_kind(owner, str, "name a writer")
        return 0 if await self._is_empty() else await self._write(partial(self._erase, writer=owner))

    def _stats(self, connection: Connection) -> dict[str, int]:
        ends = [
            last
            for log in self._logs
            for stream in log.streams(connection)
            for last in log.heads(connection, stream).values()
        ]
        kept, counters = (statement.rows(connection)[0][0] for statement in _COUNTS)
        return {"logs": len(ends), "entries": sum(ends), "checkpoints": kept, "generations": counters}

    async def _check(self, log: WriterLog, stream: str, writer: str) -> AsyncIterator[Damage]:
        head = START
        while True:
            bound = head.seq + AT_ONCE
            try:
                head = await self._read(partial(log.verify, stream=stream, writer=writer, since=head, until=bound))
            except ChainBroken as error:
                yield Damage(log.format.table.name, f"{writer} in {stream}", "", error.seq, error.reason)
                return
            if head.seq < bound:
                return

    async def _entries(self, log: WriterLog, stream: str, writer: str) -> AsyncIterator[Record]:
        end = await self._read(partial(log.head, stream=stream, writer=writer), short=True)
        head = START
        while head.seq < end.seq and (
            rows := await self._read(partial(log.page, stream=stream, writer=writer, head=head))
        ):
            head = log.verify_page(stream, writer, head, rows[: end.seq - head.seq])
            for row in rows:
                if row[0] <= end.seq:
                    yield _entry_record(log.format.name, stream, writer, row)

    def _bring(self, connection: Connection, records: list[Record]) -> int:
        parsed = [_parsed(record) for record in records]
        new = 0
        for place, run in groupby(parsed, _place_of):
            if place is None:
                new += sum(_keep(connection, one) for one in run if not isinstance(one, Entry))
            else:
                log = next(log for log in self._logs if log.format.name == place[0])
                new += _append(connection, log, [one for one in run if isinstance(one, Entry)])
        return new

    def _erase(self, connection: Connection, writer: str) -> int:
        went = 0
        for log in self._logs:
            for stream, _ in _places(log, writer, connection):
                went += _ERASE[log.format.name].run(connection, stream, writer)
        _ERASE_CHECKPOINTS.run(connection, writer)
        return went


def _places(log: WriterLog, writer: str | None, connection: Connection) -> list[tuple[str, str]]:
    """Return the stream and the writer of each log that has an entry, of one writer or of all."""
    return [
        (stream, each)
        for stream in log.streams(connection)
        for each in log.writers(connection, stream)
        if writer is None or each == writer
    ]


def _kept(log: WriterLog, connection: Connection) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    for stream, writer in places(log, connection):
        found += checkpoints(log, connection, stream, writer, limit=_ALL)
    return found


def _disagreeing(log: WriterLog, connection: Connection) -> list[tuple[str, str, int, str]]:
    """Return the checkpoints that the log does not pass through, each with the reason."""
    found = []
    for stream, writer in places(log, connection):
        try:
            for kept in checkpoints(log, connection, stream, writer, limit=_ALL):
                agree(log.at(connection, stream, writer, kept.seq), kept)
        except ChainBroken as error:
            found.append((stream, writer, error.seq, error.reason))
        except MalformedRow as error:
            found.append((stream, writer, 0, str(error)))
    return found


def _entry_record(format: str, stream: str, writer: str, row: Any) -> Record:
    seq, prev, own, payload = row
    place = {"store": "log", "kind": "entry", "format": format, "stream": stream, "writer": writer, "seq": seq}
    hashes = {"prev_hash": None if prev is None else prev.hex(), "content_hash": own.hex()}
    return {**place, **hashes, "payload": base64.b64encode(payload).decode()}


class _Counter(NamedTuple):
    key: str
    value: int


def _parsed(record: Record) -> Entry | Checkpoint | _Counter:
    """Return what a record says, once it is known that it is one."""
    try:
        match record:
            case {"store": "log", "kind": "entry", "format": format, "stream": str(), "writer": str(), "seq": int()}:
                if format in FORMATS:
                    return _entry(record)
            case {"store": "log", "kind": "checkpoint", "checkpoint": dict(fields)}:
                return Checkpoint.from_json(json.dumps(fields))
            case {"store": "log", "kind": "generation", "key": str(key), "value": int(value)}:
                return _Counter(key, value)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidFile(f"a record of a log is not what was exported: {type(error).__name__}") from None
    raise InvalidFile("a record is none of a log: it has other fields than `export` gives")


def _entry(record: Record) -> Entry:
    prev = record["prev_hash"]
    return Entry(
        record["stream"],
        record["writer"],
        record["seq"],
        None if prev is None else bytes.fromhex(prev),
        bytes.fromhex(record["content_hash"]),
        base64.b64decode(record["payload"], validate=True),
        record["format"],
    )


def _place_of(one: Entry | Checkpoint | _Counter) -> tuple[str, str, str] | None:
    return (one.format, one.stream, one.writer) if isinstance(one, Entry) else None


def _append(connection: Connection, log: WriterLog, entries: list[Entry]) -> int:
    """Append the entries of one log that are not there yet, with the hashes that they had, or write nothing."""
    stream, writer = entries[0].stream, entries[0].writer
    head = log.head(connection, stream, writer)
    known = [entry for entry in entries if entry.seq <= head.seq]
    if known and log.at(connection, stream, writer, known[-1].seq).hash != known[-1].content_hash:
        raise Conflict(f"another entry stands at seq {known[-1].seq} of {writer!r:.80} in {stream!r:.80}")
    new = entries[len(known) :]
    if not new:
        return 0
    if (new[0].seq, new[0].prev_hash) != (head.seq + 1, head.hash):
        raise Conflict(
            f"the entry {new[0].seq} does not follow what stands in the log of {writer!r:.80} in {stream!r:.80}"
        )
    if log.append_many(connection, stream, writer, [entry.payload for entry in new]) != new:
        raise InvalidFile(f"an entry of {writer!r:.80} in {stream!r:.80} is not what was exported: its hash is another")
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
