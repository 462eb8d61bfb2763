"""Agents: an event of a flux against a bare loop, and a stateful invoke against the get and the put that it needs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.measure import Case
from dgent import Agent, Datum, Flux, SQLiteBackend, StateFunctor

EVENTS = 20_000
INVOKES = 300


class Increment(Agent[int, int]):
    """An agent that does next to nothing."""

    async def invoke(self, input: int, /) -> int:
        return input + 1


async def source() -> AsyncIterator[int]:
    for event in range(EVENTS):
        yield event


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases; `size` is about how many bytes a state has."""
    async for case in _flux():
        yield case
    memory = SQLiteBackend(folder / "agents.db")
    async for case in _state(memory, size):
        yield case
    await memory.close()


async def _flux() -> AsyncIterator[Case]:
    agent = Increment()

    async def bare() -> int:
        async for event in source():
            await agent.invoke(event)
        return EVENTS

    async def flux(buffer: int) -> int:
        async for _ in Flux.lift(agent, buffer=buffer).start(source()):
            pass
        return EVENTS

    yield Case("flux event", "async for with a call", 0.20, lambda: flux(0), bare)
    yield Case("flux event, buffer of 64", "async for with a call", 0.05, lambda: flux(64), bare)


async def _state(memory: SQLiteBackend, size: int) -> AsyncIterator[Case]:
    numbers, text = itertools.count(), "x" * size
    first = {"n": -1, "text": text}
    functor = StateFunctor(dict, memory, first, namespace="bench")
    agent = functor.lift_logic(lambda n, state: (n, {**state, "n": n}))
    await memory.put(Datum.create(data=first, id="plain"))

    async def invoke() -> int:
        for n in itertools.islice(numbers, INVOKES):
            await agent.invoke(n)
        return INVOKES

    async def get_and_put() -> int:
        for n in itertools.islice(numbers, INVOKES):
            live = await memory.get("plain")
            assert live is not None
            await memory.put(Datum.create(data={**live.data, "n": n}, id="plain"), expect=live.version)
        return INVOKES

    yield Case("stateful invoke", "one get and one put of ours", 0.80, invoke, get_and_put)
