"""What runs SQL on the causal tables, and makes them on first use.

Where nothing can be made and none are there, no log has an entry: reads run on empty tables in memory, until somebody
who may has made them.
"""

from __future__ import annotations

import asyncio
import copy
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from dgent.causal.tables import TABLES
from dgent.database.base import only
from dgent.database.sqlite_engine import wrap
from dgent.exceptions import ReadOnly
from dgent.loop import running_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from dgent.database import Database, Runner
    from dgent.database.base import Each, Work

T = TypeVar("T")
A = TypeVar("A")

_made: WeakSet[Database] = WeakSet()
_locks: WeakKeyDictionary[Database, dict[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()


class Ground:
    """A database, or one transaction of it: see `joined`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._runner: Runner = database

    def joined(self, transaction: Runner) -> Self:
        """Return the same as part of an open transaction."""
        other = copy.copy(self)
        other._runner = transaction  # a copy of this class
        return other

    @property
    def is_joined(self) -> bool:
        """Whether this is part of a transaction."""
        return self._runner is not self.database

    async def runner(self) -> Runner:
        """Return what runs SQL, once the tables are there."""
        if self.database not in _made:
            if await self._is_empty():
                return _Empty(self.database.read_only)
            await self._make()
        return self._runner

    async def _is_empty(self) -> bool:
        return bool(self.database.read_only) and await self._runner.read(TABLES.is_absent, short=True)

    async def _make(self) -> None:
        if self.is_joined:  # which whoever has the lock may be waiting for
            await self._create()
            return
        async with _locks.setdefault(self.database, {}).setdefault(running_loop(), asyncio.Lock()):
            if self.database not in _made:
                await self._create()

    async def _create(self) -> None:
        if self.database.read_only:
            await self._runner.read(TABLES.check)
        else:
            await self._runner.write(TABLES.prepare)
        self._runner.after_commit(partial(_made.add, self.database))


class _Empty:
    """Runs what reads on empty tables of its own."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def read(self, work: Work[T], *, short: bool = False) -> T:  # it is, always
        """Run work that only reads."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as driver, wrap(driver) as connection:
            TABLES.metadata.create_all(connection)
            return work(connection)

    async def read_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:  # alone
        """Run a read of one item."""
        return only(await self.read(lambda connection: work(connection, [item])))

    async def write(self, work: Work[T]) -> T:
        """Refuse it."""
        self._refuse()

    async def write_each(self, work: Each[A, T], item: A, lane: Hashable) -> T:
        """Refuse it."""
        self._refuse()

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Forget it: nothing is committed."""

    def _refuse(self) -> NoReturn:
        raise ReadOnly(self._why)
