"""Structures move out of the table of materials into shards; sources know the energy of their crystal.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context, op

from db.structures import FULL, Shards

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MATERIAL = sa.table(
    "material",
    sa.column("id", ROW_ID),
    sa.column("campaign_id", ROW_ID),
    sa.column("structure", sa.JSON(none_as_null=True)),
    sa.column("shard_pk", ROW_ID),
    sa.column("shard_row", sa.Integer),
)
SHARD = sa.table(
    "structure_shard",
    sa.column("id", ROW_ID),
    sa.column("campaign_id", ROW_ID),
    sa.column("sha256", sa.String),
    sa.column("rows", sa.Integer),
)


def upgrade() -> None:
    """Write every structure to a shard of its campaign, then drop the column."""
    op.create_table(
        "structure_shard",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("campaign_id", ROW_ID, nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_structure_shard_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_structure_shard")),
        sa.UniqueConstraint("campaign_id", "sha256", name=op.f("uq_structure_shard_campaign_id_sha256")),
    )
    op.add_column("source", sa.Column("energy", sa.Double(), nullable=True))
    op.add_column("material", sa.Column("shard_pk", ROW_ID, nullable=True))
    op.add_column("material", sa.Column("shard_row", sa.Integer(), nullable=True))
    _move_out(op.get_bind(), _shards())
    with op.batch_alter_table("material") as table:
        table.alter_column("shard_pk", existing_type=ROW_ID, nullable=False)
        table.alter_column("shard_row", existing_type=sa.Integer(), nullable=False)
        table.create_foreign_key(op.f("fk_material_shard_pk"), "structure_shard", ["shard_pk"], ["id"])
        table.drop_column("structure")
    op.create_index("ix_material_shard_pk", "material", ["shard_pk"])


def downgrade() -> None:
    """Read every structure back into the table; the files stay, for nobody."""
    op.add_column("material", sa.Column("structure", sa.JSON(none_as_null=True), nullable=True))
    _move_back(op.get_bind(), _shards())
    op.drop_index("ix_material_shard_pk", "material")
    with op.batch_alter_table("material") as table:
        table.alter_column("structure", existing_type=sa.JSON(none_as_null=True), nullable=False)
        table.drop_constraint(op.f("fk_material_shard_pk"), type_="foreignkey")
        table.drop_column("shard_row")
        table.drop_column("shard_pk")
    with op.batch_alter_table("source") as table:
        table.drop_column("energy")
    op.drop_table("structure_shard")


def _shards() -> Shards:
    folder: Path | None = context.config.attributes["structures"]
    return Shards(folder)


def _move_out(connection: sa.Connection, shards: Shards) -> None:
    place = (
        sa.update(MATERIAL)
        .where(MATERIAL.c.id == sa.bindparam("row"))
        .values(shard_pk=sa.bindparam("shard"), shard_row=sa.bindparam("place"))
    )
    for campaign in connection.scalars(sa.select(MATERIAL.c.campaign_id).distinct().order_by("campaign_id")).all():
        last = 0
        while found := _part(connection, campaign, last):
            pks, structures = zip(*found, strict=True)
            values = {"campaign_id": campaign, "sha256": shards.write(structures), "rows": len(pks)}
            shard = connection.scalar(sa.insert(SHARD).values(values).returning(SHARD.c.id))
            connection.execute(place, [{"row": pk, "shard": shard, "place": i} for i, pk in enumerate(pks)])
            last = pks[-1]


def _part(connection: sa.Connection, campaign: int, last: int) -> list[tuple[int, dict[str, Any]]]:
    query = sa.select(MATERIAL.c.id, MATERIAL.c.structure)
    query = query.where(MATERIAL.c.campaign_id == campaign, MATERIAL.c.id > last).order_by(MATERIAL.c.id).limit(FULL)
    return [(pk, structure) for pk, structure in connection.execute(query)]


def _move_back(connection: sa.Connection, shards: Shards) -> None:
    put = sa.update(MATERIAL).where(MATERIAL.c.id == sa.bindparam("row")).values(structure=sa.bindparam("content"))
    for shard, sha256 in connection.execute(sa.select(SHARD.c.id, SHARD.c.sha256)).all():
        rows = sa.select(MATERIAL.c.id, MATERIAL.c.shard_row).where(MATERIAL.c.shard_pk == shard)
        pks = connection.execute(rows).all()
        structures = shards.read(sha256, [row for _, row in pks])
        values = [{"row": pk, "content": structure} for (pk, _), structure in zip(pks, structures, strict=True)]
        if values:
            connection.execute(put, values)
