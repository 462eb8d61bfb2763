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

from dgent.bridge.old_outbox import take_over_table
from dgent.delivery import Deliverer, Delivery, Entry, Known, Queue, QueueUnreadable, Tally, Version, key_of, roomy
from dgent.exceptions import StorageError
from dgent.memory.sql import SqlBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.database import Database, Runner
    from dgent.datum import Datum
    from dgent.operations import TTL
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
        self._shared: _Shared = database.attached.get(_Shared) or _attach(database)
        self._way = self._shared.way(self.namespace, memory)

    async def prepare(self) -> None:
        """Make the tables if they are not there, and take over what older ones hold."""
        await self._shared.prepare()

    async def add(self, transaction: Runner, writes: Sequence[_Write]) -> None:
        """Let writes (id, datum or None to delete, ttl) wait, in their order, when the transaction commits."""
        bases = await asyncio.gather(*(self._base(id) for id, _, _ in writes))
        now = time.time()
        entries = [
            Entry(self.namespace, id, datum, ttl, now, Known(now, 0, base))
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

    async def deliver(self) -> Delivery:
        """Deliver what waits, in order, and report.

        What the memory must not take is set aside with the reason. When it does not answer, the rest waits.

        Raises:
            StorageError: the database failed.
        """
        tally, reason = Tally(), ""
        try:
            await self._way.run(tally)
        except QueueUnreadable as error:
            raise error.error from None
        except StorageError as error:
            reason = f"{self.memory.name}: {error}"
            _log.warning("the agent memory %s does not take what waits for it: %s", self.memory.name, error)
        for entry in tally.aside:
            _log.error("%s, committed beside its row, was set aside: %s", entry.what, entry.reason)
        waiting = (await self._way.queue.count())[0] if reason else 0
        self._shared.unswept += tally.delivered
        if self._shared.unswept > SWEEP:
            await self._sweep()
        return Delivery(tally.delivered, waiting, tuple(tally.aside), reason)

    async def reconcile(self) -> Delivery:
        """Deliver what a crash or an outage left behind, and tell how things stand."""
        await self.prepare()
        report = await self.deliver()
        await self._sweep()
        return report

    async def set_aside(self) -> list[Entry]:
        """Return what was set aside, oldest first, each with its reason."""
        await self.prepare()
        return await self._way.queue.set_aside()

    async def retry(self, entry: Entry) -> bool:
        """Deliver a write that was set aside over whatever the memory holds; tell whether it was there."""
        found = await self._way.queue.retry(key_of(entry))
        if found:
            await self.deliver()
        return found

    async def discard(self, entry: Entry) -> bool:
        """Give up on a write that was set aside; tell whether it was there."""
        return await self._way.queue.discard(key_of(entry))

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
        await self._way.queue.sweep()

    def _inside(self, transaction: Runner) -> Queue:
        return self._way.queue.over(self._shared.store.joined(transaction))


async def _last_writes(queue: Queue, one: tuple[str, str] | None) -> dict[str, Datum | None]:
    return {entry.id: entry.datum async for page in queue.pages(one=one) for entry in page.entries}


class _Shared:
    """What the outboxes of one database share: its tables, and one deliverer for each memory.

    `unswept` is how many were delivered since what is left of them was last erased.
    """

    def __init__(self, database: Database) -> None:
        self.store = SqlBackend(database, limits=roomy(database.settings.limits))
        self.unswept = 0
        self._ways: dict[str, Deliverer] = {}
        self._prepared = False

    def way(self, namespace: str, memory: Any) -> Deliverer:
        """Return the deliverer for a memory; one, so that who delivers in this process takes turns."""
        way = self._ways.get(namespace)
        if way is None or way.target is not memory:
            way = self._ways[namespace] = Deliverer(self.queue(namespace), memory)
        return way

    def queue(self, namespace: str) -> Queue:
        """Return what waits for a memory under a namespace."""
        return Queue(self.store, f"outbox:{namespace}")

    async def prepare(self) -> None:
        if self._prepared:
            return
        await self.store.prepare()
        await take_over_table(self.store, self.queue)
        self._prepared = True


def _attach(database: Database) -> _Shared:
    shared = database.attached[_Shared] = _Shared(database)
    return shared
