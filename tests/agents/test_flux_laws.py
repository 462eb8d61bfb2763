"""The laws of flux, F1 to F6, over interleavings on a virtual clock: any delays, callers and endings."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from dgent.agents import Agent, Flux, StateFunctor
from dgent.agents.flow import FluxState
from dgent.exceptions import FluxStopped
from dgent.memory.inmemory.backend import MemoryBackend

from .virtual_clock import run

DELAYS = st.sampled_from([0.0, 0.0, 1.0, 2.0, 5.0])
MOMENTS = st.integers(0, 24).map(lambda half: half / 2)
ENDINGS = (
    "exhausted",
    "stop",
    "drain",
    "break",
    "cancel",
    "source error",
    "agent error",
    "stop inside",
    "drain inside",
)


@dataclass(frozen=True)
class Call:
    """Somebody who invokes at a moment, with so much patience; its event takes so long, and may fail."""

    at: float
    patience: float | None
    work: float
    fails: bool


@dataclass(frozen=True)
class Plan:
    source: tuple[float, ...]
    work: tuple[float, ...]
    body: tuple[float, ...]
    calls: tuple[Call, ...]
    ending: str
    at: float
    buffer: int
    handled: bool


CALLS = st.builds(Call, MOMENTS, st.none() | DELAYS, DELAYS, st.booleans())


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    n = draw(st.integers(0, 6))
    delays = st.lists(DELAYS, min_size=n, max_size=n).map(tuple)
    return Plan(
        draw(delays),
        draw(delays),
        draw(delays),
        tuple(draw(st.lists(CALLS, max_size=5))),
        draw(st.sampled_from(ENDINGS)),
        draw(MOMENTS),
        draw(st.integers(0, 3)),
        draw(st.booleans()),
    )


class Broken(Exception):
    """Raised by a source, an agent or a call on purpose."""


@dataclass
class World:
    """Plays a plan, and notes what happened."""

    plan: Plan
    begun: list[Any] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)
    pulled: int = 0
    cancelled_in_source: int = 0
    outputs: list[Any] = field(default_factory=list)
    skipped: list[Any] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    error: BaseException | None = None
    busy: Any = None
    ahead: int = 0

    async def agent(self, event: tuple[str, int]) -> Any:
        kind, at = event
        assert self.busy is None, f"{event} began while {self.busy} was in work"
        self.busy = event
        self.begun.append(event)
        try:
            if kind == "event" and at == self.middle and self.plan.ending.endswith("inside"):
                await (self.flux.stop() if self.plan.ending.startswith("stop") else self.flux.drain())
            await asyncio.sleep(self.plan.work[at] if kind == "event" else self.plan.calls[at].work)
            failing = self.plan.calls[at].fails if kind == "call" else self.is_ending("agent error", at)
            if failing:
                raise Broken(event)
            self.done.append(event)
            return self.output_for(event)
        finally:
            self.busy = None

    @staticmethod
    def output_for(event: tuple[str, int]) -> Any:
        return ("output", event)

    @property
    def middle(self) -> int:
        return len(self.plan.source) // 2

    def is_ending(self, ending: str, at: int) -> bool:
        return self.plan.ending == ending and at == self.middle

    async def source(self) -> AsyncIterator[tuple[str, int]]:
        for at, delay in enumerate(self.plan.source):
            if self.is_ending("source error", at):
                raise Broken("source")
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                self.cancelled_in_source += 1
                raise
            self.pulled += 1
            begun = sum(kind == "event" for kind, _ in self.begun)
            self.ahead = max(self.ahead, self.pulled - begun)
            yield ("event", at)

    async def consume(self) -> None:
        try:
            async for output in self.flux.start(self.source()):
                self.outputs.append(output)
                await asyncio.sleep(self.plan.body[len(self.outputs) - 1])
                if self.plan.ending == "break" and len(self.outputs) > self.middle:
                    break
        except (Broken, asyncio.CancelledError) as error:
            self.error = error
            error.__traceback__ = None
            if isinstance(error, asyncio.CancelledError):
                raise
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "an interruption was not taken back"

    async def call(self, at: int) -> None:
        plan = self.plan.calls[at]
        await asyncio.sleep(plan.at)
        try:
            async with asyncio.timeout(plan.patience):
                self.answers[at] = await self.flux.invoke(("call", at))
        except (Broken, TimeoutError, FluxStopped) as error:
            self.answers[at] = error

    async def end(self, consumer: asyncio.Task[None]) -> None:
        await asyncio.sleep(self.plan.at)
        match self.plan.ending:
            case "stop":
                await self.flux.stop()
                assert self.flux.state not in {FluxState.FLOWING, FluxState.DRAINING}
            case "drain":
                await self.flux.drain()
                assert self.flux.state not in {FluxState.FLOWING, FluxState.DRAINING}
            case "cancel":
                consumer.cancel()

    def handle(self, error: Exception, event: Any) -> None:
        assert isinstance(error, Broken)
        self.skipped.append(event)

    async def play(self, inner: Agent[Any, Any] | None = None) -> World:
        inner = inner or Agent.from_function(self.agent)
        self.flux = Flux.lift(inner, buffer=self.plan.buffer, on_error=self.handle if self.plan.handled else None)
        consumer = asyncio.create_task(self.consume())
        others = [asyncio.create_task(self.call(at)) for at in range(len(self.plan.calls))]
        others.append(asyncio.create_task(self.end(consumer)))
        _, *results = await asyncio.gather(consumer, *others, return_exceptions=True)
        assert [each for each in results if isinstance(each, BaseException)] == []
        return self

    def events_done(self) -> list[Any]:
        return [event for event in self.done if event[0] == "event"]


@given(plans())
@example(
    Plan((1.0, 5.0), (2.0, 0.0), (0.0, 0.0), (Call(1.5, None, 2.0, fails=False),) * 2, "stop", 2.0, 0, handled=False)
)
@example(Plan((0.0,) * 4, (2.0,) * 4, (5.0,) * 4, (Call(2.0, 1.0, 5.0, fails=False),), "drain", 2.5, 3, handled=False))
def test_l_f1_f2_f3_f4_f6_flux_over_any_interleaving(plan: Plan) -> None:
    world = run(World(plan).play())
    check_outputs(world)
    check_answers(world)
    check_state(world)


def check_outputs(world: World) -> None:
    """F1 and F6: what was handed out is what was done, in order and with none left out; errors reach somebody."""
    plan, events = world.plan, [("event", at) for at in range(len(world.plan.source))]
    taken = [event for event in world.begun if event[0] == "event"]
    assert taken == events[: len(taken)]
    assert world.outputs == [world.output_for(event) for event in world.events_done()]
    failed = [event for event in taken if world.is_ending("agent error", event[1])]
    assert world.skipped == (failed if plan.handled else [])
    expected = plan.ending in {"source error", "agent error"} and bool(events)
    assert plan.ending == "cancel" or not isinstance(world.error, asyncio.CancelledError)
    assert isinstance(world.error, Broken) == (expected and not (plan.ending == "agent error" and plan.handled))
    if plan.ending in {"exhausted", "agent error"} and world.error is None:
        assert taken == events
    if plan.ending not in {"stop", "drain", "cancel", "stop inside", "drain inside"} and not plan.buffer:
        assert world.cancelled_in_source == 0
    if plan.ending in {"drain", "drain inside"}:
        assert len(world.outputs) == world.pulled, "what was taken from the source is finished"
    assert world.ahead <= max(1, plan.buffer + 1)  # the one that is being given to the agent counts too


def check_answers(world: World) -> None:
    """F2 and F3: each caller has an answer, its own, and nobody else has it."""
    assert set(world.answers) == set(range(len(world.plan.calls)))
    for at, answer in world.answers.items():
        call = world.plan.calls[at]
        if isinstance(answer, TimeoutError):
            assert call.patience is not None
        elif isinstance(answer, FluxStopped):
            assert world.plan.ending.startswith("stop")
            assert ("call", at) not in world.begun
        elif isinstance(answer, Broken):
            assert call.fails
            assert answer.args == (("call", at),)
        else:
            assert answer == world.output_for(("call", at))
    assert max(Counter(world.begun).values(), default=1) == 1


def check_state(world: World) -> None:
    ended = {
        "exhausted": {FluxState.DONE},
        "stop": {FluxState.STOPPED, FluxState.DONE},
        "drain": {FluxState.DONE},
        "break": {FluxState.STOPPED, FluxState.DONE},
        "cancel": {FluxState.STOPPED, FluxState.DONE},
        "source error": {FluxState.FAILED, FluxState.DONE},
        "agent error": {FluxState.FAILED, FluxState.DONE},
        "stop inside": {FluxState.STOPPED, FluxState.DONE},
        "drain inside": {FluxState.DONE},
    }[world.plan.ending]
    assert world.flux.state in ended
    if isinstance(world.error, Broken):
        assert world.flux.state is FluxState.FAILED


@given(plans())
def test_l_f5_the_state_is_the_fold_in_the_order_processed(plan: Plan) -> None:
    world = World(plan)
    functor = StateFunctor(list, MemoryBackend(), [])

    async def logic(event: Any, seen: list[Any]) -> tuple[Any, list[Any]]:
        assert seen == [list(each) for each in world.done], "an event was worked on from a state that is not the last"
        output = await world.agent(event)
        return output, [*seen, list(event)]

    stateful = functor.lift_logic(logic)
    run(world.play(stateful))
    assert run(stateful.state()) == [list(event) for event in world.done]
    assert world.outputs == [world.output_for(event) for event in world.events_done()]


@given(plans(), st.integers(0, 3))
def test_l_f1_a_flux_may_be_started_again_after_any_ending(plan: Plan, buffer: int) -> None:
    world = World(plan)

    async def twice() -> list[Any]:
        await world.play(inner := Agent.from_function(world.agent))
        assert inner is world.flux.inner

        async def more() -> AsyncIterator[int]:
            for n in range(3):
                yield n

        world.flux.inner = Agent.from_function(lambda n: n + 1)
        world.flux.buffer = buffer
        return [output async for output in world.flux.start(more())]

    assert run(twice()) == [1, 2, 3]
