"""What runs SQL on the causal tables, and makes them on first use."""

from __future__ import annotations

import asyncio
import copy
from functools import partial
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary, WeakSet

from dgent.causal.tables import TABLES
from dgent.loop import running_loop

if TYPE_CHECKING:
    from dgent.database import Database, Runner

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
            await self._make()
        return self._runner

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
