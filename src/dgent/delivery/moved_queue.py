"""A queue under another name: what waits under the former one is moved behind what waits under the new one.

Entries get other places in the order there, so what is known of an id is carried over: the version that was reached,
and a plan with the new place of its entry. Under the former name all of it counts as dealt with, by compare-and-swap,
so that a program which goes on delivering that writes nothing twice. A page is moved whole or not at all, so whoever is
interrupted begins again with the first one.

What waits under the new name of the same id, and was written later, goes behind. Not so what is being delivered there,
or was: what is moved is put over that, as over an earlier write of the same queue.
"""

from __future__ import annotations

import time
from dataclasses import replace
from heapq import merge
from itertools import dropwhile
from typing import TYPE_CHECKING

from dgent.delivery.queue_eraser import drop
from dgent.delivery.watermark import Watermark
from dgent.exceptions import VersionConflict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dgent.delivery.queue import Queue
    from dgent.delivery.queued_write import QueuedWrite


async def move_page(former: Queue, queue: Queue) -> bool:
    """Move a page of what waits, else of what was set aside, and tell whether there was one.

    Both queues are joined to one transaction.

    Raises:
        VersionConflict: somebody delivers the former one just now.
        StorageError: the store failed.
    """
    await _move_erasures(former, queue)
    if page := await former.page():
        await former.put_damaged_aside(page.damaged)
        await _move(former, queue, page.entries)
        return True
    aside = await former.set_aside()
    if aside:
        await queue.put_aside(aside)
    for entry in aside:
        await former.discard(entry.key)
    return bool(aside)


async def _move_erasures(former: Queue, queue: Queue) -> None:
    """Move erasures before what waits behind them; what they take under the former name goes."""
    for one in await former.erasures():
        _, left = await drop(former, one, "", time.time())
        if left:
            raise VersionConflict(one.key, 0, 0)
        await queue.append_erasure(one)
        await former.take_off(one)


async def _move(former: Queue, queue: Queue, entries: Sequence[QueuedWrite]) -> None:
    watermarks, broken = await former.watermarks(entry.group for entry in entries)
    for group, error in broken.items():
        await former.put_aside_all_of(next(one for one in entries if one.group == group), error)
    entries = [entry for entry in entries if entry.group not in broken]
    waiting = [one for one in entries if one.seq > watermarks.get(one.group, Watermark()).through]
    merged = _merged(waiting, await _later(queue, waiting))
    taken = await queue.append([replace(one, seq=0) for one in merged])
    await _carry(watermarks, queue, {old.seq: new.seq for old, new in zip(merged, taken, strict=True) if old.key})
    receipts: dict[str, Watermark] = {}
    for group, last in {entry.group: entry.seq for entry in entries}.items():
        dealt_with = watermarks.get(group, Watermark())
        receipts[group] = dealt_with._replace(through=max(last, dealt_with.through), plan=None)
    await former.move_each(receipts, receipt=True)
    await former.forget(entries)


async def _later(queue: Queue, entries: Sequence[QueuedWrite]) -> dict[str, list[QueuedWrite]]:
    """Take off what waits under the new name of the same ids, from the first that was written later on; by group."""
    if not entries or not await queue.is_later(min(one.at for one in entries)):
        return {}
    oldest = {one.group: one for one in reversed(entries)}
    whole, broken = await queue.watermarks(oldest)
    later: dict[str, list[QueuedWrite]] = {}
    for group, first in oldest.items():
        known = whole.get(group, Watermark())
        newer = [] if known.plan or group in broken else await _behind(queue, first, known)
        if newer:
            await queue.move(group, known._replace(through=newer[-1].seq))
            await queue.forget(newer)
            later[group] = [replace(one, key="") for one in newer]
    return later


async def _behind(queue: Queue, first: QueuedWrite, known: Watermark) -> list[QueuedWrite]:
    """Return what waits of an id, from what was written later than an entry on."""
    waiting = [one async for page in queue.pages(one=(first.namespace, first.id)) for one in page.entries]
    return [*dropwhile(lambda one: one.at <= first.at, [one for one in waiting if one.seq > known.through])]


def _merged(waiting: Sequence[QueuedWrite], later: Mapping[str, Sequence[QueuedWrite]]) -> list[QueuedWrite]:
    """Return both in the order in which they were written; each keeps its own."""
    merged = [one for one in waiting if one.group not in later]
    for group, newer in later.items():
        merged += merge([one for one in waiting if one.group == group], newer, key=lambda one: one.at)
    return merged


async def _carry(watermarks: Mapping[str, Watermark], queue: Queue, places: Mapping[int, int]) -> None:
    """Write down how far ids have come, unless they have come as far under the new name, or are delivered there."""
    whole, broken = await queue.watermarks(watermarks)
    carried: dict[str, Watermark] = {}
    for group, watermark in watermarks.items():
        known, plan = whole.get(group, Watermark()), watermark.plan
        moved = None if plan is None or plan.entry not in places else plan._replace(entry=places[plan.entry])
        version, seq = max((known.version, known.seq), (watermark.version, watermark.seq))
        ahead = known._replace(version=version, seq=seq, plan=moved)
        if group not in broken and known.plan is None and ahead != known:
            carried[group] = ahead
    await queue.move_each(carried)
