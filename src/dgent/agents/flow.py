"""One run of a flux: its state, what its consumer waits for, and how to call the consumer back from there."""

# The consumer's own task drives a flow; all of it is on one event loop, so there is no lock.
#
# `awaits`   what the task does      what `stop` does                      what a cancel of the consumer does
# source     waits for the next      calls it back: the loop of the        STOPPED
#            event                   consumer ends without an error
# agent      waits for the agent,    the same; where that event asks for   the agent hears of it; STOPPED
#            or for the lock         it: nothing, it is finished
# None       uses the last output,   the flow has ended                    the flow is not told, until the outputs
#            or has not begun                                              are closed or let go of: STOPPED
#
# To call back is to cancel the task as `asyncio.timeout` does: `_interrupts` counts that, `absorb` takes it back, and a
# cancel by anybody else, which `_base` tells apart, goes on. How a flow ended is what was noted first.

from __future__ import annotations

import asyncio
from asyncio import current_task
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from dgent.agents.read_ahead import ReadAhead


class FluxState(StrEnum):
    """What a flux does, or how its last flow ended.

        IDLE ── start() ──> FLOWING ── drain() ──> DRAINING
                               │                      │
                               ├──────────────────────┼──> DONE      the source ended, or it was drained
                               ├──────────────────────┼──> STOPPED   stop(), or the consumer left or was cancelled
                               └──────────────────────┴──> FAILED    an error reached the consumer

    From DONE, STOPPED and FAILED, `start()` leads to FLOWING again.
    """

    IDLE = "idle"
    FLOWING = "flowing"
    DRAINING = "draining"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


OPEN: Final = (FluxState.FLOWING, FluxState.DRAINING)


class Flow:
    """The consumer's own task drives a flow; `awaits` says what for it waits, None while it uses the last output.

    `over` says that it ends where the consumer asks for the next output; `ended` is set when no more can come.
    """

    __slots__ = ("_base", "_interrupts", "_loop", "_outputs", "ahead", "awaits", "ended", "over", "state", "task")

    def __init__(self) -> None:
        self.state = FluxState.FLOWING
        self.ahead: ReadAhead[Any] | None = None
        self.task: asyncio.Task[Any] | None = None
        self.awaits: Literal["source", "agent"] | None = None
        self.over = False
        self.ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outputs: ref[AsyncGenerator[Any, None]] | None = None
        self._base = self._interrupts = 0

    def watch(self, outputs: AsyncGenerator[Any, None]) -> None:
        """Stop as soon as nobody holds the outputs any more; the event loop closes them later."""
        self._outputs = ref(outputs, self._dropped)

    def enter(self) -> bool:
        """Note that the consumer, each time maybe another task, asks for an output; return whether one may come."""
        if self.over:
            return False
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self.task = task = current_task(self._loop)  # with the loop it takes a third of the time
        self._base = task.cancelling() if task is not None else 0
        self.awaits = "source"
        return True

    def drain(self) -> None:
        """Take no more from the source."""
        if self.state is FluxState.FLOWING:
            self.state = FluxState.DRAINING
            self._take_no_more(over=self.ahead is None)

    def stop(self) -> None:
        """End it where it stands."""
        if self.state in OPEN:
            self.state = FluxState.STOPPED
            self._take_no_more(over=True)

    def end(self, state: FluxState) -> None:
        """Note that no more comes. How it ended is what was noted first."""
        self.absorb()
        if self.state in OPEN:
            self.state = state
        self.over = True
        self.ended.set()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Note how it ends, and see to what was read ahead; our own interruption is no error."""
        self.awaits = None
        called_back = self.absorb() and isinstance(error, asyncio.CancelledError)
        try:
            await self.closed()
        finally:
            if error is None or called_back:
                self.end(FluxState.DONE)
            else:
                self.end(FluxState.FAILED if isinstance(error, Exception) else FluxState.STOPPED)
        return called_back

    async def closed(self) -> None:
        """Wait until the task that reads ahead has ended."""
        if self.ahead is not None:
            await self.ahead.aclose()

    def interrupt(self) -> None:
        """Call the consumer back from what it waits for, as `asyncio.timeout` does."""
        if self.task is not None:
            self._interrupts += 1
            self.task.cancel()

    def absorb(self) -> bool:
        """Take the interruptions back; return whether there were any and nobody else has cancelled the consumer."""
        remaining = self._base + 1
        while self._interrupts and self.task is not None:
            self._interrupts -= 1
            remaining = self.task.uncancel()
        return remaining <= self._base

    def _dropped(self, _: object) -> None:
        self.over = True
        if self.task is None:
            self.end(FluxState.STOPPED)  # it never began, so nothing is there to be closed
        elif self.state in OPEN:
            self.state = FluxState.STOPPED

    def _take_no_more(self, *, over: bool) -> None:
        self.over = over
        if self.ahead is not None:
            self.ahead.finish()
        if over and self.awaits is None:
            self.end(FluxState.DONE)
