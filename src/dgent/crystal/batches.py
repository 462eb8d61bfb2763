"""Going through many crystals: a page at a time, what is done with a page together, and what a long run tells."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from dgent.exceptions import InvalidInput, InvalidQuery, UpgradeError
from dgent.query import Query
from dgent.validation import check_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from dgent.page import Page
    from dgent.store import DgentProtocol

T = TypeVar("T")

BATCH: Final = 200
"""How many are read, and written, together."""
SHOWN: Final = 20
"""How many ids a report names."""


@dataclass(slots=True)
class BatchReport:
    """How many cannot be taken along: `failures` are the first of them, by id, with the reason."""

    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def attempt(self, id: str, work: Callable[[], T], *, strict: bool) -> T | None:
        """Return what the work gives, or None where it is refused: that is noted here, or raised if `strict`.

        Raises:
            InvalidInput: the class that the work raised; the message names the id.
            UpgradeError: the class that the work raised; the message names the id.
        """
        try:
            return work()
        except (InvalidInput, UpgradeError) as error:
            if strict:
                error.args = (f"{id!r}: {error}; nothing was written",)
                raise
            self.failed += 1
            if len(self.failures) < SHOWN:
                self.failures[id] = str(error)
            return None


async def pages(store: DgentProtocol, schema: str | None, batch: int) -> AsyncIterator[Page]:
    """Go through the live datums of a schema, or all, the oldest first; a rewritten one keeps its place.

    Raises:
        InvalidQuery: `batch` is below 1.
        Corrupt: one of them is damaged: what copies or changes leaves none out.
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
