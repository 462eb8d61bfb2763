"""The functor laws, checked on generated agents, inputs and states.

A functor lifts agents so that nothing can be told apart from outside that could not be before:

* identity: `lift(Id)` does as `Id`
* composition: `lift(f >> g)` does as `lift(f) >> lift(g)`

"Does as" means: the same outputs or the same error for each input, the same final state, and the same effects, which
are the calls of the inner agents in their order.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol

from dgent.agents.agent import Agent, Id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LAWS: Final = ("identity", "composition")


class Lifting(Protocol):
    """A functor with a state of its own to lift over, as the laws look at it; made anew for each look."""

    def lift(self, agent: Agent[Any, Any]) -> Any:
        """Return the lifted agent."""

    async def run(self, lifted: Any, inputs: Sequence[Any]) -> list[Any]:
        """Return what a lifted agent gives for the inputs in their order; an error ends the run."""

    async def state(self) -> Any:
        """Return the state that is left."""


@dataclass(frozen=True, slots=True)
class Functor:
    """A functor that can be verified.

    Attributes:
        about: one line for people.
        start: makes a `Lifting` over an initial state.
        stateful: what it lifts are agents of pairs, `(input, state)` to `(output, next state)`.
    """

    about: str
    start: Callable[[dict[str, Any]], Lifting]
    stateful: bool = False


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """What can be seen from outside of a run."""

    outputs: list[Any]
    error: str | None
    state: Any
    effects: list[str]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Where a law broke: the smallest run that was found, and what either side of the law did."""

    left: str
    right: str
    inputs: list[Any]
    initial_state: dict[str, Any]
    left_did: ObservedRun
    right_did: ObservedRun

    def differences(self) -> list[str]:
        """Return which of outputs, error, state and effects differ."""
        left, right = asdict(self.left_did), asdict(self.right_did)
        return [name for name in left if repr(left[name]) != repr(right[name])]


@dataclass(frozen=True, slots=True)
class LawResult:
    """How many samples of a law were looked at, and the first that broke it."""

    law: str
    samples: int
    counterexample: Counterexample | None


class Sampler:
    """Draws values, states and agents. The same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311  # samples, no secrets
        self._values: list[Any] = [None, 0, "", [], {}, False, 1, -7, "x", (1, 2), (None,), ("", {}), [1, (2, 3)]]

    def inputs(self) -> list[Any]:
        """Return a few values, among them pairs and what is falsy."""
        return [self._random.choice(self._values) for _ in range(self._random.randrange(1, 6))]

    def state(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"n": self._random.randrange(10), "trail": self._random.sample(["a", "b", None, 0], 2)}

    def arrow(self, name: str, *, stateful: bool) -> Callable[[list[str]], Agent[Any, Any]]:
        """Return what makes one agent that writes down its calls; it may be async, or raise for some inputs."""
        kind, breaks, later = self._random.randrange(5), self._random.randrange(12), self._random.random() < 0.3

        def output(x: Any) -> Any:
            if (len(repr(x)) + breaks) % 12 == 0:
                raise ArithmeticError(f"{name} refuses {x!r}")
            return (x, (x, name), [name, x], len(repr(x)), None)[kind]

        def made(effects: list[str]) -> Agent[Any, Any]:
            async def call(given: Any) -> Any:
                effects.append(f"{name}({given!r})")
                if later:
                    await asyncio.sleep(0)
                if not stateful:
                    return output(given)
                x, state = given
                state = {"n": state["n"] * 2 + kind, "trail": [*state["trail"][-3:], name]}
                return [output(x), state["n"]], state

            return Agent.from_function(call, name=name)

        return made


async def check(functor: Functor, law: str, *, samples: int, seed: int) -> LawResult:
    """Check one law on samples, and stop at the first that breaks it."""
    sampler = Sampler(seed)
    for at in range(samples):
        f, g = (sampler.arrow(name, stateful=functor.stateful) for name in "fg")
        inputs, state = sampler.inputs(), sampler.state()
        found = await _shortest(_Sides(functor, law, f, g), inputs, state)
        if found is not None:
            return LawResult(law, at + 1, found)
    return LawResult(law, samples, None)


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides of a law over two arrows."""

    functor: Functor
    law: str
    f: Callable[[list[str]], Agent[Any, Any]]
    g: Callable[[list[str]], Agent[Any, Any]]

    @property
    def names(self) -> tuple[str, str]:
        return ("lift(Id)", "Id") if self.law == "identity" else ("lift(f >> g)", "lift(f) >> lift(g)")

    def build(self, lifting: Lifting, left: bool, effects: list[str]) -> Any:
        if self.law == "identity":
            return lifting.lift(Id) if left else None
        f, g = self.f(effects), self.g(effects)
        return lifting.lift(f >> g) if left else lifting.lift(f) >> lifting.lift(g)

    async def observe(self, left: bool, inputs: list[Any], state: dict[str, Any]) -> ObservedRun:
        effects: list[str] = []
        lifting = self.functor.start({**state, "trail": [*state["trail"]]})
        outputs: list[Any] = []
        error = None
        try:
            lifted = self.build(lifting, left, effects)
            outputs = [*inputs] if lifted is None else await lifting.run(lifted, inputs)
        except Exception as raised:  # an error is one of the things that must not differ
            error = f"{type(raised).__name__}: {raised}"
        return ObservedRun(outputs, error, await lifting.state(), effects)


async def _shortest(sides: _Sides, inputs: list[Any], state: dict[str, Any]) -> Counterexample | None:
    """Return the shortest beginning of the inputs on which the sides differ."""
    for many in range(1, len(inputs) + 1):
        some = inputs[:many]
        left, right = await sides.observe(True, some, state), await sides.observe(False, some, state)
        found = Counterexample(*sides.names, some, state, left, right)
        if found.differences():
            return found
    return None
