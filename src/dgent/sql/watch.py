"""Who waits for a database to change: one timer looks for all of them, and nothing is left when the last one goes."""

# idle      nobody watches: there is no timer
# watched   one timer of the loop looks every `every` seconds, and calls back all watches where there may be a change
#
# All of it runs on the loop on which it was made, in a context without a transaction. Nothing is awaited, so there is
# no lock, and a cancel reaches none of it. A callback may add and remove watches: who is called was settled when `wake`
# began. What a callback raises goes to the handler of the loop, and those behind it wait for the next look.

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextvars import Context
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Watch:
    """Calls back when the database may have changed, until it is closed."""

    def __init__(self, watches: Watches, topic: str, wake: Callable[[], None]) -> None:
        self.topic, self.wake = topic, wake
        self._watches = watches

    def close(self) -> None:
        """End it. May be called twice."""
        self._watches.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Watches(ABC):
    """The watches of one database on one event loop.

    Args:
        every: seconds between two looks at whether something changed; none is made while nobody watches.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # not that of whoever watches first, which may hold an open transaction
        self._timer: asyncio.TimerHandle | None = None
        self._watching: set[Watch] = set()

    def add(self, topic: str, wake: Callable[[], None]) -> Watch:
        """Call back on this loop, from now on."""
        watch = Watch(self, topic, wake)
        if not self._watching:
            self.begin()
        self._watching.add(watch)
        return watch

    def remove(self, watch: Watch) -> None:
        """Call a watch no more."""
        if watch in self._watching:
            self._watching.remove(watch)
            if not self._watching:
                self.end()

    def wake(self, topic: str | None = None) -> None:
        """Call back all watches, or those of a topic."""
        for watch in [*self._watching]:
            if topic is None or watch.topic == topic:
                watch.wake()

    @abstractmethod
    def changed(self) -> bool:
        """Tell whether something may have changed since the last look."""

    def begin(self) -> None:
        """Start to look."""
        self._timer = self._loop.call_later(self._every, self._look, context=self._context)

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._every, self._look, context=self._context)
        if self.changed():
            self.wake()


class SQLiteWatches(Watches):
    """Looks at the number that SQLite changes with each commit of another connection; None where it is not known.

    To ask it takes two microseconds. The time and the size of the log file do not tell a change for certain: two
    commits may fall into one tick of its clock.
    """

    def __init__(self, every: float, version: Callable[[], int | None]) -> None:
        super().__init__(every)
        self._version = version
        self._seen: int | None = None

    def changed(self) -> bool:
        """Tell whether the number is another than at the last look, or was not to be had."""
        before, self._seen = self._seen, self._version()
        return self._seen is None or self._seen != before
