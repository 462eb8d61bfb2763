"""What runs on a disk that fails: it puts, and says of each put what it heard (see `failing.py`)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text
from tests.faults.stores import make, sqlite, sync_engine

from dgent.datum import Datum
from dgent.exceptions import DgentError, OutcomeUnknown
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql import writes
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.operations import Put
from dgent.sql.errors import translated

Arm = Callable[[], None]
Say = Callable[..., Any]
MANY = 8
"""Writes after the disk was told to fail."""


def datum(id: str) -> Datum:
    return Datum(id, id.encode() * 400, 1.0)


async def told(say: Say, id: str, write: Callable[[], Awaitable[object]]) -> None:
    """Write, and say what came of it."""
    try:
        await write()
    except OutcomeUnknown:
        say("unknown", id)
    except DgentError as error:
        say("error", id, type(error).__name__)
    else:
        say("ack", id)


async def one_by_one(kind: str, path: str, arm: Arm, say: Say) -> None:
    store = make(kind, Path(path))
    await told(say, "first", lambda: store.put(datum("first")))
    arm()
    for n in range(MANY):
        await told(say, f"k{n}", partial(store.put, datum(f"k{n}")))


async def together(path: str, arm: Arm, say: Say) -> None:
    """Puts of several tasks, which share a commit."""
    store = make("sqlite", Path(path))
    await told(say, "first", lambda: store.put(datum("first")))
    arm()
    for n in range(MANY):
        ids = [f"k{n}-{i}" for i in range(3)]
        await asyncio.gather(*(told(say, id, partial(store.put, datum(id))) for id in ids))


async def in_transactions(path: str, arm: Arm, say: Say) -> None:
    """ORM transactions; a plain put now and then."""
    store = SQLiteBackend(path)
    await told(say, "first", lambda: store.put(datum("first")))

    async def write(id: str) -> None:
        async with store.database.transaction() as tx:
            await store.joined(tx).put(datum(id))

    async def plainly(id: str) -> None:
        await store.put(datum(id))

    await told(say, "second", lambda: write("second"))
    arm()
    for n in range(MANY):
        put = write if n % 4 != 3 else plainly
        await told(say, f"k{n}", partial(put, f"k{n}"))


async def synchronously(path: str, arm: Arm, say: Say) -> None:
    """A program without an event loop of its own, by the synchronous engine."""
    async with sqlite(Path(path)) as store:
        await told(say, "first", lambda: store.put(datum("first")))
    engine = sync_engine(path)

    async def write(id: str) -> None:
        with translated(path), engine.begin() as connection:
            writes.apply_each(connection, "default", [[Put(datum(id))]], time.time)

    with engine.connect() as kept:  # so that no connection is the last, which would checkpoint
        kept.execution_options(dgent_read=True).execute(text("SELECT 1"))
        arm()
        for n in range(MANY):
            await told(say, f"k{n}", partial(write, f"k{n}"))
        os.kill(os.getpid(), signal.SIGKILL)  # before it is closed, which would checkpoint


async def journal(path: str, arm: Arm, say: Say) -> None:
    """A JSONL file, rewritten in between."""
    store = JSONLBackend(path)
    await told(say, "first", lambda: store.put(datum("first")))
    arm()
    for n in range(MANY):
        await told(say, f"k{n}", partial(store.put, datum(f"k{n}")))
        if n == MANY // 2:
            await told(say, "purged", lambda: store.purge("first"))


WRITERS: dict[str, Callable[[str, Arm, Say], Awaitable[None]]] = {
    "one-by-one": lambda path, arm, say: one_by_one("sqlite", path, arm, say),
    "together": together,
    "in-transactions": in_transactions,
    "synchronously": synchronously,
    "jsonl": journal,
}
