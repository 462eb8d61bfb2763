"""A lock for the tasks of one event loop, whichever loop that is."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary


class PerLoopLock:
    """Makes the tasks of each event loop take turns: `async with lock.current():`."""

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def current(self) -> asyncio.Lock:
        """Return the lock of the running loop."""
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
