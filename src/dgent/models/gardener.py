"""The Gardener's tables: plots, sessions of work in them, and the ideas that grow there."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  # SQLAlchemy reads the annotations at run time
from typing import Final

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dgent.models.base import Base, CausalMixin, DatumMixin, IdMixin, TimestampMixin, VersionMixin, length

LIFECYCLE: Final = ("SEED", "SAPLING", "TREE", "FLOWER", "COMPOST")
"""The stages of an idea, in their order."""


class GardenPlot(IdMixin, DatumMixin, TimestampMixin, VersionMixin, Base):
    """A named place where ideas grow."""

    __tablename__ = "garden_plots"
    __table_args__ = (Index(None, "created_at", "id"),)

    name: Mapped[str] = mapped_column(length("name"), unique=True)
    description: Mapped[str | None]

    sessions: Mapped[list[GardenerSession]] = relationship(back_populates="plot", passive_deletes=True)
    ideas: Mapped[list[GardenIdea]] = relationship(back_populates="plot", passive_deletes=True)


class GardenerSession(IdMixin, DatumMixin, TimestampMixin, VersionMixin, Base):
    """A stretch of work in the garden; it is open until `ended_at`."""

    __tablename__ = "gardener_sessions"
    __table_args__ = (Index(None, "created_at", "id"),)

    plot_id: Mapped[str | None] = mapped_column(ForeignKey("garden_plots.id", ondelete="SET NULL"), index=True)
    intent: Mapped[str | None]
    ended_at: Mapped[datetime | None]

    plot: Mapped[GardenPlot | None] = relationship(back_populates="sessions")
    ideas: Mapped[list[GardenIdea]] = relationship(back_populates="session", passive_deletes=True)


class GardenIdea(IdMixin, CausalMixin, DatumMixin, TimestampMixin, VersionMixin, Base):
    """An idea and how far it has grown. `causal_parent` is the idea that it grew from."""

    __tablename__ = "garden_ideas"
    __table_args__ = (
        CheckConstraint(f"lifecycle IN ({', '.join(map(repr, LIFECYCLE))})", name="lifecycle"),
        CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence"),
        Index(None, "lifecycle", "created_at"),
        Index(None, "created_at", "id"),
    )

    content: Mapped[str]
    lifecycle: Mapped[str] = mapped_column(default="SEED", server_default="SEED")
    confidence: Mapped[float] = mapped_column(default=0.3, server_default=text("0.3"))
    session_id: Mapped[str | None] = mapped_column(ForeignKey("gardener_sessions.id", ondelete="SET NULL"), index=True)
    plot_id: Mapped[str | None] = mapped_column(ForeignKey("garden_plots.id", ondelete="SET NULL"), index=True)
    last_nurtured: Mapped[datetime | None]

    session: Mapped[GardenerSession | None] = relationship(back_populates="ideas")
    plot: Mapped[GardenPlot | None] = relationship(back_populates="ideas")
