"""The queues in which writes for the first store of a chain may wait, and what delivers each of them into it."""

# Everything here runs on event loops, and takes no lock of its own: what is shared changes between two awaits.
#
# the task of the delivery   `look`, `empty`, `tidy`, one after the other; before there is one, who opens looks and
#                            tidies
# verbs, beside it           `append` to the last queue; `bring`, which takes turns with `empty` page by page
#                            (`Deliverer`)
# who opens or falls back    `attach`, `fall_back`, under the lock of `FailoverState`; `_all` is replaced as a whole,
#                            so who goes through the former list goes on with that
# other processes            deliver the same queues, and add to them: `remember` and `tidy` look again for that
#
# A cancel breaks any of it off between two steps: what waits still waits, and what was taken off is in. A queue whose
# store fails is left out (`_lost`) until the next `look`.

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dgent.delivery import (
    Deliverer,
    KnownTarget,
    Queue,
    QueuedErasure,
    QueuedWrite,
    QueueUnreadable,
    Tally,
    drop,
    queued,
)
from dgent.exceptions import (
    BackendUnavailable,
    Corrupt,
    DgentError,
    DiskError,
    DiskFull,
    OutcomeUnknown,
    ReadOnly,
    ResourceExhausted,
    StorageError,
)
from dgent.memory.failover.manifest import Manifest, ManifestFile, place_of
from dgent.sql.errors import OUTAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dgent.erasure_request import Erased, Erasure
    from dgent.operations import Operation
    from dgent.store import Backend

HINDERED: Final = (*OUTAGE, DiskFull, DiskError, ReadOnly, ResourceExhausted, OutcomeUnknown)
"""Errors after which what waits goes on waiting. Others, `Corrupt` above all, are for people to mend."""

_log: Final = logging.getLogger("dgent.memory")


