"""A lock with two queues: one event or change at a time, those in a hurry before the one that waits in a stream."""

# the lock   who has it                       what the others do                 what a cancel does
# free       nobody                           nobody waits
# held       the task whose hold is           those in a hurry wait in           of the holder: its work hears of it,
#            `_holder`; what it starts is     `_first`, in order; one event of   and the lock is passed on
#            `inside`                         the stream waits in `_stream`
# given      the one whose future was set,    wait as before                     of that one: the lock is passed on
#            before it runs: `_GIVEN` keeps
#            it from others
# waiting                                                                        it is passed over; with `refuse` those
#                                                                                in a hurry get an error instead
#
# All of it is on the event loop of its callers, and changes between two awaits. A hold lies in the context of its task,
# so it also reaches tasks that are left behind: it is emptied when the event ends, and then says that nobody is inside.

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

A = TypeVar("A")
B = TypeVar("B")

# A hold stands for one event in work: a list of the hold around it, emptied when the event ends, so that whoever still
# finds it in his context (a task that was left behind, or the consumer afterwards) is no longer inside.
Hold = list[Any]
_GIVEN: Final[Hold] = []  # to one who waited, and has not run since
_inside: Final[ContextVar[Hold | None]] = ContextVar("dgent_turn", default=None)
_get, _set = _inside.get, _inside.set


class PriorityLock:
    """A lock with two queues: `first` is served in its order, before `stream`, where one event waits at most.

    It belongs to the event loop that its callers run on. A cancelled task that waits is passed over; one that has the
    lock passes it on.
    """

    __slots__ = ("_first", "_holder", "_stream")

    def __init__(self) -> None:
        self._holder: Hold | None = None
        self._first: deque[asyncio.Future[None]] = deque()
        self._stream: asyncio.Future[None] | None = None

    @property
    def stream_waits(self) -> bool:
        """Whether the event of the stream waits for the lock."""
        return self._stream is not None

    def inside(self) -> bool:
        """Return whether the caller is part of the event in work: it, or a task that it started."""
        hold = _get()
        while hold and hold is not self._holder:
            (hold,) = hold
        return bool(hold)

    async def run(self, work: Callable[[A], Awaitable[B]], input: A, *, first: bool) -> B:
        """Return what the work makes of the input, done alone."""
        outer = _get() or None
        hold = [outer]
        if self._holder is not None:
            await self._wait(first=first)
        self._holder = hold
        _set(hold)
        try:
            return await work(input)
        finally:
            hold.clear()
            if outer is not None:
                _set(outer)  # only then, for it takes a fifth of the time of an event
            self._holder = None
            if self._first or self._stream is not None:
                self._pass_on()

    async def pass_by(self) -> None:
        """Wait until everybody who is in a hurry now has had the lock.

        Raises:
            DgentError: what `refuse` was given meanwhile.
        """
        if self._holder is not None:
            await self._wait(first=True)
            self._pass_on()

    def refuse(self, error: Callable[[], Exception]) -> None:
        """Send those who wait in a hurry away with an error."""
        for waiter in self._first:
            if not waiter.done():
                waiter.set_exception(error())
        self._first.clear()

    async def _wait(self, *, first: bool) -> None:
        waiter = asyncio.get_running_loop().create_future()
        if first:
            self._first.append(waiter)
        else:
            self._stream = waiter
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on()  # the lock came in the same moment
            raise
        finally:
            if waiter is self._stream:
                self._stream = None

    def _pass_on(self) -> None:
        """Give the lock to the next one. It is held from now on, so that nobody slips in before that one runs."""
        self._holder = None
        waiter = self._stream
        while self._first and ((waiter := self._first.popleft()).done()):
            waiter = self._stream  # that caller has gone
        if waiter is not None and not waiter.done():
            self._holder = _GIVEN
            waiter.set_result(None)
