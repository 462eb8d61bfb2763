"""A lock for tasks of any event loop, in any thread, who get it in the order in which they came.

free    nobody holds the lock and nobody waits
held    one task does; the others each wait for a future of their own loop
on way  `release` has scheduled the next one's future: the lock counts as held, and if that task is cancelled before it
runs, or its loop is closed, it goes on to the next
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class FIFOLock:
    """A lock that one task hands to the next. A cancelled task that waits is passed over."""

    def __init__(self) -> None:
        self._entry = threading.Lock()  # guards the two below, and is held for no more than that
        self._held = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for the lock; a cancelled task does not have it."""
        with self._entry:
            if not self._held:
                self._held = True
                return
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
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
                future = self._waiting.popleft()
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
