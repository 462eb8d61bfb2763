"""Where the memories of an outbox lie: one that moved, or goes by another host or role, is known by its id.

    .dgent/outbox   for each queue a datum: its name; in the metadata the id of the memory, its namespace and its place

What waits under a former place is moved to where the memory lies now, unless a file is still there: that is a copy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from dgent.datum import Datum
from dgent.delivery import RESERVED, Queue, move_all
from dgent.exceptions import DgentError
from dgent.query import Query
from dgent.sql.advisory_locks import AdvisoryLock
from dgent.sql.constructs import transaction_lock
from dgent.store import Prepared

if TYPE_CHECKING:
    from dgent.memory.sql.backend import SqlBackend
    from dgent.store import Backend

_PLACES: Final = f"{RESERVED}/outbox"


async def take_over_moved(store: SqlBackend, memory: Backend, queue: Queue) -> None:
    """Note where a memory lies, and move what waits for it elsewhere; nothing, while it does not answer.

    Raises:
        StorageError: the database failed; everything is where it was.
        VersionConflict: another program delivers from the former place just now; the same.
    """
    if not (id := await _id_of(memory)):
        return
    met = Query(where={"metadata.store": id, "metadata.namespace": memory.namespace}, limit=100)
    if [one.id for one in await store.within(_PLACES).query(met)] == [queue.segment]:
        return
    turn = select(transaction_lock(AdvisoryLock.OLD_OUTBOX))
    async with store.database.transaction() as transaction:
        await transaction.write(lambda connection: connection.execute(turn))
        inside = store.joined(transaction)
        places = inside.within(_PLACES)
        for place in await places.query(met):
            if place.id != queue.segment and not _is_there(place):
                await move_all(Queue(inside, place.text), queue.over(inside))
                await places.delete(place.id)
        known = {"store": id, "namespace": memory.namespace, "where": memory.where}
        await places.put(Datum(queue.segment, queue.target.encode(), 0.0, None, known))


def _is_there(place: Datum) -> bool:
    """Tell whether a file lies at a place; of a server nobody can tell, and its former name stands for the same one."""
    return Path(str(place.metadata["where"])).is_file()


async def _id_of(memory: Backend) -> str:
    """Return the id that a memory keeps in itself; empty where it has none, or does not answer."""
    try:
        return await memory.prepare() if isinstance(memory, Prepared) else ""
    except DgentError:  # whoever writes to it hears of that
        return ""
