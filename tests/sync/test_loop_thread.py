"""Guests of a loop: a step of one of its tasks, on another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from dgent.exceptions import StoreClosed, WrongLoop
from dgent.runtime.event_loop import on_own_thread
from dgent.sync.loop_thread import LoopThread
from dgent.sync.road import Road
from dgent.testing.contract_base import patience


@pytest.fixture
def road() -> Iterator[Road]:
    thread = LoopThread("the loop of a test")
    road = Road(thread)
    road.read(here)  # the first one is no guest
    yield road
    thread.end()


async def here() -> threading.Thread:
    return threading.current_thread()


def read_as_guest(road: Road, work: Callable[[], Awaitable[Any]]) -> Any:
    road._rest = 0
    return road.read(work)


def test_what_does_not_wait_runs_on_the_callers_thread(road: Road) -> None:
    assert read_as_guest(road, here) is threading.current_thread()
    assert road.call(here) is not threading.current_thread()
    assert asyncio._get_running_loop() is None


def test_what_waits_goes_on_on_the_loop(road: Road) -> None:
    async def work() -> list[threading.Thread]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        begun = threading.current_thread()
        async with asyncio.timeout(patience(10)):
            await asyncio.sleep(0.01)
        assert (asyncio.current_task(), asyncio.get_running_loop()) == (task, loop)
        return [begun, threading.current_thread()]

    begun, ended = read_as_guest(road, work)
    assert begun is threading.current_thread()
    assert ended is not begun
    assert road._missed > 0


def test_what_a_guest_leaves_behind_wakes_the_loop(road: Road) -> None:
    rung = {name: threading.Event() for name in ("soon", "later", "task")}

    async def ring(event: threading.Event) -> None:
        event.set()

    kept: list[Any] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(rung["soon"].set)
        loop.call_later(0.01, rung["later"].set)
        kept.append(loop.create_task(ring(rung["task"])))

    read_as_guest(road, work)
    assert all(event.wait(patience(10)) for event in rung.values())


def test_what_must_stay_on_one_thread_goes_over_first(road: Road) -> None:
    async def work() -> threading.Thread:
        await on_own_thread()
        return await here()

    assert read_as_guest(road, work) is not threading.current_thread()


def test_an_error_is_the_callers(road: Road) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def leave() -> None:
        raise SystemExit

    for error, work in ((ZeroDivisionError, fail), (SystemExit, leave)):
        with pytest.raises(error):
            read_as_guest(road, work)
        with pytest.raises(error):
            road.call(work)
    assert read_as_guest(road, here) is threading.current_thread()


def test_a_guest_that_calls_again_is_told(road: Road) -> None:
    async def work() -> None:
        road.read(here)

    with pytest.raises(WrongLoop):
        read_as_guest(road, work)


def test_many_guests_and_calls_take_turns(road: Road) -> None:
    inside: list[int] = []

    async def work() -> None:
        inside.append(1)
        assert len(inside) == 1
        inside.pop()

    def calls() -> None:
        for n in range(200):
            (read_as_guest if n % 2 else Road.call)(road, work)

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == []


def test_after_the_end_nobody_waits(road: Road) -> None:
    caught: list[BaseException] = []

    def forever() -> None:
        try:
            road.call(asyncio.Event().wait)
        except StoreClosed as error:
            caught.append(error)

    thread = threading.Thread(target=forever)
    thread.start()
    while not road.call(_others):
        pass
    road.thread.end()
    thread.join()
    assert len(caught) == 1
    for call in (road.call, road.read):
        with pytest.raises(StoreClosed):
            call(here)


async def _others() -> int:
    return len(asyncio.all_tasks()) - 1
