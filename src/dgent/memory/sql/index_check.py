"""How the indexes of a store are compared with its live rows, while others write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, select

from dgent.memory.datum_index import CheckedIndex, registered
from dgent.memory.sql.datum_tables import datums
from dgent.sql.constructs import one_of
from dgent.sql.damaged_pages import as_text, lenient_text
from dgent.sql.maintained import Damage
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from dgent.memory.sql.datum_tables import Row

d = datums.c
PAGE: Final = 5000
_LIVE = Statement(
    select(d.id, d.version).where(d.namespace == bindparam("ns"), one_of(d.id, "ids"), d.live), "ns ids", lists="ids"
)


def checked_indexes() -> list[CheckedIndex]:
    """Return the indexes that can be compared."""
    return [index for index in registered() if isinstance(index, CheckedIndex)]


def lacking(connection: Connection, namespace: str, live: Mapping[str, Row]) -> list[Damage]:
    """Name what indexes lack of rows that were live, and still are: so they were when the index was read."""
    found = []
    for index in checked_indexes():
        ids = sorted(index.lacking(connection, namespace, [*live.values()]))
        for id, version in _LIVE.rows(connection, namespace, ids) if ids else ():
            if version == live[id].version:
                reason = f"the index {index.name} has not all of it, so it is not always found"
                found.append(Damage(_table(index), namespace, id, version, reason))
    return found


def strays(connection: Connection, namespace: str, index: CheckedIndex, at: Any) -> tuple[list[Damage], Any | None]:
    """Name what a page of an index has of no live row, and tell where the next page begins."""
    with lenient_text(connection):
        found, at = index.strays(connection, namespace, at, PAGE)
    reason = f"the index {index.name} has something of it, and it is not live"
    return [Damage(_table(index), namespace, as_text(id), version, reason) for id, version in found], at


def _table(index: CheckedIndex) -> str:
    return next(iter(index.tables.metadata.tables))