class ReplayQueues:
    """One `Deliverer` for each later store of the chain in which something waits, or may.

    Attributes:
        tried: what was out of reach, by the name of the backend, and why.
        waiting: how many writes waited when that was last counted.
    """

    def __init__(self, backends: Sequence[Backend], manifest: ManifestFile) -> None:
        self._first, self._later, self._manifest = backends[0], backends[1:], manifest
        self._all: list[Deliverer] = []
        self._lost: dict[Deliverer, DgentError] = {}
        self.tried: dict[str, str] = {}
        self.waiting = 0
        self._counted: dict[Queue, tuple[int, int]] = {}

    @property
    def last(self) -> Queue | None:
        """The queue that takes writes, if one ever did."""
        return self._all[-1].queue if self._all else None

    @property
    def queues(self) -> list[Queue]:
        """All of them."""
        return [deliverer.queue for deliverer in self._all]

    @property
    def reachable(self) -> list[Deliverer]:
        """Those that can be read now, as far as is known."""
        return [deliverer for deliverer in self._all if deliverer not in self._lost]

    @property
    def left(self) -> str:
        """Where writes may wait that cannot be read now, for people."""
        lost = [
            f"{deliverer.queue.store.name}, which {_trouble(self._lost[deliverer])}"
            for deliverer in self._all
            if deliverer in self._lost
        ]
        return f"writes for {self._first.name} may wait in {'; and in '.join(lost)}" if lost else ""

    def attach(self, known: Manifest) -> None:
        """Take up the queues of earlier runs; after the loss of the manifest they may be in every durable store."""
        durable = [store for store in self._later if store.capabilities.durable]
        targets = ((store, target) for store in durable for target in reversed(known.targets(store, self._first)))
        self._all = [self._deliverer(store, target) for store, target in targets]

    async def append(
        self, namespace: str, writes: Sequence[Operation], known: Sequence[KnownTarget]
    ) -> list[QueuedWrite]:
        """Let writes wait in the last one; they are safe there when this answers.

        Raises:
            StorageError: they could not be made safe.
        """
        queue, now = self._all[-1].queue, time.time()
        each = zip(writes, known, strict=True)
        taken = await queue.append([queued(namespace, one, now, knew) for one, knew in each])
        self.remember(queue)
        return taken

    async def look(self) -> bool:
        """Find out which of them can be read, and tell whether anything waits there."""
        self._lost.clear()
        found = any([await self._holds(deliverer) for deliverer in self._all])
        if found:
            await self.counts()
        return found

    async def empty(self, deliverer: Deliverer, tally: Tally, progress: Callable[[int], None]) -> None:
        """Deliver all that waits in one of them; `progress` is told after each page how many still wait.

        Raises:
            StorageError: the first store failed.
        """
        aside = len(tally.aside)
        try:
            while await deliverer.page(tally):
                progress((await self.counts())[0])
        except QueueUnreadable as error:
            self._leave(deliverer, error.error)
        for entry in tally.aside[aside:]:
            _log.warning("%s was set aside (see `kg memory set-aside`): %s", entry.what, entry.reason)

    async def bring(self, namespace: str, ids: Sequence[str], tally: Tally) -> None:
        """Deliver what waits for some ids. Raises as `empty` does."""
        await self.erase(tally)
        for deliverer in self.reachable:
            with suppress(QueueUnreadable):  # the delivery reports it
                await deliverer.bring(namespace, ids, tally)

    async def append_erasure(self, namespace: str, asked: Erasure) -> int:
        """Let an erasure wait wherever something may wait, erase what it takes there, and return how much that was.

        Raises:
            BackendUnavailable: something may wait that cannot be read now.
            StorageError: it could not be made safe.
        """
        if self.left:
            raise BackendUnavailable(f"{self.left}: what is erased might come back from there, so nothing is; mend it")
        dropped = 0
        for deliverer in self.reachable:
            queue = deliverer.queue
            if queue is self.last or any(await queue.count()):
                taken = await queue.append_erasure(QueuedErasure(namespace, asked, time.time()))
                self.remember(queue)
                dropped += (await drop(queue, taken, deliverer.name, time.time()))[0]
        return dropped

    async def erase(self, tally: Tally) -> None:
        """Apply the erasures that wait in any of them, before anything is delivered. Raises as `empty` does."""
        for deliverer in self.reachable:
            try:
                await deliverer.erase(tally)
            except QueueUnreadable as error:
                self._leave(deliverer, error.error)

    async def erase_now(self, namespace: str, asked: Erasure) -> Erased:
        """Erase while the first store serves: in it, and what waits for it, in queues of other programs, too.

        Raises:
            BackendUnavailable: the first, or a queue, is out of reach.
        """
        self.attach(self._manifest.read())
        await self.look()
        dropped, tally = await self.append_erasure(namespace, asked), Tally()
        await self.erase(tally)
        await self.tidy()
        return replace(tally.erased, queued=tally.erased.queued + dropped)

    async def fall_back(self, *, durable: bool) -> Queue:
        """Return the queue in the first of the later stores that answers; it is the last of the queues then.

        Raises:
            BackendUnavailable: there is none.
        """
        for store in self._later:
            if durable and not store.capabilities.durable:
                continue
            target = place_of(self._first)
            found = [
                deliverer
                for deliverer in self._all
                if deliverer.queue.store is store and deliverer.queue.target == target
            ]
            deliverer = found[0] if found else self._deliverer(store, target)
            try:
                await self._reach(deliverer)
            except DgentError as error:
                self.tried[store.name] = str(error)
            else:
                self._all = [one for one in self._all if one is not deliverer] + [deliverer]
                return deliverer.queue
        names = ", ".join(store.name for store in (self._first, *self._later))
        tried = "; ".join(f"{name}: {reason}" for name, reason in self.tried.items())
        raise BackendUnavailable(f"no store of the chain {names} can take over: {tried}")

    def remember(self, queue: Queue) -> None:
        """Write down that something waits there; each time, since another process may have found it empty meanwhile."""
        if queue.store.capabilities.durable:
            self._manifest.add_spill(place_of(queue.store), queue.target)

    async def tidy(self) -> None:
        """Forget those in which nothing is left, now that the first store serves."""
        self._manifest.save(volatile=False)
        for deliverer in self.reachable:
            with suppress(StorageError):
                await deliverer.queue.sweep()
                if any(await deliverer.queue.count()):
                    continue
                self._manifest.drop_spill(place_of(deliverer.queue.store), deliverer.queue.target)
                if any(await deliverer.queue.count()):  # another process has added to it between the two looks
                    self.remember(deliverer.queue)

    async def counts(self) -> tuple[int, int]:
        """Return how many writes wait and were set aside; of a queue that cannot be read, as last counted."""
        for queue in self.queues:
            with suppress(StorageError):
                self._counted[queue] = await queue.count()
        counted = [self._counted.get(queue, (0, 0)) for queue in self.queues]
        self.waiting = sum(waiting for waiting, _ in counted)
        return self.waiting, sum(aside for _, aside in counted)

    async def describe(self) -> dict[str, object]:
        """Return how much waits, for people, and what cannot be looked at."""
        waiting, aside = await self.counts()
        described: dict[str, object] = {"waiting": waiting, "set_aside": aside, "manifest": str(self._manifest.path)}
        return described | ({"left": self.left, "tried": dict(self.tried)} if self.left else {})

    async def set_aside(self) -> list[QueuedWrite]:
        """Return the writes that were set aside, oldest first."""
        return [entry for deliverer in self.reachable for entry in await deliverer.queue.set_aside()]

    async def retry(self, key: str) -> bool:
        """Let a write that was set aside wait again; tell whether there was one."""
        return any([await deliverer.queue.retry(key) for deliverer in self.reachable])

    async def discard(self, key: str) -> bool:
        """Erase a write that was set aside; tell whether there was one."""
        return any([await deliverer.queue.discard(key) for deliverer in self.reachable])

    def _deliverer(self, store: Backend, target: str) -> Deliverer:
        return Deliverer(Queue(store, target), self._first)

    def _leave(self, deliverer: Deliverer, error: DgentError) -> None:
        """Go on without a queue that cannot be read now."""
        self._lost[deliverer] = error
        self.tried[deliverer.queue.store.name] = str(error)

    async def _reach(self, deliverer: Deliverer) -> None:
        await self._manifest.admit(deliverer.queue.store)
        await deliverer.queue.prepare()

    async def _holds(self, deliverer: Deliverer) -> bool:
        try:
            await self._reach(deliverer)
            return bool(await deliverer.queue.page())
        except DgentError as error:
            self._leave(deliverer, error)
            return False


def _trouble(error: DgentError) -> str:
    """Return what is the matter with a queue, for people."""
    if isinstance(error, OUTAGE):
        return "is out of reach"
    return "is damaged" if isinstance(error, Corrupt) else "cannot be read"
