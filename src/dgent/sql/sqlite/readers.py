"""Who reads a SQLite file: the caller's own thread while that is quick, for several tasks at once, else one of two."""

# a read     thread                                  who waits for it           what a cancel of its caller does
# inline     the caller's, which has `_free`         its event loop, for 2 ms   none can come meanwhile
# gathered   the caller's, in the next turn of the   the tasks that asked in    it is left out, and the others are
#            loop, in one call for all of one work   this turn                  read
# short      `dgent-read-...`, one after another     other short reads          not taken yet: it is never begun; else
#                                                                               it goes on to its end or its limit
# scan       `dgent-scan-...`                        other scans                the same
#
# `_free` is tried, never waited for: of two loops in two threads the second goes to the threads at once. What waits in
# a `ReadBatcher` is kept by loop and key, and touched on that loop alone. Who closes takes `_free` for good, after a
# read of another loop that has it, and then waits for the two threads.

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVarTuple, Unpack

from dgent.exceptions import DgentError
from dgent.runtime.batch_worker import BatchWorker, Job, complete
from dgent.runtime.event_loop import running_loop
from dgent.sql.errors import translate, translated
from dgent.sql.sqlite.engine import close, connect, wrap

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from sqlalchemy import Connection

    from dgent.settings import Settings
    from dgent.sql.runner import A, Each, T

    Connect: TypeAlias = Callable[[], sqlite3.Connection]
    _Key: TypeAlias = tuple[object, Hashable, Each[Any, Any]]

Ts = TypeVarTuple("Ts")

INLINE_BUDGET: Final = 0.002
LONGEST: Final = 5.0  # seconds
INLINE_REST: Final = 5  # times as long as the slow read took
ALONE: Final = 0.005  # seconds without another try, after a turn of the event loop brought one read only
MOST: Final = 128  # reads in one call, so that they fit into the budget
STEPS: Final = 2000  # of SQLite's virtual machine between two looks at the clock: some 50 microseconds


class Readers(NamedTuple):
    """Each with a connection of its own; `scans` has a thread for itself, so that no short read waits behind one."""

    inline: InlineReader
    batcher: ReadBatcher
    short: BatchWorker
    scans: BatchWorker

    async def close(self) -> None:
        """Answer what waits, then close the connections."""
        self.inline.close()
        await self.short.stop()
        await self.scans.stop()


def open_readers(path: Path, settings: Settings, connect: Connect) -> Readers:
    """Return the readers of a file that exists."""
    inline = InlineReader(connect())
    short, scans = (open_reader(f"dgent-{name}-{path.name}", path, settings, connect) for name in ("read", "scan"))
    return Readers(inline, ReadBatcher(inline), short, scans)


def open_reader(name: str, path: Path, settings: Settings, connect: Connect) -> BatchWorker:
    """Return a thread that reads on a connection of its own, each job in one snapshot."""
    return BatchWorker(name, *_reader(path, settings, connect), most=16)


class InlineReader:
    """A connection for short reads on the caller's own thread, which saves the hop to another.

    It looks at the clock while SQLite works and gives up when its budget is spent; after that, and after a read that
    was slow for another reason (a cold disk, a large content), it rests for a moment and reads go to the threads.
    """

    def __init__(self, driver: sqlite3.Connection) -> None:
        driver.execute("PRAGMA busy_timeout=0")
        driver.set_progress_handler(self._spent, STEPS)
        self._connection = wrap(driver)
        self._free = threading.Lock()  # two event loops in two threads may share the database
        self._deadline = 0.0
        self._rests_until = 0.0

    def _spent(self) -> bool:
        return time.perf_counter() > self._deadline

    def try_run(self, work: Callable[[Connection, Unpack[Ts]], T], *args: *Ts) -> tuple[bool, T | None]:
        """Run the work if that can be done at once; the first of the pair tells whether it was."""
        start = time.perf_counter()
        if start < self._rests_until or not self._free.acquire(False):
            return False, None
        try:
            self._deadline = start + INLINE_BUDGET
            return True, work(self._connection, *args)
        except Exception as error:
            if isinstance(error, DgentError) or not _is_passing(error):
                raise
            return False, None
        finally:
            self._free.release()
            if (end := time.perf_counter()) > self._deadline:
                self._rests_until = end + INLINE_REST * (end - start)

    def close(self) -> None:
        """Close the connection."""
        # For good: whoever comes later is sent to the threads, which say that the store is closed. No read takes longer
        # than this; an exception of a signal's handler may have left it taken.
        self._free.acquire(timeout=LONGEST)
        close(self._connection)


