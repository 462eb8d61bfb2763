"""The queue that an outbox had while its name was the namespace alone: two memories under one shared it.

Whom it was for it does not say. What waits there goes to the memory that is used first, as it would have gone before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgent.delivery import Queue

if TYPE_CHECKING:
    from dgent.memory.sql.backend import SqlBackend


def queue_of_format_2(store: SqlBackend, namespace: str) -> Queue:
    """Return the queue of a namespace under its former name."""
    return Queue(store, f"outbox:{namespace}")
