"""Plain SQL on the application's tables, with named parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection, text

from dgent.exceptions import InvalidQuery

if TYPE_CHECKING:
    from dgent.database import Runner

Params = Mapping[str, Any]


class IRelationalStore(Protocol):
    """What a store of rows can do; a row comes back as a dict."""

    async def execute(self, query: str, params: Params | None = None) -> None:
        """Run a statement that writes, in a transaction of its own."""

    async def fetch_all(self, query: str, params: Params | None = None) -> list[dict[str, Any]]:
        """Run a query and return its rows."""

    async def fetch_one(self, query: str, params: Params | None = None) -> dict[str, Any] | None:
        """Run a query and return its first row, or None."""

    async def close(self) -> None:
        """Release what the store holds."""


class RelationalStore:
    """Runs SQL that the application wrote; values go in as parameters, `:name`, never as text.

    It is for the program, not for agents: no agent path leads here.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def execute(self, query: str, params: Params | None = None) -> None:
        """Run a statement that writes, in a transaction of its own.

        Raises:
            IntegrityViolation: a constraint refused it. NestedWrite: a transaction is open around it.
        """
        statement = _statement(query)

        def work(connection: Connection) -> None:
            connection.execute(statement, dict(params or {}))

        await self._runner.write(work)

    async def fetch_all(self, query: str, params: Params | None = None) -> list[dict[str, Any]]:
        """Run a query and return its rows, as dicts of column to value."""
        statement = _statement(query)

        def work(connection: Connection) -> list[dict[str, Any]]:
            return [dict(row) for row in connection.execute(statement, dict(params or {})).mappings()]

        return await self._runner.read(work)

    async def fetch_one(self, query: str, params: Params | None = None) -> dict[str, Any] | None:
        """Run a query and return its first row, or None."""
        statement = _statement(query)

        def work(connection: Connection) -> dict[str, Any] | None:
            row = connection.execute(statement, dict(params or {})).mappings().first()
            return None if row is None else dict(row)

        return await self._runner.read(work)

    async def close(self) -> None:
        """Do nothing: the storage that made this store closes the database."""


def _statement(query: str) -> Any:
    if not isinstance(query, str) or not query.strip():
        raise InvalidQuery("a query is SQL text, with parameters as :name")
    return text(query)
