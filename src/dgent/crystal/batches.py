"""Going through many crystals: a page at a time, and what is done with a page together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from dgent.exceptions import InvalidQuery
from dgent.query import Query
from dgent.validation import check_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable

    from dgent.page import Page
    from dgent.store import DgentProtocol

T = TypeVar("T")

BATCH: Final = 200
"""How many are read, and written, together."""


async def pages(store: DgentProtocol, schema: str | None, batch: int) -> AsyncIterator[Page]:
    """Go through the live datums of a schema, or all, the oldest first; a rewritten one keeps its place.

    Raises:
        InvalidQuery: `batch` is below 1. Corrupt: one of them is damaged: what copies or changes leaves none out.
    """
    if check_limit(batch, "batch") < 1:
        raise InvalidQuery("batch is 0: use the number of crystals to take together, from 1")
    cursor = None
    while True:
        page = await store.query(Query(schema=schema, order="oldest", limit=batch, cursor=cursor))
        yield page.whole()
        cursor = page.cursor
        if cursor is None:
            return


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Return what each gives, in order; when one raises, all have come to their end before it is raised here."""
    ends = await asyncio.gather(*work, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return [end for end in ends if not isinstance(end, BaseException)]
