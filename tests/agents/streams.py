"""Sources and agents that take their time, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from dgent.agents import Agent


async def events(values: Iterable[Any], delay: float = 1.0) -> AsyncIterator[Any]:
    for value in values:
        await asyncio.sleep(delay)
        yield value


async def never() -> AsyncIterator[Any]:
    await asyncio.get_running_loop().create_future()
    yield


def after(delay: float, function: Callable[[Any], Any] = lambda x: x) -> Agent[Any, Any]:
    async def slow(event: Any) -> Any:
        await asyncio.sleep(delay)
        return function(event)

    return Agent.from_function(slow)


async def collected(outputs: AsyncIterator[Any], into: list[Any] | None = None) -> list[Any]:
    into = [] if into is None else into
    async for output in outputs:
        into.append(output)  # one at a time, so that they are there when an error comes
    return into


def double(n: int) -> int:
    return n * 2


def increment(n: int) -> int:
    return n + 1
