"""The last version of each id, tombstones included: what writing and erasing begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, literal_column, select

from dgent.memory.sql.datum_tables import Row, datums
from dgent.sql.constructs import one_of
from dgent.sql.damaged_pages import is_undecodable, lenient_text
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from sqlalchemy import Connection

d = datums.c
_newest = datums.alias("newest")
_LATEST = Statement(
    select(datums).where(
        d.namespace == bindparam("ns"),
        one_of(d.id, "ids"),
        d.version
        == select(func.max(_newest.c.version))
        .where(_newest.c.namespace == bindparam("ns"), _newest.c.id == d.id)
        .scalar_subquery(),
    ),
    "ns ids",
    lists="ids",
)
_LATEST_OF_ONE = Statement(
    select(datums)
    .where(d.namespace == bindparam("ns"), d.id == bindparam("id"))
    .order_by(d.version.desc())
    .limit(literal_column("1")),
    "ns id",
)


def latest_rows(connection: Connection, namespace: str, ids: list[str]) -> dict[str, Row]:
    """Return the last version of each id, tombstones included."""
    try:
        rows = _latest(connection, namespace, ids)
    except Exception as error:
        if not is_undecodable(error):
            raise
        with lenient_text(connection):  # who else writes here has nothing to do with it
            rows = _latest(connection, namespace, ids)
    return {row.id: row for row in (Row(*found) for found in rows)}


def _latest(connection: Connection, namespace: str, ids: list[str]) -> list[Any]:
    if len(ids) == 1:
        return _LATEST_OF_ONE.rows(connection, namespace, ids[0])
    return _LATEST.rows(connection, namespace, ids)
