"""A lock for the tasks of one event loop, whichever loop that is."""

# Each loop has an `asyncio.Lock` of its own, made by the first task there that asks.
#
# held       by one task of the loop, in its `async with`; a cancel of that task leaves the block, which gives it back
# waiting    the other tasks of the loop, in order; a cancelled one leaves the queue
# kept out   nobody of another loop, in whatever thread

from __future__ import annotations

import asyncio


class PerLoopLock:
    """Makes the tasks of each event loop take turns: `async with lock.current():`, which a cancel leaves as any block.

    It keeps nobody out who runs on another loop.
    """

    def __init__(self) -> None:
        self._locks: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    def current(self) -> asyncio.Lock:
        """Return the lock of the running loop."""
        loop = asyncio.get_running_loop()
        lock = self._locks.get(loop)
        if lock is None:  # the first of this loop forgets those that are closed: a lock holds on to its loop
            self._locks = {other: each for other, each in self._locks.items() if not other.is_closed()}
            lock = self._locks.setdefault(loop, asyncio.Lock())
        return lock
