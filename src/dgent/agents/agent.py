"""The unit of computation: an agent takes an input and gives an output, and two of them make a third."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from dgent.exceptions import InvalidAgent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Agent(ABC, Generic[A, B]):
    """An arrow from A to B. `f >> g` invokes g with what f gives; it is associative, and `Id` is its identity."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return type(self).__name__

    @abstractmethod
    async def invoke(self, input: A, /) -> B:
        """Return the output for an input."""

    def __rshift__(self, after: Agent[B, C]) -> Agent[A, C]:
        """Return the agent that gives the output of this one to the next.

        Raises:
            InvalidAgent: the next is no agent.
        """
        return self if checked(after) is Id else Pipeline(self, after)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @staticmethod
    def from_function(function: Callable[[A], B | Awaitable[B]], *, name: str | None = None) -> Agent[A, B]:
        """Return a function of one input as an agent; what it returns is awaited where it can be.

        A function that is not async runs on the event loop: let one that takes long use `asyncio.to_thread`.

        Raises:
            InvalidAgent: it cannot be called, or is an agent already.
        """
        return FunctionAgent(function, name)


class FunctionAgent(Agent[A, B]):
    """A function as an agent: see `Agent.from_function`."""

    def __init__(self, function: Callable[[A], B | Awaitable[B]], name: str | None = None) -> None:
        if isinstance(function, Agent) or not callable(function):
            raise InvalidAgent(f"{_shown(function)} is no function: pass one that takes an input")
        self._function = function
        self._name = name or str(getattr(function, "__name__", type(function).__name__))

    @property
    def name(self) -> str:
        """The name that was given, or that of the function."""
        return self._name

    async def invoke(self, input: A, /) -> B:
        """Return what the function returns."""
        return await settled(self._function(input))


class Pipeline(Agent[A, C], Generic[A, C]):
    """Agents one after the other."""

    def __init__(self, *agents: Agent[Any, Any]) -> None:
        self.agents: tuple[Agent[Any, Any], ...] = tuple(
            each for agent in agents for each in (agent.agents if isinstance(agent, Pipeline) else (checked(agent),))
        )

    @property
    def name(self) -> str:
        """The names of the agents in their order."""
        return " >> ".join(agent.name for agent in self.agents)

    async def invoke(self, input: A, /) -> C:
        """Return what the last agent gives."""
        value: Any = input
        for agent in self.agents:
            value = await agent.invoke(value)
        return value  # type: ignore[no-any-return]


class Identity(Agent[A, A]):
    """The agent that gives what it takes."""

    name = "Id"

    async def invoke(self, input: A, /) -> A:
        """Return the input."""
        return input

    def __rshift__(self, after: Agent[A, C]) -> Agent[A, C]:
        """Return the other one."""
        return checked(after)


Id: Final[Identity[Any]] = Identity()


def checked(agent: Agent[A, B]) -> Agent[A, B]:
    """Return what is an agent.

    Raises:
        InvalidAgent: it is none; the message says what to type.
    """
    if not isinstance(agent, Agent):
        raise InvalidAgent(f"{_shown(agent)} is no agent: {_advice(agent)}")
    return agent


async def settled(value: B | Awaitable[B]) -> B:
    """Return a value, awaited first if it can be."""
    return await value if hasattr(type(value), "__await__") else value  # type: ignore[misc, return-value]


def _advice(value: object) -> str:
    return "Agent.from_function(...) makes one of it" if callable(value) else "pass a dgent.Agent"


def _shown(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.80}"
