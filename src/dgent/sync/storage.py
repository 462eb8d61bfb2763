"""A storage for programs without an event loop: it is opened on a loop of its own, and closed with that."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import URL

from dgent.exceptions import StoreClosed
from dgent.settings import checked_path
from dgent.storage import StorageProvider
from dgent.sync.faces import SyncStorageProvider
from dgent.sync.loop_thread import LoopThread
from dgent.sync.road import Road

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


T = TypeVar("T")


class SyncStorage(SyncStorageProvider):
    """A `StorageProvider` without `await`: `memory`, `table(Model)`, `transaction()`, `log` and what else it has.

    It may be used from any thread, also where an event loop runs, as in a notebook, and not in a child after a fork.
    """

    @classmethod
    def opened(cls, what: str, make: Callable[[], Awaitable[StorageProvider]]) -> Self:
        """Open a storage on a loop of its own."""
        thread = LoopThread(what)
        road = Road(thread)
        try:
            storage = cls(road.call(make), road)
        except BaseException:
            thread.end()
            raise
        thread.at_exit = storage.close
        return storage

    def run(self, work: Callable[[StorageProvider], Awaitable[T]]) -> T:
        """Await what takes the asynchronous storage: `storage.run(lambda here: Town(here).citizen("Ada"))`.

        Raises:
            WrongLoop: it was called by a callback.
        """
        return self._road.call(partial(work, self._target))

    def close(self) -> None:
        """Wait for what was acknowledged, then release everything, the thread of the loop too. May be called twice.

        Raises:
            TransactionOpen: a transaction is open around the caller.
            WrongLoop: it was called by a callback.
        """
        thread = self._road.thread
        if thread.forked:
            return
        thread.check_not_here()
        with thread.closing:
            with suppress(StoreClosed):
                self._road.call(self._target.close)
            thread.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(path_or_url: str | os.PathLike[str] | None = None, **settings: Any) -> SyncStorage:
    """Open a storage for a program without an event loop, or with many.

    Args:
        path_or_url: the path of a SQLite file; a URL, as `postgresql://...`; ":memory:" for one that is empty, has
            every table, and is gone when it is closed; or nothing, for what the settings say.
        settings: others, by name, as for `StorageProvider.from_config`.

    Raises:
        InvalidSettings: one of them does not fit.
        BackendUnavailable: no memory of the chain answers, or, with `strict`, not the first.
        Corrupt: the agent memory is damaged, another than was here, or newer than this code.
    """
    given = os.fspath(path_or_url) if isinstance(path_or_url, os.PathLike) else path_or_url
    if given == ":memory:":
        return SyncStorage.opened("the storage in memory", StorageProvider.create_minimal)
    if isinstance(given, str) and "://" in given:
        settings = {"database_url": given, **settings}
    elif given is not None:
        path = checked_path(given, 'dgent.sync.open(":memory:")')
        settings = {"database_url": URL.create("sqlite", database=str(path)), **settings}
    return SyncStorage.opened("this storage", partial(StorageProvider.from_config, **settings))
