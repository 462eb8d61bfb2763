"""Who may write: the writer's thread, or one transaction, which holds a lease and is served by the thread meanwhile.

A transaction begins on its caller's own thread where the writer has nothing to do, else the writer grants it a lease.
Either way the writer's thread does for it what may take long: above all COMMIT, which waits for the disk.
"""

# a lease   who may write                       what the others do            what a cancel of its task does
# waiting   another lease, or the writer                                      it is never begun, or ends as soon as
#                                                                             it is served
# alone     the lease, which began on its       the writer serves it before   the caller's thread undoes it and frees
#           caller's thread                     its next jobs                 the locks
# served    the writer's thread, which waits    wait in the writer's queue    `give_back`: the writer's thread undoes
#           for what the lease asks                                           it and goes on
# asking    the same; the task awaits its job   the same                      it is held back until the job has ended
# over      as before, until it is given back   the same                      nothing: what is asked now is refused
# back      whoever is next                                                   the same
#
# A lease is over after its last job, COMMIT, at the end of its block, or when the writer takes it back, because its
# time is up or its loop was closed: `end` marks it so. Behind that mark no job is taken, those that were asked are
# refused, and `heard` awaits until every task has heard what became of its own. Only then does the block undo what is
# left, with no task in its session, and give the lease back. One that is alone is taken back only once the writer has
# another job.
# `WriteLock._entry` is held for one step, on the loop's thread or the writer's, and over a BEGIN that is tried once.
# `WriteLease._entry` keeps a job from coming after the end.

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dgent.exceptions import DgentError, StoreClosed
from dgent.runtime.batch_worker import Job, complete
from dgent.runtime.event_loop import running_loop, uninterrupted
from dgent.sql.transaction_block import Block, ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.sql.runner import T


class WriteLease:
    """The right of one transaction to write, from its BEGIN to its end; a cancel of its task gives it back.

    Args:
        take: awaits that it has come. wake: makes the writer's thread serve it.
        most: seconds that it may last.

    Attributes:
        block: how far its transaction is.
    """

    def __init__(
        self, take: Callable[[WriteLease], Awaitable[Any]], wake: Callable[[WriteLease], None], most: float
    ) -> None:
        self._take, self._wake, self._most = take, wake, most
        self.block = Block()
        self._loop = running_loop()
        self._entry = threading.Lock()
        self._asked: SimpleQueue[Job | None] = SimpleQueue()
        self._until = 0.0
        self._given_back = False
        self._awaited = 0
        self._heard: asyncio.Event | None = None
        self._over: DgentError | None = StoreClosed("this transaction has not begun")

    @property
    def refusal(self) -> DgentError | None:
        """Why nothing can be asked any more, if so."""
        return self._over

    async def take(self) -> Any:
        """Await the lease."""
        return await self._take(self)

    def begin(self) -> None:
        """Let it last from now on."""
        self._until = time.monotonic() + self._most
        with self._entry:
            if not self._given_back:
                self._over = None

    async def do(self, task: Callable[[], T], *, last: bool = False) -> T:
        """Run a task on the writer's thread, to its end even if the caller is cancelled; the last ends the lease.

        Raises:
            StorageTimeout: the lease was taken back.
            StoreClosed: it is over.
        """
        job = Job(task, last)
        with self._entry:
            if self._over is not None:
                raise self._over
            self._asked.put(job)
        self._wake(self)
        self._awaited += 1
        try:
            return await uninterrupted(job.future)
        finally:
            self._awaited -= 1
            if self._heard is not None:
                self._heard.set()

    async def heard(self) -> None:
        """Wait, whatever cancels it, until whoever asked for something has heard what became of it."""
        if self._awaited:
            await uninterrupted(self._all_heard())

    async def _all_heard(self) -> None:
        while self._awaited:
            self._heard = asyncio.Event()
            await self._heard.wait()

    def give_back(self) -> None:
        """Let the writer's thread end it, now or as soon as it comes."""
        self._given_back = True
        self.end()
        self._asked.put(None)

    def serve(self) -> bool:
        """Do what is asked until the lease is over; False if its time is up or its event loop was closed before."""
        while not self._given_back:
            if self._loop.is_closed() or time.monotonic() > self._until:
                return False
            with suppress(Empty):
                job = self._asked.get(timeout=1.0)
                if job is not None and self._run(job):
                    break
        return True

    def _run(self, job: Job) -> bool:
        try:
            job.result = job.task()
        except BaseException as error:  # the caller hears of it
            job.error = error
        is_last = bool(job.item) and job.error is None
        if is_last:
            self.end()
        complete([job])
        return is_last

    def end(self, why: DgentError | None = None) -> None:
        """Refuse what was asked and not done, and what will be."""
        with self._entry:
            self._over = refusal = self._over or why or ended()
            while not self._asked.empty():
                job = self._asked.get()
                if job is not None:
                    job.error = refusal
                    complete([job])


class WriteLock:
    """Held by the writer's thread, or by one transaction that began without it, on the thread of its event loop.

    A transaction never waits for it, so there is nothing to cancel: it has it at once, or goes to the writer's queue.
    The writer's thread takes it without waiting, too: it serves first whoever had it.
    """

    def __init__(self) -> None:
        self._entry = threading.Lock()
        self._writes = False
        self._lease: WriteLease | None = None

    def try_acquire(self, lease: WriteLease, begin: Callable[[], bool]) -> bool:
        """Give a transaction the lock if nobody has it and it can `begin`; tell whether it has it."""
        with self._entry:
            if self._writes or self._lease is not None or not begin():
                return False
            self._lease = lease
            return True

    def release_lease(self, lease: WriteLease) -> bool:
        """Take it back from a transaction; False if the writer's thread serves that one now."""
        with self._entry:
            if self._lease is not lease:
                return False
            self._lease = None
            return True

    def is_held_by(self, lease: WriteLease) -> bool:
        """Tell whether a transaction has it without being served."""
        return self._lease is lease

    def acquire_for_writer(self) -> WriteLease | None:
        """Give the writer's thread the lock; it serves first whoever had it."""
        with self._entry:
            self._writes = True
            lease, self._lease = self._lease, None
            return lease

    def release_writer(self) -> None:
        """Take it back from the writer's thread."""
        with self._entry:
            self._writes = False
