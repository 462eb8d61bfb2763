"""The functors that are known by name, and the reports of what they keep of the functor laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dgent.agents.flux import Flux, FluxAgent
from dgent.agents.functor_laws import LAWS, Functor, LawResult, check
from dgent.agents.state_functor import StateFunctor
from dgent.error_messages import nearest
from dgent.exceptions import FunctorNotFound, InvalidAgent
from dgent.memory.inmemory.backend import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from dgent.agents.agent import Agent

SAMPLES: Final = 100


@dataclass(frozen=True, slots=True)
class LawReport:
    """What a functor kept of the laws, and the seed that draws the same samples again."""

    functor: str
    seed: int
    laws: tuple[LawResult, ...]

    @property
    def ok(self) -> bool:
        """Whether no law was broken."""
        return all(law.counterexample is None for law in self.laws)


class FunctorRegistry:
    """Functors by name; a new registry knows those that D-gent ships."""

    def __init__(self) -> None:
        self._functors: dict[str, Functor] = dict(SHIPPED)

    def register(self, name: str, functor: Functor) -> None:
        """Make a functor known.

        Raises:
            InvalidAgent: it is no `Functor`, or the name is taken.
        """
        if not isinstance(functor, Functor):
            raise InvalidAgent(f"{type(functor).__name__} is no Functor: say how it starts with Functor(about, start)")
        if name in self._functors:
            raise InvalidAgent(f"a functor {name!r} is registered already: choose another name")
        self._functors[name] = functor

    def functors(self) -> dict[str, Functor]:
        """Return the functors by their names."""
        return dict(self._functors)

    async def verify(self, name: str, *, samples: int = SAMPLES, seed: int = 0) -> LawReport:
        """Check every law of one functor on generated agents, inputs and states.

        Raises:
            FunctorNotFound: nobody registered that name.
        """
        functor = self._functors.get(name)
        if functor is None:
            raise FunctorNotFound(f"no functor {name!r}{nearest(name, self._functors)}")
        results = [await check(functor, law, samples=samples, seed=seed) for law in LAWS]
        return LawReport(name, seed, tuple(results))

    async def verify_all(self, *, samples: int = SAMPLES, seed: int = 0) -> list[LawReport]:
        """Check every law of every functor."""
        return [await self.verify(name, samples=samples, seed=seed) for name in self._functors]


class _InState:
    """`StateFunctor`: agents beside a state that they do not see, or logic over it."""

    def __init__(self, initial_state: dict[str, Any], *, logic: bool = False) -> None:
        self._initial, self._logic = initial_state, logic
        self._functor = StateFunctor(dict, MemoryBackend(), initial_state)

    def lift(self, agent: Agent[Any, Any]) -> Agent[Any, Any]:
        return self._functor.lift_logic(agent) if self._logic else self._functor.lift(agent)

    async def run(self, lifted: Agent[Any, Any], inputs: Sequence[Any]) -> list[Any]:
        return [await lifted.invoke(each) for each in inputs]

    async def state(self) -> Any:
        return await self._functor.memory.load()


class _InFlux:
    """`Flux`: agents as streams."""

    def __init__(self, initial_state: dict[str, Any]) -> None:
        self._initial = initial_state

    def lift(self, agent: Agent[Any, Any]) -> FluxAgent[Any, Any]:
        return Flux.lift(agent)

    async def run(self, lifted: FluxAgent[Any, Any], inputs: Sequence[Any]) -> list[Any]:
        return [output async for output in lifted.start(_stream(inputs))]

    async def state(self) -> Any:
        return self._initial


class _InFluxOfState(_InState):
    """`Flux` after `StateFunctor`: streams of logic with the state threaded."""

    def lift(self, agent: Agent[Any, Any]) -> FluxAgent[Any, Any]:
        return Flux.lift(super().lift(agent))

    async def run(self, lifted: Any, inputs: Sequence[Any]) -> list[Any]:
        return [output async for output in lifted.start(_stream(inputs))]


async def _stream(values: Sequence[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


SHIPPED: Final[dict[str, Functor]] = {
    "state": Functor("an agent, and a state beside it that it does not see", _InState),
    "logic": Functor("logic with its state threaded", lambda state: _InState(state, logic=True), stateful=True),
    "flux": Functor("an agent as a stream of events", _InFlux),
    "flux-state": Functor(
        "logic as a stream, its state threaded", lambda state: _InFluxOfState(state, logic=True), stateful=True
    ),
}
"""What D-gent ships."""
