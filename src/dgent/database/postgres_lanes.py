"""Who waits for what: links that are lent one caller at a time, and lanes in which items that wait go together."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dgent.exceptions import StorageTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

    from dgent.database.base import A, Each, T
    from dgent.database.postgres_link import Link

Fly: TypeAlias = "Callable[[Link, Each[Any, Any], list[Any]], Awaitable[list[Any]]]"


class Links:
    """A pool: the link that came back last is lent first, so that few connections serve as long as few are needed."""

    def __init__(self, make: Callable[[], Link], most: int, timeout: float, what: str) -> None:
        self._make, self._most, self._timeout, self._what = make, most, timeout, what
        self._all: list[Link] = []
        self._free: list[Link] = []
        self._waiting: deque[asyncio.Future[Link]] = deque()
        self.lent = 0

    def take_now(self) -> Link | None:
        """Borrow a link if one is free."""
        if self._free:
            self.lent += 1
            return self._free.pop()
        if self.lent == self._most:
            return None
        self.lent += 1
        self._all.append(self._make())
        return self._all[-1]

    async def take(self) -> Link:
        """Borrow a link, and give it back.

        Raises:
            StorageTimeout: none came back in time.
        """
        link = self.take_now()
        if link is not None:
            return link
        try:
            async with asyncio.timeout(self._timeout):
                return await self._handed_over()
        except TimeoutError:
            raise StorageTimeout(
                f"no connection to {self._what} became free in {self._timeout:g} s: raise pool_size or pool_timeout"
            ) from None

    def give(self, link: Link) -> None:
        """Give a link back; who waits longest gets it."""
        link.rest()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(link)
                return
        self._free.append(link)
        self.lent -= 1

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Link]:
        """Lend a link to a block."""
        link = await self.take()
        try:
            yield link
        finally:
            self.give(link)

    async def returned(self) -> None:
        """Wait until every link is back."""
        while self.lent:
            self.give(await self._handed_over())

    def drop(self) -> None:
        """Let go of every connection, lent or not."""
        for link in self._all:
            link.drop()

    def forget(self) -> None:
        """Let go of connections whose event loop is closed."""
        for link in self._all:
            link.forget()

    async def _handed_over(self) -> Link:
        waiter: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # handed over in the very moment of the cancellation
                self.give(waiter.result())
            raise


@dataclass(slots=True, eq=False)
class _Waiting:
    work: Each[Any, Any]
    item: Any
    future: asyncio.Future[Any]


class Lanes:
    """Lanes in which one flight is under way at a time; what waits meanwhile goes together in the next, in order.

    A flight takes the items that wait once it has its link. Items whose callers were cancelled before that are dropped.
    """

    def __init__(self, links: Links, fly: Fly, most: int) -> None:
        self._links, self._fly, self._most = links, fly, most
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Hashable, deque[_Waiting]] = {}
        self._flights: set[asyncio.Task[None]] = set()

    def put(self, work: Each[A, T], item: A, lane: Hashable) -> asyncio.Future[T]:
        """Put an item into a lane, and return the future of its own result."""
        future = self.join(work, item, lane)
        if future is None:
            self.open(lane)
            self._start(lane)
            future = self.join(work, item, lane)
            assert future is not None  # noqa: S101  # the lane is open
        return future

    def join(self, work: Each[A, T], item: A, lane: Hashable) -> asyncio.Future[T] | None:
        """Put an item into a lane that is open, for its next flight."""
        queue = self._queues.get(lane)
        if queue is None:
            return None
        future: asyncio.Future[T] = self._loop.create_future()
        queue.append(_Waiting(work, item, future))
        return future

    def open(self, lane: Hashable) -> None:
        """Open a lane: items that come now wait until `release`."""
        self._queues[lane] = deque()

    def release(self, lane: Hashable) -> None:
        """Let fly what waits in a lane that was opened, or close it."""
        if self._queues[lane]:
            self._start(lane)
        else:
            del self._queues[lane]

    async def landed(self) -> None:
        """Wait until nothing waits and nothing flies."""
        while self._flights:
            await asyncio.wait(self._flights)

    def _start(self, lane: Hashable) -> None:
        flight = self._loop.create_task(self._serve(lane))
        self._flights.add(flight)
        flight.add_done_callback(self._flights.discard)

    async def _serve(self, lane: Hashable) -> None:
        queue = self._queues[lane]
        try:
            while queue:
                await self._depart(queue)
                await asyncio.sleep(0)  # those who were answered may have more for the next flight
        finally:
            del self._queues[lane]
            for waiting in queue:
                waiting.future.cancel()

    async def _depart(self, queue: deque[_Waiting]) -> None:
        aboard: list[_Waiting] = []
        try:
            link = self._links.take_now() or await self._links.take()
            try:
                aboard = self._board(queue)
                if aboard:
                    items = [waiting.item for waiting in aboard]
                    _settle(aboard, await self._fly(link, aboard[0].work, items))
            finally:
                self._links.give(link)
        except Exception as error:  # the callers hear of it
            _settle(aboard or [queue.popleft() for _ in range(len(queue))], error)
        except BaseException:
            for waiting in aboard:
                waiting.future.cancel()
            raise

    def _board(self, queue: deque[_Waiting]) -> list[_Waiting]:
        """Take the items at the head of the queue that share their work."""
        aboard: list[_Waiting] = []
        while queue and len(aboard) < self._most:
            if queue[0].future.done():
                queue.popleft()
            elif not aboard or queue[0].work == aboard[0].work:
                aboard.append(queue.popleft())
            else:
                break
        return aboard


def _settle(aboard: list[_Waiting], outcome: list[Any] | Exception) -> None:
    results = [outcome] * len(aboard) if isinstance(outcome, Exception) else outcome
    for waiting, result in zip(aboard, results, strict=True):
        if waiting.future.done():
            continue
        if isinstance(result, StopIteration):  # no future takes it
            waiting.future.set_exception(RuntimeError("the work raised StopIteration"))
        elif isinstance(result, Exception):
            waiting.future.set_exception(result)
        else:
            waiting.future.set_result(result)
