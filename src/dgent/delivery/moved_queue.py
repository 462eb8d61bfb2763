"""A queue under another name: all that waits under the former one is moved behind what waits under the new one.

Entries get other places in the order there, so what is known of an id is carried over: the version that was reached,
and a plan with the new place of its entry. Under the former name all of it counts as dealt with, by compare-and-swap,
so that a program which goes on delivering that writes nothing twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dgent.delivery.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dgent.delivery.queue import Queue
    from dgent.delivery.queued_write import QueuedWrite


async def move_all(former: Queue, queue: Queue) -> None:
    """Move everything, what was set aside, too; both queues are joined to one transaction.

    Raises:
        VersionConflict: somebody delivers the former one just now.
        StorageError: the store failed.
    """
    while page := await former.page():
        await former.put_damaged_aside(page.damaged)
        await _move(former, queue, page.entries)
    while aside := await former.set_aside():
        await queue.put_aside(aside)
        for entry in aside:
            await former.discard(entry.key)


async def _move(former: Queue, queue: Queue, entries: Sequence[QueuedWrite]) -> None:
    watermarks, broken = await former.watermarks(entry.group for entry in entries)
    for group, error in broken.items():
        await former.put_aside_all_of(next(one for one in entries if one.group == group), error)
    entries = [entry for entry in entries if entry.group not in broken]
    waiting = [one for one in entries if one.seq > watermarks.get(one.group, Watermark()).through]
    taken = await queue.append([replace(one, seq=0) for one in waiting])
    await _carry(watermarks, queue, {old.seq: new.seq for old, new in zip(waiting, taken, strict=True)})
    for group, last in {entry.group: entry.seq for entry in entries}.items():
        dealt_with = watermarks.get(group, Watermark())
        through = max(last, dealt_with.through)
        await former.move(group, dealt_with._replace(through=through, plan=None), receipt=True)
    await former.forget(entries)


async def _carry(watermarks: Mapping[str, Watermark], queue: Queue, places: Mapping[int, int]) -> None:
    """Write down how far ids have come, where that is not known already under the new name."""
    whole, broken = await queue.watermarks(watermarks)
    for group, watermark in watermarks.items():
        plan = watermark.plan
        moved = None if plan is None or plan.entry not in places else plan._replace(entry=places[plan.entry])
        if group not in whole and group not in broken and (watermark.version or moved):
            await queue.move(group, watermark._replace(through=0, plan=moved, row=0))
