"""What has begun and not ended yet, and how to wait for it."""

# running    a block is entered: its future is in `_running`, on whatever thread that was
# ended      the block was left, by an error or a cancel, too: its future is done, and wakes who waits, on any loop
#
# `ended` waits for the futures that are there when it is called, one after the other; a cancel of it ends that wait for
# the caller alone. There is no lock: to add, to remove and to copy the set are each one step of the interpreter.

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
