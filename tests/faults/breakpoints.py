"""A stop before any statement of a verb, or before any call that it makes, while something else happens there."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from dgent.sql.statement import BulkInsert, Statement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

BLOCKED: Final = 0.3
"""Seconds after which what happens at the stop counts as waiting for the verb that was stopped."""


class Pause:
    """Stops whoever passes the breakpoint number `at`, until what happens there is done or waits.

    States: it counts, on whichever thread the statements run; at `at` that thread, or greenlet of the loop, stops, and
    `meanwhile` runs on the loop as a task of its own; from then on it counts only.

    Attributes:
        passed: how many gates there were.
        task: what happens meanwhile, once the stop is reached.
    """

    def __init__(self, at: int, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        self.passed = 0
        self.task: asyncio.Future[Any] | None = None
        self._at, self._meanwhile = at, meanwhile
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def statement(self, *_: object) -> None:
        """Pass a breakpoint in the middle of synchronous code: in a greenlet of the loop, or on another thread.

        Short reads of SQLite run on the thread of the loop, which cannot stop: they are no gates.
        """
        here = in_greenlet()
        if (threading.get_ident() == self._thread and not here) or not self._reached():
            return
        if here:
            await_only(self._stop())
        else:
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()

    async def call(self) -> None:
        """Pass a breakpoint between two calls."""
        if self._reached():
            await self._stop()

    def _reached(self) -> bool:
        if self.task is not None:
            return False
        self.passed += 1
        return self.passed == self._at + 1

    async def _stop(self) -> None:
        self.task = asyncio.ensure_future(self._meanwhile())
        await asyncio.wait({self.task}, timeout=BLOCKED)


@contextmanager
def statements(pause: Pause) -> Iterator[None]:
    """Make each statement a breakpoint, ours and those of SQLAlchemy. Only the verb may run that is to be stopped."""

    def gated(original: Any) -> Any:
        def run(self: Any, connection: Any, *values: Any) -> Any:
            pause.statement()
            return original(self, connection, *values)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for kind, name in ((Statement, "_run"), (Statement, "run_many"), (BulkInsert, "_run_together")):
            patch.setattr(kind, name, gated(getattr(kind, name)))
        event.listen(Engine, "before_cursor_execute", pause.statement)
        try:
            yield
        finally:
            event.remove(Engine, "before_cursor_execute", pause.statement)


class Calls:
    """A store, or a table, of which each call is a breakpoint."""

    def __init__(self, store: Any, pause: Pause) -> None:
        self._store, self._pause = store, pause

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            await self._pause.call()
            return await found(*args, **named)

        return call
