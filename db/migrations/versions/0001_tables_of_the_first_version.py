"""Tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATE = sa.String(length=32)


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "campaign",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("goal", sa.String(), nullable=False),
        sa.Column("property", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign")),
        sa.UniqueConstraint("name", name=op.f("uq_campaign_name")),
    )
    op.create_table(
        "material",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("material_id", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("formula", sa.String(), nullable=False),
        sa.Column("chemical_system", sa.String(), nullable=False),
        sa.Column("spacegroup", sa.Integer(), nullable=False),
        sa.Column("n_sites", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("structure", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_material_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_material")),
        sa.UniqueConstraint("campaign_id", "content_hash", name=op.f("uq_material_campaign_id_content_hash")),
        sa.UniqueConstraint("campaign_id", "material_id", name=op.f("uq_material_campaign_id_material_id")),
    )
    op.create_index("ix_material_campaign_id_bucket", "material", ["campaign_id", "bucket"])

    op.create_table(
        "model",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("parent_pk", ROW_ID, nullable=True),
        sa.Column("stage", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("backbone_hash", sa.String(), nullable=False),
        sa.Column("data_hash", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("seeds", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("code_version", sa.String(), nullable=False),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_model_campaign_id")),
        sa.ForeignKeyConstraint(["parent_pk"], ["model.id"], name=op.f("fk_model_parent_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model")),
        sa.UniqueConstraint("campaign_id", "model_id", name=op.f("uq_model_campaign_id_model_id")),
    )
    op.create_table(
        "rejection",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("record_id", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("remedy", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_rejection_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejection")),
        sa.UniqueConstraint(
            "campaign_id",
            "source",
            "record_id",
            "reason",
            name=op.f("uq_rejection_campaign_id_source_record_id_reason"),
        ),
    )
    op.create_table(
        "failure",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("material_pk", ROW_ID, nullable=False),
        sa.Column("property", sa.String(), nullable=False),
        sa.Column("fidelity", sa.String(), nullable=False),
        sa.Column("reason", STATE, nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("provenance", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("cost", sa.Double(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_failure_campaign_id")),
        sa.ForeignKeyConstraint(["material_pk"], ["material.id"], name=op.f("fk_failure_material_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_failure")),
    )
    op.create_index("ix_failure_material_pk_property_fidelity", "failure", ["material_pk", "property", "fidelity"])

    op.create_table(
        "label",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("material_pk", ROW_ID, nullable=False),
        sa.Column("record_id", sa.String(), nullable=False),
        sa.Column("property", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("fidelity", sa.String(), nullable=False),
        sa.Column("temperature", sa.Double(), nullable=True),
        sa.Column("uncertainty", sa.Double(), nullable=True),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("provenance", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("cost", sa.Double(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("superseded_by", ROW_ID, nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_label_campaign_id")),
        sa.ForeignKeyConstraint(["material_pk"], ["material.id"], name=op.f("fk_label_material_pk")),
        sa.ForeignKeyConstraint(["superseded_by"], ["label.id"], name=op.f("fk_label_superseded_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label")),
    )
    op.create_index("ix_label_campaign_id_property", "label", ["campaign_id", "property"])
    op.create_index("ix_label_material_pk_property_fidelity", "label", ["material_pk", "property", "fidelity"])

    op.create_table(
        "material_property",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("material_pk", ROW_ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["material_pk"], ["material.id"], name=op.f("fk_material_property_material_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_material_property")),
        sa.UniqueConstraint("material_pk", "name", name=op.f("uq_material_property_material_pk_name")),
    )
    op.create_index("ix_material_property_name", "material_property", ["name"])

    op.create_table(
        "member",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("model_pk", ROW_ID, nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["model_pk"], ["model.id"], name=op.f("fk_member_model_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_member")),
        sa.UniqueConstraint("model_pk", "index", name=op.f("uq_member_model_pk_index")),
    )
    op.create_table(
        "round",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("manifest", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("model_pk", ROW_ID, nullable=True),
        sa.Column("metrics_before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("metrics_after", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("predictions_path", sa.String(), nullable=True),
        sa.Column("predictions_sha256", sa.String(), nullable=True),
        sa.Column("predictions_rows", sa.BigInteger(), nullable=True),
        sa.Column("steps", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("started_at", sa.String(), nullable=False),
        sa.Column("finished_at", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_round_campaign_id")),
        sa.ForeignKeyConstraint(["model_pk"], ["model.id"], name=op.f("fk_round_model_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_round")),
        sa.UniqueConstraint("campaign_id", "number", name=op.f("uq_round_campaign_id_number")),
    )
    op.create_table(
        "source",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("material_pk", ROW_ID, nullable=False),
        sa.Column("record_id", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("retrieved_at", sa.String(), nullable=False),
        sa.Column("database_version", sa.String(), nullable=True),
        sa.Column("query", sa.String(), nullable=True),
        sa.Column("note", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_source_campaign_id")),
        sa.ForeignKeyConstraint(["material_pk"], ["material.id"], name=op.f("fk_source_material_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source")),
        sa.UniqueConstraint("campaign_id", "record_id", "origin", name=op.f("uq_source_campaign_id_record_id_origin")),
    )
    op.create_index("ix_source_campaign_id_content_hash", "source", ["campaign_id", "content_hash"])
    op.create_index("ix_source_material_pk", "source", ["material_pk"])

    op.create_table(
        "queue_entry",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("round_pk", ROW_ID, nullable=False),
        sa.Column("material_pk", ROW_ID, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("fidelity", sa.String(), nullable=False),
        sa.Column("predicted_mean", sa.Double(), nullable=True),
        sa.Column("predicted_lower", sa.Double(), nullable=True),
        sa.Column("predicted_upper", sa.Double(), nullable=True),
        sa.Column("log10_mean", sa.Double(), nullable=True),
        sa.Column("log10_std", sa.Double(), nullable=True),
        sa.Column("acquisition_value", sa.Double(), nullable=True),
        sa.Column("expected_cost", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_queue_entry_campaign_id")),
        sa.ForeignKeyConstraint(["material_pk"], ["material.id"], name=op.f("fk_queue_entry_material_pk")),
        sa.ForeignKeyConstraint(["round_pk"], ["round.id"], name=op.f("fk_queue_entry_round_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_entry")),
        sa.UniqueConstraint(
            "round_pk", "material_pk", "fidelity", name=op.f("uq_queue_entry_round_pk_material_pk_fidelity")
        ),
        sa.UniqueConstraint("round_pk", "rank", name=op.f("uq_queue_entry_round_pk_rank")),
    )
    op.create_index("ix_queue_entry_campaign_id_state", "queue_entry", ["campaign_id", "state"])
    op.create_index("ix_queue_entry_material_pk", "queue_entry", ["material_pk"])

    op.create_table(
        "queue_change",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("entry_pk", ROW_ID, nullable=False),
        sa.Column("from_state", STATE, nullable=True),
        sa.Column("to_state", STATE, nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["entry_pk"], ["queue_entry.id"], name=op.f("fk_queue_change_entry_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_change")),
    )
    op.create_index("ix_queue_change_entry_pk", "queue_change", ["entry_pk"])


def downgrade() -> None:
    """Go back to an empty database."""
    for table in (
        "queue_change",
        "queue_entry",
        "source",
        "round",
        "member",
        "material_property",
        "label",
        "failure",
        "rejection",
        "model",
        "material",
        "campaign",
    ):
        op.drop_table(table)
