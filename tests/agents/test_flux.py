"""Flux: what is refused, where errors go, what is read ahead, and what composes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.agents import Agent, Flux, FluxAgent, Id
from dgent.agents.flow import FluxState
from dgent.agents.read_ahead import ReadAhead
from dgent.exceptions import FluxBusy, InvalidAgent, InvalidInput

from .streams import after, collected, double, events, increment
from .virtual_clock import run

# What is refused


@pytest.mark.parametrize("agent", [None, 3, len, FluxAgent])
def test_what_is_no_agent_is_not_lifted(agent: Any) -> None:
    with pytest.raises(InvalidAgent):
        Flux.lift(agent)


@pytest.mark.parametrize("buffer", [-1, 1.5, True, None, "3"])
def test_a_buffer_is_a_number_of_events(buffer: Any) -> None:
    with pytest.raises(InvalidInput, match="how many events"):
        Flux.lift(Id, buffer=buffer)


def test_a_handler_is_a_function() -> None:
    with pytest.raises(InvalidInput, match="pass a function"):
        Flux.lift(Id, on_error="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize(("source", "advice"), [([1, 2], "async generator"), (events, "call it"), (3, "async for")])
def test_a_source_that_is_not_async_is_refused_at_the_call(source: Any, advice: str) -> None:
    flux = Flux.lift(Id)
    with pytest.raises(InvalidAgent, match=advice) as refused:
        flux.start(source)
    assert isinstance(refused.value, TypeError)
    assert flux.state is FluxState.IDLE


def test_start_twice_is_refused_and_harms_nothing() -> None:
    async def main() -> list[int]:
        flux = Flux.lift(Agent.from_function(double))
        outputs = flux.start(events([1, 2]))
        with pytest.raises(FluxBusy, match="flows already"):
            flux.start(events([9]))
        first = await anext(outputs)
        with pytest.raises(FluxBusy):
            flux.start(events([9]))
        assert flux.state == "flowing"
        return [first, *await collected(outputs)]

    assert run(main()) == [2, 4]


# Errors


def test_l_f6_an_error_reaches_the_consumer() -> None:
    flux: FluxAgent[int, float] = Flux.lift(Agent.from_function(lambda n: 1 / n))

    async def main() -> list[float]:
        outputs: list[float] = []
        with pytest.raises(ZeroDivisionError):
            await collected(flux.start(events([1, 0, 2])), outputs)
        assert flux.state is FluxState.FAILED
        with pytest.raises(ZeroDivisionError):
            await flux.invoke(0)
        return outputs + await collected(flux.start(events([2])))

    assert run(main()) == [1, 0.5]
    assert flux.state is FluxState.DONE


@pytest.mark.parametrize("is_async", [False, True])
def test_l_f6_a_handler_gets_the_error_and_the_event_is_skipped(is_async: bool) -> None:
    heard = []

    def handle(error: Exception, event: Any) -> None:
        heard.append((type(error), event))

    async def handle_async(error: Exception, event: Any) -> None:
        await asyncio.sleep(1)
        heard.append((type(error), await flux.invoke(event + 5)))  # the turn is free meanwhile

    flux: FluxAgent[int, float] = Flux.lift(
        Agent.from_function(lambda n: 10 / n), on_error=handle_async if is_async else handle
    )
    assert run(collected(flux.start(events([1, 0, 2])))) == [10, 5]
    assert heard == [(ZeroDivisionError, 2.0 if is_async else 0)]


def test_l_f6_what_a_handler_raises_reaches_the_consumer() -> None:
    def handle(error: Exception, event: Any) -> None:
        raise LookupError(event) from error

    flux: FluxAgent[int, float] = Flux.lift(Agent.from_function(lambda n: 10 / n), on_error=handle)

    async def main() -> None:
        with pytest.raises(LookupError):
            await collected(flux.start(events([0])))

    run(main())
    assert flux.state is FluxState.FAILED


def test_l_f6_a_cancellation_is_no_error_for_a_handler() -> None:
    async def cancelled(_: Any) -> None:
        raise asyncio.CancelledError

    flux = Flux.lift(Agent.from_function(cancelled), on_error=lambda *_: None)

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await collected(flux.start(events([1])))

    run(main())
    assert flux.state is FluxState.STOPPED


@pytest.mark.parametrize("raised", [RuntimeError("the source broke"), asyncio.CancelledError()])
@pytest.mark.parametrize("buffer", [0, 1, 3])
def test_what_a_source_raises_comes_after_its_events(raised: BaseException, buffer: int) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise raised

    async def main() -> list[int]:
        outputs: list[int] = []
        with pytest.raises(type(raised)):
            await collected(Flux.lift(after(1), buffer=buffer).start(source()), outputs)
        return outputs

    assert run(main()) == [1, 2]


def test_the_error_of_a_source_that_was_read_ahead_for_nobody_is_not_logged() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise RuntimeError("nobody came for this")

    async def main() -> None:
        flux = Flux.lift(Id, buffer=3)
        async for _ in flux.start(source()):
            await asyncio.sleep(1)
            break
        assert flux.state is FluxState.STOPPED
        await asyncio.sleep(1)
        del flux
        gc.collect()  # an error that nobody has seen would be told now

    run(main())


# What is read ahead


def test_without_a_buffer_an_event_is_taken_when_its_output_is_asked_for() -> None:
    taken = []

    async def source() -> AsyncIterator[int]:
        for n in range(5):
            taken.append(n)
            yield n

    async def main() -> None:
        async for output in Flux.lift(after(1)).start(source()):
            await asyncio.sleep(10)
            assert taken == list(range(output + 1))

    run(main())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_buffer_is_filled_and_then_the_source_waits(size: int) -> None:
    taken: list[int] = []

    async def source() -> AsyncIterator[int]:
        for n in range(20):
            taken.append(n)
            yield n

    async def main() -> None:
        ahead = ReadAhead(source(), size)
        for n in range(10):
            await asyncio.sleep(1)
            assert len(taken) == n + size
            assert await anext(ahead) == n
        ahead.finish()
        rest = [item async for item in ahead]
        assert rest == list(range(10, 10 + len(rest)))
        assert len(rest) in {size - 1, size}
        await ahead.aclose()

    run(main())


# What composes


@given(st.lists(st.integers()), st.integers(0, 3))
def test_flux_is_a_functor(values: list[int], buffer: int) -> None:
    f, g = Agent.from_function(double), Agent.from_function(increment)

    async def main() -> None:
        assert await collected(Flux.lift(Id, buffer=buffer).start(events(values))) == values
        both = [increment(double(value)) for value in values]
        for flux in (Flux.lift(f >> g), Flux.lift(f) >> Flux.lift(g), Flux.lift(f, buffer=buffer) >> g):
            assert isinstance(flux, FluxAgent)
            assert await collected(flux.start(events(values))) == both

    run(main())


def test_what_follows_a_flux_keeps_its_policy() -> None:
    skipped: list[Any] = []
    flux = Flux.lift(Agent.from_function(increment), buffer=2, on_error=lambda error, event: skipped.append(event))
    inverse = flux >> Agent.from_function(lambda n: 1 / n) >> Id
    assert run(collected(inverse.start(events([0, -1, 1])))) == [1, 0.5]
    assert skipped == [-1]
    assert inverse.buffer == 2
    assert flux >> Id is flux
    assert inverse.name == "Flux(increment >> <lambda>)"
    with pytest.raises(InvalidAgent):
        flux >> double  # type: ignore[operator]
