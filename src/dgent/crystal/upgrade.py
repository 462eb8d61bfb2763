"""Rewriting what older versions of a schema wrote: tried in full first, then in batches that can be run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from dgent.compare_and_swap import compare_and_swap
from dgent.crystal.batches import BATCH, BatchReport, pages, together
from dgent.crystal.crystal import envelope, upgraded

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.crystal.schema import Schema
    from dgent.datum import Datum
    from dgent.store import DgentProtocol


@dataclass(slots=True)
class UpgradeReport(BatchReport):
    """The report of an upgrade.

    Attributes:
        schema: that of the crystals.
        version: what they were brought to.
        found: how many there were of each version.
        upgraded: how many were rewritten; none in a dry run.
    """

    schema: str = ""
    version: int = 0
    found: dict[int, int] = field(default_factory=dict)
    upgraded: int = 0

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
) -> UpgradeReport:
    """Bring the crystals of a store to the version of their schema: see `Universe.upgrade`."""
    advance = progress or (lambda amount: None)
    report = UpgradeReport(schema=schema.name, version=schema.version)
    async for page in pages(store, schema.name, batch):
        for datum in page:
            report.attempt(datum.id, partial(_try, datum, schema, report), strict=not dry_run)
        advance(len(page))
    if dry_run or not report.older:
        return report
    async for page in pages(store, schema.name, batch):
        older = [datum for datum in page if envelope(datum)[1] < schema.version]
        report.upgraded += sum(await together(_rewrite(store, datum.id, schema) for datum in older))
        advance(len(page))
    return report


def _try(datum: Datum, schema: Schema[Any], report: UpgradeReport) -> None:
    version = envelope(datum)[1]
    report.found[version] = report.found.get(version, 0) + 1
    if version != schema.version:
        upgraded(datum, schema)


async def _rewrite(store: DgentProtocol, id: str, schema: Schema[Any]) -> int:
    """Put the current version of one crystal, unless somebody did, and return how many were written."""

    async def change(live: Datum | None) -> tuple[Datum | None, int]:
        if live is None or live.schema != schema.name or envelope(live)[1] >= schema.version:
            return None, 0
        return upgraded(live, schema).datum, 1

    return await compare_and_swap(store, id, change)
