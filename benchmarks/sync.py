"""The synchronous face beside the asynchronous verb of the same storage: one caller, on a thread without a loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import dgent.sync
from benchmarks.measure import Case
from dgent.datum import Datum
from dgent.sync import SyncStorage

BUDGET = 0.5  # twice the time


def _fresh(count: int, size: int) -> list[Datum]:
    return [Datum.create(b"x" * size) for _ in range(count)]


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases. The floor runs on the loop that the storage has anyway."""
    storage = await asyncio.to_thread(dgent.sync.open, folder / "sync.db")
    beside = storage._target
    known = [datum.id for datum in await asyncio.to_thread(storage.memory.put_many, _fresh(3000, size))]

    async def gets() -> int:
        for id in known:
            await beside.memory.get(id)
        return len(known)

    async def puts() -> int:
        for datum in _fresh(300, size):
            await beside.memory.put(datum)
        return 300

    async def blocks() -> int:
        for datum in _fresh(100, size):
            async with beside.transaction() as tx:
                await tx.memory.put(datum)
        return 100

    rows = (("get", _gets(storage, known), gets), ("put", _puts(storage, size), puts))
    for name, ours, theirs in (*rows, ("transaction with one put", _blocks(storage, size), blocks)):
        yield Case(f"sync {name}, {size} B", "the same, awaited", BUDGET, _on_a_thread(ours), _on_loop(storage, theirs))
    await asyncio.to_thread(storage.close)


def _on_a_thread(work: Callable[[], int]) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        return await asyncio.to_thread(work)

    return run


def _on_loop(storage: SyncStorage, work: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
    return _on_a_thread(lambda: storage._road.call(work))


def _gets(storage: SyncStorage, known: list[str]) -> Callable[[], int]:
    return lambda: sum(storage.memory.get(id) is not None for id in known)


def _puts(storage: SyncStorage, size: int) -> Callable[[], int]:
    return lambda: sum(storage.memory.put(datum).version for datum in _fresh(300, size))


def _blocks(storage: SyncStorage, size: int) -> Callable[[], int]:
    def run() -> int:
        for datum in _fresh(100, size):
            with storage.transaction() as tx:
                tx.memory.put(datum)
        return 100

    return run
