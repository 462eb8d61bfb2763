"""What happened in memory, told to whoever subscribed: pointers, never payloads.

Publishing only appends to bounded queues, so it never waits. Each subscriber reads its own queue on its own event loop;
one that is too slow loses its oldest events, and is told how many.
"""

# an event    where it is, and on which thread                            what a cancel does
# published   `publish`, on whatever thread, copies who subscribes        nothing: neither lock is held for longer than
#             under the bus's lock, and offers it under each one's own    a step, nor over an await
# queued      with its subscriber; the oldest goes where the queue is     `BusSubscription.cancel`, on whatever thread,
#             full                                                        drops all that waits
# delivered   to a callback: in a task of its loop, which is there only   of the subscription: that task is cancelled,
#             while events wait, one event at a time                      unless it is who cancels; of the task, by
#                                                                         whoever else: the event in work is over, and
#                                                                         what waits is delivered with the next one
# read        by a `Listener`: in the task that iterates, one at a time   of that task: no event is lost
#
# `_woken` says that a callback's task is there or scheduled: it is set by whoever offers, and cleared by the task under
# the lock in which it found nothing more, so no event waits for nobody. A callback whose loop was closed is forgotten
# when it is offered the next event.

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias
from weakref import WeakSet

from dgent.delivery import Progress
from dgent.error_messages import called
from dgent.exceptions import InvalidInput
from dgent.memory.change import Change
from dgent.validation import as_list, check_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

QUEUE: Final = 1024
_KINDS: Final = frozenset({"put", "delete", "purge", "touch", "erase", "degrade", "deliver", "recover"})
_log: Final = logging.getLogger("dgent.memory")


