"""Agents on streams: each event goes through the agent, in order, at the pace of who consumes the outputs."""

# No task runs beside the consumer's: it is the consumer's `async for` that takes an event from the source, gives it to
# the agent and hands out the output. So an event is taken when its output is asked for, and one that was handed out is
# done with. With a buffer a `ReadAhead` has a task that takes from the source; the flow ends it.
#
# who                   holds                                           what a cancel does
# the consumer          the lock as the stream, while the agent works   an event in work may have had its effect; the
#                                                                       flow ends as STOPPED
# `invoke()`            the lock in a hurry, while the agent works      of one that waits: it never comes to the
#                                                                       agent; else the agent hears of it
# `stop()`, `drain()`   nothing: they wait for the end of the flow,     the flow ends all the same
#                       unless that waits for them
#
# The states of a flow are those of `FluxState`; who waits for the lock is in `priority_lock.py`.

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from dgent.agents.agent import Agent, Id, checked, settled
from dgent.agents.flow import OPEN, Flow, FluxState
from dgent.agents.priority_lock import PriorityLock
from dgent.agents.read_ahead import ReadAhead
from dgent.exceptions import FluxBusy, FluxStopped, InvalidAgent, InvalidInput, ReentrantInvoke

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

OnError = Callable[[Exception, Any], Any]
"""Called with an error of the agent and the event that is skipped; what it raises ends the flow."""


class Flux:
    """The functor from agents to agents on streams."""

    @staticmethod
    def lift(agent: Agent[A, B], *, buffer: int = 0, on_error: OnError | None = None) -> FluxAgent[A, B]:
        """Return the agent as one that a stream can flow through.

        Args:
            agent: what each event is given to.
            buffer: how many events are read ahead of the consumer; with 0 none is taken before its output is asked for.
            on_error: called with an error of the agent and its event, which is skipped; without it the flow fails.

        Raises:
            InvalidAgent: it is no agent.
            InvalidInput: the buffer is no number of events, or the handler no function.
        """
        return FluxAgent(agent, buffer=buffer, on_error=on_error)


class FluxAgent(Agent[A, B]):
    """An agent that a stream can flow through; made by `Flux.lift`. It belongs to one event loop.

    While it flows, `invoke()` is a perturbation: it goes through the agent like an event of the stream, before the one
    that waits, and its result goes to its caller only. Two events never overlap.
    """

    def __init__(self, inner: Agent[A, B], *, buffer: int = 0, on_error: OnError | None = None) -> None:
        if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 0:
            raise InvalidInput(f"buffer is {buffer!r:.80}: pass how many events to read ahead, 0 or more")
        if on_error is not None and not callable(on_error):
            raise InvalidInput(f"on_error is {on_error!r:.80}: pass a function of the error and the event")
        self.inner, self.buffer, self.on_error = checked(inner), buffer, on_error
        self._lock = PriorityLock()
        self._flow: Flow | None = None

    @property
    def name(self) -> str:
        """The name of the agent inside."""
        return f"Flux({self.inner.name})"

    @property
    def state(self) -> FluxState:
        """What it does now, or how its last flow ended."""
        return FluxState.IDLE if self._flow is None else self._flow.state

    def start(self, source: AsyncIterable[A]) -> AsyncGenerator[B, None]:
        """Return the outputs for the events of a source, in their order.

        A slow source is waited for. An error of the source or the agent reaches the consumer. The source is left open
        where the flow ends before it: it can be started again with the rest.

        Raises:
            InvalidAgent: the source is not async.
            FluxBusy: it flows already.
        """
        if not isinstance(source, AsyncIterable):
            raise InvalidAgent(_no_source(source))
        if self.state in OPEN:
            raise FluxBusy(f"{self.name} flows already: go on with that flow, or end it with stop() or drain()")
        self._flow = flow = Flow()
        outputs = self._outputs(flow, source)
        flow.watch(outputs)
        return outputs

    async def invoke(self, input: A, /) -> B:
        """Return the output for an input, before any event of the stream that waits.

        Raises:
            FluxStopped: `stop()` came first.
            ReentrantInvoke: called by the agent inside.
        """
        if self._lock.inside():
            raise ReentrantInvoke(f"{self.name} is invoked by its own agent, which it waits for: invoke what is inside")
        return await self._lock.run(self.inner.invoke, input, first=True)

    async def stop(self) -> None:
        """End the flow now, and wait until it has ended; without a flow do nothing.

        The consumer's loop ends without an error. Its wait for the source or for the agent is cancelled (so an event in
        work may have had its effect), what was read ahead is dropped, and who waits in `invoke()` gets `FluxStopped`.
        From inside of the agent it does not wait: the event in work is finished and handed out.
        """
        flow, inside = self._flow, self._lock.inside()
        if flow is None:
            return
        if flow.state in OPEN:
            flow.stop()
            self._lock.refuse(lambda: FluxStopped(f"{self.name} was stopped before it came to this event"))
            if not (inside and flow.awaits == "agent" and not self._lock.stream_waits):  # else that event asks for it
                self._call_back(flow)
        await self._wait_for(flow, inside=inside)

    async def drain(self) -> None:
        """Take no more from the source, finish what was taken and who waits in `invoke()`, and wait until that is done.

        The last outputs go to the consumer as it asks for them; to its own task, and inside of the agent, `drain()`
        returns at once.
        """
        flow, inside = self._flow, self._lock.inside()
        if flow is not None:
            flow.drain()
            if flow.over and flow.awaits == "source":
                self._call_back(flow)
            await self._wait_for(flow, inside=inside)
        if not inside:
            with suppress(FluxStopped):
                await self._lock.pass_by()

    @staticmethod
    def _call_back(flow: Flow) -> None:
        if flow.awaits and flow.task is not asyncio.current_task():
            flow.interrupt()

    @staticmethod
    async def _wait_for(flow: Flow, *, inside: bool) -> None:
        """Wait for the end of a flow, unless it would wait for the caller."""
        if inside or (flow.task is asyncio.current_task() and not flow.ended.is_set()):
            return
        await flow.ended.wait()
        await flow.closed()

    def __rshift__(self, after: Agent[B, C]) -> FluxAgent[A, C]:
        """Return both as one that a stream can flow through, with the buffer and the handler of this one."""
        if checked(after) is Id:
            return self  # type: ignore[return-value]  # Id gives what it takes: C is B
        inner = after.inner if isinstance(after, FluxAgent) else after
        return FluxAgent(self.inner >> inner, buffer=self.buffer, on_error=self.on_error)

    async def _outputs(self, flow: Flow, source: AsyncIterable[A]) -> AsyncGenerator[B, None]:
        run, work = self._lock.run, self.inner.invoke
        async with flow:
            if not flow.enter():
                return
            if self.buffer:
                source = flow.ahead = ReadAhead(source, self.buffer)
            async for event in source:
                flow.awaits = "agent"
                try:
                    output = await run(work, event, first=False)
                except Exception as error:
                    if self.on_error is None:
                        raise
                    await settled(self.on_error(error, event))
                else:
                    flow.awaits = None
                    if flow.over:
                        flow.end(FluxState.DONE)
                    yield output
                if not flow.enter():
                    return


def _no_source(source: object) -> str:
    shown = f"{source!r:.80}"
    if inspect.isasyncgenfunction(source):
        return f"{shown} makes a source: call it"
    if isinstance(source, Iterable):
        return f"{shown} is not async: pass an async generator, such as one with `for event in source: yield event`"
    return f"{shown} is no source of events: pass what `async for` takes, such as an async generator"
