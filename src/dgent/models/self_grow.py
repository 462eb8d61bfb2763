"""The tables of self.grow: proposed changes, those on trial, the way back from them, and what they may cost."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  # SQLAlchemy reads the annotations at run time
from typing import Any, Final

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dgent.models.base import Base, CausalMixin, DatumMixin, IdMixin, JSONDict, TimestampMixin, VersionMixin, length

STATUS: Final = ("PROPOSED", "GERMINATED", "PROMOTED", "REJECTED", "ROLLED_BACK")
"""Where a proposal can stand."""


class GrowthProposal(IdMixin, CausalMixin, DatumMixin, TimestampMixin, VersionMixin, Base):
    """A change that the system proposes to itself. `causal_parent` is the proposal that it revises."""

    __tablename__ = "self_grow_proposals"
    __table_args__ = (
        CheckConstraint(f"status IN ({', '.join(map(repr, STATUS))})", name="status"),
        Index(None, "status", "created_at"),
        Index(None, "created_at", "id"),
    )

    target: Mapped[str] = mapped_column(length("target"), index=True)
    rationale: Mapped[str | None]
    content: Mapped[str]
    content_hash: Mapped[str] = mapped_column(length("content_hash"), index=True)
    proposed_by: Mapped[str | None]
    status: Mapped[str] = mapped_column(default="PROPOSED", server_default="PROPOSED")

    nursery: Mapped[list[NurseryEntry]] = relationship(
        back_populates="proposal", cascade="all, delete-orphan", passive_deletes=True
    )
    rollback_tokens: Mapped[list[RollbackToken]] = relationship(
        back_populates="proposal", cascade="all, delete-orphan", passive_deletes=True
    )


class NurseryEntry(IdMixin, TimestampMixin, VersionMixin, Base):
    """A proposal on trial, and how it does."""

    __tablename__ = "self_grow_nursery"
    __table_args__ = (
        CheckConstraint("success_count BETWEEN 0 AND usage_count", name="success_count"),
        Index(None, "created_at", "id"),
    )

    proposal_id: Mapped[str] = mapped_column(ForeignKey("self_grow_proposals.id", ondelete="CASCADE"), index=True)
    usage_count: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    success_count: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    observations: Mapped[dict[str, Any]] = mapped_column(JSONDict, default=dict)
    promoted_at: Mapped[datetime | None]
    pruned_at: Mapped[datetime | None]

    proposal: Mapped[GrowthProposal] = relationship(back_populates="nursery")


class RollbackToken(IdMixin, TimestampMixin, VersionMixin, Base):
    """What was there before a proposal was promoted, so that it can be put back."""

    __tablename__ = "self_grow_rollback_tokens"
    __table_args__ = (Index(None, "created_at", "id"),)

    proposal_id: Mapped[str] = mapped_column(ForeignKey("self_grow_proposals.id", ondelete="CASCADE"), index=True)
    previous: Mapped[dict[str, Any]] = mapped_column(JSONDict)
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]

    proposal: Mapped[GrowthProposal] = relationship(back_populates="rollback_tokens")


class GrowthBudget(IdMixin, TimestampMixin, VersionMixin, Base):
    """How much may be spent on growing, and how much was."""

    __tablename__ = "self_grow_budget"
    __table_args__ = (CheckConstraint("spent BETWEEN 0 AND allowance", name="spent"),)

    allowance: Mapped[float]
    spent: Mapped[float] = mapped_column(default=0.0, server_default=text("0"))
    renewed_at: Mapped[datetime | None]
