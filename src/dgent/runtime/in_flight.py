"""What has begun and not ended yet, and how to wait for it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class InFlight:
    """Blocks of code that run now, on whichever loop: `with in_flight.one():`."""

    def __init__(self) -> None:
        self._running: set[Future[None]] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count as running for a block."""
        done: Future[None] = Future()
        self._running.add(done)
        try:
            yield
        finally:
            self._running.discard(done)
            done.set_result(None)

    async def ended(self) -> None:
        """Wait for those that run now, not for those that begin meanwhile."""
        for done in [*self._running]:
            await asyncio.shield(asyncio.wrap_future(done))  # who is cancelled must not cancel it for others
