"""A gate for writers, which somebody who needs to be alone shuts for a moment."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Gate:
    """Many pass through it at once with `async with`. Safe between threads and event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._shut: Future[None] | None = None
        self._empty: Future[None] | None = None

    async def __aenter__(self) -> None:
        while True:
            with self._lock:
                shut = self._shut
                if shut is None:
                    self._inside += 1
                    return
            await asyncio.shield(asyncio.wrap_future(shut))  # a caller that is cancelled must not cancel it for others

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._empty is not None and not self._inside:
                self._empty.set_result(None)
                self._empty = None

    @asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """Wait until nobody is inside, and keep everybody out for a block."""
        with self._lock:
            shut = self._shut = Future()
            empty = self._empty = Future() if self._inside else None
        try:
            if empty is not None:
                await asyncio.wrap_future(empty)
            yield
        finally:
            with self._lock:
                self._shut = self._empty = None
            shut.set_result(None)
