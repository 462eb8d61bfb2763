"""Writes to an agent memory that lies elsewhere, kept in the transaction that made them until they are delivered.

They wait in a queue of `dgent.delivery` in the tables of agent memory of the same database, so they are committed or
rolled back with the typed rows beside them. After the commit, and again by `reconcile`, they are delivered in order.
The pattern is the transactional outbox.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dgent.bridge.outbox_format_1 import take_over_format_1
from dgent.delivery import (
    Deliverer,
    DeliveryReport,
    KnownTarget,
    Queue,
    QueuedWrite,
    QueueUnreadable,
    Tally,
    Version,
    key_of,
    roomy,
)
from dgent.exceptions import StorageError
from dgent.memory.sql.backend import SqlBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.datum import Datum
    from dgent.operations import TTL
    from dgent.sql import Database, Runner
    from dgent.store import DgentProtocol

SWEEP: Final = 256
"""After so many deliveries what is left of them is erased."""

FEW: Final = 32
_log: Final = logging.getLogger("dgent.bridge")
_Write: TypeAlias = "tuple[str, Datum | None, TTL]"


class Outbox:
    """The way from the transactions of a database to an agent memory that lies elsewhere."""

    def __init__(self, database: Database, memory: DgentProtocol) -> None:
        self.database, self.memory = database, memory
        self.namespace: str = getattr(memory, "namespace", "default")
        self._shared: _SharedOutbox = database.attached.get(_SharedOutbox) or _attach(database)
        self._deliverer = self._shared.deliverer(self.namespace, memory)

    async def prepare(self) -> None:
        """Make the tables if they are not there, and take over what older ones hold; in the transaction open here."""
        await self._shared.prepare()

    async def add(self, transaction: Runner, writes: Sequence[_Write]) -> None:
        """Let writes (id, datum or None to delete, ttl) wait, in their order, when the transaction commits."""
        bases = await asyncio.gather(*(self._base(id) for id, _, _ in writes))
        now = time.time()
        entries = [
            QueuedWrite(self.namespace, id, datum, ttl, now, KnownTarget(now, 0, base))
            for (id, datum, ttl), base in zip(writes, bases, strict=True)
        ]
        await self._inside(transaction).append(entries)

    async def latest(self, transaction: Runner, ids: Sequence[str] | None) -> dict[str, Datum | None]:
        """Return what waits: the last write of each of these ids, or of all."""
        queue = self._inside(transaction)
        if ids is None or len(ids) > FEW:
            found = await _last_writes(queue, None)
            return found if ids is None else {id: found[id] for id in ids if id in found}
        return {key: datum for id in ids for key, datum in (await _last_writes(queue, (self.namespace, id))).items()}

    async def is_waiting_parent(self, transaction: Runner, id: str) -> bool:
        """Tell whether a put that waits has this id as its parent, or had."""
        return bool(await self._inside(transaction).children(id))

    async def deliver(self) -> DeliveryReport:
        """Deliver what waits, in order, and report.

        What the memory must not take is set aside with the reason. When it does not answer, the rest waits.

        Raises:
            StorageError: the database failed.
        """
        tally, reason = Tally(), ""
        try:
            await self._deliverer.run(tally)
        except QueueUnreadable as error:
            raise error.error from None
        except StorageError as error:
            reason = f"{self.memory.name}: {error}"
            _log.warning("the agent memory %s does not take what waits for it: %s", self.memory.name, error)
        for entry in tally.aside:
            _log.error("%s, committed beside its row, was set aside: %s", entry.what, entry.reason)
        waiting = (await self._deliverer.queue.count())[0] if reason else 0
        self._shared.unswept += tally.delivered
        if self._shared.unswept > SWEEP:
            await self._sweep()
        return DeliveryReport(tally.delivered, waiting, tuple(tally.aside), reason)

    async def reconcile(self) -> DeliveryReport:
        """Deliver what a crash or an outage left behind, and tell how things stand."""
        await self.prepare()
        report = await self.deliver()
        await self._sweep()
        return report

    async def set_aside(self) -> list[QueuedWrite]:
        """Return what was set aside, oldest first, each with its reason."""
        await self.prepare()
        return await self._deliverer.queue.set_aside()

    async def retry(self, entry: QueuedWrite) -> bool:
        """Deliver a write that was set aside over whatever the memory holds; tell whether it was there."""
        found = await self._deliverer.queue.retry(key_of(entry))
        if found:
            await self.deliver()
        return found

    async def discard(self, entry: QueuedWrite) -> bool:
        """Give up on a write that was set aside; tell whether it was there."""
        return await self._deliverer.queue.discard(key_of(entry))

    async def _base(self, id: str) -> Version | None:
        """Return the last version of an id in the memory, where that answers and has versions."""
        if not (self.memory.capabilities.versioned and self.memory.capabilities.history):
            return None
        try:
            found = await self.memory.history(id, limit=1)
        except StorageError:
            return None
        return Version(found[-1].version, found[-1].seq) if found else Version(0, 0)

    async def _sweep(self) -> None:
        self._shared.unswept = 0
        await self._deliverer.queue.sweep()

    def _inside(self, transaction: Runner) -> Queue:
        return self._deliverer.queue.over(self._shared.store.joined(transaction))


async def _last_writes(queue: Queue, one: tuple[str, str] | None) -> dict[str, Datum | None]:
    return {entry.id: entry.datum async for page in queue.pages(one=one) for entry in page.entries}


class _SharedOutbox:
    """What the outboxes of one database share: its tables, and one deliverer for each memory.

    `unswept` is how many were delivered since what is left of them was last erased.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.store = SqlBackend(database, limits=roomy(database.settings.limits))
        self.unswept = 0
        self._deliverers: dict[str, Deliverer] = {}
        self._prepared = False

    def deliverer(self, namespace: str, memory: Any) -> Deliverer:
        """Return the deliverer for a memory; one, so that the deliveries of this process come one after another."""
        deliverer = self._deliverers.get(namespace)
        if deliverer is None or deliverer.target is not memory:
            deliverer = self._deliverers[namespace] = Deliverer(self.queue(namespace), memory)
        return deliverer

    def queue(self, namespace: str) -> Queue:
        """Return what waits for a memory under a namespace."""
        return Queue(self.store, f"outbox:{namespace}")

    async def prepare(self) -> None:
        if self._prepared:
            return
        runner: Runner = self._database.current() or self._database
        await self.store.joined(runner).prepare()
        await take_over_format_1(self.store, self.queue)
        runner.after_commit(self._mark)

    def _mark(self) -> None:
        self._prepared = True


def _attach(database: Database) -> _SharedOutbox:
    shared = database.attached[_SharedOutbox] = _SharedOutbox(database)
    return shared
