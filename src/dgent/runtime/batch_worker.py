"""A thread that takes all the jobs that wait, does them together, and answers each caller on its own event loop."""

# a job      where it is                                        what a cancel of its caller does
# waiting    in `_waiting`, touched on its own loop only,       it is dropped when the thread takes it
#            until the next turn of that loop
# queued     in `_jobs`, while the thread is at others          the same
# taken      in the thread, with all that waited then           it is done whole, and nobody hears the answer
# answered   scheduled on its loop, by `complete`               the answer is lost, as it is where that loop was closed
# refused    it came after `stop`: StoreClosed, on its loop
#
# A job that comes after one that was alone is queued at once. `_entry` is held by `_send` and `stop`, on a loop's
# thread, for one step, so no job comes behind the None that ends the thread; what waits on another loop then is
# refused. `stop` waits for the thread's end on a thread of the loop's executor; cancelled, it waits to that end all the
# same.

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dgent.exceptions import StoreClosed
from dgent.runtime.event_loop import running_loop, uninterrupted

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable


class Job:
    """Something for the worker to do, and the future that its caller awaits.

    `task` may be work on an `item`; jobs that share it and a `batch_key` and wait together are then done in one call.
    """

    __slots__ = ("batch_key", "error", "future", "item", "loop", "result", "task")

    def __init__(self, task: Any, item: Any = None, batch_key: Hashable = None) -> None:
        self.task = task
        self.item = item
        self.batch_key = batch_key
        self.loop = running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


class BatchWorker:
    """Owns a daemon thread, so that a store that nobody closed does not hold up the end of the program.

    `run` gets the jobs whose callers still wait, sets the result or the error of each and answers them with `complete`;
    if it raises, the error goes to all of them. `finish` runs in the thread when it ends.
    """

    def __init__(
        self, name: str, run: Callable[[list[Job]], None], finish: Callable[[], None], *, most: int = 1024
    ) -> None:
        self._run, self._finish = run, finish
        self._most = most
        self._jobs: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._waiting: dict[asyncio.AbstractEventLoop, list[Job]] = {}  # each is touched on its own loop only
        self._alone = False  # whether the last job came by itself: then the next need not wait for others
        self._accepts = True
        self._entry = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def do(self, task: Any, item: Any = None, batch_key: Hashable = None) -> asyncio.Future[Any]:
        """Hand a job to the thread and return the future of its result.

        If the caller is cancelled before the thread took it, it is never done; later, it is done whole. The future has
        the error StoreClosed if the thread was told to stop before.
        """
        job = Job(task, item, batch_key)
        waiting = self._waiting.get(job.loop)
        if waiting is not None:
            waiting.append(job)
        elif self._alone:
            self._send([job])
        else:
            self._waiting[job.loop] = [job]
            job.loop.call_soon(self._submit, job.loop)
        return job.future

    def _submit(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the thread once for all the jobs of one turn of the event loop: so they are done together."""
        jobs = self._waiting.pop(loop, None)
        if jobs is not None:
            self._send(jobs)

    def _send(self, jobs: list[Job]) -> None:
        with self._entry:
            if self._accepts:
                self._jobs.put(jobs)
                return
        for job in jobs:
            job.error = StoreClosed("the store was closed: open it again")
        _settle(jobs)

    def wake(self) -> None:
        """Let the thread run once, with the jobs that wait or with none."""
        self._jobs.put([])

    async def stop(self) -> None:
        """Let the thread finish the jobs that wait, and wait for its end."""
        loop = running_loop()
        self._submit(loop)
        with self._entry:
            if self._accepts:
                self._jobs.put(None)
            self._accepts = False
        await uninterrupted(loop.run_in_executor(None, self._thread.join))

    def _loop(self) -> None:
        running = True
        while running:
            jobs, running = self._take()
            live = [job for job in jobs if not job.future.cancelled()]
            self._alone = len(live) == 1
            try:
                if live or running:
                    self._run(live)
            except BaseException as error:  # the callers must hear of it, whatever it is
                for job in live:
                    job.error = error
                complete(live)
        self._finish()

    def _take(self) -> tuple[list[Job], bool]:
        """Wait for jobs, then take all that wait; False says that it was told to stop."""
        jobs: list[Job] = []
        more = self._jobs.get()
        while more is not None:
            jobs += more
            if len(jobs) >= self._most or self._jobs.empty():
                break
            more = self._jobs.get()
        return jobs, more is not None


def complete(jobs: list[Job]) -> None:
    """Wake the callers, with one call for each event loop."""
    for loop in {job.loop for job in jobs}:
        try:
            loop.call_soon_threadsafe(_settle, [job for job in jobs if job.loop is loop])
        except RuntimeError:  # that loop was closed: nobody is left to hear it
            continue


def _settle(jobs: list[Job]) -> None:
    for job in jobs:
        future, error = job.future, job.error
        if future.done():
            continue
        if error is None:
            future.set_result(job.result)
        elif isinstance(error, StopIteration):  # no future takes it
            future.set_exception(RuntimeError("the work raised StopIteration"))
        else:
            future.set_exception(error)
