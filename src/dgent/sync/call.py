"""One call of a thread that waits for what its coroutine does on the loop of somebody else."""

# a call      where it is                              what an interrupt of its thread does
# posted      on its way to the loop, or not yet       `interrupt` comes behind it, and it never begins
# running     a task of the loop, or a request that    `interrupt` cancels it, and the thread waits for the end; again,
#             the task of a block carries out          and it waits no more: the call ends on the loop all the same
# ended       `_ended` is free: result or error        nothing
#
# An interrupt is Ctrl-C, or whatever else the handler of a signal raises, as the time limits of job queues do.
# The thread touches a call before it is posted and after it has ended, the loop meanwhile.

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from dgent.exceptions import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextvars import Context

    from dgent.sync.loop_thread import LoopThread

T = TypeVar("T")


class Call(Generic[T]):
    """What a thread waits for.

    Attributes:
        work: what is awaited on the loop.
        interrupted: whether its thread no longer wants the answer.
    """

    __slots__ = ("_done", "_ended", "_error", "_result", "_task", "_thread", "interrupted", "work")

    def __init__(self, thread: LoopThread, work: Callable[[], Awaitable[T]]) -> None:
        self.work = work
        self.interrupted = False
        self._thread = thread
        self._done = False
        self._ended = threading.Lock()
        self._ended.acquire()
        self._task: asyncio.Task[None] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self, begin: Callable[[], object], interrupt: Callable[[], object]) -> T:
        """Let the loop begin it, wait for the end, and return the result, or raise the error.

        Raises:
            StoreClosed: the loop ended before.
        """
        try:
            self._thread.post(begin)
            self._ended.acquire()
        except StoreClosed:
            raise
        except BaseException:  # at any point: it may not be posted, or have ended already
            if not self._done:
                self._thread.post(interrupt)
                self._ended.acquire()
            raise
        return self.outcome()

    def wait(self) -> T:
        """Do the same for one that has begun."""
        return self.run(_nothing, self.interrupt)

    def outcome(self) -> T:
        """Return the result, or raise the error.

        Raises:
            StoreClosed: the loop ended before.
        """
        if self._error is None:
            return cast("T", self._result)
        if isinstance(self._error, asyncio.CancelledError):  # not by us: the loop ends
            raise self._thread.closed()
        try:
            raise self._error
        finally:
            self._error = None  # this frame is in its traceback

    # What follows runs on the loop.

    def begin(self, context: Context) -> None:
        """Carry it out in a task of its own."""
        if self.interrupted:
            return
        self.follow(self._thread.loop.create_task(self.carry_out(), context=context))

    def follow(self, task: asyncio.Task[None]) -> None:
        """Let it end with a task that carries it out."""
        self._task = task
        task.add_done_callback(self._end)

    def interrupt(self) -> None:
        """Cancel it, because its thread was interrupted; one that did not begin never does."""
        self.interrupted = True
        if self._task is not None:
            self._task.cancel()
        else:
            self.end()

    async def carry_out(self) -> None:
        """Do the work."""
        try:
            self._result = await self.work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # the thread that waits hears of it; an exit must not end the loop
            self._error = error

    def end(self, error: BaseException | None = None) -> None:
        """Let its thread go on."""
        if not self._done:
            self._error = self._error or error
            self._done = True
            self._ended.release()

    def _end(self, task: asyncio.Task[None]) -> None:
        self.end(asyncio.CancelledError() if task.cancelled() else None)


def _nothing() -> None:
    """Begin nothing."""


def plain(function: Callable[[], T]) -> Callable[[], Coroutine[Any, Any, T]]:
    """Return a function that does not wait as one that could."""

    async def work() -> T:
        return function()

    return work
