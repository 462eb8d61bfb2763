"""Named counters that only move forward: an order that no wall clock can disturb. After `agent-store`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from dgent.causal.log_tables import TABLES, generations
from dgent.exceptions import InvalidInput, MalformedRow, NonMonotonicGeneration, StoreError
from dgent.sql.sql_store import SqlStore
from dgent.sql.statement import Statement
from dgent.validation import check_id

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dgent.sql import Database

_g = generations.c
_LARGEST: Final = 2**63 - 1

_CURRENT = Statement(select(_g.ival).where(_g.key == bindparam("of_key")), "of_key")
_bump = insert(generations).values(key=bindparam("key"), ival=literal_column("1"))
_BUMP = Statement(
    _bump.on_conflict_do_update(
        index_elements=[_g.key],
        set_={"ival": _g.ival + literal_column("1")},
        where=_g.ival < literal_column(str(_LARGEST)),  # SQLite would go on with a float, which one does not change
    ).returning(_g.ival),
    "key",
)
_set = insert(generations).values(key=bindparam("key"), ival=bindparam("ival"))
_SET = Statement(
    _set.on_conflict_do_update(
        index_elements=[_g.key], set_={"ival": _set.excluded.ival}, where=_g.ival <= _set.excluded.ival
    ).returning(_g.ival),
    "key ival",
)


class Generation:
    """One counter, over a SQLAlchemy `Connection` in a transaction of the caller's; 0 before its first bump.

    Each verb is one statement, so that it is atomic between processes. The tables are those of `tables.TABLES`.

    Raises:
        InvalidDatum: the key is no text of 1 to 2,000 bytes.
    """

    def __init__(self, key: str) -> None:
        check_id(key, "the key of a generation")
        self.key = key

    def current(self, connection: Connection) -> int:
        """Return the value.

        Raises:
            MalformedRow: what is stored is no whole number.
        """
        row = _CURRENT.row(connection, self.key)
        return 0 if row is None else self._whole(row[0])

    def bump(self, connection: Connection) -> int:
        """Add one and return the new value; the first is 1.

        Raises:
            StoreError: it is at 2**63 - 1, the last one.
            MalformedRow: what is stored is no whole number.
        """
        row = _BUMP.row(connection, self.key)
        if row is None:
            raise StoreError(f"the generation {self.key!r} is at {self.current(connection)}, which is the last")
        return self._whole(row[0])

    def set(self, connection: Connection, value: int) -> int:
        """Move forward to a value, or stay, and return it.

        Raises:
            NonMonotonicGeneration: it is beyond that value already.
            InvalidInput: the value is no number from 0.
        """
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise InvalidInput(f"a generation is a whole number from 0 to 2**63 - 1, not {value!r:.80}")
        if not _SET.rows(connection, self.key, value):
            raise NonMonotonicGeneration(self.key, self.current(connection), value)
        return value

    def _whole(self, value: Any) -> int:
        if type(value) is not int:
            raise MalformedRow(f"the generation {self.key!r} is stored as {type(value).__name__}: set it by hand")
        return value


class AsyncGeneration(SqlStore):
    """One counter for a program with an event loop: in a database, or in one transaction of it. See `Generation`.

    Raises:
        InvalidDatum: the key is no text of 1 to 2,000 bytes.
    """

    def __init__(self, database: Database, key: str) -> None:
        self._counter = Generation(key)
        super().__init__(database, TABLES, may_be_absent=True)

    @property
    def key(self) -> str:
        """Its name."""
        return self._counter.key

    async def current(self) -> int:
        """Return the value."""
        return await self._read(self._counter.current, short=True)

    async def bump(self) -> int:
        """Add one and return the new value; the first is 1."""
        return await self._write(self._counter.bump)

    async def set(self, value: int) -> int:
        """Move forward to a value, or stay, and return it.

        Raises:
            NonMonotonicGeneration: it is beyond that value already.
            InvalidInput: the value is no number from 0.
        """
        return await self._write(lambda connection: self._counter.set(connection, value))
