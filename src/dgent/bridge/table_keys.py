"""How the segments of the ids of a typed table are listed, without reading its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgent.bridge.table_sql import statements_of
from dgent.query import LAST_TEXT, prefix_end

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dgent.bridge.mapping import TableMapping
    from dgent.name_listing import SegmentListing
    from dgent.page import KeyPage


def segments(
    connection: Connection, mapping: TableMapping, listing: SegmentListing, limit: int, cursor: str | None
) -> KeyPage:
    """Return a page of segments: by jumps where the key is one text, else from all keys, which sort in another way."""
    after = listing.after(cursor)
    find = _by_jumps if mapping.textual else _of_all
    return listing.page(find(connection, mapping, listing, after, limit + 1), limit)


def _by_jumps(
    connection: Connection, mapping: TableMapping, listing: SegmentListing, after: str | None, most: int
) -> list[str]:
    end = prefix_end(listing.prefix) or LAST_TEXT
    found: list[str] = []
    first = listing.first_behind(after)
    while first is not None and len(found) < most:
        row = statements_of(mapping).first_key.row(connection, first, end)
        if row is None:
            break
        found.append(listing.segment_of(row[0]))
        first = listing.first_behind(found[-1])
    return found


def _of_all(
    connection: Connection, mapping: TableMapping, listing: SegmentListing, after: str | None, most: int
) -> list[str]:
    ids = (mapping.id_of(key, connection.dialect) for key in statements_of(mapping).keys.rows(connection))
    found = {listing.segment_of(id) for id in ids if id.startswith(listing.prefix)}
    return sorted(segment for segment in found if after is None or segment > after)[:most]
