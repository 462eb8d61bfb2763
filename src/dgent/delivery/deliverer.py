"""How what waits gets into the target: in order, once, and never over what somebody else wrote meanwhile."""

# One page at a time. A page is cut into waves in which no id comes twice; of each wave, all at once
#
# plan     read the last version of the id in the target, and make durable which version the entry goes behind
# write    with that version as `expect`; after a conflict or a crash, look whether the next version is this entry
# aside    keep what the target must not take
# settle   note the version that was reached: durably with the next plan of that id, else at the end of the page
#
# and at the end of the page receipts are written and the entries are taken off. A crash or a cancel at any point leaves
# entries that are looked at again, by their plans. Any number of processes may deliver one queue; the tasks of one loop
# that share a `Deliverer`, or one made by `to`, hold its lock page by page, so that a single id can be brought in
# between.
#
# An id whose entry somebody else has planned is left to them (`blocked`), until they are done or for `LEASE` seconds.
# For a put behind a version that is not live can only say "nothing is live", not "that version is the last": of two
# programs that write one entry, the slower one could put it on top of the delete that the quicker one has delivered
# after it. If that happens all the same, because a program stood still for so long or a stranger wrote and deleted in
# that moment, the put is taken back.

from __future__ import annotations

import asyncio
import copy
import time
from typing import TYPE_CHECKING, Final, TypeVar

from dgent.datum_id import uuid7
from dgent.delivery.delivery_report import Tally
from dgent.delivery.page_delivery import PageDelivery
from dgent.delivery.queue import Queue, QueueUnreadable
from dgent.delivery.queue_eraser import apply
from dgent.exceptions import StorageError
from dgent.runtime.backoff import Backoff
from dgent.runtime.per_loop_lock import PerLoopLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from dgent.delivery.queue import Waiting
    from dgent.delivery.queued_erasure import QueuedErasure
    from dgent.delivery.queued_write import QueuedWrite
    from dgent.store import Backend

T = TypeVar("T")
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.2


class Deliverer:
    """Delivers what waits in a queue to its target. What it has done is counted in the `Tally` that it is given."""

    def __init__(self, queue: Queue, target: Backend, *, clock: Callable[[], float] = time.time) -> None:
        self.queue, self.target, self.clock = queue, target, clock
        self.name = uuid7()
        self._lock = PerLoopLock()
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)

    def to(self, target: Backend) -> Deliverer:
        """Return it with another view of its target: the two take turns, and are one for who else delivers."""
        other = copy.copy(self)
        other.target = target
        return other

    async def page(self, tally: Tally) -> bool:
        """Deal with the next page; tell whether there was one.

        Raises:
            StorageError: the target failed.
            QueueUnreadable: the store in which they wait did.
        """
        async with self._lock.current():
            waiting = await self.ask(self.queue.page())
            if erasures := await self._erasures_beside(waiting):
                blocked, moved = not await self._apply(erasures, tally), 0
            else:
                moved = await self._put_damaged_aside(waiting.damaged, tally)
                blocked = await self._deal_with(waiting.entries, tally)
        await self._wait(blocked=blocked)
        return bool(waiting.entries or erasures or moved)

    async def run(self, tally: Tally | None = None) -> Tally:
        """Deal with all that waits, and return what was done. Raises as `page` does."""
        done = Tally() if tally is None else tally
        while await self.page(done):
            pass
        return done

    async def bring(self, namespace: str, ids: Iterable[str], tally: Tally) -> None:
        """Deal with what waits for some ids. Raises as `page` does."""
        for id in ids:
            while (await self.ask(self.queue.of(namespace, id))).entries:
                async with self._lock.current():
                    entries = (await self.ask(self.queue.of(namespace, id))).entries
                    if erasures := await self.ask(self.queue.erasures()):
                        blocked = not await self._apply(erasures, tally)
                    else:
                        blocked = await self._deal_with(entries, tally)
                await self._wait(blocked=blocked)

    async def erase(self, tally: Tally) -> None:
        """Apply the erasures that wait, and deliver nothing. Raises as `page` does."""
        while erasures := await self.ask(self.queue.erasures()):
            async with self._lock.current():
                blocked = not await self._apply(erasures, tally)
            await self._wait(blocked=blocked)

    async def _erasures_beside(self, waiting: Waiting) -> list[QueuedErasure]:
        """Return the erasures that wait, of which those on the page are all if it is the last one."""
        return waiting.erasures if waiting.after_seq is None else await self.ask(self.queue.erasures())

    async def _apply(self, erasures: list[QueuedErasure], tally: Tally) -> bool:
        """Apply erasures in their order; tell whether all of them are, and nobody else was in the way."""
        for one in erasures:
            erased = await apply(self, one)
            if erased is None:
                return False
            tally.erased += erased
        return True

    async def _wait(self, *, blocked: bool) -> None:
        """Wait, if somebody else delivers some of the entries, or has died over it."""
        if blocked:
            await asyncio.sleep(self._backoff.pause())
        else:
            self._backoff.reset()

    async def _put_damaged_aside(self, entries: list[QueuedWrite], tally: Tally) -> int:
        if not entries:
            return 0
        tally.aside += entries
        return await self.ask(self.queue.put_damaged_aside(entries))

    async def _deal_with(self, entries: list[QueuedWrite], tally: Tally) -> bool:
        """Deliver entries, and tell whether somebody else is at some of them."""
        watermarks, broken = await self.ask(self.queue.watermarks(entry.group for entry in entries))
        for group, error in broken.items():
            one = next(one for one in entries if one.group == group)
            tally.aside += await self.ask(self.queue.put_aside_all_of(one, error))
        rest = [entry for entry in entries if entry.group not in broken]
        if not rest:
            return False
        page_delivery = PageDelivery(self, tally, watermarks)
        try:
            for wave in _waves(rest):
                await page_delivery.carry(wave)
        except StorageError:
            await page_delivery.finish()  # what is in is in
            raise
        await page_delivery.finish()
        return bool(page_delivery.blocked)

    async def ask(self, answer: Awaitable[T]) -> T:
        """Tell a failure of the queue's store from one of the target."""
        try:
            return await answer
        except StorageError as error:
            raise QueueUnreadable(self.queue, error) from None


def _waves(entries: list[QueuedWrite]) -> Iterator[list[QueuedWrite]]:
    """Cut entries, in their order, into runs in which no id comes twice."""
    wave: dict[str, QueuedWrite] = {}
    for entry in entries:
        if entry.group in wave:
            yield [*wave.values()]
            wave.clear()
        wave[entry.group] = entry
    yield [*wave.values()]
