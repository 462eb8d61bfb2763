"""Copying crystals into a typed table, and rows back into crystals, in batches: a run that was killed is run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from dgent.compare_and_swap import compare_and_swap
from dgent.crystal.batches import BATCH, SHOWN, BatchReport, pages, together
from dgent.crystal.contract_codec import comparable
from dgent.crystal.crystal import VERSION, Crystal, upgraded
from dgent.crystal.rows import crystal_of, row_of
from dgent.exceptions import Conflict, InvalidInput, UpgradeError, VersionConflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from dgent.bridge import TableAdapter
    from dgent.bridge.mapping import TableMapping
    from dgent.crystal.schema import Schema
    from dgent.datum import Datum
    from dgent.page import Page
    from dgent.store import DgentProtocol

_MICROSECOND = 1e-6


@dataclass(slots=True)
class CopyReport(BatchReport):
    """The report of a copy.

    Attributes:
        schema: what was copied.
        table: where to or where from.
        found: how many there were.
        written: how many this run wrote; none in a dry run.
        verified: how many were read back and are equal.
        different: how many are there already and say something else; `differing` are the ids of the first.
    """

    schema: str = ""
    table: str = ""
    found: int = 0
    written: int = 0
    verified: int = 0
    different: int = 0
    differing: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all that was found was read back and is equal."""
        return self.verified == self.found


