"""An event loop on a thread of its own, at whose callbacks other threads may take a turn."""

# `turn` is a lock: who has it is "on" the loop.
#
# who                    has `turn`                                 what it may do
# the loop's thread      always, but while it waits in `select`     run callbacks
# a guest, any thread    for the first step of one coroutine, or    what a callback may: the loop is the running one on
#                        for one plain function                     its thread, and the step is that of a task
# everybody else         never                                      `post`, and wait for what comes of it
#
# A guest's step that ends is the answer, and no thread was woken. One that waits goes on as a task of the loop; what
# must stay on one thread, a greenlet, goes over before it begins (`on_own_thread`). A guest schedules as from another
# thread, which wakes `select`. A signal's handler that raises in a guest's step, as on
# Ctrl-C, leaves by `with` and `finally`, between which the interpreter looks at no signal.
#
# the thread    what others do
# running       as above
# ending        `post` and guests are refused with StoreClosed; tasks that are left are cancelled and awaited
# ended         the same
# forked        the same, in the child, which has no such thread; the files of the loop are the parent's, and stay

from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from dgent.exceptions import StoreClosed
from dgent.wrong_loop import WrongLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")
AT_EXIT: Final = 2.0
"""Seconds that the end of the program waits for a loop that nobody closed."""

_all: WeakSet[LoopThread] = WeakSet()


class LoopThread:
    """Owns an event loop and the daemon thread that runs it.

    Attributes:
        what: what lives on the loop, for messages.
        loop: the event loop.
        closing: held by who closes what lives on the loop, and then ends it: one at a time, or the second would end it
            under the first.
        forked: whether this is a child of the process that has the thread.
        at_exit: closes it, at the end of the program.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.loop = _TurnLoop()
        self.loop.set_default_executor(_ThreadEach())
        self.closing = threading.RLock()
        self._entry = threading.Lock()  # held for one step, so that nothing is posted behind the end
        self._accepts = True
        self.forked = False
        self.at_exit: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name=f"dgent-loop-{what}", daemon=True)
        self._thread.start()
        _all.add(self)

    def check(self) -> None:
        """Raise if a call would wait for the loop that it runs on, or for none.

        Raises:
            WrongLoop: this is the loop's thread, or a callback of it.
            StoreClosed: it has ended, or this is a forked child.
        """
        self.check_not_here()
        if self.forked:
            raise StoreClosed(f"{self.what} was opened before a fork: open it anew in the child process")
        if not self._accepts:
            raise self.closed()

    def check_not_here(self) -> None:
        """Raise if this is the loop's thread, or a callback of it.

        Raises:
            WrongLoop: it is.
        """
        if asyncio._get_running_loop() is self.loop:
            raise WrongLoop(
                f"{self.what} was called from its own event loop, as in a callback, and would wait for itself: hand "
                "the call to another thread and do not wait for it there"
            )

    def closed(self) -> StoreClosed:
        """Return the error for what comes too late."""
        return StoreClosed(f"{self.what} was closed: open it again")

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Call back on the loop.

        Raises:
            StoreClosed: it has ended.
        """
        with self._entry:
            if not self._accepts:
                raise self.closed()
            self.loop.call_soon_threadsafe(callback, *args)

    def as_guest(self, function: Callable[[], T]) -> T:
        """Run a function that does not wait, on this thread as if on the loop. No loop runs here.

        Raises:
            StoreClosed: it has ended.
        """
        loop = self.loop
        with loop.turn:
            if not self._accepts:
                raise self.closed()
            asyncio._set_running_loop(loop)
            loop.guest, loop.first = True, None  # one that an interrupt left is nobody's
            try:
                return function()
            finally:
                loop.guest = False
                asyncio._set_running_loop(None)

    def end(self) -> None:
        """Refuse what comes, cancel what is left, and wait for the end of the thread. May be called twice."""
        if self.forked:
            return
        with self._entry:
            if self._accepts:
                self._accepts = False
                self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        loop = self.loop
        with loop.turn:
            try:
                loop.run_forever()
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                if left:
                    loop.run_until_complete(asyncio.wait(left))
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(asyncio.sleep(0))  # callbacks of those that ended last
            finally:
                loop.close()


class _TurnLoop(asyncio.SelectorEventLoop):
    """A loop that lets guests in while it waits for something to happen."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.guest = False
        self.first: list[Any] | None = None  # what a guest catches of the task that he makes
        super().__init__(_TurnSelector(self.turn))

    def first_step(self, coroutine: Coroutine[Any, Any, T], context: Context) -> asyncio.Task[T]:
        """Make a task and run its first step at once; for a guest. What is left of it the loop runs."""
        first: list[Any] = []
        self.first = first
        task = asyncio.Task(coroutine, loop=self, context=context)
        step, args = first
        context.run(step, *args)
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        """Schedule a callback; a guest's wakes the loop, but for the first step of his own task, which he runs."""
        if not self.guest:
            return super().call_soon(callback, *args, context=context)
        first, self.first = self.first, None
        if first is None:
            return self.call_soon_threadsafe(callback, *args, context=context)
        first += callback, args
        return None

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        """Schedule a callback for a time; a guest's wakes the loop, which may wait for longer than that."""
        handle = super().call_at(when, callback, *args, context=context)
        if self.guest:
            self.call_soon_threadsafe(_nothing)
        return handle


class _TurnSelector(selectors.DefaultSelector):
    def __init__(self, turn: threading.Lock) -> None:
        super().__init__()
        self._turn = turn

    def select(self, timeout: float | None = None) -> Any:
        self._turn.release()
        try:
            return super().select(timeout)
        finally:
            self._turn.acquire()


class _ThreadEach(ThreadPoolExecutor):
    """Makes a thread for each call, which also goes while the program ends, when no pool takes anything."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **named: Any) -> Future[T]:
        future: Future[T] = Future()
        work = partial(fn, *args, **named)
        threading.Thread(target=_carry_out, args=(future, work), name="dgent-loop-work", daemon=True).start()
        return future


def _carry_out(future: Future[T], work: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except BaseException as error:  # who waits hears of it
            future.set_exception(error)


def _nothing() -> None:
    """Do nothing, which wakes the loop."""


def _forked() -> None:
    for thread in _all:
        thread.forked = True


@atexit.register
def _close_all() -> None:
    """Close what nobody closed, for a limited time: the threads are daemons, and what was acknowledged is durable."""
    for thread in [*_all]:
        if thread.at_exit is not None and not thread.forked:
            closer = threading.Thread(target=_closing, args=(thread.at_exit,), daemon=True)
            with suppress(RuntimeError):  # this Python starts no thread any more
                closer.start()
                closer.join(AT_EXIT)


def _closing(close: Callable[[], object]) -> None:
    with suppress(Exception):  # nobody is left to hear it
        close()


os.register_at_fork(after_in_child=_forked)
