"""The Town: citizens and what was said with them, turn by turn, as rows and as datums with the same causal chain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import select

from dgent.bridge.dual_write import Taken, facts, in_both, locked, missing, refuse_live, select_rows
from dgent.datum import Datum
from dgent.datum_id import uuid7
from dgent.exceptions import InvalidInput, InvalidQuery
from dgent.models import Citizen, CitizenConversation, ConversationTurn, utcnow
from dgent.sql.runner import SHORT
from dgent.validation import check_id, check_moment, check_optional_text, check_row_id, check_tags, check_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from dgent.bridge import UnitOfWork
    from dgent.storage import StorageProvider

CITIZEN: Final = "town.citizen"
TURN: Final = "town.turn"
BATCH: Final = 500
_RESERVED: Final = frozenset({"author", "conversation", "role", "schema", "speaker", "tags", "turn_number"})


@dataclass(frozen=True, slots=True)
class NewTurn:
    """Something that was said, before it has a place in a conversation.

    `role` is what the speaker is in it ("user", "citizen"), `speaker` who that was by name. `metadata` and `tags` go
    to the datum. Without `created_at` it was said now; without `id` it gets one.

    Raises:
        InvalidInput: a text is not one that both tracks can keep, `created_at` is naive, or the metadata has a name
            that the Town writes itself.
    """

    role: str
    content: str
    speaker: str | None = None
    id: str | None = None
    created_at: datetime | None = None
    tags: str | Iterable[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("role", self.role)
        check_text("content", self.content, blank=True)
        check_optional_text("speaker", self.speaker)
        if self.id is not None:
            check_row_id(self.id)
        object.__setattr__(self, "created_at", check_moment("created_at", self.created_at, utcnow()))
        object.__setattr__(self, "tags", tuple(check_tags(self.tags)))
        if taken := _RESERVED & set(self.metadata):
            raise InvalidInput(f"the metadata of a turn has {min(taken)!r}, which the Town writes itself: rename it")


class Resumed(NamedTuple):
    """A conversation and its last turns, oldest first."""

    conversation: CitizenConversation
    turns: list[ConversationTurn]


class Town:
    """Keeps conversations in both tracks. A turn's row and its datum have the same id, and each its predecessor's.

    Rows come back detached: read their columns, and change them through the methods here.
    """

    def __init__(self, storage: StorageProvider) -> None:
        self._storage = storage

    async def citizen(
        self, name: str, *, archetype: str | None = None, traits: Mapping[str, Any] | None = None
    ) -> Citizen:
        """Return the citizen of this name; one is made where there is none, and what is given is changed.

        Raises:
            InvalidInput: the name is blank, or the traits are not JSON.
        """
        check_text("name", name)
        given = facts(
            archetype=check_optional_text("archetype", archetype), traits=None if traits is None else dict(traits)
        )
        return await in_both(self._storage, lambda tx: _citizen(tx, name, given))

    async def start_conversation(
        self, citizen_name: str, topic: str | None = None, *, id: str | None = None, created_at: datetime | None = None
    ) -> CitizenConversation:
        """Begin a conversation with a citizen, who is made where there is none, and return its row.

        With an `id` that is there already, of the same citizen, nothing is written and that conversation comes back.
        In agent memory a conversation begins with its first turn.

        Raises:
            Conflict: the id belongs to a conversation with somebody else.
        """
        check_text("citizen_name", citizen_name)
        check_optional_text("topic", topic)
        check_row_id(id := uuid7() if id is None else id)
        moment = check_moment("created_at", created_at, utcnow())

        async def work(tx: UnitOfWork) -> CitizenConversation:
            found = await tx.session.get(CitizenConversation, id)
            if found is not None:
                return _with(found, citizen_name)
            citizen = await _citizen(tx, citizen_name, {})
            conversation = CitizenConversation(
                id=id, citizen_name=citizen_name, citizen_id=citizen.id, topic=topic, created_at=moment
            )
            tx.session.add(conversation)
            return conversation

        return await in_both(self._storage, work)

    async def add_turn(
        self,
        conversation_id: str,
        role: str,
        content: str,
        *,
        speaker: str | None = None,
        id: str | None = None,
        created_at: datetime | None = None,
        tags: str | Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> ConversationTurn:
        """Append one turn; see `add_turns`."""
        turn = NewTurn(role, content, speaker, id, created_at, tags, metadata or {})
        return (await self.add_turns(conversation_id, [turn]))[0]

    async def add_turns(self, conversation_id: str, turns: Iterable[NewTurn]) -> list[ConversationTurn]:
        """Append turns in one transaction, in their order, and return their rows.

        Concurrent calls take turns. A turn whose `id` the conversation has already, with the same role and content, is
        not appended again; its row comes back.

        Raises:
            NotFound: there is no such conversation.
            Conflict: an id belongs to something else that was said, or to another datum.
            LimitExceeded: a content is too large. Nothing was appended.
        """
        check_id(conversation_id)
        said = list(turns)

        async def work(tx: UnitOfWork) -> list[ConversationTurn]:
            conversation = await locked(tx, CitizenConversation, conversation_id)
            known = await _known(tx, said)
            rows, datums = [], []
            for turn in said:
                row = known.get(turn.id) if turn.id is not None else None
                if row is None:
                    row, datum = _append(conversation, turn)
                    known[row.id] = row
                    tx.session.add(row)
                    datums.append(datum)
                rows.append(_same(row, conversation, turn))
            await refuse_live(tx, {turn.id for turn in said if turn.id is not None} & {datum.id for datum in datums})
            await tx.memory.put_many(datums)
            return rows

        return await in_both(self._storage, work)

    async def transcript(
        self, conversation_id: str, *, limit: int = 100, after: int | None = None
    ) -> list[ConversationTurn]:
        """Return up to `limit` turns of a conversation in their order, those above turn number `after`.

        Raises:
            NotFound: there is no such conversation.
            InvalidQuery: a negative limit, or `after` is no whole number.
        """
        check_id(conversation_id)
        if after is not None and (type(after) is not int or abs(after) >= 2**31):
            raise InvalidQuery(f"after is a turn number, not {after!r:.40}")
        statement = (
            select(ConversationTurn)
            .where(ConversationTurn.conversation_id == conversation_id)
            .where(ConversationTurn.turn_number > (-1 if after is None else after))
            .order_by(ConversationTurn.turn_number)
            .limit(self._storage.settings.limits.page(limit))
        )
        turns = await select_rows(self._storage, statement, short=limit <= SHORT)
        if not turns:
            await self.conversation(conversation_id)
        return turns

    async def conversation(self, id: str) -> CitizenConversation:
        """Return a conversation.

        Raises:
            NotFound: there is none with this id.
        """
        check_id(id)
        found = await select_rows(self._storage, select(CitizenConversation).where(CitizenConversation.id == id))
        if not found:
            raise missing(CitizenConversation, id)
        return found[0]

    async def resume(self, citizen_name: str, *, turns: int = 20) -> Resumed | None:
        """Return the conversation with a citizen that began last, with its last turns; None where there is none."""
        check_text("citizen_name", citizen_name)
        newest = (
            select(CitizenConversation)
            .where(CitizenConversation.citizen_name == citizen_name)
            .order_by(CitizenConversation.created_at.desc(), CitizenConversation.id.desc())
            .limit(1)
        )
        found = await select_rows(self._storage, newest)
        if not found:
            return None
        last = (
            select(ConversationTurn)
            .where(ConversationTurn.conversation_id == found[0].id)
            .order_by(ConversationTurn.turn_number.desc())
            .limit(self._storage.settings.limits.page(turns))
        )
        return Resumed(found[0], (await select_rows(self._storage, last, short=turns <= SHORT))[::-1])


async def _citizen(tx: UnitOfWork, name: str, given: Mapping[str, Any]) -> Citizen:
    named = select(Citizen).where(Citizen.name == name).with_for_update()
    found = (await tx.session.scalars(named)).first()
    changed = {key: value for key, value in given.items() if found is None or getattr(found, key) != value}
    if found is not None and not changed:
        return found
    citizen = Citizen(name=name) if found is None else found
    for key, value in changed.items():
        setattr(citizen, key, value)
    citizen.datum_id = citizen.datum_id or citizen.id
    tx.session.add(citizen)
    described = {"name": name, "archetype": citizen.archetype, "traits": dict(citizen.traits)}
    datum = Datum.create(
        data=described, id=citizen.datum_id, created_at=citizen.created_at.timestamp(), author=name, schema=CITIZEN
    )
    await tx.memory.put(datum, ttl="keep")
    return citizen


async def _known(tx: UnitOfWork, said: list[NewTurn]) -> dict[str, ConversationTurn]:
    """Return the rows that are there already of those turns that came with an id."""
    ids = [turn.id for turn in said if turn.id is not None]
    rows: dict[str, ConversationTurn] = {}
    for start in range(0, len(ids), BATCH):
        some = select(ConversationTurn).where(ConversationTurn.id.in_(ids[start : start + BATCH]))
        rows |= {row.id: row for row in await tx.session.scalars(some)}
    return rows


def _append(conversation: CitizenConversation, turn: NewTurn) -> tuple[ConversationTurn, Datum]:
    """Return the next turn's row and datum, and let the conversation end with them."""
    assert turn.created_at is not None  # noqa: S101  # NewTurn filled it in
    number = conversation.turn_count
    spoken = {"conversation": conversation.id, "turn_number": number, "role": turn.role}
    datum = Datum.create(
        turn.content,
        id=turn.id,
        created_at=turn.created_at.timestamp(),
        causal_parent=conversation.datum_chain_head,
        metadata={**turn.metadata, **spoken, **facts(speaker=turn.speaker)},
        tags=turn.tags,
        author=turn.speaker or turn.role,
        schema=TURN,
    )
    row = ConversationTurn(
        id=datum.id,
        datum_id=datum.id,
        conversation_id=conversation.id,
        turn_number=number,
        role=turn.role,
        speaker=turn.speaker,
        content=turn.content,
        causal_parent=conversation.turn_chain_head,
        created_at=turn.created_at,
    )
    conversation.turn_count = number + 1
    conversation.turn_chain_head = row.id
    conversation.datum_chain_head = datum.id
    return row, datum


def _same(row: ConversationTurn, conversation: CitizenConversation, turn: NewTurn) -> ConversationTurn:
    if (row.conversation_id, row.role, row.content) != (conversation.id, turn.role, turn.content):
        raise Taken(f"turn {row.id!r} is something else that was said: choose another id")
    return row


def _with(found: CitizenConversation, citizen_name: str) -> CitizenConversation:
    if found.citizen_name != citizen_name:
        raise Taken(f"conversation {found.id!r} is one with {found.citizen_name!r}: choose another id")
    return found
