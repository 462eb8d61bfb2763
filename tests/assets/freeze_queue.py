"""Freeze what waits in the outbox, as this version keeps it: `python tests/assets/freeze_queue.py 2`.

Format 2 names the queue of a memory by its namespace alone. Never make one again for a format that was released.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from dgent.datum import Datum
from dgent.delivery import KnownTarget, Queue, QueuedWrite, Version
from dgent.delivery.watermark import DeliveryPlan
from dgent.memory.sql.backend import SqlBackend
from dgent.settings import Settings
from dgent.sql import Database, open_database

HERE = Path(__file__).resolve().parent
LONG_AGO = 1e6


def entry(namespace: str, id: str, n: int | None, *, base: int = 0) -> QueuedWrite:
    """Return a write as a transaction leaves it that saw a version of the id."""
    datum = None if n is None else Datum(id, b"%d" % n, float(n), None, {"n": n})
    return QueuedWrite(namespace, id, datum, None, LONG_AGO, KnownTarget(LONG_AGO, 0, Version(base, 0)))


async def fill(database: Database) -> None:
    """Leave what a program leaves that dies between the commit and the delivery, and in the middle of one."""
    store = SqlBackend(database)
    one, two = Queue(store, "outbox:one"), Queue(store, "outbox:two")
    for queue in (one, two):
        await queue.prepare()
    # Delivered, and the next one planned: it may be in, or not.
    first, second, third = await one.append([entry("one", "planned", n) for n in (1, 2, 3)])
    await _deal_with(one, first, DeliveryPlan(second.seq, 1, "a program that died", time.time() - 60))
    await one.forget([first])
    # Dealt with, and not taken off yet.
    (done,) = await one.append([entry("one", "done", 1)])
    await _deal_with(one, done, None)
    await one.append([entry("one", "done", 2), entry("one", "deleted", None, base=1)])
    await one.append([entry("one", "many", n) for n in range(1, 71)])  # more than two pages
    refused = entry("one", "refused", 1).keyed()
    await one.put_aside([QueuedWrite(*[getattr(refused, name) for name in _FIELDS], reason="it closes a cycle")])
    await store.within(f".dgent/queue/{one.segment}").put(Datum("0" * 32 + "-damaged", b"no entry", 1.0))
    await two.append([entry("two", "planned", 9)])
    assert third.seq > second.seq


_FIELDS = ("namespace", "id", "datum", "ttl", "at", "known", "key", "seq")


async def _deal_with(queue: Queue, entry: QueuedWrite, plan: DeliveryPlan | None) -> None:
    """Write down that an entry is in, as version 1."""
    watermark = await queue.watermark(entry.group)
    await queue.move(entry.group, watermark._replace(version=1, seq=0, through=entry.seq, plan=plan))


async def freeze(number: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.db"
        database = open_database(Settings(database_url=f"sqlite:///{source}"))
        try:
            await fill(database)
        finally:
            await database.close()
        connection = sqlite3.connect(source)
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("VACUUM INTO ?", (str(HERE / f"queue-{number}.db"),))  # refuses a file that is there
        connection.close()


if __name__ == "__main__":
    asyncio.run(freeze(sys.argv[1]))
