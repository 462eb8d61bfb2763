"""The text of the revision: plain SQLAlchemy, so that it stays what it is when the models move on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dgent.crystal.promotion.columns import quoted
from dgent.crystal.promotion.plan import reserved
from dgent.validation import ID_LENGTH

if TYPE_CHECKING:
    from dgent.crystal.promotion.columns import Column
    from dgent.crystal.promotion.plan import TablePlan

_TYPES: Final = """\
TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)
JSON = sa.Text().with_variant(postgresql.JSONB(), "postgresql")
"""
_EXACT: Final = """\
EXACT = sa.Numeric().with_variant(sa.Text(), "sqlite")
"""


def revision_source(plan: TablePlan, revision: str, previous: str | None) -> str:
    """Return the script that makes the table, and drops it."""
    lines = [quoted(plan.table), *_columns(plan), *_constraints(plan), *_indexes(plan)]
    body = "".join(f"        {line},\n" for line in lines)
    exact = any(each.kind.revision == "EXACT" for each in plan.columns)
    return f'''"""Crystals of {plan.schema} become rows

Revision ID: {revision}
Revises: {previous or ""}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = {quoted(revision)}
down_revision = {quoted(previous) if previous else None}
branch_labels = None
depends_on = None

{_TYPES}{_EXACT if exact else ""}

def upgrade() -> None:
    op.create_table(
{body}    )


def downgrade() -> None:
    op.drop_table({quoted(plan.table)})
'''


def _columns(plan: TablePlan) -> list[str]:
    own = [f"sa.Column({quoted(each.name)}, {_type(each, plan)}, nullable={each.nullable})" for each in plan.columns]
    return [
        'sa.Column("id", TEXT, nullable=False)',
        *own,
        'sa.Column("created_at", TIME, nullable=False)',
        'sa.Column("tags", JSON, nullable=False)',
        'sa.Column("about", JSON, nullable=False)',
        'sa.Column("causal_parent", TEXT, nullable=True)',
        'sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False)',
    ]


def _type(column: Column, plan: TablePlan) -> str:
    if not column.kind.labels:
        return column.kind.revision
    labels = ", ".join(map(quoted, column.kind.labels))
    name = f"op.f({quoted(f'ck_{plan.table}_{column.name}')})"
    return f"sa.Enum({labels}, native_enum=False, create_constraint=True, name={name})"


def _constraints(plan: TablePlan) -> list[str]:
    lengths = [("id", "id", 1), *((each.name, _in_sql(each.name), each.least) for each in plan.bounded)]
    return [f'sa.PrimaryKeyConstraint("id", name={quoted(f"pk_{plan.table}")})'] + [
        f"sa.CheckConstraint({quoted(f'length({column}) BETWEEN {least} AND {ID_LENGTH}')}, "
        f"name=op.f({quoted(f'ck_{plan.table}_{name}_length')}))"
        for name, column, least in [*lengths, ("causal_parent", "causal_parent", 1)]
    ]


def _in_sql(name: str) -> str:
    return f'"{name}"' if reserved(name) else name


def _indexes(plan: TablePlan) -> list[str]:
    groups = [[name] for name in [*plan.indexes, "causal_parent"]] + [["created_at", "id"]]
    named = [["_".join(["ix", plan.table, *names]), *names] for names in groups]
    return [f"sa.Index({', '.join(map(quoted, each))})" for each in named]
