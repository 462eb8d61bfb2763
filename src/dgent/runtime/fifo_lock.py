"""A lock for tasks of any event loop, in any thread, who get it in the order in which they came."""

# state    who has the lock              what the others do                    what a cancel does
# free     nobody                        nobody waits
# held     a task, until it releases     each waits for a future of its own    of one that waits: it leaves the queue
#                                        loop, in the order of their coming
# on way   nobody yet: `release` has     wait as before                        of the next one: the lock goes to the one
#          scheduled the next future                                           behind it
#
# `_entry` guards the flag, the queue and `_next` in whatever thread, and is never held over an await. A loop that is
# closed when `release` comes to its future is passed over. Where it is closed after that, before the scheduled call has
# run, whoever comes next notices and passes it over. A loop that only stopped, and may go on, keeps the lock.

from __future__ import annotations

import asyncio
import threading
from collections import deque


class FIFOLock:
    """A lock that one task hands to the next, on whatever loop and thread that runs.

    A cancelled task that waits is passed over. One that holds the lock keeps it until it calls `release`.
    """

    def __init__(self) -> None:
        self._entry = threading.Lock()  # guards those below, and is held for no more than that
        self._held = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next: asyncio.Future[None] | None = None  # to whom the lock is on its way, or came last

    async def acquire(self) -> None:
        """Wait for the lock; a cancelled task does not have it."""
        with self._entry:
            if not self._held:
                self._held = True
                return
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            is_lost = self._next is not None and not self._next.done() and self._next.get_loop().is_closed()
            if is_lost:
                self._next = None
        if is_lost:
            self.release()
        try:
            await future
        except asyncio.CancelledError:
            with self._entry:
                waits = future in self._waiting
                if waits:
                    self._waiting.remove(future)
            if not waits and future.done() and not future.cancelled():  # it had come: the next one gets it
                self.release()
            raise

    def release(self) -> None:
        """Give the lock to whoever has waited longest."""
        while True:
            with self._entry:
                if not self._waiting:
                    self._held = False
                    return
                future = self._next = self._waiting.popleft()
            try:
                future.get_loop().call_soon_threadsafe(self._grant, future)
            except RuntimeError:  # its loop was closed
                continue
            return

    def _grant(self, future: asyncio.Future[None]) -> None:
        if future.done():  # cancelled meanwhile
            self.release()
        else:
            future.set_result(None)