class ReadBatcher:
    """Short reads that tasks ask for in the same turn of the event loop, made in one call: half the work for each.

    A task that reads alone should not wait for the end of each turn. So this is tried now and then, which also lets
    other tasks run, and goes on for as long as each turn brings several.
    """

    def __init__(self, inline: InlineReader) -> None:
        self._inline = inline
        self._waiting: dict[_Key, list[tuple[Any, asyncio.Future[Any]]]] = {}
        self._alone_until = 0.0

    def pays(self) -> bool:
        """Tell whether others may be expected to read in the same turn."""
        return time.perf_counter() >= self._alone_until

    async def try_read(self, work: Each[A, T], item: A, batch_key: Hashable) -> list[T | Exception] | None:
        """Read an item with those of its key if that can be done at once, and return its one result."""
        loop = running_loop()
        future: asyncio.Future[list[T | Exception] | None] = loop.create_future()
        key = loop, batch_key, work
        waiting = self._waiting.setdefault(key, [])
        if not waiting:
            loop.call_soon(self._answer, key)
        waiting.append((item, future))
        return await future

    def _answer(self, key: _Key) -> None:
        _, _, work = key
        waiting = [(item, future) for item, future in self._waiting.pop(key) if not future.done()]
        if len(waiting) == 1:
            self._alone_until = time.perf_counter() + ALONE
        for start in range(0, len(waiting), MOST):
            few = waiting[start : start + MOST]
            try:
                _, results = self._inline.try_run(work, [item for item, _ in few])
            except Exception:  # each reads again by itself, and hears of its own error
                results = None
            for at, (_, future) in enumerate(few):
                future.set_result(None if results is None else [results[at]])


def _reader(path: Path, settings: Settings, connect: Connect) -> tuple[Callable[[list[Job]], None], Callable[[], None]]:
    """Return what a reader thread runs, and what it does at its end."""
    opened: list[Connection] = []

    def run(jobs: list[Job]) -> None:
        with translated(str(path)):
            if not opened:
                opened.append(wrap(connect()))
        driver: Any = opened[0].connection.dbapi_connection
        done: list[Job] = []
        for job in jobs:
            start = time.monotonic()
            deadline = start + settings.command_timeout
            driver.set_progress_handler(lambda end=deadline: time.monotonic() > end, 100 * STEPS)
            try:
                driver.execute("BEGIN")
                job.result = job.task(opened[0])
            except Exception as error:  # the caller hears of it
                job.error = translate(error, str(path)) or error
            finally:
                with suppress(sqlite3.Error):
                    driver.execute("ROLLBACK")
            done.append(job)
            if time.monotonic() - start > INLINE_BUDGET:  # it need not wait for the next one, which may be as long
                complete(done)
                done = []
        complete(done)

    def finish() -> None:
        for connection in opened:
            close(connection)

    return run, finish


def connect_reader(path: Path, settings: Settings, look: Callable[[], object]) -> sqlite3.Connection:
    """Open a connection; `look` raises if a file was exchanged before it was open."""
    look()
    connection = connect(path, settings, reader=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # which opens the other two files
        look()
    except BaseException:
        connection.close()
        raise
    return connection


def _is_passing(error: BaseException) -> bool:
    """Tell whether a read may succeed on a thread that can wait: it was interrupted, or met a lock."""
    orig = getattr(error, "orig", None) or error
    name = getattr(orig, "sqlite_errorname", "") or ""
    return name.startswith(("SQLITE_INTERRUPT", "SQLITE_BUSY", "SQLITE_LOCKED"))
