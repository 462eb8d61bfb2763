"""State as a functor: agents whose state is loaded before each invocation and saved after it.

The pattern is the state monad transformer, `s -> m (a, s)`; see docs/decisions/0007-state-has-a-version.md for where
it differs from the document that asked for it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from dgent.agents.agent import Agent, checked, settled
from dgent.agents.data_agent import DataAgent, Saved
from dgent.agents.flux import Flux, FluxAgent
from dgent.bridge import TableAdapter
from dgent.bridge.orm import datum_from
from dgent.compare_and_swap import ATTEMPTS
from dgent.error_messages import called
from dgent.exceptions import InvalidAgent, InvalidState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.store import StateBackend

S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

Logic: TypeAlias = "Callable[[A, S], tuple[B, S] | Awaitable[tuple[B, S]]] | Agent[tuple[A, S], tuple[B, S]]"
"""From an input and a state to an output and the next state: a function, async or not, or an agent of pairs."""
_Step: TypeAlias = "Callable[[A, S], Awaitable[tuple[B, S]]]"


class StateFunctor(Generic[S]):
    """Lift agents and logic into computation with a state that a store keeps.

    Everything that one functor lifts shares one state. `lift(f) >> lift(g)` loads once and saves once, as
    `lift(f >> g)` does. A state is saved only if nobody else saved one meanwhile; else the logic runs again from the
    new state, so what it does besides returning may happen more than once.

    Args:
        state_type: what the state is: JSON values, a dataclass, a pydantic model, or a mapped class in its table.
        backend: any `DgentProtocol`.
        initial_state: the state until one is saved; else None where the type takes it, else `state_type()`.
        namespace: names the state; the datum is `{namespace}:state` of the backend.
        id: of the datum or the row, instead.
        attempts: how often the logic is run when other writers are first.

    Raises:
        InvalidState: the initial state or the type cannot be stored.
        CapabilityMissing: the store compares no versions.
    """

    def __init__(
        self,
        state_type: type[S],
        backend: StateBackend,
        initial_state: S | None = None,
        namespace: str = "state",
        *,
        id: str | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.state_type, self.backend = state_type, backend
        self.initial_state, self.namespace = initial_state, namespace
        self.memory: DataAgent[S] = DataAgent(
            backend, state_type, id=id or f"{namespace}:state", initial_state=initial_state, attempts=attempts
        )

    def lift(self, agent: Agent[A, B]) -> StatefulAgent[S, A, B]:
        """Return an agent that does as the given one, which sees nothing of the state, and leaves the state as it is.

        Raises:
            InvalidAgent: it is no agent.
        """
        inner = checked(agent)

        async def step(input: A, state: S) -> tuple[B, S]:
            return await inner.invoke(input), state

        return StatefulAgent(step, self.memory, inner.name)

    def lift_logic(self, logic: Logic[A, S, B]) -> StatefulAgent[S, A, B]:
        """Return the agent that logic makes: `(input, state) -> (output, next state)` with the state threaded.

        Raises:
            InvalidAgent: it is neither a function nor an agent.
        """
        return StatefulAgent(_step_of(logic), self.memory, _name_of(logic))

    @staticmethod
    def compose_flux(state_functor: StateFunctor[S]) -> Callable[[Agent[A, B]], FluxAgent[A, B]]:
        """Return the composition Flux after State: what makes a stream of an agent, with the state beside it."""
        return lambda agent: Flux.lift(state_functor.lift(agent))

    @classmethod
    def from_table_adapter(
        cls, adapter: TableAdapter, initial_state: S | None = None, *, id: str | None = None, attempts: int = ATTEMPTS
    ) -> StateFunctor[S]:
        """Return a functor whose state is one row of a typed table: SQL sees it, and its version column guards it.

        `id` says which row; without it the initial state does, by its primary key.

        Raises:
            InvalidState: neither says so.
            CapabilityMissing: the table has no version column.
        """
        if not isinstance(adapter, TableAdapter):
            raise InvalidState(f"{called(adapter)} is no typed table: pass storage.table(Model)")
        return cls(
            adapter.model,
            adapter,
            initial_state,
            adapter.table,
            id=id or _row_of(adapter, initial_state),
            attempts=attempts,
        )


class StatefulAgent(Agent[A, B], Generic[S, A, B]):
    """An agent with a state: load, run, save if nobody else did; else again. Made by `StateFunctor`."""

    def __init__(self, step: _Step[A, S, B], memory: DataAgent[S], name: str) -> None:
        self.memory = memory
        self._step, self._name = step, name

    @property
    def name(self) -> str:
        """The name of what was lifted."""
        return self._name

    async def invoke(self, input: A, /) -> B:
        """Return the output for an input, with the state threaded.

        Raises:
            StateConflict: other writers were first each time; it carries both versions.
            InvalidState: the next state cannot be stored.
            ReentrantInvoke: called from its own logic.
        """
        return await self.memory.change(lambda state: self._step(input, state))

    def __rshift__(self, after: Agent[B, C]) -> Agent[A, C]:
        """Return both as one; over one state it is loaded once and saved once."""
        if not isinstance(after, StatefulAgent) or after.memory is not self.memory:
            return super().__rshift__(after)
        first, second = self._step, after._step

        async def step(input: A, state: S) -> tuple[C, S]:
            between, state = await first(input, state)
            return await second(between, state)

        return StatefulAgent(step, self.memory, f"{self.name} >> {after.name}")

    async def state(self) -> S:
        """Return the state as it is now."""
        return await self.memory.load()

    async def history(self, limit: int = 1000) -> list[Saved[S]]:
        """Return the last `limit` states that were saved, oldest first."""
        return await self.memory.history(limit)

    async def at(self, version: int) -> S:
        """Return the state that was saved as `version`; 0 is the initial one."""
        return await self.memory.at(version)


class Symbiont(StatefulAgent[S, A, B]):
    """Logic and the memory that it lives with: `StateFunctor.lift_logic` under its familiar name.

    Raises:
        InvalidAgent: the logic is neither a function nor an agent.
        InvalidState: the memory is no DataAgent.
    """

    def __init__(self, logic: Logic[A, S, B], memory: DataAgent[S]) -> None:
        if not isinstance(memory, DataAgent):
            raise InvalidState(f"{type(memory).__name__} keeps no state: pass a DataAgent(backend, state_type)")
        super().__init__(_step_of(logic), memory, _name_of(logic))


def _step_of(logic: Logic[A, S, B]) -> _Step[A, S, B]:
    if isinstance(logic, Agent):
        agent = logic
        return lambda given, state: _pair_from(agent.invoke((given, state)), agent.name)
    if not callable(logic):
        raise InvalidAgent(f"{logic!r:.80} is no logic: pass a function of (input, state), or an agent of such pairs")
    function = logic
    _check_takes_two(function)
    return lambda given, state: _pair_from(function(given, state), _name_of(function))


def _check_takes_two(function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind(None, None)
    except ValueError:  # written in C, and it does not say
        return
    except TypeError:
        name = _name_of(function)
        raise InvalidAgent(
            f"{name} does not take two arguments: write it as {name}(input, state), returning (output, next state), or "
            "lift it without the state, with lift(agent)"
        ) from None


async def _pair_from(returned: Any, name: str) -> tuple[Any, Any]:
    pair = await settled(returned)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise InvalidAgent(
            f"{name} returned {type(pair).__name__}, not a pair: return (output, next state); the state is as it was"
        )
    return pair


def _name_of(logic: Any) -> str:
    return logic.name if isinstance(logic, Agent) else str(getattr(logic, "__name__", type(logic).__name__))


def _row_of(adapter: TableAdapter, initial_state: Any) -> str:
    if initial_state is None:
        raise InvalidState(f"which row of {adapter.table}? Give initial_state with its primary key, or id=")
    return datum_from(adapter.mapping, initial_state).id
