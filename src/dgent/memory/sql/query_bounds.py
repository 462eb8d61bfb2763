"""What a `Query` says of ids, times and seqs as bounds of a walk, and whether there is little below its prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, literal_column, select

from dgent.memory.sql.reads import end_of, in_range
from dgent.name_listing import BEHIND
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from dgent.cursor import Position
    from dgent.query import Query

_BOUNDS: Final = ("since", "until", "after", "after_seq", "before_seq")
NARROW: Final = 1000
"""A prefix or a term with fewer rows than this is read whole and sorted; a wider one is walked in its order."""

_WIDTH_OF_RANGE = Statement(
    select(func.count()).select_from(
        select(literal_column("1")).where(in_range).limit(literal_column(str(NARROW))).subquery()
    ),
    "ns first end",
)


def is_narrow(connection: Connection, namespace: str, query: Query) -> bool:
    """Tell whether few versions are below the prefix of a query."""
    if not query.prefix:
        return False
    width: int = _WIDTH_OF_RANGE.rows(connection, namespace, query.prefix, end_of(query.prefix))[0][0]
    return width < NARROW


def bounds_of(query: Query, at: Position | None) -> tuple[dict[str, Any], bool]:
    """Return the bounds of a query behind a position, by name, and whether the position is none of them.

    In the orders of ids and seqs it narrows the range that there is: of two bounds SQLite may start at either.
    """
    bounds: dict[str, Any] = {name: getattr(query, name) for name in _BOUNDS}
    if query.prefix:
        bounds |= {"first": query.prefix, "end": end_of(query.prefix)}
    resumed = at is not None and query.ordered_by == "time"
    if at is not None and not resumed:
        name, nearer, place = _narrower(query, at)
        bounds[name] = place if bounds.get(name) is None else nearer(bounds[name], place)
    return {name: value for name, value in bounds.items() if value is not None}, resumed


def _narrower(query: Query, at: Position) -> tuple[str, Callable[[Any, Any], Any], Any]:
    """Return which bound a position moves in an order of ids or seqs, which of two counts, and where it is then."""
    if query.ordered_by == "id":
        return ("end", min, at[1]) if query.descending else ("first", max, at[1] + BEHIND)
    return ("before_seq", min, int(at[0])) if query.descending else ("after_seq", max, int(at[0]))
