"""The task that the blocks of one thread run in: what it asks for inside of them is done in that task, one by one."""

# In an asynchronous program a block, `async with storage.transaction()`, and all that is awaited in it belong to one
# task; the transaction knows its owner by that, and its context by the task's. So here they have one, too.
#
# the task    its thread                                      what its time limit, a cancel of the task, does
# idle        runs its own code inside of the block           the blocks are undone at once; if the thread has had
#                                                             the session, when it asks next, for it may use it
# serving     waits for its request                           the request is cut off and the blocks are undone
# over        hears of every request why it is over           nothing
#
# An interrupt of the thread, as by Ctrl-C, cancels the request that it waits for, and leaves the block to it.

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from dgent.exceptions import StoreClosed, TransactionOpen
from dgent.sql.transaction_block import ended
from dgent.sync.call import Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from contextvars import Context

    from dgent.sync.loop_thread import LoopThread

T = TypeVar("T")


class BlockTask:
    """One task for the blocks that a thread, or a task of a loop that runs there, has open within each other.

    Attributes:
        context: that of the task, for what others do within its blocks.
        has_session: whether the thread uses the session of a transaction by itself.
        over: whether its blocks have ended.
    """

    def __init__(self, thread: LoopThread, context: Context) -> None:
        self.thread, self.context = thread, context
        self.has_session = self.over = False
        self._whose = _caller()
        self._open: list[AbstractAsyncContextManager[Any]] = []
        self._why: BaseException | None = None
        self._requests: deque[Call[Any]] = deque()
        self._running: Call[Any] | None = None
        self._come: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_mine(self) -> bool:
        """Whether the caller is who opened it."""
        return self._whose == _caller()

    def request(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something in the task, and wait for it here."""
        self.thread.check()
        call = Call(self.thread, work)
        return call.run(partial(self._take, call), partial(self._interrupt, call))

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter a block, within those that are open."""

        async def enter() -> T:
            entered = await manager.__aenter__()
            self._open.append(manager)
            return entered

        try:
            return self.request(enter)
        except BaseException as error:  # an interrupt that came when it was entered already
            if manager in self._open:
                self.leave(type(error), error, error.__traceback__)
            raise

    def leave(self, *error: Any) -> bool:
        """Leave the innermost block, by an error or well; tell whether the error is dealt with."""
        if self.over and error[1] is not None:
            return False  # it says why, or is of the thread's own

        async def leave(*error: Any) -> bool:
            return bool(await self._open.pop().__aexit__(*error))

        before = len(self._open)
        try:
            return self.request(partial(leave, *error))
        except BaseException as interrupt:
            if len(self._open) == before and not self.over:  # it came before the request was made
                self.request(partial(leave, type(interrupt), interrupt, interrupt.__traceback__))
            raise

    def wait_for(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something for the session, which its thread uses.

        Raises:
            TransactionOpen: another thread does.
        """
        if not self.is_mine:
            raise TransactionOpen("the session of a transaction belongs to the thread that opened it: use it there")
        return self.request(work)

    # What follows runs on the loop.

    def _take(self, call: Call[Any]) -> None:
        if self.over:
            call.end(self._why or ended())
            return
        if call.interrupted:
            return
        self._requests.append(call)
        if self._task is None:
            self._task = self.thread.loop.create_task(self._serve(), context=self.context)
            self._task.add_done_callback(self._refuse)
        elif self._come is not None and not self._come.done():
            self._come.set_result(None)

    def _interrupt(self, call: Call[Any]) -> None:
        if call in self._requests:
            self._requests.remove(call)
            call.end()
            if not self._open and self._running is None and self._task is not None:  # it was to enter the first block
                self._task.cancel()
        elif self._running is call and self._task is not None:
            call.interrupted = True
            self._task.cancel()
        else:
            call.interrupt()

    async def _serve(self) -> None:
        while not self.over:
            try:
                await self._arrival()
            except asyncio.CancelledError as error:
                if self.has_session and not self._requests:
                    await self._return()
                await self._undo(error)
                return
            await self._answer(self._requests.popleft())

    async def _arrival(self) -> None:
        while not self._requests:
            self._come = self.thread.loop.create_future()
            await self._come

    async def _return(self) -> None:
        """Wait for the thread, unless the loop ends meanwhile."""
        try:
            await self._arrival()
        except asyncio.CancelledError:
            return

    async def _answer(self, call: Call[Any]) -> None:
        self._running = call
        try:
            await call.carry_out()
        except asyncio.CancelledError as error:
            if call.interrupted and self._task is not None:
                self._task.uncancel()
            else:
                await self._undo(error)
        finally:
            self._running = None
            self.over = self.over or not self._open  # before its thread goes on, which asks
            call.end(self._why)

    async def _undo(self, error: BaseException) -> None:
        """End all blocks by an error, the innermost first, as if it had left them."""
        self.over = True
        self._why = error
        while self._open:
            why = self._why
            try:
                await self._open.pop().__aexit__(type(why), why, why.__traceback__)
            except BaseException as later:  # the next block hears of it, and at last the thread
                self._why = later
        if isinstance(self._why, asyncio.CancelledError):
            self._why = StoreClosed("this transaction was undone, because its storage was closed: do it again")

    def _refuse(self, _: object) -> None:
        self.over = True
        while self._requests:
            self._requests.popleft().end(self._why or ended())


def _caller() -> tuple[int, asyncio.Task[Any] | None]:
    """Return who calls: a thread, and the task of a loop that runs on it."""
    loop = asyncio._get_running_loop()
    return get_ident(), None if loop is None else asyncio.current_task(loop)
