"""One asynchronous store for many event loops: each verb runs on the loop that owns the store."""

# a call, from            where it runs                              what a cancel of its caller does
# the loop that owns it   in the caller's task, as without this      what the store says
# another loop            in a task of the owner, in the caller's    the task is cancelled, and the caller goes on
#                         context; the caller awaits its end         when it has ended: so no call goes on unseen
#
# The owner is the loop that ran where `anywhere` was called, or, where none ran, one on a thread of its own, which ends
# with `close`. A loop that is not ours may end at any time: whoever waits for it looks once a second.

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from dgent.exceptions import StoreClosed
from dgent.store import DgentProtocol
from dgent.sync.face import AFTER_THE_END
from dgent.sync.loop_thread import LoopThread
from dgent.sync.road import Road
from dgent.wrong_loop import WrongLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context

S = TypeVar("S", bound=DgentProtocol)
T = TypeVar("T")
LOOK: Final = 1.0
_WHAT: Final = "this store"


def anywhere(backend: S) -> S:
    """Return a store whose verbs may be awaited on any event loop; each runs on the one loop that owns the backend.

    That is the loop that runs here, or, where none does, one on a thread of its own until `close`. A cancelled call is
    cancelled there, too, and its caller goes on when it has ended. What awaits more than once, a block or an iterator,
    is for the owner alone.

    The verbs raise what those of the backend raise, and StoreClosed where the owner's loop has ended, WrongLoop where
    it stands still.
    """
    running = asyncio._get_running_loop()
    thread = LoopThread(_WHAT) if running is None else None
    return cast("S", _store_class(type(backend))(backend, _Owner(running if thread is None else thread.loop, thread)))


class _Owner:
    """The loop that a backend lives on, and its thread, if that is ours."""

    def __init__(self, loop: Any, thread: LoopThread | None) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.thread = thread

    @property
    def is_here(self) -> bool:
        return asyncio._get_running_loop() is self.loop

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        if self.is_here:
            return await work()
        here, done = asyncio.get_running_loop(), asyncio.Event()
        begun: list[asyncio.Task[T]] = []

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # the caller's loop was closed: nobody is left to hear it
                here.call_soon_threadsafe(done.set)

        def begin(context: Context) -> None:
            begun.append(self.loop.create_task(_awaited(work), context=context))
            begun[0].add_done_callback(ended)

        self._post(begin, copy_context())
        try:
            await self._until(done)
        except asyncio.CancelledError:
            with suppress(StoreClosed, WrongLoop):
                self._post(_cancel, begun)
                while not done.is_set():
                    with suppress(asyncio.CancelledError):
                        await self._until(done)
            raise
        if begun[0].cancelled():
            raise _ended()
        return begun[0].result()

    async def _until(self, done: asyncio.Event) -> None:
        while not done.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self.thread is not None else LOOK):
                    await done.wait()
            if not done.is_set():
                self._check()

    def _post(self, callback: Callable[..., object], *args: object) -> None:
        if self.thread is not None:
            self.thread.check()
            self.thread.post(callback, *args)
            return
        self._check()
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # it was closed meanwhile
            raise _ended() from None

    def _check(self) -> None:
        if self.loop.is_closed():
            raise _ended()
        if not self.loop.is_running():
            raise WrongLoop(
                f"the event loop that owns {_WHAT} does not run, so a call from another would wait forever: let it "
                "run, or call anywhere() where no loop runs, which makes one that does"
            )


class _Anywhere:
    """Stands for a store that lives on one event loop."""

    def __init__(self, target: Any, owner: _Owner) -> None:
        self._target, self._owner = target, owner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._target, name)

    def __repr__(self) -> str:
        return f"anywhere({self._target!r})"

    async def close(self) -> None:
        """Close the store, and the loop, if it is on a thread of its own.

        Raises:
            WrongLoop: it was called on that loop.
        """
        thread = self._owner.thread
        if thread is None:
            await self._owner.call(self._target.close)
            return
        thread.check_not_here()

        def close() -> None:
            with thread.closing:
                with suppress(StoreClosed):
                    Road(thread).call(self._target.close)
                thread.end()

        await asyncio.to_thread(close)


@cache
def _store_class(kind: type[Any]) -> type[_Anywhere]:
    """Return the class that has what a class of stores has."""
    names = [name for name in dir(kind) if not name.startswith("_") and name not in vars(_Anywhere)]
    members = {name: _member(name, inspect.getattr_static(kind, name)) for name in names}
    return type(f"{kind.__name__}Anywhere", (_Anywhere,), {"__doc__": kind.__doc__, **members})


def _member(name: str, value: Any) -> Any:
    if not inspect.isfunction(value):
        return property(lambda store: getattr(store._target, name), doc=getattr(value, "__doc__", None))
    if inspect.iscoroutinefunction(value):

        @wraps(value)
        async def verb(store: _Anywhere, /, *args: Any, **named: Any) -> Any:
            try:
                return await store._owner.call(partial(getattr(store._target, name), *args, **named))
            except StoreClosed:
                if name in AFTER_THE_END:
                    return AFTER_THE_END[name]
                raise

        return verb

    @wraps(value)
    def plain(store: _Anywhere, /, *args: Any, **named: Any) -> Any:
        result = getattr(store._target, name)(*args, **named)
        if isinstance(result, AbstractAsyncContextManager | AsyncIterator) and not store._owner.is_here:
            raise WrongLoop(f"{name} is for the event loop that owns {_WHAT}: call it there")
        return _store_class(type(result))(result, store._owner) if isinstance(result, DgentProtocol) else result

    return plain


def _cancel(begun: list[asyncio.Task[T]]) -> None:
    begun[0].cancel()  # it was posted behind what began it


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def _ended() -> StoreClosed:
    return StoreClosed(f"the event loop that owned {_WHAT} has ended: open the store anew")
