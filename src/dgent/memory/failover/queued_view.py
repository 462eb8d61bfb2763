"""What a program sees that had to start without the first store: only what was written since, from the queues."""

# Several readers of one loop may follow a queue at once. Each waits only for pages; an entry is marked as seen and
# taken in one step, since the store in memory makes nobody wait. So whoever finds it marked finds it in the store, and
# a cancel of a reader leaves no entry marked that was not taken.

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dgent.delivery import QueuedErasure, erase_in
from dgent.exceptions import DgentError
from dgent.memory.inmemory.backend import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.delivery import Queue, QueuedWrite
    from dgent.limits import Limits
    from dgent.store import Backend


class QueuedView:
    """It is held in memory and follows the queues, so it also has what other processes add to them."""

    def __init__(self, limits: Limits) -> None:
        self.memory = MemoryBackend(limits=limits)
        self._seen: dict[Queue, int] = {}

    async def of(self, queues: Iterable[Queue], namespace: str) -> MemoryBackend:
        """Return a namespace of it, with everything that was acknowledged before this call."""
        for queue in queues:
            async for page in queue.pages(self._seen.get(queue, 0)):
                taken: list[QueuedWrite | QueuedErasure] = [*page.entries, *page.erasures]
                for entry in sorted(taken, key=lambda one: one.seq):
                    if entry.seq > self._seen.get(queue, 0):  # else another reader has taken it meanwhile
                        self._seen[queue] = entry.seq
                        await self._take(entry)
        return self.memory.within(namespace)

    async def _take(self, entry: QueuedWrite | QueuedErasure) -> None:
        store = self.memory.within(entry.namespace)
        if isinstance(entry, QueuedErasure):
            await erase_in(store, entry.erasure)
            return
        ttl = entry.rest_of_ttl(time.time())
        if entry.touches:
            await store.touch([entry.id], None if ttl == "keep" else ttl)
            return
        if entry.datum is None:
            await store.delete(entry.id)
            return
        try:
            await store.put(entry.datum, ttl=ttl)
        except DgentError:  # it closes a cycle; it is set aside on delivery
            return


def started_late(first: Backend, store: Backend, reason: str) -> str:
    """Return what a start without the first store means, for people: another store keeps what is written."""
    told = f"{first.name} is out of reach ({reason}): {store.name} serves, and shows only what is written "
    if store.capabilities.durable:
        return f"{told}from now on; it is kept until {first.name} is back"
    return f"{told}by this process; it is gone when the process ends before {first.name} is back"


def cut_off(first: Backend, store: Backend, reason: str) -> str:
    """Return what the loss of the first store in mid-run means, for people."""
    return (
        f"{first.name} is out of reach ({reason}): writes are kept in {store.name} until it is back, and reads are "
        "refused"
    )
