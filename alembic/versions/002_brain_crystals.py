"""The Brain: crystals, their tags, settings

Revision ID: 002
Revises: 001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)
JSON = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "brain_crystals",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("content_hash", TEXT, nullable=False),
        sa.Column("summary", TEXT, nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("access_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_accessed", TIME, nullable=True),
        sa.Column("datum_id", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_brain_crystals"),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_brain_crystals_id_length")),
        sa.CheckConstraint(
            "length(content_hash) BETWEEN 1 AND 512", name=op.f("ck_brain_crystals_content_hash_length")
        ),
        sa.CheckConstraint("length(datum_id) BETWEEN 1 AND 512", name=op.f("ck_brain_crystals_datum_id_length")),
        sa.CheckConstraint("access_count >= 0", name=op.f("ck_brain_crystals_access_count_positive")),
        sa.Index("ix_brain_crystals_content_hash", "content_hash"),
        sa.Index("ix_brain_crystals_datum_id", "datum_id"),
        sa.Index("ix_brain_crystals_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "brain_crystal_tags",
        sa.Column("crystal_id", TEXT, nullable=False),
        sa.Column("tag", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("crystal_id", "tag", name="pk_brain_crystal_tags"),
        sa.ForeignKeyConstraint(
            ["crystal_id"],
            ["brain_crystals.id"],
            name="fk_brain_crystal_tags_crystal_id_brain_crystals",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("length(tag) BETWEEN 1 AND 128", name=op.f("ck_brain_crystal_tags_tag_length")),
        sa.Index("ix_brain_crystal_tags_tag_crystal_id", "tag", "crystal_id"),
    )
    op.create_table(
        "brain_settings",
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_brain_settings"),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 512", name=op.f("ck_brain_settings_key_length")),
    )


def downgrade() -> None:
    op.drop_table("brain_settings")
    op.drop_table("brain_crystal_tags")
    op.drop_table("brain_crystals")
