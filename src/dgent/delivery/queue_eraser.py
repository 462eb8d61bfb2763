"""How an erasure gets to the target: it is applied before anything else is delivered, and what it takes never is."""

# Whoever applies one holds the lock of its `Deliverer`. An erasure passes three points, and a crash or a cancel between
# them leaves it in the queue, to be applied again:
#
# planned   one record for all erasures says who applies which; others wait for him, or for `LEASE` seconds
# dropped   of what was written before, each entry is dealt with by the record of its id, as if it had been delivered,
#           and then erased: so whoever has read it already does not write it. One that somebody is just writing is
#           waited for, as long as his plan holds
# applied   the target has erased, too: it is noted, and the erasure is taken off
#
# Whoever delivers looks for erasures behind each page that he reads. So he sees those that stand before an entry of the
# page, and what was written later gets there after them. Two that apply one erasure at once, as when one of them stood
# still for longer than his lease, meet in the target's own lock, before anything later is delivered.

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dgent.delivery.queued_erasure import GROUP
from dgent.delivery.watermark import LEASE, DeliveryPlan, Watermark
from dgent.erasure_request import Erased
from dgent.exceptions import Corrupt, VersionConflict

if TYPE_CHECKING:
    from dgent.delivery.deliverer import Deliverer
    from dgent.delivery.queue import Queue
    from dgent.delivery.queued_erasure import QueuedErasure
    from dgent.erasure_request import Erasure
    from dgent.store import Backend


async def apply(by: Deliverer, erasure: QueuedErasure) -> Erased | None:
    """Apply an erasure to the queue and to the target; None where somebody else is at it, or delivers what it takes.

    Raises:
        StorageError: the target failed.
        QueueUnreadable: the store of the queue did.
    """
    queue = by.queue
    record, now = await by.ask(queue.watermark(GROUP)), by.clock()
    if record.through >= erasure.seq:  # whoever applied it died before he took it off
        await by.ask(queue.take_off(erasure))
        return Erased()
    if _is_anothers(record, by.name, now):
        return None
    plan = DeliveryPlan(erasure.seq, 0, by.name, now + LEASE)
    try:
        record = await by.ask(queue.move(GROUP, record._replace(plan=plan)))
    except VersionConflict:
        return None
    dropped, left = await by.ask(drop(queue, erasure, by.name, now))
    if left:
        return None
    erased = await erase_in(by.target.within(erasure.namespace), erasure.erasure)
    try:
        await by.ask(queue.move(GROUP, record._replace(through=erasure.seq, plan=None), receipt=True))
    except VersionConflict:
        return None
    await by.ask(queue.take_off(erasure))
    return replace(erased, queued=dropped)


async def drop(queue: Queue, erasure: QueuedErasure, name: str, now: float) -> tuple[int, bool]:
    """Erase what waits from before an erasure, and what was set aside; return how much, and whether anything is left.

    What somebody else is writing is left.
    """
    dropped, left = await queue.erase_set_aside(erasure), False
    async for page in queue.pages():
        for entry in page.entries:
            if entry.seq > erasure.seq or not erasure.takes(entry):
                continue
            if await _deal_with(queue, entry.group, entry.seq, name, now):
                dropped += await queue.erase_entry(entry)
            else:
                left = True
    await queue.sweep()  # what was delivered lies there until then
    return dropped, left


async def _deal_with(queue: Queue, group: str, seq: int, name: str, now: float) -> bool:
    """Note that an entry is dealt with, unless somebody else is writing it; tell whether nobody writes it any more."""
    try:
        known = await queue.watermark(group)
    except Corrupt:
        await queue.drop_damaged_watermark(group)
        known = Watermark()
    if known.through >= seq:
        return True
    if _is_anothers(known, name, now):
        return False
    try:
        await queue.move(group, Watermark(through=seq, row=known.row), receipt=True)
    except VersionConflict:
        return False
    return True


async def erase_in(target: Backend, asked: Erasure, *, vacuum: bool = False) -> Erased:
    """Erase in a store what is asked for."""
    return await target.erase(prefix=asked.prefix, everything=asked.prefix is None, below=asked.below, vacuum=vacuum)


def _is_anothers(record: Watermark, name: str, now: float) -> bool:
    """Tell whether somebody else has planned something that he may be doing."""
    return record.plan is not None and record.plan.by != name and now < record.plan.until
