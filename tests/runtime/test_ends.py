"""Locks and tasks whose loop is closed, or who are ended, while others wait for them."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from dgent.exceptions import StoreClosed
from dgent.runtime.background_task import BackgroundTask
from dgent.runtime.fifo_lock import FIFOLock
from dgent.runtime.per_loop_lock import PerLoopLock
from dgent.testing.contract_base import patience


def test_the_lock_passes_over_a_loop_that_was_closed_with_the_lock_on_its_way() -> None:
    lock, one, other = FIFOLock(), asyncio.new_event_loop(), asyncio.new_event_loop()
    one.run_until_complete(lock.acquire())
    waiting = other.create_task(lock.acquire())
    other.run_until_complete(asyncio.sleep(0))
    lock.release()
    other.close()

    async def in_turn() -> None:
        for _ in range(3):
            async with asyncio.timeout(patience(5)):
                await lock.acquire()
            lock.release()

    one.run_until_complete(in_turn())
    one.close()
    assert not waiting.done()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would complain of it


def test_a_lock_for_each_loop_lets_go_of_loops_that_were_closed() -> None:
    lock = PerLoopLock()

    async def hold() -> None:
        async with lock.current():
            await asyncio.sleep(0)

    async def contend() -> weakref.ref[asyncio.AbstractEventLoop]:
        await asyncio.gather(hold(), hold())
        return weakref.ref(asyncio.get_running_loop())

    first = asyncio.run(contend())
    last = asyncio.run(contend())
    gc.collect()
    assert first() is None
    assert last() is not None
    assert len(lock._locks) == 1


async def test_who_awaits_work_that_is_ended_is_told_so_and_not_cancelled() -> None:
    work = BackgroundTask(lambda: asyncio.sleep(patience(60)), lambda error: None)
    waiting = asyncio.create_task(work.done())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await work.end()
    with pytest.raises(StoreClosed):
        await waiting


async def test_a_cancel_of_who_awaits_work_is_his_alone() -> None:
    go = asyncio.Event()
    work = BackgroundTask(go.wait, lambda error: None)
    waiting, other = asyncio.create_task(work.done()), asyncio.create_task(work.done())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    assert await other
