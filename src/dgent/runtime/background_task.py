"""One piece of work that runs in a task of its own, whoever asks for it."""

# none       there is no task, or it has ended, or its loop is another    `begin` and `done` make one
# running    one task on one loop                                         `begin` and `done` find it
# ended      its result is for who awaits it; an error goes to `failed`, too
#
# A cancel of who awaits `done` reaches him alone. `end` cancels the task and waits until it has ended; who awaits
# `done` then gets StoreClosed, since nobody cancelled him. A cancel of `end` ends that wait: the task is cancelled
# already. There is no lock: `_task` is changed between two awaits, by the tasks of one loop at a time.

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dgent.exceptions import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class BackgroundTask(Generic[T]):
    """At most one task on a loop; who wants it done awaits that one, shielded, and is not what it depends on.

    It runs in a context of its own, because that of the caller may hold a transaction. On another loop than before it
    is begun anew: the former loop has ended, and the task with it.

    Args:
        work: what to run. failed: is told of an error, also where nobody awaits the task.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]], failed: Callable[[BaseException], None]) -> None:
        self._work, self._failed = work, failed
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> asyncio.Task[T]:
        """Return the task that runs; begin one if there is none."""
        task = self._task
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._task = asyncio.create_task(self._work(), context=Context())
            task.add_done_callback(self._ended)
        return task

    async def done(self) -> T:
        """Await the task; begin one if there is none.

        Raises:
            StoreClosed: `end` was called meanwhile.
        """
        task = self.begin()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and (caller is None or not caller.cancelling()):
                raise StoreClosed("the store was closed while this waited for it: open it again") from None
            raise

    async def end(self) -> None:
        """Cancel the task and wait for its end."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[T]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)
