"""The Gardener: plots, sessions, ideas

Revision ID: 004
Revises: 003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "004"
down_revision = "003"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "garden_plots",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=True),
        sa.Column("datum_id", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_garden_plots"),
        sa.UniqueConstraint("name", name="uq_garden_plots_name"),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_garden_plots_id_length")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 512", name=op.f("ck_garden_plots_name_length")),
        sa.CheckConstraint("length(datum_id) BETWEEN 1 AND 512", name=op.f("ck_garden_plots_datum_id_length")),
        sa.Index("ix_garden_plots_datum_id", "datum_id"),
        sa.Index("ix_garden_plots_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "gardener_sessions",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("plot_id", TEXT, nullable=True),
        sa.Column("intent", TEXT, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("datum_id", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gardener_sessions"),
        sa.ForeignKeyConstraint(
            ["plot_id"], ["garden_plots.id"], name="fk_gardener_sessions_plot_id_garden_plots", ondelete="SET NULL"
        ),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_gardener_sessions_id_length")),
        sa.CheckConstraint("length(datum_id) BETWEEN 1 AND 512", name=op.f("ck_gardener_sessions_datum_id_length")),
        sa.Index("ix_gardener_sessions_plot_id", "plot_id"),
        sa.Index("ix_gardener_sessions_datum_id", "datum_id"),
        sa.Index("ix_gardener_sessions_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "garden_ideas",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("content", TEXT, nullable=False),
        sa.Column("lifecycle", TEXT, server_default="SEED", nullable=False),
        sa.Column("confidence", sa.Double(), server_default=sa.text("0.3"), nullable=False),
        sa.Column("session_id", TEXT, nullable=True),
        sa.Column("plot_id", TEXT, nullable=True),
        sa.Column("last_nurtured", TIME, nullable=True),
        sa.Column("causal_parent", TEXT, nullable=True),
        sa.Column("datum_id", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_garden_ideas"),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["gardener_sessions.id"],
            name="fk_garden_ideas_session_id_gardener_sessions",
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["plot_id"], ["garden_plots.id"], name="fk_garden_ideas_plot_id_garden_plots", ondelete="SET NULL"
        ),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_garden_ideas_id_length")),
        sa.CheckConstraint(
            "length(causal_parent) BETWEEN 1 AND 512", name=op.f("ck_garden_ideas_causal_parent_length")
        ),
        sa.CheckConstraint("length(datum_id) BETWEEN 1 AND 512", name=op.f("ck_garden_ideas_datum_id_length")),
        sa.CheckConstraint(
            "lifecycle IN ('SEED', 'SAPLING', 'TREE', 'FLOWER', 'COMPOST')", name=op.f("ck_garden_ideas_lifecycle")
        ),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1", name=op.f("ck_garden_ideas_confidence")),
        sa.Index("ix_garden_ideas_lifecycle_created_at", "lifecycle", "created_at"),
        sa.Index("ix_garden_ideas_session_id", "session_id"),
        sa.Index("ix_garden_ideas_plot_id", "plot_id"),
        sa.Index("ix_garden_ideas_causal_parent", "causal_parent"),
        sa.Index("ix_garden_ideas_datum_id", "datum_id"),
        sa.Index("ix_garden_ideas_created_at_id", "created_at", "id"),
    )


def downgrade() -> None:
    op.drop_table("garden_ideas")
    op.drop_table("gardener_sessions")
    op.drop_table("garden_plots")
