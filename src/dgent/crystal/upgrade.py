"""Rewriting what older versions of a schema wrote: tried in full first, then in batches that can be run again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dgent.checks import check_limit
from dgent.crystal.crystal import envelope, upgraded
from dgent.exceptions import InvalidInput, InvalidQuery, UpgradeError
from dgent.query import Query
from dgent.swap import swap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dgent.crystal.schema import Schema
    from dgent.datum import Datum
    from dgent.protocol import DgentProtocol
    from dgent.query import Page

BATCH: Final = 200
"""Crystals that are read, and rewritten, together."""
SHOWN: Final = 20
"""How many failures a report names."""


@dataclass(slots=True)
class Upgrade:
    """The report of an upgrade.

    Attributes:
        schema, version: what the crystals were brought to.
        found: how many there were of each version.
        upgraded: how many were rewritten; none in a dry run.
        failed: how many cannot be; `failures` are the first of them, by id, with the reason.
    """

    schema: str
    version: int
    found: dict[int, int] = field(default_factory=dict)
    upgraded: int = 0
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def older(self) -> int:
        """How many were found of older versions."""
        return sum(count for version, count in self.found.items() if version < self.version)


async def upgrade(
    store: DgentProtocol,
    schema: Schema[Any],
    *,
    dry_run: bool = False,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> Upgrade:
    """Bring the crystals of a store to the version of their schema: see `Universe.upgrade`."""
    if check_limit(batch, "batch") < 1:
        raise InvalidQuery("batch is 0: use the number of crystals to rewrite together, from 1")
    advance = progress or (lambda amount: None)
    report = Upgrade(schema.name, schema.version)
    async for page in pages(store, schema.name, batch):
        for datum in page:
            _try(datum, schema, report, strict=not dry_run)
        advance(len(page))
    if dry_run or not report.older:
        return report
    async for page in pages(store, schema.name, batch):
        older = [datum for datum in page if envelope(datum)[1] < schema.version]
        report.upgraded += await _rewrite_all(store, older, schema)
        advance(len(page))
    return report


async def pages(store: DgentProtocol, schema: str, batch: int) -> AsyncIterator[Page]:
    """Go through the live datums of a schema, the oldest first; a rewritten one keeps its place."""
    cursor = None
    while True:
        page = await store.query(Query(schema=schema, order="oldest", limit=batch, cursor=cursor))
        yield page
        cursor = page.cursor
        if cursor is None:
            return


def _try(datum: Datum, schema: Schema[Any], report: Upgrade, *, strict: bool) -> None:
    try:
        version = envelope(datum)[1]
        report.found[version] = report.found.get(version, 0) + 1
        if version != schema.version:
            upgraded(datum, schema)
    except (InvalidInput, UpgradeError) as error:
        if strict:
            raise type(error)(f"{datum.id!r}: {error}; nothing was written") from error.__cause__
        report.failed += 1
        if len(report.failures) < SHOWN:
            report.failures[datum.id] = str(error)


async def _rewrite_all(store: DgentProtocol, older: list[Datum], schema: Schema[Any]) -> int:
    """Rewrite these together and return how many were; each has come to its end when one raises."""
    ends = await asyncio.gather(*(_rewrite(store, datum.id, schema) for datum in older), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return sum(end for end in ends if not isinstance(end, BaseException))


async def _rewrite(store: DgentProtocol, id: str, schema: Schema[Any]) -> int:
    """Put the current version of one crystal, unless somebody did, and return how many were written."""

    async def change(live: Datum | None) -> tuple[Datum | None, int]:
        if live is None or live.schema != schema.name or envelope(live)[1] >= schema.version:
            return None, 0
        return upgraded(live, schema), 1

    return await swap(store, id, change)
