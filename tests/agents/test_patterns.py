"""The usage patterns and the law tests of the document that asked for `StateFunctor`.

They are as they stand there, but where `lift` does not give the agent the state (it takes `lift_logic`), and where a
state `{}` is given no "count" to begin with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from dgent.agents import Agent, Flux, Id, StateFunctor
from dgent.bridge import TableAdapter
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.models import Base
from dgent.models.brain import Crystal

if TYPE_CHECKING:
    from pathlib import Path


async def async_iter(values: Iterable[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


@dataclass
class ConversationState:
    history: list[str] = field(default_factory=list)


async def test_pattern_1_basic_state_threading(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "conversations.db")
    state_functor = StateFunctor(
        state_type=ConversationState, backend=backend, initial_state=ConversationState(history=[])
    )

    def chat_logic(message: str, state: ConversationState) -> tuple[str, ConversationState]:
        new_history = [*state.history, f"User: {message}"]
        response = f"heard {len(new_history)}"
        return response, ConversationState(history=[*new_history, f"Bot: {response}"])

    chat_agent = state_functor.lift_logic(chat_logic)
    assert [await chat_agent.invoke("Hello!"), await chat_agent.invoke("Again")] == ["heard 1", "heard 3"]
    assert (await chat_agent.state()).history == ["User: Hello!", "Bot: heard 1", "User: Again", "Bot: heard 3"]
    await backend.close()


async def test_pattern_2_flux_of_state() -> None:
    state_functor = StateFunctor(state_type=ConversationState, backend=MemoryBackend())
    flux_state = StateFunctor.compose_flux(state_functor)
    flux_stateful = flux_state(Agent.from_function(str.upper))
    assert [result async for result in flux_stateful.start(async_iter("abc"))] == ["A", "B", "C"]

    def remember(event: str, state: ConversationState) -> tuple[int, ConversationState]:
        return len(state.history), ConversationState([*state.history, event])

    threaded = Flux.lift(state_functor.lift_logic(remember))
    assert [result async for result in threaded.start(async_iter("abc"))] == [0, 1, 2]
    assert await state_functor.memory.load() == ConversationState(["a", "b", "c"])


async def test_pattern_3_typed_state_from_a_table(sqlite_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{sqlite_path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    session_factory = async_sessionmaker(engine, class_=AsyncSession)

    crystal_state = StateFunctor.from_table_adapter(
        adapter=TableAdapter(Crystal, session_factory),
        initial_state=Crystal(id="session_crystal", content_hash="0", summary="", tags=[], access_count=0),
    )

    async def analyse(pair: tuple[str, Crystal]) -> tuple[int, Crystal]:
        event, crystal = pair
        crystal.access_count += 1
        crystal.tags = [*crystal.tags, event]
        return crystal.access_count, crystal

    crystal_agent = crystal_state.lift_logic(Agent.from_function(analyse))
    flux_crystal = Flux.lift(crystal_agent)
    assert [result async for result in flux_crystal.start(async_iter("abc"))] == [1, 2, 3]
    async with engine.connect() as connection:  # it is a row, and SQL sees it
        rows = await connection.execute(text("SELECT id, tags, access_count, version FROM brain_crystals"))
        assert [(*row,) for row in rows] == [("session_crystal", '["a", "b", "c"]', 3, 3)]
    await engine.dispose()


@pytest.fixture
def state_functor() -> StateFunctor[Any]:
    return StateFunctor(state_type=dict, backend=MemoryBackend(), initial_state={"count": 0})


async def test_identity_law(state_functor: StateFunctor[Any]) -> None:
    assert await state_functor.lift(Id).invoke("test") == "test"


async def test_composition_law(state_functor: StateFunctor[Any]) -> None:
    def double(x: int) -> int:
        return x * 2

    def add_one(x: int) -> int:
        return x + 1

    composed_then_lifted = state_functor.lift(Agent.from_function(lambda x: add_one(double(x))))
    lifted_then_composed = state_functor.lift(Agent.from_function(double)) >> state_functor.lift(
        Agent.from_function(add_one)
    )
    assert await composed_then_lifted.invoke(5) == await lifted_then_composed.invoke(5) == 11


async def test_flux_composition_preserves_state(state_functor: StateFunctor[Any]) -> None:
    counter_agent = state_functor.lift_logic(lambda x, s: (s["count"], {**s, "count": s.get("count", 0) + 1}))
    flux_counter = Flux.lift(counter_agent)
    assert [result async for result in flux_counter.start(async_iter(["a", "b", "c"]))] == [0, 1, 2]
