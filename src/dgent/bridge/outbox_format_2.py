"""The queue that an outbox had while its name was the namespace alone: two memories under one shared it.

Whom it was for it does not say. What waits there goes to the memory that is used first, as it would have gone before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from dgent.delivery import Queue, move_all
from dgent.sql.advisory_locks import AdvisoryLock
from dgent.sql.constructs import transaction_lock

if TYPE_CHECKING:
    from dgent.memory.sql.backend import SqlBackend


def queue_of_format_2(store: SqlBackend, namespace: str) -> Queue:
    """Return the queue of a namespace under its former name."""
    return Queue(store, f"outbox:{namespace}")


async def take_over_format_2(store: SqlBackend, namespace: str, queue: Queue) -> None:
    """Move what waits under the former name, in one transaction; there may be nothing.

    Raises:
        StorageError: the database failed; everything is where it was.
        VersionConflict: a program of that time delivers it just now; the same.
    """
    former = queue_of_format_2(store, namespace)
    if not any(await former.count()):
        return
    turn = select(transaction_lock(AdvisoryLock.OLD_OUTBOX))
    async with store.database.transaction() as transaction:
        await transaction.write(lambda connection: connection.execute(turn))
        inside = store.joined(transaction)
        await move_all(former.over(inside), queue.over(inside))
