"""The first format of a queue: entries with marks of values instead of watermarks, under other names. It is only read.

What lies there is appended to the queue, in its order, and erased: in one transaction where the store has them, else so
that a crash in between only makes it be appended again, under the same keys.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from dgent.delivery.queued_write import DIGITS, PAGE, RESERVED, KnownTarget, QueuedWrite, damaged, datum_in, group_of
from dgent.query import Query
from dgent.sql import SqlStore

if TYPE_CHECKING:
    from dgent.datum import Datum
    from dgent.delivery.queue import Queue
    from dgent.store import Backend


async def take_over_format_1(queue: Queue) -> None:
    """Move what the first format left in the store of a queue into it; there may be nothing.

    Raises:
        StorageError: the store failed; what was not moved is there.
    """
    names = [f"{RESERVED}/spill/{queue.segment}", f"{RESERVED}/aside/{queue.segment}"]
    log, aside = (queue.store.within(name) for name in names)
    if not await log.list(limit=1) and not await _old(aside):
        return
    if not isinstance(queue.store, SqlStore):
        await _move(queue, log, aside)
        return
    async with queue.store.database.transaction() as transaction:
        inside = queue.store.joined(transaction)
        await _move(queue.over(inside), *(inside.within(name) for name in names))


async def _move(queue: Queue, log: Backend, aside: Backend) -> None:
    while page := await log.query(Query(order="seq", limit=PAGE)):
        entries = [_entry(one) for one in page if one.content]
        await queue.append([entry for entry in entries if entry.raw is None])
        if broken := [entry for entry in entries if entry.raw is not None]:
            await queue.put_aside(broken)
        for one in page:
            await log.purge(one.id)
    while records := await _old(aside):
        await queue.put_aside([_entry(one) for one in records])
        for one in records:
            await aside.purge(one.id)
    await log.compact()  # what was taken off before


async def _old(aside: Backend) -> list[Datum]:
    """Return records of the first format, which are the oldest; their keys begin with no digest."""
    return [one for one in await aside.list(limit=PAGE, order="seq") if len(one.id.partition("-")[0]) < DIGITS]


def _entry(record: Datum) -> QueuedWrite:
    line, _, content = record.content.partition(b"\n")
    try:
        header = orjson.loads(line)
        key = f"{group_of(header['namespace'], header['id'])}-{record.id}"
        since, _ = header.pop("since"), header.pop("after")
        return QueuedWrite(key=key, known=KnownTarget(since), datum=datum_in(header, content), **header)
    except (ValueError, TypeError, KeyError, AttributeError):
        broken = damaged(record.id, 0, "it is no entry of a spill", record.content, record.created_at)
        return replace(broken, key=f"{'0' * DIGITS}-{record.id}")
