"""Whose turn it is to write: the writer's thread's, or that of one transaction, which the thread serves meanwhile.

A transaction begins on its caller's own thread where the writer has nothing to do, else the writer lends it its turn.
Either way the writer's thread does for it what may take long: above all COMMIT, which waits for the disk.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dgent.database.base import uninterrupted
from dgent.database.block import Block
from dgent.database.worker import Job, deliver
from dgent.exceptions import DgentError, StoreClosed
from dgent.loop import running_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.database.base import T


class Turn:
    """The turn of one transaction, from its BEGIN to its end.

    Args:
        take: awaits that it has come. wake: makes the writer's thread serve it.
        most: seconds that it may last.

    Attributes:
        block: how far its transaction is.
    """

    def __init__(self, take: Callable[[Turn], Awaitable[Any]], wake: Callable[[Turn], None], most: float) -> None:
        self._take, self._wake, self._most = take, wake, most
        self.block = Block()
        self._loop = running_loop()
        self._entry = threading.Lock()
        self._asked: SimpleQueue[Job | None] = SimpleQueue()
        self._until = 0.0
        self._given_back = False
        self._over: DgentError | None = StoreClosed("this transaction has not begun")

    @property
    def refusal(self) -> DgentError | None:
        """Why nothing can be asked any more, if so."""
        return self._over

    async def take(self) -> Any:
        """Await the turn."""
        return await self._take(self)

    def begin(self) -> None:
        """Let it last from now on."""
        self._until = time.monotonic() + self._most
        self._over = None

    async def do(self, task: Callable[[], T], *, last: bool = False) -> T:
        """Run a task on the writer's thread, to its end even if the caller is cancelled; the last ends the turn.

        Raises:
            StorageTimeout: the turn was taken back. StoreClosed: it is over.
        """
        job = Job(task, last)
        with self._entry:
            if self._over is not None:
                raise self._over
            self._asked.put(job)
        self._wake(self)
        return await uninterrupted(job.future)

    def give_back(self) -> None:
        """Let the writer's thread end it, now or as soon as it comes."""
        self._given_back = True
        if self._over is None:
            self._asked.put(None)

    def serve(self) -> bool:
        """Do what is asked until the turn is over; False if its time is up or its event loop was closed before."""
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
            self.end(StoreClosed("this transaction has ended: open another with storage.transaction()"))
        deliver([job])
        return is_last

    def end(self, refusal: DgentError) -> None:
        """Refuse what was asked and not done, and what will be."""
        with self._entry:
            self._over = refusal
            while not self._asked.empty():
                job = self._asked.get()
                if job is not None:
                    job.error = refusal
                    deliver([job])


class Gate:
    """Lets in the writer's thread, or one transaction that began without it."""

    def __init__(self) -> None:
        self._entry = threading.Lock()
        self._writes = False
        self._turn: Turn | None = None

    def enter(self, turn: Turn, begin: Callable[[], bool]) -> bool:
        """Let a transaction in if nobody else is and it can `begin`; tell whether it is."""
        with self._entry:
            if self._writes or self._turn is not None or not begin():
                return False
            self._turn = turn
            return True

    def leave(self, turn: Turn) -> bool:
        """Let it out; False if it is the writer's thread that serves it now."""
        with self._entry:
            if self._turn is not turn:
                return False
            self._turn = None
            return True

    def has(self, turn: Turn) -> bool:
        """Tell whether a transaction is in without being served."""
        return self._turn is turn

    def enter_writer(self) -> Turn | None:
        """Let the writer's thread in; it serves first whom it meets there."""
        with self._entry:
            self._writes = True
            turn, self._turn = self._turn, None
            return turn

    def leave_writer(self) -> None:
        """Let it out."""
        with self._entry:
            self._writes = False
