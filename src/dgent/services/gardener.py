"""The Gardener: ideas that grow from seed to compost, the plots they stand in and the sessions of work on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from dgent.bridge.dual_write import Taken, facts, hold, in_both, locked, missing, select_rows
from dgent.datum import Datum
from dgent.datum_id import uuid7
from dgent.exceptions import InvalidInput
from dgent.models import LIFECYCLE, GardenerSession, GardenIdea, GardenPlot, utcnow
from dgent.sql.runner import SHORT
from dgent.validation import check_id, check_optional_text, check_share, check_tags, check_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.bridge import UnitOfWork
    from dgent.storage import StorageProvider

IDEA: Final = "garden.idea"
PLOT: Final = "garden.plot"
SESSION: Final = "garden.session"
COMPOST: Final = LIFECYCLE[-1]


class Gardener:
    """Grows ideas in both tracks. An idea's row and its datum have the same id; each change is a version of the datum.

    So `storage.memory.history(idea.id)` tells how it grew. An idea only ever moves forward: one stage at a time with
    `advance`, or straight to the last with `compost`, from any stage, because most ideas end before they flower.

    Rows come back detached: read their columns, and change them through the methods here.
    """

    def __init__(self, storage: StorageProvider) -> None:
        self._storage = storage

    async def plot(self, name: str, description: str | None = None) -> GardenPlot:
        """Return the plot of this name; one is made where there is none, and a description that is given is changed."""
        check_text("name", name)
        check_optional_text("description", description)
        return await in_both(self._storage, lambda tx: _plot(tx, name, description))

    async def start_session(self, intent: str | None = None, *, plot: str | None = None) -> GardenerSession:
        """Begin a stretch of work, in the plot of this name, and return its row."""
        check_optional_text("intent", intent)
        if plot is not None:
            check_text("plot", plot)

        async def work(tx: UnitOfWork) -> GardenerSession:
            place = None if plot is None else await _plot(tx, plot)
            session = GardenerSession(intent=intent, plot_id=None if place is None else place.id)
            tx.session.add(session)
            await _write_session(tx, session)
            return session

        return await in_both(self._storage, work)

    async def end_session(self, id: str) -> GardenerSession:
        """End a session and return it; one that has ended stays as it is.

        Raises:
            NotFound: there is no such session.
        """
        check_id(id)

        async def work(tx: UnitOfWork) -> GardenerSession:
            session = await locked(tx, GardenerSession, id)
            if session.ended_at is None:
                session.ended_at = utcnow()
                await _write_session(tx, session)
            return session

        return await in_both(self._storage, work)

    async def sessions(self, *, open_only: bool = False, limit: int = 20) -> list[GardenerSession]:
        """Return sessions, the newest first."""
        statement = select(GardenerSession).order_by(GardenerSession.created_at.desc(), GardenerSession.id.desc())
        if open_only:
            statement = statement.where(GardenerSession.ended_at.is_(None))
        limited = statement.limit(self._storage.settings.limits.page(limit))
        return await select_rows(self._storage, limited, short=limit <= SHORT and not open_only)

    async def plant(
        self,
        content: str,
        *,
        plot: str | None = None,
        session_id: str | None = None,
        parent: str | None = None,
        confidence: float = 0.3,
        tags: str | Iterable[str] = (),
        author: str | None = None,
    ) -> GardenIdea:
        """Plant an idea as a SEED and return its row. `plot` is a name, `parent` the id of the idea it grew from.

        Raises:
            InvalidInput: the content is blank, or the confidence lies outside of 0 to 1.
            NotFound: there is no such session or parent.
        """
        check_text("content", content)
        if plot is not None:
            check_text("plot", plot)
        share = check_share("confidence", confidence)
        labels = facts(tags=check_tags(tags) or None, author=check_optional_text("author", author))
        given = {GardenerSession: session_id, GardenIdea: parent}

        async def work(tx: UnitOfWork) -> GardenIdea:
            for model, id in given.items():
                if id is not None:
                    check_id(id)
                    await locked(tx, model, id)
            place = None if plot is None else await _plot(tx, plot)
            idea = GardenIdea(
                id=(id := uuid7()),
                datum_id=id,
                content=content,
                confidence=share,
                session_id=session_id,
                plot_id=None if place is None else place.id,
                causal_parent=parent,
            )
            tx.session.add(idea)
            await _write_idea(tx, idea, labels)
            return idea

        return await in_both(self._storage, work)

    async def nurture(self, id: str, note: str, *, confidence: float = 0.0) -> GardenIdea:
        """Append a note to an idea, change its confidence by `confidence`, and return its row.

        The content grows by an empty line and the note; nothing that was there goes. Confidence stays from 0 to 1: a
        change that leads beyond stops there.

        Raises:
            InvalidInput: the note is blank, the change is not from -1 to 1, or the idea is compost.
            NotFound: there is no such idea.
            LimitExceeded: the idea has grown too large.
        """
        check_id(id)
        check_text("note", note)
        change = check_share("the change of confidence", confidence, -1.0)

        async def work(tx: UnitOfWork) -> GardenIdea:
            idea = await locked(tx, GardenIdea, id)
            if idea.lifecycle == COMPOST:
                raise InvalidInput(f"idea {id!r} is compost and grows no more: plant another with parent={id!r}")
            idea.content = f"{idea.content}\n\n{note}"
            idea.confidence = min(1.0, max(0.0, idea.confidence + change))
            idea.last_nurtured = utcnow()
            await _write_idea(tx, idea)
            return idea

        return await in_both(self._storage, work)

    async def advance(self, id: str, to: str | None = None) -> GardenIdea:
        """Move an idea to its next stage and return its row.

        With `to`, the stage that the caller takes for the next, it is a compare-and-swap: of many concurrent callers
        exactly one moves the idea. Without it each caller moves it once.

        Raises:
            InvalidInput: `to` is no stage or would skip one, or there is none after COMPOST.
            Conflict: the idea stands at `to`, or is past it.
            NotFound: there is no such idea.
        """
        check_id(id)
        if to is not None and to not in LIFECYCLE:
            raise InvalidInput(f"{to!r:.40} is no stage: the stages are {', '.join(LIFECYCLE)}")

        async def work(tx: UnitOfWork) -> GardenIdea:
            idea = await locked(tx, GardenIdea, id)
            idea.lifecycle = _next_stage(idea, to)
            await _write_idea(tx, idea)
            return idea

        return await in_both(self._storage, work)

    async def compost(self, id: str) -> GardenIdea:
        """Move an idea to COMPOST, from whatever stage, and return its row; compost stays as it is.

        Raises:
            NotFound: there is no such idea.
        """
        check_id(id)

        async def work(tx: UnitOfWork) -> GardenIdea:
            idea = await locked(tx, GardenIdea, id)
            if idea.lifecycle != COMPOST:
                idea.lifecycle = COMPOST
                await _write_idea(tx, idea)
            return idea

        return await in_both(self._storage, work)

    async def idea(self, id: str) -> GardenIdea:
        """Return an idea.

        Raises:
            NotFound: there is none with this id.
        """
        check_id(id)
        found = await select_rows(self._storage, select(GardenIdea).where(GardenIdea.id == id))
        if not found:
            raise missing(GardenIdea, id)
        return found[0]

    async def ideas(self, lifecycle: str | None = None, *, limit: int = 20) -> list[GardenIdea]:
        """Return ideas, all or those of a stage, the newest first."""
        statement = select(GardenIdea).order_by(GardenIdea.created_at.desc(), GardenIdea.id.desc())
        if lifecycle is not None:
            if lifecycle not in LIFECYCLE:
                raise InvalidInput(f"{lifecycle!r:.40} is no stage: the stages are {', '.join(LIFECYCLE)}")
            statement = statement.where(GardenIdea.lifecycle == lifecycle)
        limited = statement.limit(self._storage.settings.limits.page(limit))
        return await select_rows(self._storage, limited, short=limit <= SHORT)


def _next_stage(idea: GardenIdea, to: str | None) -> str:
    at = LIFECYCLE.index(idea.lifecycle)
    if to is not None and LIFECYCLE.index(to) <= at:
        raise Taken(f"idea {idea.id!r} stands at {idea.lifecycle} already, and does not go back to {to}")
    if at + 1 == len(LIFECYCLE):
        raise InvalidInput(f"idea {idea.id!r} is compost: no stage comes after it")
    if to is not None and LIFECYCLE.index(to) > at + 1:
        raise InvalidInput(f"idea {idea.id!r} stands at {idea.lifecycle}: {LIFECYCLE[at + 1]} is next, not {to}")
    return LIFECYCLE[at + 1]


async def _plot(tx: UnitOfWork, name: str, description: str | None = None) -> GardenPlot:
    named = select(GardenPlot).where(GardenPlot.name == name).with_for_update()
    found = (await tx.session.scalars(named)).first()
    if found is not None and description in {None, found.description}:
        return found
    plot = GardenPlot(name=name) if found is None else found
    plot.description = description
    plot.datum_id = plot.datum_id or plot.id
    tx.session.add(plot)
    await _write(tx, plot, PLOT, {"name": name, "description": description})
    return plot


async def _write_session(tx: UnitOfWork, session: GardenerSession) -> None:
    session.datum_id = session.datum_id or session.id
    ended = None if session.ended_at is None else session.ended_at.isoformat()
    await _write(tx, session, SESSION, {"intent": session.intent, "plot": session.plot_id, "ended_at": ended})


async def _write(tx: UnitOfWork, row: GardenPlot | GardenerSession, schema: str, data: dict[str, Any]) -> None:
    datum = Datum.create(data=data, id=row.datum_id, created_at=row.created_at.timestamp(), schema=schema)
    await tx.memory.put(datum, ttl="keep")


async def _write_idea(tx: UnitOfWork, idea: GardenIdea, labels: dict[str, Any] | None = None) -> None:
    """Put the datum of an idea as its row says; its other metadata stay."""
    idea.datum_id = idea.datum_id or idea.id
    if labels is None:
        await hold(tx)
        before = await tx.memory.get(idea.datum_id)
        labels = {} if before is None else dict(before.metadata)
    stands = {"schema": IDEA, "lifecycle": idea.lifecycle, "confidence": idea.confidence}
    datum = Datum.create(
        idea.content,
        id=idea.datum_id,
        created_at=idea.created_at.timestamp(),
        causal_parent=idea.causal_parent,
        metadata={**labels, **stands, **facts(session=idea.session_id, plot=idea.plot_id)},
    )
    await tx.memory.put(datum, ttl="keep")
