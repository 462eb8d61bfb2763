"""The session of a transaction for a thread that may block: a plain `Session`, whose statements run on the loop."""

# A `Session` does its work on the thread that uses it, which has the transaction's session to itself meanwhile. Only
# what the driver does, a statement, and on PostgreSQL BEGIN and ROLLBACK, is awaited on the event loop of the
# transaction by `wait`, which holds the thread until it has ended, and says what becomes of a cancel or an interrupt.
# `wait` lies in the `info` of the connection; once its block is over it refuses.

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import event
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import greenlet_spawn, in_greenlet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

    from dgent.sql.transaction_block import BlockSession

T = TypeVar("T")
_WAIT: Final = "dgent_wait"


async def opened(session: BlockSession, wait: Callable[[Callable[[], Awaitable[Any]]], Any]) -> Session:
    """Let a thread use a session from now on, and return it as that thread needs it."""
    connection = (await session.connection()).sync_connection
    assert connection is not None  # noqa: S101  # its block is open
    connection.info[_WAIT] = wait
    _listen(connection.engine)
    return session.sync_session


def await_here(connection: Connection, work: Callable[[], Awaitable[T]]) -> T:
    """Await in a greenlet of SQLAlchemy, or, on a thread that uses the session by itself, on the loop."""
    wait = None if in_greenlet() else connection.info.get(_WAIT)
    return await_only(work()) if wait is None else wait(work)


def _listen(engine: Engine) -> None:
    if not event.contains(engine, "do_execute", _do_execute):
        event.listen(engine, "do_execute", _do_execute)
        event.listen(engine, "do_executemany", _do_executemany)
        event.listen(engine, "do_execute_no_params", _do_execute_no_params)


def _do_execute(cursor: Any, sql: str, values: Any, context: Any) -> bool:
    if _is_ours(context):
        cursor = _buffered(cursor, context)
        return _run(context, cursor.execute, sql, values)
    return False


def _do_executemany(cursor: Any, sql: str, values: Any, context: Any) -> bool:
    return _is_ours(context) and _run(context, cursor.executemany, sql, values)


def _do_execute_no_params(cursor: Any, sql: str, context: Any) -> bool:
    return _is_ours(context) and _run(context, _buffered(cursor, context).execute, sql)


def _is_ours(context: Any) -> bool:
    return not in_greenlet() and _WAIT in context.root_connection.info


def _run(context: Any, function: Callable[..., Any], *args: Any) -> bool:
    context.root_connection.info[_WAIT](partial(greenlet_spawn, function, *args))
    return True


def _buffered(cursor: Any, context: Any) -> Any:
    """Return a cursor that has all rows at once, instead of one that would wait for more as they are asked for."""
    if context.execution_options.get("stream_results"):
        context.cursor = cursor = context.root_connection.connection.cursor()
    return cursor
