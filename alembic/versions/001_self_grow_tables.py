"""self.grow: proposals, nursery, rollback tokens, budget

Revision ID: 001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)
JSON = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "self_grow_proposals",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("target", TEXT, nullable=False),
        sa.Column("rationale", TEXT, nullable=True),
        sa.Column("content", TEXT, nullable=False),
        sa.Column("content_hash", TEXT, nullable=False),
        sa.Column("proposed_by", TEXT, nullable=True),
        sa.Column("status", TEXT, server_default="PROPOSED", nullable=False),
        sa.Column("causal_parent", TEXT, nullable=True),
        sa.Column("datum_id", TEXT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_self_grow_proposals"),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_self_grow_proposals_id_length")),
        sa.CheckConstraint("length(target) BETWEEN 1 AND 512", name=op.f("ck_self_grow_proposals_target_length")),
        sa.CheckConstraint(
            "length(content_hash) BETWEEN 1 AND 512", name=op.f("ck_self_grow_proposals_content_hash_length")
        ),
        sa.CheckConstraint(
            "length(causal_parent) BETWEEN 1 AND 512", name=op.f("ck_self_grow_proposals_causal_parent_length")
        ),
        sa.CheckConstraint("length(datum_id) BETWEEN 1 AND 512", name=op.f("ck_self_grow_proposals_datum_id_length")),
        sa.CheckConstraint(
            "status IN ('PROPOSED', 'GERMINATED', 'PROMOTED', 'REJECTED', 'ROLLED_BACK')",
            name=op.f("ck_self_grow_proposals_status"),
        ),
        sa.Index("ix_self_grow_proposals_target", "target"),
        sa.Index("ix_self_grow_proposals_content_hash", "content_hash"),
        sa.Index("ix_self_grow_proposals_status_created_at", "status", "created_at"),
        sa.Index("ix_self_grow_proposals_causal_parent", "causal_parent"),
        sa.Index("ix_self_grow_proposals_datum_id", "datum_id"),
        sa.Index("ix_self_grow_proposals_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "self_grow_nursery",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("proposal_id", TEXT, nullable=False),
        sa.Column("usage_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("success_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("observations", JSON, nullable=False),
        sa.Column("promoted_at", TIME, nullable=True),
        sa.Column("pruned_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_self_grow_nursery"),
        sa.ForeignKeyConstraint(
            ["proposal_id"],
            ["self_grow_proposals.id"],
            name="fk_self_grow_nursery_proposal_id_self_grow_proposals",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_self_grow_nursery_id_length")),
        sa.CheckConstraint("success_count BETWEEN 0 AND usage_count", name=op.f("ck_self_grow_nursery_success_count")),
        sa.Index("ix_self_grow_nursery_proposal_id", "proposal_id"),
        sa.Index("ix_self_grow_nursery_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "self_grow_rollback_tokens",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("proposal_id", TEXT, nullable=False),
        sa.Column("previous", JSON, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("used_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_self_grow_rollback_tokens"),
        sa.ForeignKeyConstraint(
            ["proposal_id"],
            ["self_grow_proposals.id"],
            name="fk_self_grow_rollback_tokens_proposal_id_self_grow_proposals",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_self_grow_rollback_tokens_id_length")),
        sa.Index("ix_self_grow_rollback_tokens_proposal_id", "proposal_id"),
        sa.Index("ix_self_grow_rollback_tokens_created_at_id", "created_at", "id"),
    )
    op.create_table(
        "self_grow_budget",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("allowance", sa.Double(), nullable=False),
        sa.Column("spent", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("renewed_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_self_grow_budget"),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 512", name=op.f("ck_self_grow_budget_id_length")),
        sa.CheckConstraint("spent BETWEEN 0 AND allowance", name=op.f("ck_self_grow_budget_spent")),
    )


def downgrade() -> None:
    op.drop_table("self_grow_budget")
    op.drop_table("self_grow_rollback_tokens")
    op.drop_table("self_grow_nursery")
    op.drop_table("self_grow_proposals")
