"""The Brain: what is worth keeping, as a row that is found by tag, text and time and a datum that holds the content."""

from __future__ import annotations

from collections.abc import Sized
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, literal, select, tuple_, update

from dgent.checks import check_id
from dgent.datum import Datum, uuid7
from dgent.exceptions import Corrupt, InvalidCursor, InvalidQuery
from dgent.models import Crystal, CrystalTag, Text, UTCDateTime, utcnow
from dgent.query import Query, seal_cursor
from dgent.services import healing
from dgent.services.mirror import SCHEMA, SUMMARY, crystal_of, hash_of
from dgent.services.tracks import (
    SHORT,
    Taken,
    check_moment,
    check_optional,
    check_tags,
    check_text,
    get_datum,
    in_both,
    missing,
    moment_of,
    refuse_live,
    runner,
    select_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection, Select

    from dgent.bridge import UnitOfWork
    from dgent.storage import StorageProvider

MAX_TAGS: Final = 64
"""Tags that one search may ask for."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Crystals(list[Crystal]):
    """A page of crystals that knows how to go on: pass `page.cursor` to the same search; None means the end."""

    cursor: str | None = None


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
        """Keep content, and return its row.

        The same content captured twice is two crystals: it was worth keeping at two moments. With an `id` that is
        there already, and the same content, nothing is written and the crystal that is there comes back.
        `causal_parent` is the id of the datum that led to it.

        Raises:
            InvalidInput: the content is blank or no text, a tag is no text, `created_at` is naive. LimitExceeded: it is
                too large. Conflict: the id belongs to other content, or to another datum.
        """
        moment = check_moment("created_at", created_at, utcnow())
        datum = Datum.create(
            check_text("content", content),
            id=uuid7() if id is None else id,
            created_at=moment.timestamp(),
            causal_parent=causal_parent,
            metadata=metadata or {},
            tags=check_tags(tags),
            author=check_optional("author", author),
            source=check_optional("source", source),
            schema=SCHEMA,
        )

        async def work(tx: UnitOfWork) -> Crystal:
            found = None if id is None else await tx.session.get(Crystal, id)
            if found is not None:
                return _same(found, content)
            crystal = crystal_of(datum, moment)
            tx.session.add(crystal)
            await refuse_live(tx, [] if id is None else [id])  # after the row, on which a second capture waits
            await tx.memory.put(datum)
            return crystal

        return await in_both(self._storage, work)

    async def get(self, id: str) -> Crystal | None:
        """Return a crystal's row, or None. Reading does not count as access: see `touch`."""
        check_id(id)
        found = await select_rows(self._storage, select(Crystal).where(Crystal.id == id))
        return found[0] if found else None

    async def content(self, id: str) -> str:
        """Return the whole content of a crystal.

        Raises:
            NotFound: there is no such crystal. Corrupt: its datum is gone, or holds something else.
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
    ) -> Crystals:
        """Return a page of the crystals that have all the tags, with `text` in the summary, newest first.

        `text` is looked for in the first 200 characters, in which letters A to Z match in either case.
        `since <= created_at < until`: aware datetimes, or Unix seconds.

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
            where={} if text is None else {"summary": text},
            limit=limit,
            cursor=cursor,
        )
        statement = _after_cursor(_matching(asked, text), asked).limit(limit + 1)
        found = await select_rows(self._storage, statement, short=limit <= SHORT and text is None)
        return _page(found, asked)

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

        count = await runner(self._storage).write(work)
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

    async def heal(self) -> healing.Healing:
        """Bring rows and datums that were changed apart together again; it never shortens content.

        See `dgent.services.healing` for what is done in each case.
        """
        return await healing.heal(self._storage)


def _same(found: Crystal, content: str) -> Crystal:
    if found.content_hash != hash_of(content.encode()):
        raise Taken(f"crystal {found.id!r} holds other content: choose another id, or forget that one first")
    return found


def _matching(asked: Query, text: str | None) -> Select[Crystal]:
    statement = select(Crystal).order_by(Crystal.created_at.desc(), Crystal.id.desc())
    for tag in sorted(asked.tags):
        statement = statement.where(Crystal.id.in_(select(CrystalTag.crystal_id).where(CrystalTag.tag == tag)))
    if text is not None:
        # lower() of both databases changes A to Z alone, so the text must not be lowered further.
        plain = text.translate({code: code + 32 for code in range(ord("A"), ord("Z") + 1)})
        statement = statement.where(func.lower(Crystal.summary).contains(plain, autoescape=True))
    if asked.since is not None:
        statement = statement.where(Crystal.created_at >= moment_of(asked.since))
    if asked.until is not None:
        statement = statement.where(Crystal.created_at < moment_of(asked.until))
    return statement


def _after_cursor(statement: Select[Crystal], asked: Query) -> Select[Crystal]:
    start = asked.start()
    if start is None:
        return statement
    try:
        moment = _EPOCH + timedelta(microseconds=start[0])
    except OverflowError:
        raise InvalidCursor("that is not a cursor of a search: start again without it") from None
    return statement.where(
        tuple_(Crystal.created_at, Crystal.id) < tuple_(literal(moment, UTCDateTime()), literal(start[1], Text()))
    )


def _page(found: list[Crystal], asked: Query) -> Crystals:
    page = Crystals(found[: asked.limit])
    if page and len(found) > asked.limit:
        microseconds = (page[-1].created_at - _EPOCH) // timedelta(microseconds=1)
        page.cursor = seal_cursor((microseconds, page[-1].id), asked.fingerprint)
    return page


def _check_filters(tags: object, text: object) -> None:
    if isinstance(tags, Sized) and len(tags) > MAX_TAGS and not isinstance(tags, str):
        raise InvalidQuery(f"a search takes up to {MAX_TAGS} tags, not {len(tags):,}")
    if text is not None and len(check_text("text", text, blank=True)) > SUMMARY:
        raise InvalidQuery(f"text has more than {SUMMARY} characters, which no summary has: search for a part of it")
