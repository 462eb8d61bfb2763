"""A greenlet that is kept does what a new one for each call does."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from sqlalchemy.util import await_only

from dgent.sql.reusable_greenlet import ReusableGreenlet


async def _double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def _waits(number: int) -> int:
    return await_only(_double(number)) + await_only(_double(1))


async def test_it_waits_returns_and_raises() -> None:
    runner = ReusableGreenlet()

    def fails(number: int) -> None:
        _waits(number)
        raise KeyError(number)

    for number in range(3):
        assert await runner.run(_waits, number) == number * 2 + 2
        assert await runner.run(str, number) == str(number)
        with pytest.raises(KeyError, match=str(number)):
            await runner.run(fails, number)


async def test_a_cancellation_reaches_the_function() -> None:
    runner = ReusableGreenlet()
    seen: list[str] = []

    def waits_for_ever(name: str) -> None:
        try:
            await_only(asyncio.sleep(60))
        except asyncio.CancelledError:
            seen.append(name)
            raise

    task = asyncio.create_task(runner.run(waits_for_ever, "cancelled"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]
    assert await runner.run(_waits, 1) == 4


async def test_calls_at_the_same_time_do_not_meet() -> None:
    runner = ReusableGreenlet()
    assert await asyncio.gather(*(runner.run(_waits, n) for n in range(10))) == [n * 2 + 2 for n in range(10)]


async def test_it_keeps_nothing_of_a_call() -> None:
    class Thing:
        pass

    runner = ReusableGreenlet()
    known: list[weakref.ref[Any]] = []

    def makes(argument: Thing) -> Thing:
        known.append(weakref.ref(argument))
        thing = Thing()
        known.append(weakref.ref(thing))
        await_only(_double(1))
        return thing

    await runner.run(makes, Thing())
    gc.collect()
    assert [reference() for reference in known] == [None, None]


def test_each_thread_gets_its_own() -> None:
    runner = ReusableGreenlet()
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(runner.run(_waits, 1)) == 4
    assert asyncio.run(asyncio.to_thread(lambda: loop.run_until_complete(runner.run(_waits, 2)))) == 6
    loop.close()
