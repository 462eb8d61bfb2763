"""An invoke() while it flows: its turn, its result, and the flux that invokes itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dgent.agents import Agent, Flux, FluxAgent, Id
from dgent.agents.flow import FluxState
from dgent.exceptions import FluxStopped, ReentrantInvoke

from .streams import after, collected, double, events, never
from .virtual_clock import run

# Perturbations


def test_l_f3_a_perturbation_goes_before_the_event_that_waits() -> None:
    order: list[Any] = []

    async def main() -> list[Any]:
        flux = Flux.lift(after(10, lambda event: order.append(event) or event))
        consumer = asyncio.create_task(collected(flux.start(events([1, 2]))))
        await asyncio.sleep(0.5)
        answers = await asyncio.gather(*(flux.invoke(name) for name in "abc"))
        assert answers == list("abc")
        return await consumer

    assert run(main()) == [1, 2]
    assert order == ["a", "b", "c", 1, 2]


def test_l_f2_stop_sends_away_who_waits_and_lets_who_is_in_work_finish() -> None:
    async def main() -> None:
        flux = Flux.lift(after(10))
        consumer = asyncio.create_task(collected(flux.start(events([1]))))
        calls = [asyncio.create_task(flux.invoke(name)) for name in "abc"]
        await asyncio.sleep(5)
        calls[1].cancel()
        await flux.stop()
        assert asyncio.get_running_loop().time() == 5
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert first == "a"
        assert isinstance(second, asyncio.CancelledError)
        assert isinstance(third, FluxStopped)
        assert await consumer == []
        assert await flux.invoke("d") == "d"

    run(main())


def test_l_f3_a_caller_who_leaves_as_the_turn_comes_passes_it_on() -> None:
    async def main() -> None:
        flux = Flux.lift(after(1))
        first, second, third = (asyncio.create_task(flux.invoke(name)) for name in "abc")
        await first
        second.cancel()
        assert await third == "c"
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await flux.invoke("d") == "d"

    run(main())


def test_drain_waits_for_who_waits_in_invoke() -> None:
    async def main() -> None:
        flux = Flux.lift(after(10))
        consumer = asyncio.create_task(collected(flux.start(never())))
        calls = [asyncio.create_task(flux.invoke(name)) for name in "abc"]
        await asyncio.sleep(1)
        await flux.drain()
        assert [call.done() for call in calls] == [True, True, True]
        assert await consumer == []

    run(main())


def test_the_consumer_may_perturb_in_its_loop() -> None:
    async def main() -> list[Any]:
        flux = Flux.lift(Agent.from_function(double))
        return [(output, await flux.invoke(output)) async for output in flux.start(events([1, 2]))]

    assert run(main()) == [(2, 4), (4, 8)]


# Re-entrance


def test_an_agent_that_invokes_its_own_flux_is_told() -> None:
    async def itself(event: str) -> str:
        match event:
            case "direct":
                return await flux.invoke("inner")
            case "in a task":
                return await asyncio.wait_for(asyncio.create_task(flux.invoke("inner")), 5)
            case "around another":
                return await other.invoke("back")
            case "another":
                return await plain.invoke("inner")
            case "after another":
                return await flux.invoke(await plain.invoke("inner"))
        return event

    flux: FluxAgent[str, str] = Flux.lift(Agent.from_function(itself))
    other: FluxAgent[str, str] = Flux.lift(Agent.from_function(lambda _: flux.invoke("inner")))
    plain: FluxAgent[str, str] = Flux.lift(Id)

    async def main() -> None:
        for event in ("direct", "in a task", "around another", "after another"):
            with pytest.raises(ReentrantInvoke, match="its own agent"):
                await flux.invoke(event)
            with pytest.raises(ReentrantInvoke):
                await collected(flux.start(events([event])))
            assert flux.state is FluxState.FAILED
        assert await flux.invoke("plain") == "plain"
        assert await flux.invoke("another") == "inner"
        assert await collected(flux.start(events(["another"]))) == ["inner"]

    run(main())


def test_a_task_that_an_event_left_behind_is_no_re_entrance() -> None:
    left: list[asyncio.Task[str]] = []

    async def later() -> str:
        await asyncio.sleep(15)  # in the midst of the second event
        return await flux.invoke("from behind")

    async def work(event: str) -> str:
        if event == "first":
            left.append(asyncio.create_task(later()))
        await asyncio.sleep(10)
        return event

    flux: FluxAgent[str, str] = Flux.lift(Agent.from_function(work))

    async def main() -> list[str]:
        outputs = await collected(flux.start(events(["first", "second"], delay=0)))
        return [*outputs, await left[0]]

    assert run(main()) == ["first", "second", "from behind"]


def test_a_task_of_the_consumer_is_no_re_entrance() -> None:
    async def main() -> list[Any]:
        flux = Flux.lift(after(10))
        calls = [asyncio.create_task(flux.invoke(-output)) async for output in flux.start(events([1, 2]))]
        return await asyncio.gather(*calls)

    assert run(main()) == [-1, -2]
