"""The functor registry: what is shipped keeps the laws (S5), and a functor made wrong on purpose does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from dgent.agents import Agent, Flux, FunctorRegistry, StateFunctor
from dgent.agents.functor_laws import Functor
from dgent.exceptions import FunctorNotFound, InvalidAgent
from dgent.memory.inmemory.backend import MemoryBackend


async def test_l_s5_what_is_shipped_keeps_the_laws(full_size: bool) -> None:
    reports = await FunctorRegistry().verify_all(samples=2000 if full_size else 60, seed=7)
    assert [report.functor for report in reports] == ["state", "logic", "flux", "flux-state"]
    for report in reports:
        assert report.ok, report
        assert [(law.law, law.samples) for law in report.laws] == [
            ("identity", reports[0].laws[0].samples),
            ("composition", reports[0].laws[0].samples),
        ]


class Wrapped(Agent[Any, Any]):
    """A lifted agent that goes through `wrap`."""

    def __init__(self, inner: Agent[Any, Any], wrap: Callable[[Agent[Any, Any], Any], Any]) -> None:
        self.inner, self.wrap = inner, wrap

    async def invoke(self, input: Any, /) -> Any:
        return await self.wrap(self.inner, input)


async def twice(agent: Agent[Any, Any], x: Any) -> Any:
    await agent.invoke(x)
    return await agent.invoke(x)


async def truthy_only(agent: Agent[Any, Any], x: Any) -> Any:
    return await agent.invoke(x) or x


async def first_of_a_pair(agent: Agent[Any, Any], x: Any) -> Any:
    output = await agent.invoke(x)
    return output[0] if isinstance(output, tuple) and len(output) == 2 else output


async def quiet(agent: Agent[Any, Any], x: Any) -> Any:
    try:
        return await agent.invoke(x)
    except ArithmeticError:
        return None


async def always_seven(agent: Agent[Any, Any], x: Any) -> Any:
    await agent.invoke(x)
    return 7


class Wrong:
    """A functor that is wrong in one place."""

    def __init__(self, wrap: Callable[[Agent[Any, Any], Any], Any], state: Any) -> None:
        self.wrap, self.initial = wrap, state

    def lift(self, agent: Agent[Any, Any]) -> Agent[Any, Any]:
        return Wrapped(agent, self.wrap)

    async def run(self, lifted: Agent[Any, Any], inputs: Sequence[Any]) -> list[Any]:
        return [await lifted.invoke(each) for each in inputs]

    async def state(self) -> Any:
        return self.initial


class Counting(Wrong):
    """Counts invocations in the state, so that a composition counts once or twice."""

    def __init__(self, state: Any) -> None:
        async def count(agent: Agent[Any, Any], x: Any) -> Any:
            output = await agent.invoke(x)
            self.initial = {**self.initial, "n": self.initial["n"] + 1}
            return output

        super().__init__(count, state)


class Backwards(StateFunctor[Any]):
    """Lifts what composes the other way round."""

    def __init__(self, state: Any) -> None:
        super().__init__(dict, MemoryBackend(), state)

    def lift(self, agent: Agent[Any, Any]) -> Any:
        outer = self

        class Lifted(Agent[Any, Any]):
            inner = agent

            async def invoke(self, input: Any, /) -> Any:
                return await agent.invoke(input)

            def __rshift__(self, after: Any) -> Any:
                return outer.lift(after.inner >> self.inner)

        return Lifted()

    async def run(self, lifted: Agent[Any, Any], inputs: Sequence[Any]) -> list[Any]:
        return [await lifted.invoke(each) for each in inputs]

    async def state(self) -> Any:
        return await self.memory.load()


class Reordering:
    """A flux that hands out the outputs backwards."""

    def __init__(self, state: Any) -> None:
        self.initial = state

    def lift(self, agent: Agent[Any, Any]) -> Any:
        return Flux.lift(agent)

    async def run(self, lifted: Any, inputs: Sequence[Any]) -> list[Any]:
        async def source() -> AsyncIterator[Any]:
            for each in inputs:
                yield each

        return [output async for output in lifted.start(source())][::-1]

    async def state(self) -> Any:
        return self.initial


WRONG: dict[str, Callable[[Any], Any]] = {
    "twice": lambda state: Wrong(twice, state),
    "truthy only": lambda state: Wrong(truthy_only, state),
    "first of a pair": lambda state: Wrong(first_of_a_pair, state),
    "quiet": lambda state: Wrong(quiet, state),
    "always seven": lambda state: Wrong(always_seven, state),
    "counting": Counting,
    "backwards": Backwards,
    "reordering": Reordering,
}


@pytest.mark.parametrize("name", WRONG)
async def test_l_s5_a_functor_made_wrong_breaks_a_law(name: str) -> None:
    registry = FunctorRegistry()
    registry.register(name, Functor("wrong on purpose", WRONG[name]))
    report = await registry.verify(name)
    assert not report.ok
    found = next(law.counterexample for law in report.laws if law.counterexample)
    assert found.differences()
    assert await registry.verify(name) == report  # the same seed finds the same


class Forgetful(StateFunctor[Any]):
    """Threads the state through one agent, and starts anew for the next of a pipeline."""

    def __init__(self, state: Any) -> None:
        super().__init__(dict, MemoryBackend(), state)
        self._others: list[StateFunctor[Any]] = []

    def lift(self, agent: Agent[Any, Any]) -> Any:
        if self._others:
            return StateFunctor(dict, MemoryBackend(), {"n": 0, "trail": []}).lift_logic(agent)
        self._others.append(self)
        return self.lift_logic(agent)

    async def run(self, lifted: Agent[Any, Any], inputs: Sequence[Any]) -> list[Any]:
        return [await lifted.invoke(each) for each in inputs]

    async def state(self) -> Any:
        return await self.memory.load()


async def test_l_s5_a_pipeline_that_forgets_its_state_breaks_a_law() -> None:
    registry = FunctorRegistry()
    registry.register("forgetful", Functor("wrong on purpose", Forgetful, stateful=True))
    report = await registry.verify("forgetful")
    assert [law.counterexample is None for law in report.laws] == [True, False]


async def test_a_registry_refuses_what_it_cannot_take() -> None:
    registry = FunctorRegistry()
    with pytest.raises(InvalidAgent, match="registered already"):
        registry.register("state", registry.functors()["flux"])
    with pytest.raises(InvalidAgent, match="is no Functor"):
        registry.register("mine", StateFunctor)  # type: ignore[arg-type]
    with pytest.raises(FunctorNotFound, match="did you mean state"):
        await registry.verify("sate")
    assert "mine" not in registry.functors()
    assert "twice" not in FunctorRegistry().functors()
