"""The event loop that a call runs on, and what a cancellation of the call must not cut off."""

# `uninterrupted` awaits a task, which is made if it is given a coroutine:
#
# running      the task runs on the caller's loop, the caller waits
# cancelled    each cancel of the caller is held back; the task hears of none of them
# ended        the caller gets its result or its error; if a cancel was held back, CancelledError instead of either
# task cancelled by somebody else, as at the end of `asyncio.run`: the caller gets CancelledError

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from dgent.exceptions import NoEventLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop of asyncio.

    Raises:
        NoEventLoop: none runs on this thread; trio's is another kind.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise NoEventLoop(
            "this needs asyncio, whose event loop does not run here: start it with asyncio.run(...); under trio or "
            "another loop run it in a thread of its own with asyncio.run"
        ) from None


async def on_own_thread() -> None:
    """Go on on the thread of the loop, if this is a step that another thread does as its guest."""
    if getattr(asyncio.get_running_loop(), "guest", False):
        await asyncio.sleep(0)


async def uninterrupted(awaitable: Awaitable[T]) -> T:
    """Await to the end even if the caller is cancelled meanwhile; then let the cancellation pass."""
    task = asyncio.ensure_future(awaitable)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
