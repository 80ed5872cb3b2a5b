"""Labels may be withdrawn: when, by whom and why.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = ("withdrawn_at", "withdrawn_by", "withdrawn_reason")


def upgrade() -> None:
    """Add the columns, empty: no label of an older store was withdrawn."""
    op.add_column("label", sa.Column("withdrawal", sa.Integer(), nullable=True))
    for name in COLUMNS:
        op.add_column("label", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    """Drop the columns; labels that were withdrawn are current again."""
    with op.batch_alter_table("label") as table:
        for name in reversed(COLUMNS):
            table.drop_column(name)
        table.drop_column("withdrawal")
