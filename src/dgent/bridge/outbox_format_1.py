"""The table in which the first outbox kept its writes: what lies there is moved into the queue, and the table goes.

It is one transaction on both databases, so it happens once and whole, however many programs begin at once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, inspect, select, text

from dgent.datum import Datum
from dgent.delivery import KnownTarget, QueuedWrite
from dgent.delivery.queued_write import damaged, group_of
from dgent.exceptions import InvalidDatum
from dgent.sql.advisory_locks import AdvisoryLock
from dgent.sql.constructs import transaction_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.delivery import Queue
    from dgent.memory.sql.backend import SqlBackend

_TABLE: Final = "dgent_outbox"
_KEEP: Final = -1.0  # in its column: no number of seconds


async def take_over_format_1(store: SqlBackend, queue_of: Callable[[str], Queue]) -> None:
    """Move what is in the table into the queues of its namespaces, and drop it; there may be none.

    Raises:
        StorageError: the database failed; everything is where it was.
    """
    if not await store.database.read(_is_there):
        return
    async with store.database.transaction() as transaction:
        inside = store.joined(transaction)
        rows: dict[str, list[QueuedWrite]] = defaultdict(list)
        for row in await transaction.write(_take):
            rows[row[0]].append(_entry(*row))
        for namespace, entries in rows.items():
            queue = queue_of(namespace).over(inside)
            await queue.append([entry for entry in entries if not entry.reason])
            if aside := [entry for entry in entries if entry.reason]:
                await queue.put_aside(aside)


def _is_there(connection: Connection) -> bool:
    return inspect(connection).has_table(_TABLE)


def _take(connection: Connection) -> list[Any]:
    """Return the rows in their order and drop the table; nothing, if somebody else was first."""
    connection.execute(select(transaction_lock(AdvisoryLock.OLD_OUTBOX)))
    if not _is_there(connection):
        return []
    columns = "namespace, seq, id, datum, ttl, at, refusal"
    rows = [*connection.execute(text(f"SELECT {columns} FROM {_TABLE} ORDER BY seq"))]  # noqa: S608  # constants
    connection.execute(text(f"DROP TABLE {_TABLE}"))
    return rows


def _entry(
    namespace: str, seq: int, id: str, datum: str | None, ttl: float | None, at: float, refusal: str | None
) -> QueuedWrite:
    key = f"{group_of(namespace, id)}-{seq:020}"
    try:
        written = None if datum is None else Datum.from_json(datum)
    except InvalidDatum as error:
        return damaged(key, 0, str(error), (datum or "").encode(), at)
    return QueuedWrite(
        namespace, id, written, "keep" if ttl == _KEEP else ttl, at, KnownTarget(at), key, reason=refusal or ""
    )
