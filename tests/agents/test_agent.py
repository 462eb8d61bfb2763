"""Agents compose: a category, with `Id` as its identity."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent import DgentError
from dgent.agents import Agent, Id
from dgent.exceptions import InvalidAgent

numbers = st.integers(-1000, 1000)
steps = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=6)


def line(a: int, b: int) -> Agent[int, int]:
    return Agent.from_function(lambda x: a * x + b, name=f"{a}x+{b}")


@given(steps, numbers)
def test_composition_runs_in_order(steps: list[tuple[int, int]], x: int) -> None:
    agent: Agent[int, int] = Id
    expected = x
    for a, b in steps:
        agent, expected = agent >> line(a, b), a * expected + b
    assert asyncio.run(agent.invoke(x)) == expected


@given(numbers)
def test_composition_is_associative_and_id_its_identity(x: int) -> None:
    async def run() -> None:
        f, g, h = line(2, 1), line(3, -1), line(-1, 5)
        assert await ((f >> g) >> h).invoke(x) == await (f >> (g >> h)).invoke(x) == -(3 * (2 * x + 1) - 1) + 5
        assert await (Id >> f).invoke(x) == await (f >> Id).invoke(x) == await f.invoke(x)

    asyncio.run(run())


async def test_functions_sync_and_async_are_agents() -> None:
    async def slowly(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    class Later:
        async def __call__(self, x: int) -> int:
            return x + 2

    for function, expected in [
        (lambda x: x * 2, 6),
        (slowly, 4),
        (lambda x: slowly(x + 0), 4),
        (partial(pow, 2), 8),
        (Later(), 5),
        (str, "3"),
    ]:
        agent: Agent[int, Any] = Agent.from_function(function)
        assert await agent.invoke(3) == expected


async def test_what_is_falsy_or_a_pair_passes_unchanged() -> None:
    for value in (None, 0, "", (), (1, 2), [], {}, False):
        assert await (Id >> Agent.from_function(lambda x: x)).invoke(value) is value


def test_names_say_what_runs() -> None:
    def double(x: int) -> int:
        return 2 * x

    agent = Agent.from_function(double)
    assert (agent >> line(1, 1) >> Id).name == "double >> 1x+1"
    assert repr(agent) == "<double>"
    assert Id.name == "Id"


@pytest.mark.parametrize("wrong", [42, None, "f", object()])
def test_what_is_no_agent_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidAgent, match="is no agent: pass a"):
        Id >> wrong
    with pytest.raises(InvalidAgent, match="is no agent"):
        line(1, 1) >> wrong
    with pytest.raises(InvalidAgent, match="is no function"):
        Agent.from_function(wrong)


def test_a_function_is_told_how_to_become_an_agent() -> None:
    with pytest.raises(InvalidAgent, match=r"Agent\.from_function") as caught:
        line(1, 1) >> (lambda x: x)  # type: ignore[operator]
    assert isinstance(caught.value, TypeError | DgentError)
    with pytest.raises(InvalidAgent, match="is no function"):
        Agent.from_function(Id)  # type: ignore[arg-type]
