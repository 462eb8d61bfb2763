"""What names are listed, and where a page of them ended: namespaces, and the segments of ids."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import orjson
from blake3 import blake3

from dgent.cursor import open_cursor, seal_cursor
from dgent.exceptions import InvalidQuery
from dgent.page import KeyPage
from dgent.query import LAST_TEXT, prefix_end
from dgent.validation import check_limit, check_namespace, check_query_text

if TYPE_CHECKING:
    from collections.abc import Sequence

BEHIND = "\1"
"""What stands between a text and the next greater one: the smallest character of all that can be stored."""


@dataclass(frozen=True)
class NameListing:
    """A listing of names in their order, byte for byte; its fields say which. A cursor belongs to one of them."""

    @property
    def _fingerprint(self) -> bytes:
        return blake3(orjson.dumps([type(self).__name__, *astuple(self)])).digest(16)

    def after(self, cursor: str | None) -> str | None:
        """Return behind which name the page begins; None is the start.

        Raises:
            InvalidCursor: the cursor was damaged, or belongs to another listing.
        """
        return None if cursor is None else open_cursor(cursor, self._fingerprint)[1]

    def page(self, found: Sequence[str], limit: int) -> KeyPage:
        """Make a page of up to `limit` of these names; one more than that means that there is a next page."""
        kept = found[:limit]
        more = bool(limit) and len(found) > limit
        return KeyPage(kept, seal_cursor((0, kept[-1]), self._fingerprint) if more else None)


@dataclass(frozen=True)
class NamespaceListing(NameListing):
    """The namespaces that hold something: all, or `prefix` and those below it.

    Raises:
        InvalidNamespace: the prefix is none.
    """

    prefix: str | None = None

    def __post_init__(self) -> None:
        if self.prefix is not None:
            check_namespace(self.prefix)

    def has(self, name: str) -> bool:
        """Tell whether a namespace belongs here."""
        return self.prefix is None or name == self.prefix or name.startswith(f"{self.prefix}/")


@dataclass(frozen=True)
class SegmentListing(NameListing):
    """The segments of the ids that start with a prefix: each id up to its `depth`th delimiter behind the prefix.

    A segment ends with that delimiter, and stands for all ids that start with it. An id that has fewer is a segment of
    its own. So segments sort as their ids do, and no two ids between which a third one lies share one without it.

    Raises:
        InvalidQuery: a prefix or a delimiter that no id has, or a depth below 1.
    """

    prefix: str = ""
    delimiter: str = "/"
    depth: int = 1

    def __post_init__(self) -> None:
        for name in ("prefix", "delimiter"):
            check_query_text(name, getattr(self, name))
        if not self.delimiter:
            raise InvalidQuery("the delimiter is empty: use the text that separates segments, such as '/'")
        if not check_limit(self.depth, "depth"):
            raise InvalidQuery("depth is 0: use how many segments below the prefix to show, from 1")

    def segment_of(self, id: str) -> str:
        """Return the segment of an id that starts with the prefix."""
        end = len(self.prefix)
        for _ in range(min(self.depth, len(id))):
            at = id.find(self.delimiter, end)
            if at < 0:
                return id
            end = at + len(self.delimiter)
        return id[:end]

    def _is_shared(self, segment: str) -> bool:
        return self.segment_of(segment + BEHIND) == segment

    def first_behind(self, segment: str | None) -> str | None:
        """Return the smallest text that an id behind all those of a segment can be; None if there can be none."""
        if segment is None:
            return self.prefix
        return prefix_end(segment) if self._is_shared(segment) else segment + BEHIND

    def last_of(self, segment: str) -> str:
        """Return a text that no id of a segment is greater than, and that is below those of the next one."""
        return segment + LAST_TEXT if self._is_shared(segment) else segment
