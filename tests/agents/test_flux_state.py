"""Flux over State (F5): in every store the state is the fold of the events as processed, and it outlives a crash."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.processes import Child

from dgent.agents import Flux, StateFunctor
from dgent.agents.flow import FluxState

from .state_stores import Kept, add, kept_in, summary

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path


async def numbers(many: int) -> AsyncIterator[int]:
    for n in range(many):
        await asyncio.sleep(0)
        yield n


@pytest.mark.parametrize("buffer", [0, 3])
async def test_l_f5_events_and_perturbations_make_one_fold(kept: Kept, buffer: int) -> None:
    order: list[int] = []

    def logged(x: int, state: Any) -> tuple[int, Any]:
        order.append(x)
        return add(x, state)

    functor = kept.functor()
    flux = Flux.lift(functor.lift_logic(logged), buffer=buffer)
    outputs, answers = {}, {}

    async def perturb(name: int) -> None:
        for n in range(name, name + 4):
            answers[n] = await flux.invoke(n)
            await asyncio.sleep(0)

    async def consume() -> None:
        event = count()
        async for output in flux.start(numbers(8)):
            outputs[next(event)] = output

    await asyncio.gather(consume(), perturb(100), perturb(200))
    assert sorted(order) == [*range(8), *range(100, 104), *range(200, 204)]
    assert [n for n in order if n < 100] == list(range(8))
    sums = dict(zip(order, accumulate(order), strict=True))
    assert {**outputs, **answers} == sums
    assert summary(await functor.memory.load()) == (sum(order), order)


async def test_l_f5_after_a_stop_in_the_midst_the_state_is_that_of_a_prefix(kept: Kept) -> None:
    functor = kept.functor()
    flux = Flux.lift(functor.lift_logic(add), buffer=2)
    outputs: list[int] = []

    async def consume() -> None:
        outputs.extend([output async for output in flux.start(numbers(1_000_000))])

    consumer = asyncio.create_task(consume())
    while not (await functor.memory.load()).seen:
        await asyncio.sleep(0)
    await flux.stop()
    await consumer
    assert flux.state is FluxState.STOPPED
    await flux.invoke(-1)  # waits for a commit that the stop left under way
    n, seen = summary(await functor.memory.load())
    assert n == sum(seen)
    assert seen == [*range(len(seen) - 1), -1]
    assert len(seen) - 1 - len(outputs) in {0, 1}, "only the event in work may be in the state and not handed out"


def flow_without_end(pipe: Connection, path: Path) -> None:
    """Let events flow into a counter, and say each output after it was handed out."""

    async def main() -> None:
        async with kept_in("sqlite", str(path)) as kept:
            async for output in Flux.lift(counter(kept).lift_logic(one_more)).start(numbers(1_000_000)):
                pipe.send(output)

    asyncio.run(main())


def counter(kept: Kept) -> StateFunctor[int]:
    return StateFunctor(int, kept.store, 0, "counter")


def one_more(_: int, n: int) -> tuple[int, int]:
    return n + 1, n + 1


async def test_l_f5_a_crash_loses_no_event_that_was_handed_out(tmp_path: Path, full_size: bool) -> None:
    chance, before = random.Random(0), 0
    for _ in range(200 if full_size else 5):
        child = Child(flow_without_end, tmp_path)
        heard = [child.answer() for _ in range(chance.randint(1, 20))]
        time.sleep(chance.random() * 0.01)
        heard += child.kill()
        assert heard == list(range(before + 1, before + 1 + len(heard)))
        async with kept_in("sqlite", str(tmp_path)) as kept:
            before = await counter(kept).memory.load()
        assert before - heard[-1] in {0, 1}, "the state holds what was handed out, and at most the event in work"