async def backfill(
    store: DgentProtocol,
    schema: Schema[Any],
    adapter: TableAdapter,
    *,
    dry_run: bool = False,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> CopyReport:
    """Copy the crystals of a schema, upgraded, into a table, and read them back.

    Every one is tried before the first is written. A row that is there already stays as it is: after a promotion the
    table is the newer truth, and `demote` takes it back into memory. The crystals stay where they are.

    With `dry_run` it only counts and tries. `batch` are read and written together; `progress` is told how many more
    were tried or copied.

    Raises:
        InvalidRow: the table does not take a crystal; the message names its id, the field and the reason.
        InvalidCrystal: one cannot be read; nothing was written.
        CrystalTooNew: one cannot be read; nothing was written.
        UpgradeGap: one cannot be read; nothing was written.
        UpgradeFailed: one cannot be read; nothing was written.
    """
    report = CopyReport(schema=schema.name, table=adapter.table)

    async def write(page: Page) -> None:
        await _write_rows([upgraded(datum, schema) for datum in page], schema, adapter, report)

    attempt = partial(_as_row, schema=schema, mapping=adapter.mapping)
    await _copy(partial(pages, store, schema.name, batch), attempt, None if dry_run else write, report, progress)
    return report


async def demote(
    adapter: TableAdapter,
    schema: Schema[Any],
    store: DgentProtocol,
    *,
    dry_run: bool = False,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> CopyReport:
    """Make crystals of the rows of a table, with their ids, causes and times, and read them back.

    Every one is tried before the first is written. A crystal that is there and says something else gets the row's
    value as its next version; nothing is overwritten. The rows stay where they are. The arguments are those of
    `backfill`.

    Raises:
        InvalidCrystal: a row does not fit the contract; the message names its id. Nothing was written.
        Conflict: the id of a row is that of a datum which is something else; that one stays as it is.
    """
    report = CopyReport(schema=schema.name, table=adapter.table)

    async def write(page: Page) -> None:
        await _write_crystals([crystal_of(row, schema, adapter.mapping) for row in page], schema, store, report)

    attempt = partial(crystal_of, schema=schema, mapping=adapter.mapping)
    await _copy(partial(pages, adapter, None, batch), attempt, None if dry_run else write, report, progress)
    return report


async def _copy(
    source: Callable[[], AsyncIterator[Page]],
    attempt: Callable[[Datum], object],
    write: Callable[[Page], Awaitable[None]] | None,
    report: CopyReport,
    progress: Callable[[int], None] | None,
) -> None:
    """Try all, then write all; without `write` it is a trial, and what is refused goes into the report."""
    advance = progress or (lambda amount: None)
    async for page in source():
        report.found += len(page)
        for datum in page:
            report.attempt(datum.id, partial(attempt, datum), strict=write is not None)
        advance(len(page))
    if write is None:
        return
    report.found = 0  # there may be more by now
    async for page in source():
        report.found += len(page)
        await write(page)
        advance(len(page))


async def _write_rows(
    crystals: list[Crystal[Any]], schema: Schema[Any], adapter: TableAdapter, report: CopyReport
) -> None:
    ids = [crystal.id for crystal in crystals]
    there = await adapter.get_many(ids)
    rows = [row_of(crystal, adapter.mapping) for crystal in crystals if crystal.id not in there]
    report.written += sum(await together(_put_new(adapter, row) for row in rows))
    kept = await adapter.get_many(ids)
    _verify(crystals, {id: _read_back(row, schema, adapter.mapping) for id, row in kept.items()}, report)


async def _put_new(adapter: TableAdapter, row: Datum) -> bool:
    """Put a row that was not there; tell whether it still was not."""
    try:
        await adapter.put(row, expect=0)
    except VersionConflict:
        return False
    return True


async def _write_crystals(
    crystals: list[Crystal[Any]], schema: Schema[Any], store: DgentProtocol, report: CopyReport
) -> None:
    report.written += sum(await together(_put_newer(store, crystal, schema) for crystal in crystals))
    kept = await store.get_many([crystal.id for crystal in crystals])
    _verify(crystals, {id: _crystallized(datum, schema) for id, datum in kept.items()}, report)


async def _put_newer(store: DgentProtocol, crystal: Crystal[Any], schema: Schema[Any]) -> bool:
    """Put a crystal, unless what is live says the same; tell whether it was put."""

    async def change(live: Datum | None) -> tuple[Datum | None, bool]:
        if live is not None and not _is_of(live, schema):
            raise Conflict(
                f"the id {live.id!r} belongs to a datum that is no crystal of {schema.name}, such as the content that "
                "the row is about: demote into another namespace"
            )
        if live is not None and _equal(crystal, _crystallized(live, schema)):
            return None, False
        return crystal.datum, True

    return await compare_and_swap(store, crystal.id, change)


def _is_of(datum: Datum, schema: Schema[Any]) -> bool:
    """Tell whether a datum was written as a crystal of a schema, be it one that is readable or not."""
    named = datum.schema == schema.name
    return named and (VERSION in datum.metadata or _crystallized(datum, schema) is not None)


def _verify(crystals: Iterable[Crystal[Any]], kept: dict[str, Crystal[Any] | None], report: CopyReport) -> None:
    for crystal in crystals:
        if _equal(crystal, kept.get(crystal.id)):
            report.verified += 1
        elif crystal.id in kept:
            report.different += 1
            if len(report.differing) < SHOWN:
                report.differing.append(crystal.id)


def _equal(crystal: Crystal[Any], other: Crystal[Any] | None) -> bool:
    """Tell whether two crystals say the same, in a value and about it; a table keeps times to the microsecond."""
    if other is None:
        return False
    one, two = crystal.datum, other.datum
    return (
        one.causal_parent == two.causal_parent
        and abs(one.created_at - two.created_at) < _MICROSECOND
        and dict(one.metadata) == dict(two.metadata)
        and comparable(crystal.value) == comparable(other.value)
    )


def _as_row(datum: Datum, schema: Schema[Any], mapping: TableMapping) -> Datum:
    return row_of(upgraded(datum, schema), mapping)


def _read_back(row: Datum, schema: Schema[Any], mapping: TableMapping) -> Crystal[Any] | None:
    """Return the crystal that a row is, or None if somebody made it one that the schema does not take."""
    try:
        return crystal_of(row, schema, mapping)
    except InvalidInput:
        return None


def _crystallized(datum: Datum, schema: Schema[Any]) -> Crystal[Any] | None:
    """Return the current crystal of a datum, or None where it is another thing."""
    if datum.schema != schema.name:
        return None
    try:
        return upgraded(datum, schema)
    except (InvalidInput, UpgradeError):
        return None
