"""The event loop that a call runs on."""

from __future__ import annotations

import asyncio

from dgent.exceptions import NoEventLoop


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
