"""The tables of the causal substrate, looked after as a whole: logs of both formats, checkpoints, generations."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, func, select

from dgent.causal.checkpoint import agree, checkpoints, places
from dgent.causal.hash_chain import FORMATS
from dgent.causal.head import START
from dgent.causal.log_import import LogImport
from dgent.causal.log_tables import TABLES, generations
from dgent.causal.log_tables import checkpoints as checkpoint_table
from dgent.causal.writer_log import WriterLog
from dgent.exceptions import ChainBroken, Conflict, Corrupt, MalformedRow
from dgent.sql.maintained import Damage, Keeper, Record, batches, sealed
from dgent.sql.statement import Statement
from dgent.validation import check_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from sqlalchemy import Connection

    from dgent.causal.checkpoint import Checkpoint
    from dgent.causal.head import Head
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


class _Place(NamedTuple):
    """A log, and where it ended when an export of it began."""

    log: WriterLog
    stream: str
    writer: str
    end: Head


class _Begun(NamedTuple):
    """What there was when an export began."""

    checkpoints: list[Checkpoint]
    generations: list[Any]
    ends: list[_Place]


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

    def export(self, owner: str | None = None) -> AsyncIterator[Record]:
        """Give every entry and every checkpoint, or those of one writer; and the generations, which nobody owns.

        What is appended meanwhile is not in it.

        Raises:
            ChainBroken: something is not what was written.
            MalformedRow: something is not what was written.
            Conflict: a log was erased before it was read.
        """
        return sealed(self.name, self._records(owner))

    async def _records(self, owner: str | None) -> AsyncIterator[Record]:
        begun = await self._read(partial(self._stand, owner=owner))
        for place in begun.ends:
            async for record in self._entries(place):
                yield record
        for kept in begun.checkpoints:
            yield {"store": self.name, "kind": "checkpoint", "checkpoint": kept.to_dict()}
        for key, value in begun.generations:
            yield {"store": self.name, "kind": "generation", "key": key, "value": value}
        if not {*begun.checkpoints} <= {*(await self._read(partial(self._stand, owner=owner))).checkpoints}:
            raise Conflict("a writer was erased while the logs were exported: export them again")

    async def import_(self, records: AsyncIterable[Record]) -> int:
        """Append entries to their logs as they were, keep checkpoints, move generations on; return how many were new.

        What is there already, and is the same, stays as it is: an import can be repeated.

        Raises:
            InvalidFile: a record is not what was exported, or one is missing, moved, or comes twice.
            Conflict: another entry stands there already.
            InvalidCheckpoint: another checkpoint of the same signer does.
            LimitExceeded: a payload is larger than `limits.max_content`.
            StorageTimeout: the next record did not come within `transaction_timeout`.
        """
        into, patience = LogImport(self._logs), self.database.settings.transaction_timeout
        async with self._in_one_transaction() as here:
            each = batches(self.name, records, into.read, patience)
            return sum([await here._write(into.storing(batch)) async for batch in each])

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

    def _stand(self, connection: Connection, owner: str | None) -> _Begun:
        """Return what there is to export. The ends come last, so that no checkpoint is ahead of its log."""
        kept = [one for log in self._logs for one in _kept(log, connection) if owner is None or one.writer == owner]
        counters = [] if owner is not None else _GENERATIONS.rows(connection)
        ends = [
            _Place(log, stream, writer, log.head(connection, stream, writer))
            for log in self._logs
            for stream, writer in _places(log, owner, connection)
        ]
        return _Begun(kept, counters, ends)

    async def _entries(self, place: _Place) -> AsyncIterator[Record]:
        head = START
        while head.seq < place.end.seq:
            rows, head = await self._page(place, head)
            for row in rows:
                yield _entry_record(place.log.format.name, place.stream, place.writer, row)

    async def _page(self, place: _Place, head: Head) -> tuple[list[Any], Head]:
        """Return the next rows of a log that were there when the export began, and where they end."""
        log, stream, writer, end = place
        rows = (await self._read(partial(log.page, stream=stream, writer=writer, head=head)))[: end.seq - head.seq]
        try:
            if rows:
                return rows, log.verify_page(stream, writer, head, rows)
        except ChainBroken:
            if await self._read(partial(log.at, stream=stream, writer=writer, seq=end.seq)) == end:
                raise
        raise Conflict(f"{writer!r:.80} in {stream!r:.80} was erased while it was exported: export it again")

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
