"""How sorted keys that are held in memory are walked: from a place on, in either direction, or from jump to jump."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dgent.name_listing import SegmentListing
    from dgent.page import KeyPage

Key = TypeVar("Key", str, tuple[float, str], tuple[int, str])


def walked(
    keys: list[Key], first: Key | None, end: Key | None, start: Key | None, *, descending: bool
) -> Iterator[Key]:
    """Go through the keys from `first` to those below `end`, or the other way round, from behind `start`."""
    low = 0 if first is None else bisect_left(keys, first)
    high = len(keys) if end is None else bisect_left(keys, end)
    if descending:
        high = high if start is None else min(high, bisect_left(keys, start))
        return (keys[at] for at in range(high - 1, low - 1, -1))
    low = low if start is None else max(low, bisect_right(keys, start))
    return (keys[at] for at in range(low, high))


def segments(
    first_live: Callable[[str], str | None], listing: SegmentListing, limit: int, cursor: str | None
) -> KeyPage:
    """Return a page of segments; `first_live` returns the first live id from a text on."""
    found: list[str] = []
    text = listing.first_behind(listing.after(cursor))
    while text is not None and len(found) <= limit:
        id = first_live(text)
        if id is None or not id.startswith(listing.prefix):
            break
        found.append(listing.segment_of(id))
        text = listing.first_behind(found[-1])
    return listing.page(found, limit)
