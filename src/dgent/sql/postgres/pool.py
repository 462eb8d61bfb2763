"""Who waits for what: connections, each lent to one caller at a time, and items that wait together for one of them."""

# a connection   who has it                                               what a cancel does
# free           nobody: it is in `_free`
# lent           one task, until `give`                                   of that task: its block gives it back; `rest`
#                                                                         drops what is not as it was lent
# handed over    the waiting task whose future has it, before that runs   it is given to the next one
#
# an item     where it is                                      what a cancel of its caller does
# waiting     in the queue of its key, while that is open      it is left out when the next batch is taken
# under way   in a batch, which a task of the `Batcher` runs   the batch goes on, and nobody hears of this item
#
# A key is open from its first item until nothing waits under it; one batch of it is under way at a time. Batches of
# different keys run side by side, each on a connection of its own. All of it is of one event loop, so there is no lock.
# A batch is cancelled only as the loop ends, and the futures of its items with it.

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dgent.exceptions import StorageTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

    from dgent.sql.postgres.pooled_connection import PooledConnection
    from dgent.sql.runner import A, Each, T

RunBatch: TypeAlias = "Callable[[PooledConnection, Each[Any, Any], list[Any]], Awaitable[list[Any]]]"


class ConnectionPool:
    """Connections, each lent to one caller at a time: the last that came back first, so that few stay in use."""

    def __init__(self, make: Callable[[], PooledConnection], most: int, timeout: float, what: str) -> None:
        self._make, self._most, self._timeout, self._what = make, most, timeout, what
        self._all: list[PooledConnection] = []
        self._free: list[PooledConnection] = []
        self._waiting: deque[asyncio.Future[PooledConnection]] = deque()
        self.lent = 0

    def take_now(self) -> PooledConnection | None:
        """Borrow a connection if one is free."""
        if self._free:
            self.lent += 1
            return self._free.pop()
        if self.lent == self._most:
            return None
        self.lent += 1
        self._all.append(self._make())
        return self._all[-1]

    async def take(self) -> PooledConnection:
        """Borrow a connection, and give it back.

        Raises:
            StorageTimeout: none came back in time.
        """
        connection = self.take_now()
        if connection is not None:
            return connection
        try:
            async with asyncio.timeout(self._timeout):
                return await self._handed_over()
        except TimeoutError:
            raise StorageTimeout(
                f"no connection to {self._what} became free in {self._timeout:g} s: raise pool_size or pool_timeout"
            ) from None

    def give(self, connection: PooledConnection) -> None:
        """Give a connection back; who waits longest gets it."""
        connection.rest()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._free.append(connection)
        self.lent -= 1

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[PooledConnection]:
        """Lend a connection to a block."""
        connection = await self.take()
        try:
            yield connection
        finally:
            self.give(connection)

    async def returned(self) -> None:
        """Wait until every connection is back."""
        while self.lent:
            self.give(await self._handed_over())

    def drop(self) -> None:
        """Let go of every connection, lent or not."""
        for connection in self._all:
            connection.drop()

    def forget(self) -> None:
        """Let go of connections whose event loop is closed."""
        for connection in self._all:
            connection.forget()

    async def _handed_over(self) -> PooledConnection:
        waiter: asyncio.Future[PooledConnection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # handed over in the very moment of the cancellation
                self.give(waiter.result())
            raise


@dataclass(slots=True, eq=False)
class _WaitingItem:
    work: Each[Any, Any]
    item: Any
    future: asyncio.Future[Any]


class Batcher:
    """One batch at a time is under way for each key; what waits meanwhile goes together in the next, in order.

    A batch takes the items that wait once it has its connection. Those whose caller was cancelled by then are dropped.
    """

    def __init__(self, pool: ConnectionPool, run: RunBatch, most: int) -> None:
        self._pool, self._run, self._most = pool, run, most
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Hashable, deque[_WaitingItem]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, work: Each[A, T], item: A, batch_key: Hashable) -> asyncio.Future[T]:
        """Let an item wait under its key, and return the future of its own result."""
        future = self.join(work, item, batch_key)
        if future is None:
            self.open(batch_key)
            self._start(batch_key)
            future = self.join(work, item, batch_key)
            assert future is not None  # noqa: S101  # the key is open
        return future

    def join(self, work: Each[A, T], item: A, batch_key: Hashable) -> asyncio.Future[T] | None:
        """Let an item wait for the next batch of a key that is open."""
        queue = self._queues.get(batch_key)
        if queue is None:
            return None
        future: asyncio.Future[T] = self._loop.create_future()
        queue.append(_WaitingItem(work, item, future))
        return future

    def open(self, batch_key: Hashable) -> None:
        """Open a key: items that come now wait until `release`."""
        self._queues[batch_key] = deque()

    def release(self, batch_key: Hashable) -> None:
        """Run what waits under a key that was opened, or close it."""
        if self._queues[batch_key]:
            self._start(batch_key)
        else:
            del self._queues[batch_key]

    async def drained(self) -> None:
        """Wait until nothing waits and no batch is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, batch_key: Hashable) -> None:
        task = self._loop.create_task(self._serve(batch_key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, batch_key: Hashable) -> None:
        queue = self._queues[batch_key]
        try:
            while queue:
                await self._run_batch(queue)
                await asyncio.sleep(0)  # those who were answered may have more for the next batch
        finally:
            del self._queues[batch_key]
            for waiting in queue:
                waiting.future.cancel()

    async def _run_batch(self, queue: deque[_WaitingItem]) -> None:
        batch: list[_WaitingItem] = []
        try:
            connection = self._pool.take_now() or await self._pool.take()
            try:
                batch = self._take_batch(queue)
                if batch:
                    items = [waiting.item for waiting in batch]
                    _settle(batch, await self._run(connection, batch[0].work, items))
            finally:
                self._pool.give(connection)
        except Exception as error:  # the callers hear of it
            _settle(batch or [queue.popleft() for _ in range(len(queue))], error)
        except BaseException:
            for waiting in batch:
                waiting.future.cancel()
            raise

    def _take_batch(self, queue: deque[_WaitingItem]) -> list[_WaitingItem]:
        """Take the items at the head of the queue that share their work."""
        batch: list[_WaitingItem] = []
        while queue and len(batch) < self._most:
            if queue[0].future.done():
                queue.popleft()
            elif not batch or queue[0].work == batch[0].work:
                batch.append(queue.popleft())
            else:
                break
        return batch


def _settle(batch: list[_WaitingItem], outcome: list[Any] | Exception) -> None:
    results = [outcome] * len(batch) if isinstance(outcome, Exception) else outcome
    for waiting, result in zip(batch, results, strict=True):
        if waiting.future.done():
            continue
        if isinstance(result, StopIteration):  # no future takes it
            waiting.future.set_exception(RuntimeError("the work raised StopIteration"))
        elif isinstance(result, Exception):
            waiting.future.set_exception(result)
        else:
            waiting.future.set_result(result)
