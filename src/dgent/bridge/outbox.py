"""Writes to an agent memory that lies elsewhere, kept in the transaction that made them until they are delivered.

They wait in a queue of `dgent.delivery` in the tables of agent memory of the same database, so they are committed or
rolled back with the typed rows beside them. After the commit, and again by `reconcile`, they are delivered in order.
The pattern is the transactional outbox.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from dgent.bridge.moved_memory import move_all, other_places
from dgent.bridge.outbox_format_1 import take_over_format_1
from dgent.delivery import (
    Deliverer,
    DeliveryReport,
    KnownTarget,
    Queue,
    QueuedErasure,
    QueuedWrite,
    QueueUnreadable,
    Tally,
    Version,
    drop,
    entry_key,
    queued,
    roomy,
)
from dgent.erasure_request import Erased
from dgent.error_messages import called
from dgent.exceptions import CapabilityMissing, StorageError, VersionConflict
from dgent.memory.sql.backend import SqlBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.datum import Datum
    from dgent.erasure_request import Erasure
    from dgent.operations import Operation
    from dgent.sql import Database, Runner
    from dgent.store import Backend

SWEEP: Final = 256
"""After so many deliveries what is left of them is erased."""

FEW: Final = 32
_log: Final = logging.getLogger("dgent.bridge")


class Outbox:
    """The way from the transactions of a database to an agent memory that lies elsewhere."""

    def __init__(self, database: Database, memory: Backend) -> None:
        self._shared: _SharedOutbox = database.attached.get(_SharedOutbox) or _attach(database)
        self._deliverer = self._shared.deliverer(memory)
        self.database, self.memory, self.namespace = database, memory, memory.namespace

    async def prepare(self) -> None:
        """Make the tables if they are not there, and take over what earlier formats, or places, left for this memory.

        It takes part in a transaction that is open here. It is done once, as soon as the memory answers and nobody else
        delivers that; what is left there later, `reconcile` finds.

        Raises:
            StorageError: the database failed.
        """
        await self._shared.prepare(self._deliverer.queue, self.memory)

    async def add(self, transaction: Runner, writes: Sequence[Operation]) -> None:
        """Let writes wait, in their order, when the transaction commits."""
        bases = await self._bases(list(dict.fromkeys(one.id for one in writes)))
        now = time.time()
        entries = [queued(self.namespace, one, now, KnownTarget(now, 0, bases[one.id])) for one in writes]
        await self._inside(transaction).append(entries)

    async def erase(self, transaction: Runner, asked: Erasure) -> Erased:
        """Erase what waits, and let the erasure wait, until the transaction commits and the memory has erased, too."""
        queue, now = self._inside(transaction), time.time()
        taken = await queue.append_erasure(QueuedErasure(self.namespace, asked, now))
        dropped, _ = await drop(queue, taken, self._deliverer.name, now)
        return Erased(queued=dropped, pending=self.memory.name)

    async def erasures(self, transaction: Runner) -> list[Erasure]:
        """Return the erasures that wait."""
        return [one.erasure for one in await self._inside(transaction).erasures()]

    async def latest(self, transaction: Runner, ids: Sequence[str] | None) -> dict[str, Datum | None]:
        """Return what waits: the last write of each of these ids, or of all.

        For all, or more than a few ids, it reads all that waits, and holds the last write of each id in memory.
        """
        queue = self._inside(transaction)
        if ids is None or len(ids) > FEW:
            found = await _last_writes(queue, None)
            return found if ids is None else {id: found[id] for id in ids if id in found}
        return {key: datum for id in ids for key, datum in (await _last_writes(queue, (self.namespace, id))).items()}

    async def is_empty(self, transaction: Runner) -> bool:
        """Tell whether nothing waits."""
        return not await self._inside(transaction).page()

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
        return tally.report(waiting, reason)

    async def reconcile(self) -> DeliveryReport:
        """Deliver what a crash or an outage left behind, also under another name or place, and tell how things stand.

        Raises:
            StorageError: the database failed.
        """
        await self._shared.take_over(self._deliverer.queue, self.memory)
        report = await self.deliver()
        await self._sweep()
        return report

    async def set_aside(self) -> list[QueuedWrite]:
        """Return what was set aside, oldest first, each with its reason."""
        await self.prepare()
        return await self._deliverer.queue.set_aside()

    async def retry(self, entry: QueuedWrite) -> bool:
        """Deliver a write that was set aside over whatever the memory holds; tell whether it was there."""
        await self.prepare()
        found = await self._deliverer.queue.retry(entry_key(entry))
        if found:
            await self.deliver()
        return found

    async def discard(self, entry: QueuedWrite) -> bool:
        """Give up on a write that was set aside; tell whether it was there."""
        await self.prepare()
        return await self._deliverer.queue.discard(entry_key(entry))

    async def _bases(self, ids: Sequence[str]) -> dict[str, Version | None]:
        """Return the last versions of ids in the memory; a few are asked for at once, so that no pool is drained."""
        bases: dict[str, Version | None] = {}
        for start in range(0, len(ids), FEW):
            few = ids[start : start + FEW]
            bases |= zip(few, await asyncio.gather(*map(self._base, few)), strict=True)
        return bases

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
    """Return the last put or delete of each id; a touch changes no datum."""
    return {entry.id: entry.datum async for page in queue.pages(one=one) for entry in page.entries if not entry.touches}


class _SharedOutbox:
    """What the outboxes of one database share: its tables, and one deliverer for each memory and namespace.

    `unswept` is how many were delivered since what is left of them was last erased.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.store = SqlBackend(database, limits=roomy(database.settings.limits))
        self.unswept = 0
        self._deliverers: dict[str, Deliverer] = {}
        self._prepared: set[str] = set()

    def deliverer(self, memory: Backend) -> Deliverer:
        """Return what delivers to a memory; all that do so in this process take turns.

        Raises:
            CapabilityMissing: the memory does not say where it lies.
        """
        name = _queue_name(memory)
        known = self._deliverers.get(name)
        if known is None:
            known = self._deliverers[name] = Deliverer(Queue(self.store, name), memory)
        return known if known.target is memory else known.to(memory)

    async def prepare(self, queue: Queue, memory: Backend) -> None:
        if queue.target not in self._prepared:
            await self.take_over(queue, memory)

    async def take_over(self, queue: Queue, memory: Backend) -> None:
        """Make the tables, and move what lies under other names of a queue into it; it is prepared once all of it is.

        Raises:
            StorageError: the database failed.
        """
        runner: Runner = self._database.current() or self._database
        store = self.store.joined(runner)
        await store.prepare()
        await take_over_format_1(store, partial(_former_queue, store))
        places = await other_places(store, memory, queue)
        formers = [_former_queue(store, memory.namespace), *(places or [])]
        if all([await _moved(store, former, queue) for former in formers]) and places is not None:
            runner.after_commit(partial(self._prepared.add, queue.target))


async def _moved(store: SqlBackend, former: Queue, queue: Queue) -> bool:
    """Move what waits in a queue under another name; tell whether nobody delivers it, so that it was."""
    try:
        await move_all(store, former, queue)
    except VersionConflict as error:
        _log.warning("another program delivers what waits under %r, so that is left to it: %s", former.target, error)
        return False
    return True


def _former_queue(store: SqlBackend, namespace: str) -> Queue:
    """Return the queue that all memories of a namespace once shared: the first to be used gets what waits there."""
    return Queue(store, f"outbox:{namespace}")


def _queue_name(memory: Backend) -> str:
    where: str = getattr(memory, "where", "")  # who passes what is no backend may have no type checker
    if not where:
        raise CapabilityMissing(
            f"{called(memory)} does not say where it lies, so that what waits for it might be delivered to another "
            "store: pass a Backend with a `where` of its own, or keep the memory in the same database"
        )
    return f"outbox\0{memory.namespace}\0{where}"


def _attach(database: Database) -> _SharedOutbox:
    shared = database.attached[_SharedOutbox] = _SharedOutbox(database)
    return shared
