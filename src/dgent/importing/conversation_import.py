"""Bring a conversation from a file into both tracks, once, however often it is asked for.

Every id is made of what is in the file, so what is there already is known by its id. A session is one transaction:
an import that was interrupted goes on where it stopped, and a file that has grown brings what is new in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from dgent.bridge.dual_write import in_both
from dgent.models import CitizenConversation
from dgent.services.brain import Brain, NewCrystal
from dgent.services.town import NewTurn, Town

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dgent.bridge import UnitOfWork
    from dgent.importing.conversation_file import Conversation, Observation, Session, Turn
    from dgent.storage import StorageProvider


class Counts(NamedTuple):
    """How many of each."""

    sessions: int = 0
    turns: int = 0
    crystals: int = 0


class ImportReport(NamedTuple):
    """What an import brought, and what had been there already."""

    new: Counts
    known: Counts


async def import_conversation(
    storage: StorageProvider, conversation: Conversation, advance: Callable[[int], None] = lambda _: None
) -> ImportReport:
    """Store a conversation: what is there already, changed or not, stays as it is.

    Each session becomes a row of `citizen_conversations`: of the second speaker, the citizen, with the first, the user.
    Each turn becomes a row and a datum, caused by the turn before it in its session. Each observation becomes a
    crystal, a row and a datum, caused by the first turn that it rests on. What was deleted since comes back.

    `advance` is called after each commit with how many turns and observations were seen to.

    Raises:
        SchemaOutdated: the tables are not there.
        Conflict: an id is taken by something else.
        StorageError: the session that was at work was rolled back; those before it are in.
    """
    cited = {turn.dia_id: turn_id(conversation, session, at) for session, at, turn in conversation.spoken()}
    each = []
    for session in conversation.sessions:
        importing = _SessionImport(storage, conversation, session, cited)
        each.append(await in_both(storage, importing.run))
        advance(session.size)
    return ImportReport(_sum([done.new for done in each]), _sum([done.known for done in each]))


def session_id(conversation: Conversation, session: Session) -> str:
    """Return the id of a session: who speaks, its number, and a digest of what was said."""
    return f"{conversation.name}/s{session.number}-{session.key}"


def turn_id(conversation: Conversation, session: Session, at: int) -> str:
    """Return the id of the turn at this place of a session, of its row and of its datum."""
    return f"{session_id(conversation, session)}/t{at:03d}"


class _SessionImport:
    """One session on its way in."""

    def __init__(
        self, storage: StorageProvider, conversation: Conversation, session: Session, cited: Mapping[str, str]
    ) -> None:
        self._town, self._brain = Town(storage), Brain(storage)
        self._conversation, self._session, self._cited = conversation, session, cited
        self._id = session_id(conversation, session)
        self._tags = [f"session-{session.number}", conversation.name]

    async def run(self, tx: UnitOfWork) -> ImportReport:
        """Store what is not there yet, and tell how much that was."""
        session = self._session
        turns = {turn_id(self._conversation, session, at): turn for at, turn in enumerate(session.turns)}
        seen = {f"{self._id}/o-{found.key}": found for found in session.observations}
        begun = await tx.session.get(CitizenConversation, self._id) is not None
        live = (await tx.memory.get_many([*turns, *seen])).keys()
        if not begun:
            await self._town.start_conversation(
                self._conversation.speakers[1], topic(session), id=self._id, created_at=session.started_at
            )
        if said := [self._turn(id, turn) for id, turn in turns.items() if id not in live]:
            await self._town.add_turns(self._id, said)
        await self._brain.capture_many(self._crystal(id, found) for id, found in seen.items() if id not in live)
        known = Counts(int(begun), len(turns.keys() & live), len(seen.keys() & live))
        return ImportReport(Counts(1 - known.sessions, len(turns) - known.turns, len(seen) - known.crystals), known)

    def _turn(self, id: str, turn: Turn) -> NewTurn:
        more = {"extra": dict(turn.extra)} if turn.extra else {}
        return NewTurn(
            role="user" if turn.speaker == self._conversation.speakers[0] else "citizen",
            content=turn.text,
            speaker=turn.speaker,
            id=id,
            created_at=turn.said_at,
            tags=[turn.speaker, *self._tags],
            metadata={"dia_id": turn.dia_id, "session": self._session.number, **more},
        )

    def _crystal(self, id: str, observation: Observation) -> NewCrystal:
        evidence = observation.evidence
        return NewCrystal(
            observation.sentence,
            id=id,
            created_at=observation.seen_at,
            causal_parent=next((self._cited[dia_id] for dia_id in evidence if dia_id in self._cited), None),
            metadata={"about": observation.speaker, "session": self._session.number, "evidence": list(evidence)},
            tags=[observation.speaker, *self._tags],
            source=self._id,
        )


def topic(session: Session) -> str:
    """Return what a session is about: the first sentence of its summary, else its number."""
    summary = (session.summary or "").strip()
    sentence = re.match(r".+?[.!?](?=\s|$)", summary, re.DOTALL)
    return (sentence[0] if sentence else summary)[:200] or f"Session {session.number}"


def _sum(counts: list[Counts]) -> Counts:
    return Counts(*map(sum, zip(*counts, strict=True)))
