"""Pages by position: rows in the order of some keys, behind the place where the page before ended.

No row is skipped or given twice by what is written meanwhile, and a late page costs as much as an early one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import bindparam, tuple_

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement

T = TypeVar("T")
P = TypeVar("P")

BATCH: Final = 500
"""Rows that are read at a time when they must be looked into."""


def behind(keys: Sequence[Any], names: Sequence[str], *, descending: bool) -> ColumnElement[bool]:
    """Return the condition that a row comes behind a position, whose values are the parameters of these names."""
    place = [bindparam(name, type_=key.type) for name, key in zip(names, keys, strict=True)]
    here, there = (keys[0], place[0]) if len(place) == 1 else (tuple_(*keys), tuple_(*place))
    return here < there if descending else here > there


def in_order(keys: Sequence[Any], *, descending: bool) -> list[Any]:
    """Return what to order by."""
    return [key.desc() for key in keys] if descending else [*keys]


def first_of(
    read: Callable[[P | None, int], list[T]],
    place: Callable[[T], P],
    wanted: Callable[[T], bool] | None,
    start: P | None,
    limit: int,
    batch: int,
) -> list[T]:
    """Return the first rows behind a position that are wanted: one more than `limit`, if there is a next page.

    Args:
        read: returns the rows behind a position, as many as are asked for; None is the start.
        place: returns the position of a row.
        wanted: tells whether a row matches; None where all do.
        start: behind which position to begin.
        limit: how many fit on the page.
        batch: how many to read at first; more of them follow in batches of `BATCH` at least.
    """
    found: list[T] = []
    at = start
    while True:
        rows = read(at, batch)
        found += rows if wanted is None else filter(wanted, rows)
        if len(found) > limit or len(rows) < batch:
            return found
        at, batch = place(rows[-1]), max(batch, BATCH)
