"""The Town: citizens, conversations, turns

Revision ID: 003
Revises: 002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "003"
down_revision = "002"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)
JSON = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "citizens",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("archetype", TEXT, nullable=True),
        sa.Column("traits", JSON, nullable=False),
        sa.Column("datum_id", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_citizens"),
        sa.UniqueConstraint("name", name="uq_citizens_name"),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_citizens_id_length")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 512", name=op.f("ck_citizens_name_length")),
        sa.CheckConstraint("length(datum_id) BETWEEN 1 AND 512", name=op.f("ck_citizens_datum_id_length")),
        sa.Index("ix_citizens_datum_id", "datum_id"),
        sa.Index("ix_citizens_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "citizen_conversations",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("citizen_name", TEXT, nullable=False),
        sa.Column("citizen_id", TEXT, nullable=True),
        sa.Column("topic", TEXT, nullable=True),
        sa.Column("turn_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("turn_chain_head", TEXT, nullable=True),
        sa.Column("datum_chain_head", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_citizen_conversations"),
        sa.ForeignKeyConstraint(
            ["citizen_id"],
            ["citizens.id"],
            name="fk_citizen_conversations_citizen_id_citizens",
            ondelete="SET NULL",
        ),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_citizen_conversations_id_length")),
        sa.CheckConstraint(
            "length(citizen_name) BETWEEN 1 AND 512", name=op.f("ck_citizen_conversations_citizen_name_length")
        ),
        sa.CheckConstraint("turn_count >= 0", name=op.f("ck_citizen_conversations_turn_count_positive")),
        sa.Index("ix_citizen_conversations_citizen_id", "citizen_id"),
        sa.Index("ix_citizen_conversations_citizen_name_created_at", "citizen_name", "created_at"),
        sa.Index("ix_citizen_conversations_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "conversation_turns",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("conversation_id", TEXT, nullable=False),
        sa.Column("turn_number", sa.Integer(), nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("speaker", TEXT, nullable=True),
        sa.Column("content", TEXT, nullable=False),
        sa.Column("causal_parent", TEXT, nullable=True),
        sa.Column("datum_id", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversation_turns"),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["citizen_conversations.id"],
            name="fk_conversation_turns_conversation_id_citizen_conversations",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("conversation_id", "turn_number", name="uq_conversation_turns_conversation_id_turn_number"),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_conversation_turns_id_length")),
        sa.CheckConstraint(
            "length(causal_parent) BETWEEN 1 AND 512", name=op.f("ck_conversation_turns_causal_parent_length")
        ),
        sa.CheckConstraint("length(datum_id) BETWEEN 1 AND 512", name=op.f("ck_conversation_turns_datum_id_length")),
        sa.CheckConstraint("turn_number >= 0", name=op.f("ck_conversation_turns_turn_number_positive")),
        sa.Index("ix_conversation_turns_causal_parent", "causal_parent"),
        sa.Index("ix_conversation_turns_datum_id", "datum_id"),
        sa.Index("ix_conversation_turns_created_at_id", "created_at", "id"),
    )


def downgrade() -> None:
    op.drop_table("conversation_turns")
    op.drop_table("citizen_conversations")
    op.drop_table("citizens")
