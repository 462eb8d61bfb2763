"""Bring the rows and the datums of crystals that were changed apart together again, and never shorten content.

A crystal needs repair where somebody wrote one track alone, past the Brain:

* The row's datum is gone, or holds something else: the version in its history that the row describes comes back, as a
  new version. A datum that never was is made from the summary, where that is the whole content.
* The live datum is longer than what the row describes, or nothing in its history is: the row follows the datum.
* A datum with the schema of crystals has no row: it gets one.
* A datum that an older version stamped with the schema of rows gets its own, as a new version.
* Nothing of the content is left: the crystal is reported as lost and stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from dgent.bridge.dual_write import hold, in_both, select_rows
from dgent.datum import Datum
from dgent.models import Crystal
from dgent.query import Query
from dgent.services.crystal_row import NAMES, SCHEMA, crystal_of, hash_of, is_content, moment_of, summary_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dgent.bridge import UnitOfWork
    from dgent.storage import StorageProvider

BATCH: Final = 200
VERSIONS: Final = 100


@dataclass(slots=True)
class RepairReport:
    """What a repair looked at and did, by ids of crystals.

    Attributes:
        checked: how many rows and datums were looked at.
        restored: their datum came back.
        followed: their row now says what the datum holds.
        adopted: datums that got a row.
        renamed: datums that got the schema of contents.
        lost: their content is nowhere.
    """

    checked: int = 0
    restored: list[str] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


async def repair(storage: StorageProvider) -> RepairReport:
    """Look at every crystal of the storage's namespace, mend each in a transaction of its own, and report."""
    await storage.reconcile()
    report = RepairReport()
    async for rows in _rows(storage):
        report.checked += len(rows)
        datums = await storage.memory.get_many([row.datum_id for row in rows if row.datum_id is not None])
        for row in rows:
            if not _agree(row, None if row.datum_id is None else datums.get(row.datum_id)):
                await _mend(storage, row.id, report)
    for name in NAMES:
        async for contents in _contents(storage, name):
            for content in contents:
                await _rename(storage, content, report)
            orphans = await _orphans(storage, contents)
            report.checked += len(orphans)
            for orphan in orphans:
                await _adopt(storage, orphan.id, report)
    return report


def _agree(row: Crystal, datum: Datum | None) -> bool:
    return datum is not None and hash_of(datum.content) == row.content_hash


async def _mend(storage: StorageProvider, id: str, report: RepairReport) -> None:
    """Mend one crystal, looked at again under the locks of both tracks: it may have changed since."""

    async def work(tx: UnitOfWork) -> list[str] | None:
        row = await tx.session.get(Crystal, id, with_for_update=True)
        if row is None:
            return None
        datum_id = row.datum_id or row.id
        await hold(tx)
        live = await tx.memory.get(datum_id)
        if _agree(row, live):
            outcome = None if row.datum_id else report.restored
        elif (described := await _described(tx, row, datum_id)) and _is_no_shorter(described, live):
            await tx.memory.put(described, ttl="keep")
            outcome = report.restored
        elif live is None:
            return report.lost
        else:
            row.content_hash, row.summary = hash_of(live.content), summary_of(live)
            outcome = report.followed
        row.datum_id = datum_id
        return outcome

    outcome = await in_both(storage, work)
    if outcome is not None:
        outcome.append(id)


def _is_no_shorter(described: Datum, live: Datum | None) -> bool:
    return live is None or len(described.content) >= len(live.content)


async def _described(tx: UnitOfWork, row: Crystal, datum_id: str) -> Datum | None:
    """Return the newest datum that is what the row describes: from its history, or from a summary that is all of it."""
    before = None
    while revisions := await tx.memory.history(datum_id, limit=VERSIONS, before=before):
        for revision in reversed(revisions):
            if _agree(row, revision.datum):
                return revision.datum
        before = revisions[0].version
    if hash_of(row.summary.encode()) != row.content_hash:
        return None
    return Datum.create(
        row.summary, id=datum_id, created_at=row.created_at.timestamp(), tags=list(row.tags), schema=SCHEMA
    )


async def _adopt(storage: StorageProvider, id: str, report: RepairReport) -> None:
    async def work(tx: UnitOfWork) -> bool:
        await hold(tx)
        datum = await tx.memory.get(id)
        if datum is None or await tx.session.get(Crystal, id) is not None:
            return False
        tx.session.add(crystal_of(datum, moment_of(datum.created_at)))
        return True

    if await in_both(storage, work):
        report.adopted.append(id)


async def _rename(storage: StorageProvider, old: Datum, report: RepairReport) -> None:
    """Give a datum the schema of contents, if it has the one of rows."""
    if old.schema == SCHEMA:
        return

    async def work(tx: UnitOfWork) -> bool:
        datum = await tx.memory.get(old.id)
        if datum is None or datum.schema == SCHEMA or not is_content(datum):
            return False
        await tx.memory.put(datum.replace(metadata={**datum.metadata, "schema": SCHEMA}), ttl="keep")
        return True

    if await in_both(storage, work):
        report.renamed.append(old.id)


async def _rows(storage: StorageProvider) -> AsyncIterator[list[Crystal]]:
    last = ""
    while rows := await select_rows(
        storage, select(Crystal).where(Crystal.id > last).order_by(Crystal.id).limit(BATCH)
    ):
        yield rows
        last = rows[-1].id


async def _orphans(storage: StorageProvider, datums: list[Datum]) -> list[Datum]:
    """Return those of some contents that no row points to."""
    ids = [datum.id for datum in datums]
    rows = await select_rows(storage, select(Crystal).where(Crystal.datum_id.in_(ids) | Crystal.id.in_(ids)))
    known = {row.datum_id for row in rows} | {row.id for row in rows}
    return [datum for datum in datums if datum.id not in known]


async def _contents(storage: StorageProvider, schema: str) -> AsyncIterator[list[Datum]]:
    """Give the contents of crystals that have this schema, a page at a time."""
    cursor = None
    while True:
        page = (await storage.memory.query(Query(schema=schema, order="oldest", limit=BATCH, cursor=cursor))).whole()
        yield [datum for datum in page if is_content(datum)]
        cursor = page.cursor
        if cursor is None:
            return
