"""One store for many loops: who owns it, what a cancel does, and loops that end."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.sync.stores import on_a_thread

from dgent.datum import Datum
from dgent.exceptions import StoreClosed, WrongLoop
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.store import Backend
from dgent.sync import anywhere
from dgent.testing.contract_base import patience


class Slow(MemoryBackend):
    """Waits in `put` until it is let go, and notes on which loop and how that ended."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[Any] = []
        self.cancelled = 0
        self.begun: asyncio.Event | None = None

    async def put(self, datum: Datum, **named: Any) -> Datum:
        self.loops.append(asyncio.get_running_loop())
        try:
            await asyncio.sleep(patience(60))
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # what it has to clean up
            self.cancelled += 1
            raise
        raise AssertionError

    async def count(self, *, prefix: str | None = None) -> int:
        self.loops.append(asyncio.get_running_loop())
        return await super().count(prefix=prefix)


def test_many_loops_use_one_store(tmp_path: Path) -> None:
    store = anywhere(SQLiteBackend(tmp_path / "x.db"))
    assert isinstance(store, Backend)

    async def work(n: int) -> bool:
        put = await store.put(Datum(f"{n}", b"x", 1.0))
        return await store.get(put.id) == put

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda n: asyncio.run(work(n)), range(16)))
    assert asyncio.run(store.within("default").count()) == 16
    asyncio.run(store.close())
    asyncio.run(store.close())
    with pytest.raises(StoreClosed):
        asyncio.run(store.count())
    assert not asyncio.run(store.is_available())


async def test_the_loop_that_runs_here_owns_it() -> None:
    backend = Slow()
    store = anywhere(backend)
    await store.count()
    await asyncio.to_thread(lambda: asyncio.run(store.count()))
    assert backend.loops == [asyncio.get_running_loop()] * 2


async def test_a_cancel_is_passed_on_and_its_end_awaited() -> None:
    backend = Slow()
    store = await asyncio.to_thread(anywhere, backend)
    call = asyncio.create_task(store.put(Datum("a", b"x", 1.0)))
    while not backend.loops:
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert backend.cancelled == 1
    assert backend.loops[0] is not asyncio.get_running_loop()
    await store.close()


def test_a_loop_that_does_not_run_or_has_ended_is_an_error() -> None:
    loop = asyncio.new_event_loop()

    async def make() -> Any:
        return anywhere(MemoryBackend())

    store = loop.run_until_complete(make())
    with pytest.raises(WrongLoop, match="does not run"):
        asyncio.run(store.count())
    loop.close()
    with pytest.raises(StoreClosed):
        asyncio.run(store.count())


def test_a_call_under_way_hears_that_the_loop_has_ended() -> None:
    backend = Slow()
    loop = asyncio.new_event_loop()
    heard: list[BaseException] = []

    async def own() -> None:
        store = anywhere(backend)

        def call() -> None:
            try:
                asyncio.run(store.put(Datum("a", b"x", 1.0)))
            except StoreClosed as error:
                heard.append(error)

        task = loop.run_in_executor(None, call)
        while not backend.loops:
            await asyncio.sleep(0.001)
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
        await task

    loop.run_until_complete(own())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert len(heard) == 1


def test_a_close_from_its_own_loop_is_refused() -> None:
    heard: list[type[BaseException]] = []

    class Closing(MemoryBackend):
        async def count(self, *, prefix: str | None = None) -> int:
            try:
                await store.close()
            except WrongLoop as error:
                heard.append(type(error))
            return 0

    store = on_a_thread(lambda: anywhere(Closing()))
    asyncio.run(store.count())
    asyncio.run(store.close())
    assert heard == [WrongLoop]
    with suppress(StoreClosed):
        asyncio.run(store.count())
