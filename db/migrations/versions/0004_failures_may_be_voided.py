"""Failures may be voided: when, by whom and why; those of labelers that calculate here are of the crystal.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = ("voided_at", "voided_by", "voided_note")
OF_THE_CRYSTAL = {"timed_out": "too_long", "calculator_error": "crashed"}
"""Reasons that mean the machine since this version, and what they are called where a crystal was calculated here."""
CALCULATED_HERE = ("agl", "phonons")
FAILURE = sa.table("failure", sa.column("reason", sa.String), sa.column("method", sa.String))


def upgrade() -> None:
    """Add the columns, empty, and rename the reasons of failures of labelers that calculate here."""
    op.add_column("failure", sa.Column("voiding", sa.Integer(), nullable=True))
    for name in COLUMNS:
        op.add_column("failure", sa.Column(name, sa.String(), nullable=True))
    _rename(OF_THE_CRYSTAL)


def downgrade() -> None:
    """Drop the columns, and restore the names; failures that were voided count again."""
    _rename({new: old for old, new in OF_THE_CRYSTAL.items()})
    with op.batch_alter_table("failure") as table:
        for name in reversed(COLUMNS):
            table.drop_column(name)
        table.drop_column("voiding")


def _rename(names: dict[str, str]) -> None:
    for old, new in names.items():
        rows = (FAILURE.c.reason == old) & FAILURE.c.method.in_(CALCULATED_HERE)
        op.execute(sa.update(FAILURE).where(rows).values(reason=new))
