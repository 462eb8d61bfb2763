"""The typed tables that are registered, looked after as a whole."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, func, inspect, literal_column, select

from dgent.bridge import table_query
from dgent.sql.maintained import Damage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from dgent.bridge.mapping import TableMapping
    from dgent.bridge.table_registry import TableRegistry

PAGE: Final = 500
MOST: Final = 100_000
"""Rows of one table up to which they are counted."""


class MaintainedTables:
    """A `Maintained` over the typed tables that are registered; those that no migration has made yet are left out.

    A backup of the database is their copy: rows refer to each other, and belong to nobody that a table could tell.
    """

    name = "tables"

    def __init__(self, tables: TableRegistry) -> None:
        self._tables, self._database = tables, tables.database

    @property
    def tables(self) -> list[str]:
        """The names of the tables that are registered."""
        return [adapter.table for adapter in self._tables]

    async def stats(self) -> dict[str, int]:
        """Return how many rows each table has; one with more than `MOST` has that many."""
        if not self._database.is_made:
            return {}
        return await self._database.read(partial(_stats, layouts=[adapter.mapping for adapter in self._tables]))

    async def check(self) -> AsyncIterator[Damage]:
        """Read every row, and name those that their columns cannot be read from."""
        there = await self.stats()
        for mapping in [adapter.mapping for adapter in self._tables if adapter.table in there]:
            at: list[Any] | None = None
            while True:
                page = partial(table_query.damaged, mapping=mapping, at=at, limit=PAGE)
                damaged, at = await self._database.read(page)
                for id, version, reason, _ in damaged:
                    yield Damage(mapping.name, "", id, version, reason)
                if at is None:
                    break


def _stats(connection: Connection, layouts: Iterable[TableMapping]) -> dict[str, int]:
    there = set(inspect(connection).get_table_names())
    return {mapping.name: _count(connection, mapping) for mapping in layouts if mapping.name in there}


def _count(connection: Connection, mapping: TableMapping) -> int:
    some = select(literal_column("1")).select_from(mapping.table).limit(MOST).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())
