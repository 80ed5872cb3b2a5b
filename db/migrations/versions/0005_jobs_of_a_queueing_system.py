"""Jobs that were submitted for queue entries.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table, empty: an older store knows of no job."""
    op.create_table(
        "job",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("entry_pk", ROW_ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tasks", sa.Integer(), nullable=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("resources", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("written_at", sa.String(), nullable=False),
        sa.Column("submitted_at", sa.String(), nullable=True),
        sa.Column("started_at", sa.String(), nullable=True),
        sa.Column("ended_at", sa.String(), nullable=True),
        sa.Column("missing_since", sa.String(), nullable=True),
        sa.Column("nodes", sa.String(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("core_hours", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name="fk_job_campaign_id"),
        sa.ForeignKeyConstraint(["entry_pk"], ["queue_entry.id"], name="fk_job_entry_pk"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("campaign_id", "name", name="uq_job_campaign_id_name"),
    )
    op.create_index("ix_job_campaign_id_state", "job", ["campaign_id", "state"])
    op.create_index("ix_job_entry_pk", "job", ["entry_pk"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("job")
