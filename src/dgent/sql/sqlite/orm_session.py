"""ORM sessions on a SQLite file: SQLAlchemy's engine over one connection, which `orm_connection` runs."""

# There is one connection, and one lease at a time has it: `Orm` is used by whoever holds this process's write lock.
#
# begin   on the writer's thread, `begin`, or on the caller's, `try_begin`
# used    on the loop of the session; its calls run in a greenlet there, in which a cancel of the task is raised
# end     `OrmSession.end` on the loop awaits nothing, so no cancel cuts it off; `Orm.end` undoes what is left, on the
#         thread that gives the lease back

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import StaticPool, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import create_async_engine

from dgent.sql.reusable_greenlet import ReusableGreenlet
from dgent.sql.sqlite.engine import invalidate_half_done
from dgent.sql.sqlite.orm_connection import OrmConnection
from dgent.sql.transaction_block import BlockSession, follow_savepoints

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from dgent.settings import Settings
    from dgent.sql.sqlite.orm_connection import Commit
    from dgent.sql.sqlite.write_lease import WriteLease
    from dgent.sql.transaction_block import Block


class Orm:
    """The engine of ORM sessions, over one connection that is opened when the first lease is granted."""

    def __init__(self, path: Path, settings: Settings, commit: Commit) -> None:
        self._path, self._settings, self._commit = path, settings, commit
        self._lease: WriteLease | None = None
        self._connection: OrmConnection | None = None
        self._greenlet = ReusableGreenlet()
        self._engine = create_async_engine(
            "sqlite+dgent://",
            creator=self._open,
            poolclass=StaticPool,
            pool_reset_on_return=None,  # by then the connection may be in the next transaction
            hide_parameters=True,
        )
        event.listen(self._engine.sync_engine, "handle_error", invalidate_half_done)
        follow_savepoints(self._engine.sync_engine, _block_of)

    def session(self) -> OrmSession:
        """Return a session of the lease that is held; it cannot be used after that."""
        assert self._lease is not None  # noqa: S101  # it has just begun
        return OrmSession(self._engine, self._greenlet, self._lease.block)

    def begin(self, lease: WriteLease) -> None:
        """Begin a transaction for the session of a lease, on the writer's thread."""
        self._lease = lease
        self._open().begin_in(lease)

    def try_begin(self, lease: WriteLease) -> bool:
        """Begin one on the caller's thread, if that can be done at once; tell whether it was."""
        if self._connection is None or not self._connection.try_begin_in(lease):
            return False
        self._lease = lease
        return True

    def end(self) -> None:
        """Undo what was begun and not committed."""
        self._lease = None
        if self._connection is not None:
            self._connection.undo()

    def close(self) -> None:
        """Close the connection."""
        self._lease = None
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> OrmConnection:
        if self._lease is None:
            raise sqlite3.OperationalError("no active connection")
        if self._connection is None or self._connection.is_closed:
            self._connection = OrmConnection(self._path, self._settings, self._lease, self._commit)
        return self._connection


def _block_of(connection: Connection) -> Block:
    return cast("OrmConnection", connection.connection.dbapi_connection).lease.block


class OrmSession(BlockSession):
    """A session whose ends run in a reusable greenlet: a new one costs as much as a statement."""

    def __init__(self, engine: AsyncEngine, greenlet: ReusableGreenlet, block: Block) -> None:
        super().__init__(engine, block=block)
        self._greenlet = greenlet

    async def held(self) -> tuple[Connection, OrmConnection]:
        """Return the connection of its transaction, as SQLAlchemy has it and the driver's."""
        connection = await self._greenlet.run(lambda _: self.sync_session.connection(), None)
        return connection, cast("OrmConnection", connection.connection.dbapi_connection)

    async def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Write what was added and changed."""
        await self._greenlet.run(self.sync_session.flush, objects)

    async def commit(self) -> None:
        """Flush; at the end of the block, commit."""
        await self._greenlet.run(lambda _: self.sync_session.commit(), None)

    async def end(self) -> None:
        """Undo what is not committed, and release the connection. Nothing of this waits, so nothing can cut it off."""
        self.block.over = True
        self.sync_session.close()


class _Context(SQLiteExecutionContext):
    def create_server_side_cursor(self) -> Any:
        connection: Any = self._dbapi_connection
        return connection.cursor(stream=True)


class _Dialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's dialect of the standard library's driver, over connections that may await."""

    is_async = True
    has_terminate = True
    supports_statement_cache = True
    supports_server_side_cursors = True
    execution_ctx_cls = _Context

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.begin()

    def do_terminate(self, dbapi_connection: Any) -> None:
        dbapi_connection.terminate()

    def get_driver_connection(self, connection: Any) -> Any:
        return connection.driver_connection


registry.register("sqlite.dgent", __name__, _Dialect.__name__)
