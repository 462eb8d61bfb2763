"""What every store with data of its own can be asked for, so that who looks after all of them names no table.

Status, a check, a copy and an erasure go through a list of these: a store that is new only has to be on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from dgent.sql.empty_tables import EmptyTables
from dgent.sql.sql_store import SqlStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Sequence

    from dgent.sql.runner import Runner

BATCH: Final = 500
BATCH_BYTES: Final = 8 * 2**20

Record: TypeAlias = dict[str, Any]
"""A JSON object: something that a store holds, in a form that brings it back as it was."""


class Damage(NamedTuple):
    """Something stored that is not what was written. What it says of itself cannot be trusted.

    Attributes:
        table: where it is.
        owner: whose it is, as it is stored: a namespace, or a writer in a stream; empty where there is none.
        id, version: as they are stored.
        reason: what is wrong with it.
    """

    table: str
    owner: str
    id: str
    version: int
    reason: str


class Maintained(Protocol):
    """A store that can be looked after."""

    @property
    def name(self) -> str:
        """What it holds, in one word, for people."""

    @property
    def tables(self) -> Sequence[str]:
        """The names of its tables."""

    async def stats(self) -> dict[str, int]:
        """Return how much there is of what; quickly, whatever the size, and nothing is made."""

    def check(self) -> AsyncIterator[Damage]:
        """Read everything, and name what is not what was written. It takes no lock, and reads a page at a time."""


class Portable(Maintained, Protocol):
    """A maintained store whose data has owners, and can be taken out, brought in and erased."""

    def export(self, owner: str | None = None) -> AsyncIterator[Record]:
        """Give everything, or what one owner has, as it was when it was begun.

        Raises:
            Corrupt: something is damaged: `check` names it.
        """

    async def import_(self, records: AsyncIterable[Record]) -> int:
        """Store what `export` gave, each part as it was, and return how many records were new.

        Each batch is a transaction: where it breaks off, what came before stays.

        Raises:
            InvalidFile: a record is none, or is not what was exported.
            Conflict: something else is there already.
        """

    async def erase(self, owner: str) -> int:
        """Erase all that an owner has for good, and return how much it was."""


async def batches(records: AsyncIterable[Record]) -> AsyncIterator[list[Record]]:
    """Give records some at a time, as many as fit well into one transaction."""
    batch: list[Record] = []
    size = 0
    async for record in records:
        batch.append(record)
        size += _size(record)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(record: object) -> int:
    values = record.values() if isinstance(record, dict) else ()  # what is no record is refused when it is read
    return sum(len(value) for value in values if isinstance(value, str))


class Keeper(SqlStore):
    """Looks after the tables of a store. It makes them only to bring something in; else, absent ones are empty."""

    @property
    def tables(self) -> list[str]:
        """The names of its tables."""
        return self.table_set.names

    async def runner(self) -> Runner:
        """Return what runs SQL: on empty tables, as long as there are none."""
        return EmptyTables(self.table_set, "there is nothing yet") if await self._is_empty() else await super().runner()

    async def _is_empty(self) -> bool:
        return self._ready.store_id is None and (not self.database.is_made or await self._is_absent())
