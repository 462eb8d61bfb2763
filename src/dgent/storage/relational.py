"""Plain SQL on the application's tables, with named parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import Connection, CursorResult, text

from dgent.exceptions import InvalidQuery
from dgent.sql.transaction_block import control_in, refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.sql import Database
    from dgent.sql.runner import T

Params = Mapping[str, Any]

_READS: Final = re.compile(
    r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/|\()*(?:SELECT|VALUES|TABLE|SHOW|EXPLAIN)\b", re.IGNORECASE | re.DOTALL
)
_WITH: Final = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*WITH\b", re.IGNORECASE | re.DOTALL)
_WRITES: Final = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)


class IRelationalStore(Protocol):
    """What a store of rows can do; a row comes back as a dict."""

    async def execute(self, query: str, params: Params | None = None) -> int:
        """Run a statement that writes, in a transaction of its own, and return how many rows it wrote."""

    async def fetch_all(self, query: str, params: Params | None = None) -> list[dict[str, Any]]:
        """Run a query and return its rows."""

    async def fetch_one(self, query: str, params: Params | None = None) -> dict[str, Any] | None:
        """Run a query and return its first row, or None."""

    async def close(self) -> None:
        """Release what the store holds."""


class RelationalStore:
    """Runs SQL that the application wrote; values go in as parameters, `:name`, never as text.

    Each call is a transaction of its own, or part of the one that its task has open. It is for the program, not for
    agents: no agent path leads here.

    Every call raises InvalidQuery for SQL that the database does not take, with the table or the column that it misses.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def execute(self, query: str, params: Params | None = None) -> int:
        """Run a statement that writes, and return how many rows it wrote; 0 for one that writes none, as DDL.

        Raises:
            IntegrityViolation: a constraint refused it.
            TransactionOpen: another task has a transaction open around it.
        """
        return await self._database.runner().write(_prepared(query, params, lambda result: max(0, result.rowcount)))

    async def fetch_all(self, query: str, params: Params | None = None) -> list[dict[str, Any]]:
        """Run a query and return its rows, as dicts of column to value. What writes, with RETURNING, is committed.

        Raises:
            IntegrityViolation: as `execute`, where it writes.
            TransactionOpen: as `execute`.
        """
        return await self._fetch(query, params, lambda result: [dict(row) for row in result.mappings()])

    async def fetch_one(self, query: str, params: Params | None = None) -> dict[str, Any] | None:
        """Run a query and return its first row, or None; as `fetch_all`."""
        return next(iter(await self._fetch(query, params, _first)), None)

    async def close(self) -> None:
        """Do nothing: the storage that made this store closes the database."""

    async def _fetch(self, query: str, params: Params | None, take: Callable[[CursorResult[Any]], T]) -> T:
        work = _prepared(query, params, take)
        runner = self._database.runner()
        return await (runner.read(work) if _only_reads(query) else runner.write(work))


def _first(result: CursorResult[Any]) -> list[dict[str, Any]]:
    row = result.mappings().first()
    return [] if row is None else [dict(row)]


def _prepared(query: str, params: Params | None, take: Callable[[CursorResult[Any]], T]) -> Callable[[Connection], T]:
    """Return the work that runs a statement and takes what is wanted from its result."""
    if not isinstance(query, str) or not query.strip():
        raise InvalidQuery("a query is SQL text, with parameters as :name")
    if params is not None and not isinstance(params, Mapping):
        raise InvalidQuery(f"parameters are {type(params).__name__}: pass a dict, and write :name in the SQL for each")
    if (word := control_in(query)) is not None:
        raise refused(word)
    statement, values = text(query), dict(params or {})
    return lambda connection: take(connection.execute(statement, values))


def _only_reads(query: str) -> bool:
    """Tell whether a statement can be run where nothing is written; a doubt costs a wait among the writers."""
    if _WITH.match(query):
        return not _WRITES.search(query)
    return _READS.match(query) is not None or query.lstrip()[:6].upper() == "PRAGMA"
