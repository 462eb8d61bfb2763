"""asyncpg's connection, which inside of a transaction of ours lets nobody else begin or end one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from dgent.sql.transaction_block import control_in, refused

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Driver(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that refuses COMMIT and its kin while it is `guarded`; whoever guards it uses `control`."""

    guarded = False

    def control(self, sql: str, **named: Any) -> Awaitable[str]:
        """Run a statement that begins or ends a transaction."""
        return super().execute(sql, **named)  # type: ignore[no-any-return]

    def execute(self, query: str, *args: Any, **named: Any) -> Any:
        """Run one statement, or several without arguments."""
        if self.guarded:
            _refuse_control(query, several=not args)
        return super().execute(query, *args, **named)

    def _prepare(self, query: str, **named: Any) -> Any:
        if self.guarded:
            _refuse_control(query)
        return super()._prepare(query, **named)

    def _execute(self, query: str, *args: Any, **named: Any) -> Any:
        if self.guarded:
            _refuse_control(query)
        return super()._execute(query, *args, **named)


def _refuse_control(sql: str, *, several: bool = False) -> None:
    word = control_in(sql, several=several)
    if word is not None:
        raise refused(word)
