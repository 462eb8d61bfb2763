"""Writes to an agent memory that lies elsewhere, kept in the transaction that made them until they are delivered.

A write is a row of `dgent_outbox`, so it is committed or rolled back with the typed rows beside it. After the commit,
and again by `reconcile`, it is delivered in order, at least once; a put of an equal datum changes nothing, so twice is
once. The pattern is the transactional outbox.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    MetaData,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import Integer as SQLInteger

from dgent.database.constructs import BYTEWISE, one_of, transaction_lock
from dgent.database.locks import Lock
from dgent.database.statement import Statement
from dgent.datum import Datum
from dgent.exceptions import DgentError, StorageError, VersionConflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.database import Database
    from dgent.protocol import TTL, DgentProtocol

ATTEMPTS: Final = 16
PAGE: Final = 100
_AT_ONCE: Final = 1e-3
_KEEP: Final = -1.0  # in the column: no number of seconds
_log: Final = logging.getLogger("dgent.bridge")

metadata = MetaData()

outbox = Table(
    "dgent_outbox",
    metadata,
    Column("namespace", BYTEWISE, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", BYTEWISE, nullable=False, index=True),
    Column("datum", BYTEWISE),
    Column("ttl", Float(53)),
    Column("at", Float(53), nullable=False),
    Column("refusal", BYTEWISE),
    comment="Writes that wait for agent memory. datum is null for a delete; refusal says why one was set aside.",
)

o = outbox.c
_waits = (o.namespace == bindparam("ns"), o.refusal.is_(None))
_LOCK_SEQ = Statement(select(transaction_lock(0)), "lock_key")
_LAST = Statement(select(func.max(o.seq)).where(o.namespace == bindparam("ns")), "ns")
_ADD = Statement(insert(outbox), "namespace seq id datum ttl at refusal")
_NEXT = Statement(select(outbox).where(*_waits).order_by(o.seq).limit(bindparam("most", type_=SQLInteger)), "ns most")
_OF_IDS = Statement(select(outbox).where(*_waits, one_of(o.id, "ids")).order_by(o.seq), "ns ids", lists="ids")
_ALL = Statement(select(outbox).where(*_waits).order_by(o.seq), "ns")
_COUNT = Statement(select(func.count()).select_from(outbox).where(*_waits), "ns")
_REFUSED = Statement(select(outbox).where(o.namespace == bindparam("ns"), o.refusal.is_not(None)).order_by(o.seq), "ns")
_HERE = (o.namespace == bindparam("ns"), o.seq == bindparam("of_seq"))
_IS_THERE = Statement(select(o.seq).where(*_HERE, o.refusal.is_(None)), "ns of_seq")
_DROP = Statement(delete(outbox).where(*_HERE), "ns of_seq")
_SET_ASIDE = Statement(update(outbox).where(*_HERE).values(refusal=bindparam("why")), "ns of_seq why")
_TAKE_BACK = Statement(update(outbox).where(o.namespace == bindparam("ns")).values(refusal=None), "ns")


class Entry(NamedTuple):
    """One write: a put, or a delete where `datum` is None; `at` is Unix seconds, `ttl` seconds from then, or "keep"."""

    namespace: str
    seq: int
    id: str
    datum: Datum | None
    ttl: TTL
    at: float
    refusal: str | None = None

    def rest_of_ttl(self, now: float, live: Datum | None) -> TTL:
        """Return how much of its time to live is left; never 0, so that it still supersedes what was before.

        What keeps the time of a datum that was live when it was written, and is not any more, expires as that did.
        """
        if self.ttl is None or (self.ttl == "keep" and live is not None):
            return self.ttl
        return _AT_ONCE if self.ttl == "keep" else max(_AT_ONCE, self.at + self.ttl - now)


class Reconciled(NamedTuple):
    """How many writes got there now, which are set aside, and how many still wait."""

    delivered: int
    refused: list[Entry]
    waiting: int


def add(connection: Connection, namespace: str, writes: Sequence[tuple[str, Datum | None, TTL]]) -> None:
    """Append writes (id, datum or None to delete, ttl) in their order; the order of the commits, too."""
    _LOCK_SEQ.rows(connection, Lock.OUTBOX)
    now = time.time()
    last = _LAST.rows(connection, namespace)[0][0] or 0
    # Above every time before now: a seq that was delivered and dropped is not given out again.
    first = max(last + 1, int(now * 1_000_000))
    for seq, (id, datum, ttl) in enumerate(writes, first):
        text, seconds = None if datum is None else datum.to_json(), _KEEP if ttl == "keep" else ttl
        _ADD.run(connection, namespace, seq, id, text, seconds, now, None)


def latest(connection: Connection, namespace: str, ids: list[str] | None) -> dict[str, Datum | None]:
    """Return what waits: the last write of each of these ids, or of all."""
    rows = _ALL.rows(connection, namespace) if ids is None else _OF_IDS.rows(connection, namespace, ids)
    return {entry.id: entry.datum for entry in map(_entry, rows)}


class Outbox:
    """The way from the transactions of a database to an agent memory that lies elsewhere."""

    def __init__(self, database: Database, memory: DgentProtocol) -> None:
        self.database, self.memory = database, memory
        self.namespace: str = getattr(memory, "namespace", "default")

    async def prepare(self) -> None:
        """Make the table if it is not there."""
        if self.database not in _prepared:
            await self.database.write(_create)
            _prepared.add(self.database)

    async def deliver(self) -> int:
        """Deliver what waits, in order, and return how much got there.

        What the memory refuses is set aside with the reason. When it does not answer, the rest waits for the next time.
        """
        delivered = 0
        try:
            while entries := await self._next():
                for entry in entries:
                    delivered += await self._settle(entry)
        except StorageError as error:
            _log.warning("the agent memory %s does not take what waits for it: %s", self.memory.name, error)
        return delivered

    async def reconcile(self, *, retry: bool = False) -> Reconciled:
        """Deliver what a crash or an outage left behind, and tell how things stand.

        `retry` first tries again what was set aside; it stays until it gets there or is discarded.
        """
        await self.prepare()
        if retry:
            await self.database.write(lambda connection: _TAKE_BACK.run(connection, self.namespace))
        delivered = await self.deliver()
        waiting = await self.database.read(lambda connection: _COUNT.rows(connection, self.namespace))
        return Reconciled(delivered, await self.refused(), waiting[0][0])

    async def refused(self) -> list[Entry]:
        """Return what was set aside, oldest first, each with its `refusal`."""
        await self.prepare()
        return await self.database.read(lambda connection: list(map(_entry, _REFUSED.rows(connection, self.namespace))))

    async def discard(self, entry: Entry) -> None:
        """Give up on a write that was set aside."""
        await self.database.write(lambda connection: _DROP.run(connection, self.namespace, entry.seq))

    async def _next(self) -> list[Entry]:
        return await self.database.read(
            lambda connection: list(map(_entry, _NEXT.rows(connection, self.namespace, PAGE)))
        )

    async def _settle(self, entry: Entry) -> bool:
        """Deliver one write and drop it, or set it aside; tell whether it got there."""
        try:
            await self._deliver(entry)
        except StorageError:
            raise
        except DgentError as error:
            why = f"{type(error).__name__}: {error}"
            _log.error("a datum committed beside its row was refused by agent memory: %r, %s", entry.id, why)
            await self.database.write(lambda connection: _SET_ASIDE.run(connection, self.namespace, entry.seq, why))
            return False
        return await self.database.write(lambda connection: _DROP.run(connection, self.namespace, entry.seq)) > 0

    async def _deliver(self, entry: Entry) -> None:
        """Write it over what is live now, unless somebody else delivered it in between.

        Another process may deliver the same rows. Whoever is late finds either another live version or the row gone, so
        an old write never lands on a newer one.
        """
        for _ in range(ATTEMPTS):
            live = await self.memory.get(entry.id)
            if not await self._still_waits(entry):
                return
            version = live.version if live else 0
            expect = version if self.memory.capabilities.versioned else None
            try:
                if entry.datum is not None:
                    await self.memory.put(entry.datum, expect=expect, ttl=entry.rest_of_ttl(time.time(), live))
                elif live is not None:
                    await self.memory.delete(entry.id, expect=expect)
            except VersionConflict:
                continue
            return
        raise VersionConflict(entry.id, version, 0)

    async def _still_waits(self, entry: Entry) -> bool:
        found = await self.database.read(lambda c: _IS_THERE.rows(c, self.namespace, entry.seq), short=True)
        return bool(found)


_prepared: WeakSet[Any] = WeakSet()


def _create(connection: Connection) -> None:
    connection.execute(select(transaction_lock(Lock.OUTBOX)))
    metadata.create_all(connection)


def _entry(row: Any) -> Entry:
    namespace, seq, id, datum, ttl, at, refusal = row
    written = None if datum is None else Datum.from_json(datum)
    return Entry(namespace, seq, id, written, "keep" if ttl == _KEEP else ttl, at, refusal)
