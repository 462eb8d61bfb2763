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

    from sqlalchemy import Connection

    from dgent.database.base import A, Each, T
    from dgent.database.postgres_link import Link

Fly: TypeAlias = "Callable[[Link, Callable[[Connection], list[Any]]], Awaitable[list[Any]]]"


class Links:
    """A pool: the link that came back last is lent first, so that few connections serve as long as few are needed."""

    def __init__(self, make: Callable[[], Link], most: int, timeout: float, what: str) -> None:
        self._make, self._most, self._timeout, self._what = make, most, timeout, what
        self._slots = asyncio.Semaphore(most)
        self._free: list[Link] = []
        self._all: list[Link] = []
        self.lent = 0

    async def take(self) -> Link:
        """Borrow a link; give it back.

        Raises:
            StorageTimeout: none came back in time.
        """
        if self._slots.locked():
            await self._wait()
        else:
            await self._slots.acquire()
        self.lent += 1
        if self._free:
            return self._free.pop()
        self._all.append(self._make())
        return self._all[-1]

    def give(self, link: Link) -> None:
        """Give a link back."""
        link.rest()
        self._free.append(link)
        self.lent -= 1
        self._slots.release()

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
        for _ in range(self._most):
            await self._slots.acquire()
        for _ in range(self._most):
            self._slots.release()

    def drop(self) -> None:
        """Let go of every connection, lent or not."""
        for link in self._all:
            link.drop()

    def forget(self) -> None:
        """Let go of connections whose event loop is closed."""
        for link in self._all:
            link.forget()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise StorageTimeout(
                f"no connection to {self._what} became free in {self._timeout:g} s: raise pool_size or pool_timeout"
            ) from None


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
        self._queues: dict[Hashable, deque[_Waiting]] = {}
        self._flights: set[asyncio.Task[None]] = set()

    def __contains__(self, lane: Hashable) -> bool:
        return lane in self._queues

    async def do(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Put an item into a lane, and await its own result."""
        waiting = _Waiting(work, item, asyncio.get_running_loop().create_future())
        queue = self._queues.get(lane)
        if queue is None:
            queue = self.open(lane)
            self._start(lane)
        queue.append(waiting)
        return await waiting.future  # type: ignore[no-any-return]

    def open(self, lane: Hashable) -> deque[_Waiting]:
        """Open a lane: items that come now wait until `release`."""
        queue = self._queues[lane] = deque()
        return queue

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
        flight = asyncio.get_running_loop().create_task(self._serve(lane))
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
            async with self._links.lend() as link:
                aboard = self._board(queue)
                if aboard:
                    items, work = [waiting.item for waiting in aboard], aboard[0].work
                    _settle(aboard, await self._fly(link, lambda connection: work(connection, items)))
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
        if isinstance(result, Exception):
            waiting.future.set_exception(result)
        else:
            waiting.future.set_result(result)
