"""The Town's tables: citizens, their conversations, and the turns of those."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dgent.models.base import Base, CausalMixin, DatumMixin, IdMixin, JSONDict, TimestampMixin, VersionMixin, length


class Citizen(IdMixin, DatumMixin, TimestampMixin, VersionMixin, Base):
    """Somebody who lives in the town."""

    __tablename__ = "citizens"
    __table_args__ = (Index(None, "created_at", "id"),)

    name: Mapped[str] = mapped_column(length("name"), unique=True)
    archetype: Mapped[str | None]
    traits: Mapped[dict[str, Any]] = mapped_column(JSONDict, default=dict)

    conversations: Mapped[list[CitizenConversation]] = relationship(back_populates="citizen", passive_deletes=True)


class CitizenConversation(IdMixin, TimestampMixin, VersionMixin, Base):
    """A conversation with a citizen.

    Rows and datums each form a causal chain of the same shape: `turn_chain_head` is the id of the newest turn,
    `datum_chain_head` that of its datum.
    """

    __tablename__ = "citizen_conversations"
    __table_args__ = (
        CheckConstraint("turn_count >= 0", name="turn_count_positive"),
        Index(None, "citizen_name", "created_at"),
        Index(None, "created_at", "id"),
    )

    citizen_name: Mapped[str] = mapped_column(length("citizen_name"))
    citizen_id: Mapped[str | None] = mapped_column(ForeignKey("citizens.id", ondelete="SET NULL"), index=True)
    topic: Mapped[str | None]
    turn_count: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    turn_chain_head: Mapped[str | None]
    datum_chain_head: Mapped[str | None]

    citizen: Mapped[Citizen | None] = relationship(back_populates="conversations")
    turns: Mapped[list[ConversationTurn]] = relationship(
        back_populates="conversation",
        order_by="ConversationTurn.turn_number",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )


class ConversationTurn(IdMixin, CausalMixin, DatumMixin, TimestampMixin, VersionMixin, Base):
    """One thing that was said. `causal_parent` is the turn before it, and none for turn 0."""

    __tablename__ = "conversation_turns"
    __table_args__ = (
        UniqueConstraint("conversation_id", "turn_number"),
        CheckConstraint("turn_number >= 0", name="turn_number_positive"),
        Index(None, "created_at", "id"),
    )

    conversation_id: Mapped[str] = mapped_column(ForeignKey("citizen_conversations.id", ondelete="CASCADE"))
    turn_number: Mapped[int]
    role: Mapped[str]
    speaker: Mapped[str | None]
    content: Mapped[str]

    conversation: Mapped[CitizenConversation] = relationship(back_populates="turns")
