"""Where the memories of an outbox lie: one that moved, or goes by another host or role, is known by its id.

    .dgent/outbox   for each queue a datum: its name; in the metadata the id of the memory, its namespace and its place

What waits under another place is moved to where the memory lies now, unless a file is still there: that is a copy. The
note of a place stays: a program that knows a server by another name may go on, and leave something there at any time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from dgent.datum import Datum
from dgent.delivery import RESERVED, Queue, move_page
from dgent.delivery.queued_write import PAGE
from dgent.exceptions import DgentError
from dgent.query import Query
from dgent.sql.advisory_locks import AdvisoryLock
from dgent.sql.constructs import transaction_lock
from dgent.store import Prepared

if TYPE_CHECKING:
    from dgent.memory.sql.backend import SqlBackend
    from dgent.store import Backend

_PLACES: Final = f"{RESERVED}/outbox"


async def other_places(store: SqlBackend, memory: Backend, queue: Queue) -> list[Queue] | None:
    """Note where a memory lies, and return its queues of other places; None while it does not answer.

    Raises:
        StorageError: the database failed.
    """
    id = await _id_of(memory)
    if not id:
        return None if id is None else []
    notes = store.within(_PLACES)
    places = await _places(notes, {"metadata.store": id, "metadata.namespace": memory.namespace})
    if all(place.id != queue.segment for place in places):
        known = {"store": id, "namespace": memory.namespace, "where": memory.where}
        await notes.put(Datum(queue.segment, queue.target.encode(), 0.0, None, known))
    return [Queue(store, place.text) for place in places if place.id != queue.segment and not _is_there(place)]


async def move_all(store: SqlBackend, former: Queue, queue: Queue) -> None:
    """Move all that waits in a queue under another name; there may be nothing.

    Each page is a transaction, so what takes longer than one may is gone on with; where one is open here, it is part
    of that.

    Raises:
        StorageError: the database failed; what was not moved is where it was.
        VersionConflict: another program delivers it just now; the same.
    """
    turn = select(transaction_lock(AdvisoryLock.OLD_OUTBOX))
    more = any(await former.count())
    while more:
        async with store.database.transaction() as transaction:
            await transaction.write(lambda connection: connection.execute(turn))
            inside = store.joined(transaction)
            more = await move_page(former.over(inside), queue.over(inside))


async def _places(notes: SqlBackend, where: dict[str, str]) -> list[Datum]:
    """Return all notes with these metadata."""
    page = await notes.query(Query(where=where, limit=PAGE))
    found = [*page]
    while page.cursor is not None:
        page = await notes.query(Query(where=where, limit=PAGE, cursor=page.cursor))
        found += page
    return found


def _is_there(place: Datum) -> bool:
    """Tell whether a file lies at a place; of a server nobody can tell, and its former name stands for the same one."""
    try:
        return Path(str(place.metadata["where"])).is_file()
    except OSError:  # it may be: who cannot look leaves it alone
        return True


async def _id_of(memory: Backend) -> str | None:
    """Return the id that a memory keeps in itself; empty where it has none, None while it does not answer."""
    try:
        return await memory.prepare() if isinstance(memory, Prepared) else ""
    except DgentError:  # whoever writes to it hears of that
        return None
