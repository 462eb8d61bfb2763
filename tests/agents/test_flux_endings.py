"""Who may end a flow and from where, and what is left then."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import pytest

from dgent.agents import Agent, Flux, FluxAgent, Id
from dgent.agents.flow import FluxState

from .streams import after, collected, events, never
from .virtual_clock import run


def test_a_loop_that_was_left_gives_the_flux_back_at_once_with_the_rest_of_the_source() -> None:
    async def main() -> list[int]:
        flux, source, outputs = Flux.lift(Id), events([1, 2, 3]), []
        async for output in flux.start(source):
            outputs.append(output)
            break
        assert flux.state is FluxState.STOPPED
        return [*outputs, *await collected(flux.start(source))]

    assert run(main()) == [1, 2, 3]


def test_a_flow_that_nobody_began_ends_when_it_is_dropped() -> None:
    async def main() -> None:
        flux = Flux.lift(Id, buffer=2)
        flux.start(never())
        gc.collect()
        assert flux.state is FluxState.STOPPED
        await flux.stop()
        await flux.drain()
        outputs = flux.start(events([1]))
        await flux.drain()
        assert flux.state is FluxState.DONE
        assert await collected(outputs) == []
        outputs = flux.start(events([1]))
        await flux.stop()
        assert await collected(outputs) == []
        assert flux.state is FluxState.STOPPED

    run(main())


def test_without_a_flow_stop_and_drain_do_nothing() -> None:
    async def main() -> None:
        flux = Flux.lift(Id)
        await flux.stop()
        await flux.drain()
        assert flux.state is FluxState.IDLE
        assert await flux.invoke(1) == 1
        assert flux.state is FluxState.IDLE

    run(main())


@pytest.mark.parametrize("buffer", [0, 2])
@pytest.mark.parametrize("end", [FluxAgent.stop, FluxAgent.drain])
def test_the_consumer_may_end_it_in_its_loop(
    buffer: int, end: Callable[[FluxAgent[Any, Any]], Awaitable[None]]
) -> None:
    async def main() -> list[int]:
        flux, outputs = Flux.lift(Id, buffer=buffer), []
        async for output in flux.start(events(range(9), delay=0)):
            outputs.append(output)
            if output == 3:
                await asyncio.sleep(1)  # so that what can be read ahead is
                await end(flux)
        assert flux.state is (FluxState.STOPPED if end is FluxAgent.stop else FluxState.DONE)
        return outputs

    assert run(main()) == list(range(4 if end is FluxAgent.stop else 4 + buffer))


@pytest.mark.parametrize("buffer", [0, 2])
@pytest.mark.parametrize("end", [FluxAgent.stop, FluxAgent.drain])
def test_the_source_may_end_it(buffer: int, end: Callable[[FluxAgent[Any, Any]], Awaitable[None]]) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(1)
        await end(flux)
        yield 2
        raise AssertionError("it was asked for more")

    flux: FluxAgent[int, int] = Flux.lift(Id, buffer=buffer)
    assert run(collected(flux.start(source()))) == ([1] if buffer else [1, 2])
    assert flux.state in {FluxState.STOPPED, FluxState.DONE}


@pytest.mark.parametrize("end", [FluxAgent.stop, FluxAgent.drain])
def test_a_perturbation_may_end_it_while_the_source_is_silent(
    end: Callable[[FluxAgent[Any, Any]], Awaitable[None]],
) -> None:
    async def work(event: str) -> str:
        if event == "quit":
            await end(flux)
        return event

    flux: FluxAgent[str, str] = Flux.lift(Agent.from_function(work))

    async def main() -> None:
        consumer = asyncio.create_task(collected(flux.start(never())))
        await asyncio.sleep(1)
        assert await flux.invoke("quit") == "quit"
        assert await consumer == []

    run(main())
    assert flux.state is (FluxState.STOPPED if end is FluxAgent.stop else FluxState.DONE)


def test_a_perturbation_that_stops_it_stops_the_event_that_waits() -> None:
    async def work(event: Any) -> Any:
        await asyncio.sleep(5)
        if event == "quit":
            await flux.stop()
        return event

    flux: FluxAgent[Any, Any] = Flux.lift(Agent.from_function(work))

    async def main() -> tuple[Any, list[Any]]:
        consumer = asyncio.create_task(collected(flux.start(events([1, 2]))))
        return await flux.invoke("quit"), await consumer

    assert run(main()) == ("quit", [])


def test_stop_wakes_a_wait_for_the_source_and_drain_an_event_in_work_is_finished() -> None:
    async def ended(end: Callable[[FluxAgent[Any, Any]], Awaitable[None]], source: Any) -> tuple[list[Any], float]:
        flux: FluxAgent[Any, Any] = Flux.lift(after(10))
        consumer = asyncio.create_task(collected(flux.start(source)))
        await asyncio.sleep(3)
        await end(flux)
        assert flux.state in {FluxState.STOPPED, FluxState.DONE}
        return await consumer, asyncio.get_running_loop().time()

    assert run(ended(FluxAgent.stop, never())) == ([], 3)
    assert run(ended(FluxAgent.drain, never())) == ([], 3)
    assert run(ended(FluxAgent.stop, events([1, 2]))) == ([], 3)
    assert run(ended(FluxAgent.drain, events([1, 2]))) == ([1], 11)


def test_several_may_stop_it_at_once_and_stop_overtakes_drain() -> None:
    async def main() -> None:
        flux = Flux.lift(after(10), buffer=3)
        consumer = asyncio.create_task(collected(flux.start(events([1, 2, 3]))))
        await asyncio.sleep(5)
        drains = asyncio.gather(flux.drain(), flux.drain())
        await asyncio.sleep(1)
        assert flux.state is FluxState.DRAINING
        await asyncio.gather(flux.stop(), flux.stop())
        await drains
        assert await consumer == []
        assert flux.state is FluxState.STOPPED
        assert asyncio.get_running_loop().time() == 6

    run(main())


def test_a_cancellation_from_outside_is_not_taken_for_a_stop() -> None:
    async def main() -> None:
        flux = Flux.lift(Id)
        consumer = asyncio.create_task(collected(flux.start(never())))
        await asyncio.sleep(1)
        stop = asyncio.create_task(flux.stop())
        await asyncio.sleep(0)  # the interruption is on its way
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        await stop
        assert flux.state is FluxState.STOPPED

    run(main())


def test_a_consumer_that_outlived_a_cancellation_can_be_stopped() -> None:
    async def consume(flux: FluxAgent[Any, Any]) -> list[Any]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        return await collected(flux.start(never()))

    async def main() -> None:
        flux = Flux.lift(Id)
        consumer = asyncio.create_task(consume(flux))
        await asyncio.sleep(1)
        consumer.cancel()
        await asyncio.sleep(1)
        await flux.stop()
        assert await consumer == []

    run(main())


def test_a_timeout_of_the_consumer_holds_after_a_stop_and_beside_one() -> None:
    async def consume(flux: FluxAgent[Any, Any]) -> float:
        assert await collected(flux.start(never())) == []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await collected(flux.start(never()))
        return asyncio.get_running_loop().time()

    async def main() -> float:
        flux = Flux.lift(Id)
        consumer = asyncio.create_task(consume(flux))
        await asyncio.sleep(1)
        await flux.stop()
        await asyncio.sleep(9 - 1e-9)
        return await consumer

    assert run(main()) == 10


def test_an_agent_that_will_not_be_stopped_is_waited_for_and_its_output_handed_out() -> None:
    async def stubborn(event: int) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(5)
        return event

    async def consume(flux: FluxAgent[int, int]) -> list[int]:
        outputs, task = [], asyncio.current_task()
        assert task is not None
        async for output in flux.start(events([1, 2])):
            outputs.append(output)
            assert task.cancelling() == 0, "the interruption was not taken back"
        return outputs

    async def main() -> list[int]:
        flux = Flux.lift(Agent.from_function(stubborn))
        consumer = asyncio.create_task(consume(flux))
        await asyncio.sleep(2)
        await flux.stop()
        assert asyncio.get_running_loop().time() == 7
        assert flux.state is FluxState.STOPPED
        return await consumer

    assert run(main()) == [1]


def test_what_an_agent_raises_as_it_is_stopped_reaches_the_consumer() -> None:
    async def rude(_: Any) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise LookupError from None

    async def consume(flux: FluxAgent[Any, Any]) -> None:
        with pytest.raises(LookupError):
            await collected(flux.start(events([1])))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    async def main() -> None:
        flux = Flux.lift(Agent.from_function(rude))
        consumer = asyncio.create_task(consume(flux))
        await asyncio.sleep(2)
        await flux.stop()
        await consumer
        assert flux.state is FluxState.STOPPED

    run(main())


@pytest.mark.parametrize("end", [FluxAgent.stop, FluxAgent.drain])
def test_the_end_does_not_wait_for_a_consumer_that_has_its_last_output(
    end: Callable[[FluxAgent[Any, Any]], Awaitable[None]],
) -> None:
    async def stubborn(event: int) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return event

    async def consume(flux: FluxAgent[Any, Any]) -> None:
        async for _ in flux.start(events([1, 2])):
            await asyncio.sleep(100)

    async def main() -> float:
        flux = Flux.lift(Agent.from_function(stubborn))
        consumer = asyncio.create_task(consume(flux))
        await asyncio.sleep(2)
        await end(flux)
        assert flux.state is (FluxState.STOPPED if end is FluxAgent.stop else FluxState.DONE)
        ended = asyncio.get_running_loop().time()
        await consumer
        return ended

    assert run(main()) == (2 if end is FluxAgent.stop else 11)


def test_a_stop_leaves_the_body_of_the_loop_alone_and_waits_for_the_source_to_close() -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)
            closed.append(asyncio.get_running_loop().time())

    async def consume(flux: FluxAgent[Any, Any]) -> float:
        async for _ in flux.start(source()):
            await asyncio.sleep(50)
        return asyncio.get_running_loop().time()

    async def main() -> float:
        flux = Flux.lift(Id, buffer=1)
        consumer = asyncio.create_task(consume(flux))
        await asyncio.sleep(2)
        await flux.stop()
        assert closed == [5]
        return await consumer

    assert run(main()) == 50


def test_a_drain_that_waits_for_callers_is_not_disturbed_by_the_stop_of_the_next_flow() -> None:
    async def main() -> None:
        flux = Flux.lift(after(10))
        first = asyncio.create_task(collected(flux.start(never())))
        call = asyncio.create_task(flux.invoke("slow"))
        await asyncio.sleep(1)
        drain = asyncio.create_task(flux.drain())
        await first
        assert not drain.done()
        second = asyncio.create_task(collected(flux.start(never())))
        await asyncio.sleep(1)
        await flux.stop()
        assert await second == []
        await drain
        assert await call == "slow"

    run(main())


def test_an_event_that_waited_may_stop_its_flow_from_a_task_of_its_own() -> None:
    async def work(event: Any) -> Any:
        await asyncio.sleep(5)
        if event == 1:
            await asyncio.create_task(flux.stop())
        return event

    flux: FluxAgent[Any, Any] = Flux.lift(Agent.from_function(work))

    async def main() -> list[Any]:
        _, outputs = await asyncio.gather(flux.invoke("first"), collected(flux.start(events([1, 2]))))
        return outputs

    assert run(main()) == [1]


def test_an_event_leaves_nothing_in_the_context_of_the_consumer() -> None:
    async def main() -> None:
        flux = Flux.lift(Id)
        assert await collected(flux.start(events([1, 2]))) == [1, 2]
        assert await flux.invoke(3) == 3
        assert not {variable.name: value for variable, value in copy_context().items()}["dgent_turn"]

    run(main())


def test_each_output_may_be_asked_for_by_another_task() -> None:
    async def main() -> None:
        flux = Flux.lift(Id)
        outputs = flux.start(events([1, 2, 3]))
        assert await asyncio.create_task(anext(outputs)) == 1  # type: ignore[arg-type]
        assert await asyncio.wait_for(anext(outputs), 5) == 2
        waiting = asyncio.create_task(anext(outputs, "no more"))  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        await flux.stop()
        assert await waiting == "no more"

    run(main())
