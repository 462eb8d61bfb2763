"""An event loop whose clock jumps to the next timer: no wall clock, and a wait for nothing is an error, not a hang."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("deadlock: everybody waits, and no timer will ever wake anybody")
        self._loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Timers fire in their order, at once. Without threads and sockets."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))
        self.slow_callback_duration = 1e9

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a virtual clock, and assert that no task and no error without an owner is left."""
    unowned: list[dict[str, Any]] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unowned.append(context))
        result = await work
        for _ in range(8):  # generators that were dropped are closed by tasks of the loop
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(main())
    assert unowned == []
    return result
