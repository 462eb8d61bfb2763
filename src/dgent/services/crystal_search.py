"""Find crystals by tag, time and text, newest first.

Tags and times are answered by the rows. Text is looked for in the whole content: in the summary, and where that is not
all of it, as the row's hash tells, in the datum. So that no search reads without end, a page ends early when it has
read enough, and its cursor goes on from there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import literal, select, tuple_

from dgent.bridge.dual_write import get_datums, select_rows
from dgent.cursor import seal_cursor
from dgent.exceptions import Corrupt, InvalidCursor
from dgent.models import Crystal, CrystalTag, Text, UTCDateTime
from dgent.page import Damaged
from dgent.services.crystal_row import hash_of, moment_of
from dgent.sql.damaged_pages import tell
from dgent.sql.runner import SHORT

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

    from dgent.cursor import Position
    from dgent.datum import Datum
    from dgent.query import Query
    from dgent.storage import StorageProvider

MOST_CONTENTS: Final = 1000
"""A page of a search for text ends when it has read so many datums,"""
MOST_BYTES: Final = 64 * 2**20
"""or so many bytes of their contents."""

_ROWS, _DATUMS = 1000, 50
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CrystalRowPage(list[Crystal]):
    """A page of crystals that knows how to go on: pass `page.cursor` to the same search; None means the end.

    A page of a search for text may have fewer than `limit`, even none, and go on all the same. `page.damaged` names the
    datums whose content could not be looked into because it is not what was written.
    """

    cursor: str | None = None
    damaged: tuple[Damaged, ...] = ()


class _Seen(NamedTuple):
    """A row that was looked at. `holds` says whether its content has the text; None: only the datum can tell."""

    id: str
    created_at: datetime
    datum_id: str | None
    holds: bool | None


async def search(storage: StorageProvider, asked: Query, text: str | None) -> CrystalRowPage:
    """Return a page of the crystals that match the tags, times, limit and cursor of a query, with `text` in them.

    Raises:
        InvalidCursor: the cursor is of another search.
    """
    statement = select(Crystal).order_by(Crystal.created_at.desc(), Crystal.id.desc())
    for tag in sorted(asked.tags):
        statement = statement.where(Crystal.id.in_(select(CrystalTag.crystal_id).where(CrystalTag.tag == tag)))
    if asked.since is not None:
        statement = statement.where(Crystal.created_at >= moment_of(asked.since))
    if asked.until is not None:
        statement = statement.where(Crystal.created_at < moment_of(asked.until))
    start = asked.start()
    if text is not None and asked.limit:
        return await _with_text(storage, statement, asked, text)
    found = await select_rows(storage, _after(statement, start).limit(asked.limit + 1), short=asked.limit <= SHORT)
    page = CrystalRowPage(found[: asked.limit])
    if page and len(found) > asked.limit:
        page.cursor = seal_cursor(_position(page[-1]), asked.fingerprint)
    return page


async def _with_text(storage: StorageProvider, statement: Select[Crystal], asked: Query, text: str) -> CrystalRowPage:
    wanted = text.encode().lower()  # of bytes it lowers A to Z alone
    ids: list[str] = []
    damaged: list[Damaged] = []
    start, contents, size = asked.start(), 0, 0
    while True:
        look = partial(_look, statement=_after(statement, start).limit(_ROWS), wanted=wanted)
        seen = await storage.database.runner().read(look)
        for at in range(0, len(seen), _DATUMS):
            some = seen[at : at + _DATUMS]
            asked_for = [row.datum_id for row in some if row.holds is None and row.datum_id]
            datums, bad = await _readable(storage, asked_for)
            for row in some:
                damaged += bad.get(row.datum_id or "", ())
                datum = datums.get(row.datum_id or "")
                if row.holds or (row.holds is None and datum is not None and wanted in datum.content.lower()):
                    ids.append(row.id)
                if len(ids) == asked.limit:
                    return await _page(storage, asked, ids, damaged, row)
            contents += len(datums)
            size += sum(len(datum.content) for datum in datums.values())
            if contents >= MOST_CONTENTS or size >= MOST_BYTES:
                return await _page(storage, asked, ids, damaged, some[-1])
        if len(seen) < _ROWS:
            return await _page(storage, asked, ids, damaged, None)
        start = _position(seen[-1])


def _look(connection: Connection, statement: Select[Crystal], wanted: bytes) -> list[_Seen]:
    columns = statement.with_only_columns(
        Crystal.id, Crystal.created_at, Crystal.datum_id, Crystal.summary, Crystal.content_hash
    )
    seen = []
    for id, created_at, datum_id, summary, content_hash in connection.execute(columns):
        known = summary.encode()
        holds = wanted in known.lower() or (False if hash_of(known) == content_hash else None)
        seen.append(_Seen(id, created_at, datum_id, holds))
    return seen


async def _readable(storage: StorageProvider, ids: list[str]) -> tuple[dict[str, Datum], dict[str, list[Damaged]]]:
    """Return the live ones of these datums, and what is said of those that are damaged, by id."""
    try:
        return await get_datums(storage, ids), {}
    except Corrupt:  # one at least: each is read by itself
        found: dict[str, Datum] = {}
        bad: dict[str, list[Damaged]] = {}
    for id in ids:
        try:
            found |= await get_datums(storage, [id])
        except Corrupt as error:
            bad[id] = [Damaged(id, 0, str(error))]
    return found, bad


async def _page(
    storage: StorageProvider, asked: Query, ids: list[str], damaged: list[Damaged], last: _Seen | None
) -> CrystalRowPage:
    """Return the rows with these ids, in their order, without those forgotten meanwhile; go on behind `last`."""
    page = CrystalRowPage()
    page.damaged = tuple(damaged)
    tell(page.damaged, "the Brain's contents")
    for at in range(0, len(ids), _ROWS):
        rows = await select_rows(storage, select(Crystal).where(Crystal.id.in_(some := ids[at : at + _ROWS])))
        known = {row.id: row for row in rows}
        page += [known[id] for id in some if id in known]
    if last is not None:
        page.cursor = seal_cursor(_position(last), asked.fingerprint)
    return page


def _after(statement: Select[Crystal], start: Position | None) -> Select[Crystal]:
    if start is None:
        return statement
    try:
        moment = _EPOCH + timedelta(microseconds=start[0])
    except OverflowError:
        raise InvalidCursor("that is not a cursor of a search: start again without it") from None
    return statement.where(
        tuple_(Crystal.created_at, Crystal.id) < tuple_(literal(moment, UTCDateTime()), literal(start[1], Text()))
    )


def _position(row: Crystal | _Seen) -> Position:
    return (row.created_at - _EPOCH) // timedelta(microseconds=1), row.id
