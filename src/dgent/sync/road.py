"""How a call gets to the loop that owns the store: from which thread, inside of which transaction."""

# who calls                                          where it runs
# a thread inside of a block that it opened          in the task of that block, see `block_task`
# another thread, inside of a copy of its context    in a task of its own, in the context of the block, as what a task
#                                                    that was made inside of it does
# a thread that runs a loop, as of a notebook        in a task of its own, while that loop stands still
# a thread without a loop: what only reads           its first step as a guest on that thread, and that is all it takes
#                                                    where nothing has to be waited for
# a thread without a loop: what writes               in a task of its own
# a callback on the loop itself                      nowhere: WrongLoop
#
# A guest's step may be broken off by a signal, which is why what writes is never one. `_rest` counts how many reads go
# to the loop before the next guest, twice as many after each one that had to wait: so it is seldom for nothing.

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from dgent.exceptions import TransactionOpen
from dgent.sql.blocking_session import opened
from dgent.sync.block_task import BlockTask
from dgent.sync.call import Call, plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from contextvars import Context
    from types import TracebackType

    from sqlalchemy.orm import Session

    from dgent.sql.transaction_block import BlockSession
    from dgent.sync.loop_thread import LoopThread

T = TypeVar("T")
LONGEST_REST: Final = 1024
_NOT_SHARED: Final = (
    "the session of a transaction belongs to the thread that opened it, and once that uses it, all of the transaction: "
    "let other threads return what they found, and write it there"
)

_open: ContextVar[tuple[BlockTask, ...]] = ContextVar("dgent_sync_blocks", default=())


class Road:
    """The way of all calls of one storage.

    Attributes:
        thread: where the loop runs.
    """

    def __init__(self, thread: LoopThread) -> None:
        self.thread = thread
        self._missed = 0
        self._rest = 1  # the first read may have to make what others find

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something on the loop, and wait for it here."""
        self.thread.check()
        block = self.block()
        if block is None:
            return self._post(work, copy_context())
        return block.request(work) if block.is_mine else self._post(work, block.context.copy())

    def read(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the same for what only reads, here if that can be."""
        if self._rest or not self._may_be_guest():
            self._rest = max(0, self._rest - 1)
            return self.call(work)
        self.thread.check()
        call, loop = Call(self.thread, work), self.thread.loop

        def begin() -> bool:
            task = loop.first_step(call.carry_out(), copy_context())
            if not task.done():
                call.follow(task)
            return task.done()

        if self.thread.as_guest(begin):
            self._missed = 0
            return call.outcome()
        self._rest, self._missed = self._missed, min(LONGEST_REST, 2 * self._missed + 1)
        return call.wait()

    def plain(self, function: Callable[[], T]) -> T:
        """Call a function that does not wait."""
        if not self._may_be_guest():
            return self.call(plain(function))
        self.thread.check()
        return self.thread.as_guest(function)

    def block(self) -> BlockTask | None:
        """Return the innermost task of blocks around the caller."""
        for block in reversed(_open.get()):
            if block.thread is self.thread and not block.over:
                return block
        return None

    def within(self, block: BlockTask) -> Road:
        """Return the way of calls on what belongs to a transaction."""
        return _RoadWithin(self.thread, block)

    def _may_be_guest(self) -> bool:
        return asyncio._get_running_loop() is None and not self.thread.loop.get_debug() and self.block() is None

    def _post(self, work: Callable[[], Awaitable[T]], context: Context) -> T:
        call = Call(self.thread, work)
        return call.run(partial(call.begin, context), call.interrupt)


class _RoadWithin(Road):
    """The way of calls on what belongs to one transaction, whoever has it."""

    def __init__(self, thread: LoopThread, block: BlockTask) -> None:
        super().__init__(thread)
        self._block = block
        self._session: Session | None = None

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        self.thread.check()
        if self._block.is_mine:
            return self._block.request(work)
        if self._block.has_session and not self._block.over:
            raise TransactionOpen(_NOT_SHARED)
        return self._post(work, self._block.context.copy())

    def read(self, work: Callable[[], Awaitable[T]]) -> T:
        return self.call(work)

    def plain(self, function: Callable[[], T]) -> T:
        return self.call(plain(function))

    def session(self, asynchronous: BlockSession) -> Session:
        """Return the session of the transaction, for the thread that opened it.

        Raises:
            TransactionOpen: this is another one.
        """
        if not self._block.is_mine:
            raise TransactionOpen(_NOT_SHARED)
        if self._session is None:
            self._block.has_session = True
            self._session = self.call(lambda: opened(asynchronous, self._block.wait_for))
        return self._session


class SyncBlock(AbstractContextManager[T], Generic[T]):
    """A block of a thread, `with`, over an asynchronous one; what it gives is `dressed` for that thread."""

    def __init__(
        self, road: Road, manager: AbstractAsyncContextManager[Any], dressed: Callable[[Any, Road], T]
    ) -> None:
        self._road, self._manager, self._dressed = road, manager, dressed
        self._task: BlockTask | None = None

    def __enter__(self) -> T:
        self._road.thread.check()
        task = around = self._road.block()
        if task is None or not task.is_mine:  # what is open around it belongs to another: its context says so
            task = BlockTask(self._road.thread, copy_context() if around is None else around.context.copy())
        entered = task.enter(self._manager)
        try:
            self._task = task
            _open.set((*(other for other in _open.get() if other is not task and not other.over), task))
            return self._dressed(entered, self._road.within(task))
        except BaseException as error:  # an interrupt
            task.leave(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task = self._task
        assert task is not None  # noqa: S101  # it was entered
        try:
            return task.leave(kind, error, trace)
        finally:
            if task.over:
                _open.set(tuple(other for other in _open.get() if other is not task))
