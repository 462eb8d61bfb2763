"""Turns that tasks of any event loop, in any thread, take one after another, in the order in which they came.

free    nobody holds the turn and nobody waits
held    one task does; the others each wait for a future of their own loop
on way  `give` has scheduled the next one's future: the turn counts as held, and if that task is cancelled before it
runs, or its loop is closed, it goes on to the next
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class Turns:
    """A lock whose turn one task gives to the next."""

    def __init__(self) -> None:
        self._entry = threading.Lock()  # guards the two below, and is held for no more than that
        self._held = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for the turn; a cancelled task has none."""
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
                self.give()
            raise

    def give(self) -> None:
        """Give the turn to whoever has waited longest."""
        while True:
            with self._entry:
                if not self._waiting:
                    self._held = False
                    return
                future = self._waiting.popleft()
            try:
                future.get_loop().call_soon_threadsafe(self._hand, future)
            except RuntimeError:  # its loop was closed
                continue
            return

    def _hand(self, future: asyncio.Future[None]) -> None:
        if future.done():  # cancelled meanwhile
            self.give()
        else:
            future.set_result(None)
