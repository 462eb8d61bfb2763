"""Tables without a row, for who reads where none are there and none can be made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

from dgent.exceptions import ReadOnly
from dgent.sql.runner import only
from dgent.sql.sqlite.engine import wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from dgent.sql.runner import A, Each, T, Work
    from dgent.sql.table_set import TableSet


class EmptyTables:
    """A `Runner` on empty tables of its own, in memory; `why` says, for a message, why nothing can be written."""

    def __init__(self, table_set: TableSet, why: str) -> None:
        self._table_set, self._why = table_set, why

    async def read(self, work: Work[T], *, short: bool = False) -> T:  # it is, always
        """Run work that only reads."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as driver, wrap(driver) as connection:
            self._table_set.create_all(connection)
            return work(connection)

    async def read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:  # alone
        """Run a read of one item."""
        return only(await self.read(lambda connection: work(connection, [item])))

    async def write(self, work: Work[T]) -> T:
        """Refuse it."""
        self._refuse()

    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Refuse it."""
        self._refuse()

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Forget it: nothing is committed."""

    def _refuse(self) -> NoReturn:
        raise ReadOnly(self._why)
