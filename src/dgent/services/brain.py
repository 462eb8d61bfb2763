"""The Brain: what is worth keeping, as a row that is found by tag, text and time and a datum that holds the content."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select, update

from dgent.bridge.dual_write import Taken, get_datum, in_both, missing, refuse_live, select_rows
from dgent.datum import Datum
from dgent.datum_id import uuid7
from dgent.exceptions import Corrupt, InvalidQuery
from dgent.models import Crystal, utcnow
from dgent.query import Query
from dgent.services import crystal_search, repair
from dgent.services.crystal_row import SCHEMA, crystal_of, hash_of
from dgent.validation import check_id, check_moment, check_optional_text, check_row_id, check_tags, check_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Connection

    from dgent.bridge import UnitOfWork
    from dgent.services.crystal_search import CrystalRowPage
    from dgent.storage import StorageProvider

MAX_TAGS: Final = 64
"""Tags that one search may ask for."""
MAX_TEXT: Final = 1000
"""Characters of text that one search may ask for."""
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class NewCrystal:
    """Content that is worth keeping, before it is kept.

    Without `created_at` it is of now; without `id` it gets one. `causal_parent` is the id of the datum that led to it.

    Raises:
        InvalidInput: the content is blank or no text, a tag is no text, `created_at` is naive.
    """

    content: str
    tags: str | Iterable[str] = ()
    id: str | None = None
    author: str | None = None
    source: str | None = None
    causal_parent: str | None = None
    created_at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("content", self.content)
        check_optional_text("author", self.author)
        check_optional_text("source", self.source)
        if self.id is not None:
            check_row_id(self.id)
        object.__setattr__(self, "created_at", check_moment("created_at", self.created_at, utcnow()))
        object.__setattr__(self, "tags", tuple(check_tags(self.tags)))


class Brain:
    """Captures content in both tracks. A crystal's row and its datum have the same id.

    Rows come back detached: read their columns, and change them through the methods here.
    """

    def __init__(self, storage: StorageProvider) -> None:
        self._storage = storage

    async def capture(
        self,
        content: str,
        tags: str | Iterable[str] = (),
        *,
        id: str | None = None,
        author: str | None = None,
        source: str | None = None,
        causal_parent: str | None = None,
        created_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Crystal:
        """Keep content, and return its row; see `NewCrystal` and `capture_many`."""
        new = NewCrystal(content, tags, id, author, source, causal_parent, created_at, metadata or {})
        return (await self.capture_many([new]))[0]

    async def capture_many(self, crystals: Iterable[NewCrystal]) -> list[Crystal]:
        """Keep many in one transaction, and return their rows in the same order.

        The same content captured twice is two crystals: it was worth keeping at two moments. With an `id` that is
        there already, and the same content, nothing is written and the crystal that is there comes back.

        Raises:
            LimitExceeded: a content is too large.
            Conflict: an id belongs to other content, or to another datum. Nothing was kept.
        """
        asked = list(crystals)

        async def work(tx: UnitOfWork) -> list[Crystal]:
            known = await _known(tx, [new.id for new in asked if new.id is not None])
            rows, datums = [], []
            for new in asked:
                row = None if new.id is None else known.get(new.id)
                if row is None:
                    row, datum = _made(new)
                    known[row.id] = row
                    tx.session.add(row)
                    datums.append(datum)
                rows.append(_same(row, new))
            chosen = {new.id for new in asked if new.id is not None}
            await refuse_live(tx, chosen & {datum.id for datum in datums})  # after the rows: a second capture waits
            await tx.memory.put_many(datums)
            return rows

        return await in_both(self._storage, work)

    async def get(self, id: str) -> Crystal | None:
        """Return a crystal's row, or None. Reading does not count as access: see `touch`."""
        check_id(id)
        found = await select_rows(self._storage, select(Crystal).where(Crystal.id == id))
        return found[0] if found else None

    async def content(self, id: str) -> str:
        """Return the whole content of a crystal.

        Raises:
            NotFound: there is no such crystal.
            Corrupt: its datum is gone, or holds something else.
        """
        crystal = await self.get(id)
        if crystal is None:
            raise missing(Crystal, id)
        datum = None if crystal.datum_id is None else await get_datum(self._storage, crystal.datum_id)
        if datum is None or hash_of(datum.content) != crystal.content_hash:
            if await self.get(id) is None:  # forgotten between the two reads
                raise missing(Crystal, id)
            raise Corrupt(f"the row and the datum of crystal {id!r} differ: run heal()")
        return datum.text

    async def search(
        self,
        *,
        tags: str | Iterable[str] = (),
        text: str | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> CrystalRowPage:
        """Return a page of the crystals that have all the tags, with `text` in the content, newest first.

        Letters A to Z match in either case. `since <= created_at < until`: aware datetimes, or Unix seconds. A search
        for text reads about 1,000 contents for a page, so that one may be short, or empty, and have a cursor.

        Raises:
            InvalidQuery: a filter of the wrong type, a negative limit, a cursor of another search.
        """
        self._storage.settings.limits.page(limit)
        _check_filters(tags, text)
        asked = Query(
            schema=SCHEMA,
            tags=tags,  # type: ignore[arg-type]  # it takes one text or many, and makes the set
            since=since,
            until=until,
            where={} if text is None else {"text": text},
            limit=limit,
            cursor=cursor,
        )
        return await crystal_search.search(self._storage, asked, text)

    async def touch(self, id: str) -> int:
        """Count one access, in one statement, and return how many there were.

        Raises:
            NotFound: there is no such crystal.
        """
        check_id(id)
        statement = (
            update(Crystal)
            .where(Crystal.id == id)
            .values(access_count=Crystal.access_count + 1, version=Crystal.version + 1, last_accessed=utcnow())
            .returning(Crystal.access_count)
        )

        def work(connection: Connection) -> int | None:
            return connection.execute(statement).scalar()

        count = await self._storage.database.runner().write(work)
        if count is None:
            raise missing(Crystal, id)
        return count

    async def forget(self, id: str) -> bool:
        """Delete a crystal's row and bury its datum; tell whether it was there. Its history stays: see `purge`."""
        check_id(id)

        async def work(tx: UnitOfWork) -> bool:
            crystal = await tx.session.get(Crystal, id, with_for_update=True)
            if crystal is None:
                return False
            await tx.session.delete(crystal)
            if crystal.datum_id is not None:
                await tx.memory.delete(crystal.datum_id)
            return True

        return await in_both(self._storage, work)

    async def heal(self) -> repair.RepairReport:
        """Bring rows and datums that were changed apart together again; it never shortens content.

        See `dgent.services.repair` for what is done in each case.
        """
        return await repair.repair(self._storage)


async def _known(tx: UnitOfWork, ids: list[str]) -> dict[str, Crystal]:
    rows: dict[str, Crystal] = {}
    for start in range(0, len(ids), _BATCH):
        some = select(Crystal).where(Crystal.id.in_(ids[start : start + _BATCH]))
        rows |= {row.id: row for row in await tx.session.scalars(some)}
    return rows


def _made(new: NewCrystal) -> tuple[Crystal, Datum]:
    assert new.created_at is not None  # noqa: S101  # NewCrystal filled it in
    datum = Datum.create(
        new.content,
        id=uuid7() if new.id is None else new.id,
        created_at=new.created_at.timestamp(),
        causal_parent=new.causal_parent,
        metadata=new.metadata,
        tags=new.tags,
        author=new.author,
        source=new.source,
        schema=SCHEMA,
    )
    return crystal_of(datum, new.created_at), datum


def _same(found: Crystal, new: NewCrystal) -> Crystal:
    if found.content_hash != hash_of(new.content.encode()):
        raise Taken(f"crystal {found.id!r} holds other content: choose another id, or forget that one first")
    return found


def _check_filters(tags: object, text: object) -> None:
    if isinstance(tags, Sized) and len(tags) > MAX_TAGS and not isinstance(tags, str):
        raise InvalidQuery(f"a search takes up to {MAX_TAGS} tags, not {len(tags):,}")
    if text is not None and len(check_text("text", text, blank=True)) > MAX_TEXT:
        raise InvalidQuery(f"text has more than {MAX_TEXT:,} characters: search for a part of it")
