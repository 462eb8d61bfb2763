"""Read a source ahead of its reader: one task, a bounded number of items, an end that is always seen to."""

# reading    its task takes an item when `_room` has a place, and wakes the reader
# full       the task waits for the reader to take an item
# ended      the source ended or failed: the reader gets what was read, then the end or the error
# finished   `finish` cancelled the task: the reader gets what was read, then the end
#
# The task and the reader are on one event loop; there is one reader, who waits for `_reader` where nothing is there. A
# cancel of the reader costs no item, and leaves the task to whoever calls `aclose`; a cancel of `aclose` ends that wait
# alone. Where somebody else cancels the task, the reader gets CancelledError.

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

A = TypeVar("A")


class ReadAhead(Generic[A]):
    """The items of a source in their order, then its error if it has one; at most `size` are read before their time.

    It is made inside of a running event loop, for one reader, who closes it.
    """

    def __init__(self, source: AsyncIterable[A], size: int) -> None:
        self._items: deque[A] = deque()
        self._room = asyncio.Semaphore(size)
        self._reader: asyncio.Future[None] | None = None
        self._finished = False
        self._task = asyncio.create_task(self._read(source))
        self._task.add_done_callback(self._wake)

    def __aiter__(self) -> ReadAhead[A]:
        return self

    async def __anext__(self) -> A:
        while not self._items:
            if self._task.done():
                if not (self._finished and self._task.cancelled()):
                    self._task.result()  # raises what the source did
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self._room.release()
        return self._items.popleft()

    def finish(self) -> None:
        """Take no more from the source: what was taken is still there."""
        self._finished = self._finished or not self._task.done()
        self._task.cancel()

    async def aclose(self) -> None:
        """Wait until the task has ended."""
        self.finish()
        if not self._task.done():
            await asyncio.wait([self._task])

    async def _read(self, source: AsyncIterable[A]) -> None:
        await self._room.acquire()
        async for item in source:
            self._items.append(item)
            self._wake()
            await self._room.acquire()

    def _wake(self, _: object = None) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