@dataclass(frozen=True, slots=True)
class Failover:
    """The first store of a chain went out of reach, or came back.

    Attributes:
        first: the name of the first backend.
        serving: the name of the one that takes its place; empty while none does.
        reason: for people.
    """

    kind: Literal["degrade", "recover"]
    first: str
    serving: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many events are missing here: the subscriber was too slow. It may have to look for itself."""

    count: int
    kind: Literal["dropped"] = "dropped"


Event: TypeAlias = Change | Failover | Progress | Dropped


class BusSubscription(ABC):
    """One subscriber's queue. Cancel it, or use it as a context manager.

    Attributes:
        dropped: how many events were lost in all because the queue was full.
    """

    def __init__(self, bus: DataBus, kinds: frozenset[str], namespace: str | None, size: int) -> None:
        self.dropped = 0
        self._bus, self._kinds, self._namespace, self._size = bus, kinds, namespace, size
        self._lock = threading.Lock()
        self._queue: deque[Event] = deque()
        self._lost = 0
        self._open = True

    def cancel(self) -> None:
        """End it: what still waits is not delivered. May be called twice, and from any thread."""
        with self._lock:
            self._open = False
            self._queue.clear()
            self._lost = 0
        self._bus._forget(self)  # the two are one thing
        self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _wants(self, event: Event) -> bool:
        if event.kind not in self._kinds:
            return False
        if self._namespace is None or not isinstance(event, Change):
            return True
        return event.namespace == self._namespace or event.namespace.startswith(f"{self._namespace}/")

    def _offer(self, event: Event) -> None:
        with self._lock:
            if not self._open:
                return
            if len(self._queue) >= self._size:
                self._queue.popleft()
                self._lost += 1
                self.dropped += 1
            self._queue.append(event)
        self._wake()

    def _next(self) -> Event | None:
        """Take what is due, under the lock."""
        if self._lost:
            lost, self._lost = self._lost, 0
            return Dropped(lost)
        return self._queue.popleft() if self._queue else None

    @abstractmethod
    def _wake(self) -> None:
        """Let the subscriber know that there is something, or that it is over."""


class CallbackSubscription(BusSubscription):
    """Calls a function, or awaits a coroutine function, for each event: one at a time, on the loop it was made on.

    There is a task only while events wait, so that an idle subscription leaves nothing behind.
    """

    def __init__(
        self, bus: DataBus, kinds: frozenset[str], namespace: str | None, size: int, callback: Callable[[Event], object]
    ) -> None:
        super().__init__(bus, kinds, namespace, size)
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # not that of whoever publishes, which may hold an open transaction
        self._woken = False
        self._task: asyncio.Task[None] | None = None

    def _wake(self) -> None:
        with self._lock:
            ending = not self._open
            if self._woken and not ending and not self._loop.is_closed():
                return
            self._woken = True
        try:
            if not ending:
                self._loop.call_soon_threadsafe(self._start, context=self._context)
            elif self._task is not None and self._task is not _current_task():  # else it ends by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        except RuntimeError:  # its loop was closed, so nobody is left to hear
            with self._lock:
                self._open = False
            self._bus._forget(self)

    def _start(self) -> None:
        if self._open:
            self._task = self._loop.create_task(self._deliver())

    async def _deliver(self) -> None:
        try:
            while True:
                with self._lock:
                    event = self._next()
                    if event is None:
                        self._woken = False
                        return
                await self._call(event)
                await asyncio.sleep(0)  # a quick subscriber of a busy bus must not hold up its loop
        except BaseException:
            with self._lock:
                self._woken = False
            raise

    async def _call(self, event: Event) -> None:
        try:
            answer = self._callback(event)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            _log.exception("a subscriber failed on a %s", event.kind)


class Listener(BusSubscription):
    """An asynchronous iterator over events, for one task at a time; it ends when it is cancelled or forgotten."""

    _waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            with self._lock:
                event = self._next()
                if event is not None:
                    return event
                if not self._open:
                    raise StopAsyncIteration
                if self._waiter is not None:
                    raise RuntimeError("another task is waiting for this listener: give each task its own")
                waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                with self._lock:
                    self._waiter = None

    def _wake(self) -> None:
        with self._lock:
            waiter = self._waiter
        if waiter is not None:
            with suppress(RuntimeError):  # its loop was closed
                waiter.get_loop().call_soon_threadsafe(_settle, waiter)


class DataBus:
    """Hand `publish` to a backend as its `on_change`; a `DgentRouter` does that for the backends it makes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deliveries: set[BusSubscription] = set()
        self._listeners: WeakSet[BusSubscription] = WeakSet()  # a loop that was left with `break` unsubscribes by that

    def publish(self, event: Event) -> None:
        """Tell every subscriber that wants it. Never waits and never raises; safe from any thread."""
        if not self._deliveries and not self._listeners:
            return
        with self._lock:
            subscriptions = [*self._deliveries, *self._listeners]
        for subscription in subscriptions:
            if subscription._wants(event):
                subscription._offer(event)

    def subscribe(
        self,
        callback: Callable[[Event], object],
        *,
        kinds: Iterable[str] | None = None,
        namespace: str | None = None,
        size: int = QUEUE,
    ) -> BusSubscription:
        """Call back, on the event loop that runs here, for each event; what the callback raises is logged.

        Args:
            callback: a function or a coroutine function; it gets a `Change`, `Failover` or `Progress`, or `Dropped`
                where it was slow.
            kinds: of "put", "delete", "purge", "touch", "erase", "degrade", "deliver", "recover"; all of them if left
                out.
            namespace: only changes in it and in those below it.
            size: how many events wait for it at most; then the oldest are dropped.

        Raises:
            InvalidInput: an unknown kind, a size below 1, a namespace that no store takes.
            RuntimeError: no event loop runs here.
        """
        if not callable(callback):
            raise InvalidInput(f"{called(callback)} is no callback: pass a function, or use listen()")
        delivery = CallbackSubscription(self, *_checked(kinds, namespace, size), callback)
        with self._lock:
            self._deliveries.add(delivery)
        return delivery

    def listen(
        self, *, kinds: Iterable[str] | None = None, namespace: str | None = None, size: int = QUEUE
    ) -> Listener:
        """Return an asynchronous iterator over the events from now on: see `subscribe`."""
        listener = Listener(self, *_checked(kinds, namespace, size))
        with self._lock:
            self._listeners.add(listener)
        return listener

    def close(self) -> None:
        """Cancel every subscription."""
        with self._lock:
            subscriptions = [*self._deliveries, *self._listeners]
        for subscription in subscriptions:
            subscription.cancel()

    def _forget(self, subscription: BusSubscription) -> None:
        with self._lock:
            self._deliveries.discard(subscription)
            self._listeners.discard(subscription)


def _checked(kinds: Iterable[str] | None, namespace: str | None, size: int) -> tuple[frozenset[str], str | None, int]:
    wanted = _KINDS if kinds is None else frozenset([kinds] if isinstance(kinds, str) else as_list(kinds, "kinds"))
    if unknown := wanted - _KINDS:
        raise InvalidInput(f"no event is of the kind {min(map(str, unknown))!r}: use {', '.join(sorted(_KINDS))}")
    if type(size) is not int or size < 1:
        raise InvalidInput(f"size is {size!r}: use a whole number from 1")
    return wanted, None if namespace is None else check_namespace(namespace), size


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None
