"""Tables of the store, as SQLAlchemy 2 typed models; types that SQLite and PostgreSQL share.

A change here needs a migration in ``db/migrations/versions`` and the next number in :data:`SCHEMA_VERSION`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    Double,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeEngine

from db.records import Json, PropertyValue
from db.states import CampaignState, FailureReason, JobState, QueueState, RoundState

SCHEMA_VERSION = "0005"
"""Revision of the last migration; four digits, compared as text."""

# SQLite numbers rows only where the key is a plain INTEGER
RowId = BigInteger().with_variant(Integer, "sqlite")


class JsonText(TypeDecorator[PropertyValue]):
    """One JSON value as text: SQLite converts a bare number in a column of type JSON, 1.0 to 1."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: PropertyValue | None, dialect: Dialect) -> str:
        """Write as JSON."""
        return json.dumps(value, allow_nan=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> PropertyValue | None:
        """Read as JSON."""
        return None if value is None else json.loads(value)


def _states(enum: type[StrEnum]) -> Enum:
    """A state, stored as its value in a plain text column, so that a new state needs no change of type."""
    return Enum(enum, native_enum=False, length=32, values_callable=lambda states: [state.value for state in states])


class Base(DeclarativeBase):
    """Registry of the tables; every constraint has a name, so that migrations can change it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[Mapping[object, TypeEngine[object] | Enum]] = {
        float: Double(),
        Json: JSON(none_as_null=True),
        list[int]: JSON(none_as_null=True),
        CampaignState: _states(CampaignState),
        FailureReason: _states(FailureReason),
        JobState: _states(JobState),
        QueueState: _states(QueueState),
        RoundState: _states(RoundState),
    }


class Campaign(Base):
    """A campaign; every other row belongs to one."""

    __tablename__ = "campaign"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    goal: Mapped[str]
    property: Mapped[str]
    settings: Mapped[Json]
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[CampaignState]
    created_at: Mapped[str]


class StructureShard(Base):
    """A file of structures, named by its SHA-256 (see :mod:`db.structures`)."""

    __tablename__ = "structure_shard"
    __table_args__ = (UniqueConstraint("campaign_id", "sha256"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    sha256: Mapped[str]
    rows: Mapped[int]


class Material(Base):
    """A standardised crystal; ``id`` is the order of insertion."""

    __tablename__ = "material"
    __table_args__ = (
        UniqueConstraint("campaign_id", "material_id"),
        UniqueConstraint("campaign_id", "content_hash"),
        Index(None, "campaign_id", "bucket"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    material_id: Mapped[str]
    content_hash: Mapped[str]
    formula: Mapped[str]
    chemical_system: Mapped[str]
    spacegroup: Mapped[int]
    n_sites: Mapped[int]
    bucket: Mapped[str]
    shard_pk: Mapped[int] = mapped_column(ForeignKey("structure_shard.id"), index=True)
    shard_row: Mapped[int]


class Source(Base):
    """One source of a material; every id of a material is a row here."""

    __tablename__ = "source"
    __table_args__ = (
        UniqueConstraint("campaign_id", "record_id", "origin"),
        Index(None, "campaign_id", "content_hash"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    material_pk: Mapped[int] = mapped_column(ForeignKey("material.id"), index=True)
    record_id: Mapped[str]
    origin: Mapped[str]
    content_hash: Mapped[str]
    retrieved_at: Mapped[str]
    database_version: Mapped[str | None]
    query: Mapped[str | None]
    note: Mapped[str]
    energy: Mapped[float | None]


class MaterialProperty(Base):
    """One known property of a material; ``value`` is JSON, so that its type is preserved."""

    __tablename__ = "material_property"
    __table_args__ = (UniqueConstraint("material_pk", "name"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    material_pk: Mapped[int] = mapped_column(ForeignKey("material.id"))
    name: Mapped[str] = mapped_column(index=True)
    value: Mapped[PropertyValue] = mapped_column(JsonText)


class Rejection(Base):
    """A crystal that was refused."""

    __tablename__ = "rejection"
    __table_args__ = (UniqueConstraint("campaign_id", "source", "record_id", "reason"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    source: Mapped[str]
    record_id: Mapped[str]
    reason: Mapped[str]
    message: Mapped[str]
    remedy: Mapped[str]
    at: Mapped[str]


class Label(Base):
    """One value of one property of one material at one fidelity; it never changes, but may be corrected or withdrawn.

    ``superseded_by`` is the label that corrects it. Withdrawals are numbered from 1 in each campaign; labels withdrawn
    together share one number.
    """

    __tablename__ = "label"
    __table_args__ = (Index(None, "material_pk", "property", "fidelity"), Index(None, "campaign_id", "property"))

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    material_pk: Mapped[int] = mapped_column(ForeignKey("material.id"))
    record_id: Mapped[str]
    property: Mapped[str]
    value: Mapped[float]
    unit: Mapped[str]
    fidelity: Mapped[str]
    temperature: Mapped[float | None]
    uncertainty: Mapped[float | None]
    method: Mapped[str]
    source: Mapped[str]
    provenance: Mapped[Json]
    cost: Mapped[float | None]
    created_at: Mapped[str]
    superseded_by: Mapped[int | None] = mapped_column(ForeignKey("label.id"))
    withdrawal: Mapped[int | None]
    withdrawn_at: Mapped[str | None]
    withdrawn_by: Mapped[str | None]
    withdrawn_reason: Mapped[str | None]


class Failure(Base):
    """A failed calculation; it never changes, but is voided when its queue entry is retried or reopened.

    Voidings are numbered from 1 in each campaign; failures voided together share one number.
    """

    __tablename__ = "failure"
    __table_args__ = (Index(None, "material_pk", "property", "fidelity"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    material_pk: Mapped[int] = mapped_column(ForeignKey("material.id"))
    property: Mapped[str]
    fidelity: Mapped[str]
    reason: Mapped[FailureReason]
    message: Mapped[str]
    method: Mapped[str]
    source: Mapped[str]
    provenance: Mapped[Json]
    cost: Mapped[float | None]
    created_at: Mapped[str]
    voiding: Mapped[int | None]
    voided_at: Mapped[str | None]
    voided_by: Mapped[str | None]
    voided_note: Mapped[str | None]


class Model(Base):
    """One trained ensemble; ``parent_id`` is the model it was fine-tuned from."""

    __tablename__ = "model"
    __table_args__ = (UniqueConstraint("campaign_id", "model_id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    model_id: Mapped[str]
    parent_pk: Mapped[int | None] = mapped_column(ForeignKey("model.id"))
    stage: Mapped[Json]
    backbone_hash: Mapped[str]
    data_hash: Mapped[str]
    settings: Mapped[Json]
    seeds: Mapped[list[int]]
    code_version: Mapped[str]
    metrics: Mapped[Json]
    created_at: Mapped[str]

    parent: Mapped[Model | None] = relationship(remote_side=[id])
    members: Mapped[list[Member]] = relationship(order_by="Member.index")


class Member(Base):
    """One member of an ensemble and its checkpoint."""

    __tablename__ = "member"
    __table_args__ = (UniqueConstraint("model_pk", "index"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    model_pk: Mapped[int] = mapped_column(ForeignKey("model.id"))
    index: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    sha256: Mapped[str]
    metrics: Mapped[Json]


class Round(Base):
    """A round: train, score, rank, queue, evaluate; ``state`` is the last finished step."""

    __tablename__ = "round"
    __table_args__ = (UniqueConstraint("campaign_id", "number"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    number: Mapped[int]
    state: Mapped[RoundState]
    manifest: Mapped[Json]
    model_pk: Mapped[int | None] = mapped_column(ForeignKey("model.id"))
    metrics_before: Mapped[Json | None]
    metrics_after: Mapped[Json | None]
    predictions_path: Mapped[str | None]
    predictions_sha256: Mapped[str | None]
    predictions_rows: Mapped[int | None] = mapped_column(BigInteger)
    steps: Mapped[Json]
    started_at: Mapped[str]
    finished_at: Mapped[str | None]

    model: Mapped[Model | None] = relationship()


class QueueEntry(Base):
    """A material to compute next, and why."""

    __tablename__ = "queue_entry"
    __table_args__ = (
        UniqueConstraint("round_pk", "rank"),
        UniqueConstraint("round_pk", "material_pk", "fidelity"),
        Index(None, "campaign_id", "state"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    round_pk: Mapped[int] = mapped_column(ForeignKey("round.id"))
    material_pk: Mapped[int] = mapped_column(ForeignKey("material.id"), index=True)
    rank: Mapped[int]
    fidelity: Mapped[str]
    predicted_mean: Mapped[float | None]
    predicted_lower: Mapped[float | None]
    predicted_upper: Mapped[float | None]
    log10_mean: Mapped[float | None]
    log10_std: Mapped[float | None]
    acquisition_value: Mapped[float | None]
    expected_cost: Mapped[float | None]
    reason: Mapped[str]
    details: Mapped[Json]
    state: Mapped[QueueState]

    round: Mapped[Round] = relationship()
    material: Mapped[Material] = relationship()
    changes: Mapped[list[QueueChange]] = relationship(order_by="QueueChange.id")


class QueueChange(Base):
    """One move of a queue entry, when and by whom."""

    __tablename__ = "queue_change"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    entry_pk: Mapped[int] = mapped_column(ForeignKey("queue_entry.id"), index=True)
    from_state: Mapped[QueueState | None]
    to_state: Mapped[QueueState]
    at: Mapped[str]
    author: Mapped[str]
    note: Mapped[str]


class Job(Base):
    """One job of a queueing system that works on a queue entry, or an array of them."""

    __tablename__ = "job"
    __table_args__ = (UniqueConstraint("campaign_id", "name"), Index(None, "campaign_id", "state"))

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    entry_pk: Mapped[int] = mapped_column(ForeignKey("queue_entry.id"), index=True)
    name: Mapped[str]
    stage: Mapped[str]
    attempt: Mapped[int]
    tasks: Mapped[int]
    queue: Mapped[str]
    folder: Mapped[str]
    resources: Mapped[Json]
    job_id: Mapped[str | None]
    state: Mapped[JobState]
    written_at: Mapped[str]
    submitted_at: Mapped[str | None]
    started_at: Mapped[str | None]
    ended_at: Mapped[str | None]
    missing_since: Mapped[str | None]
    nodes: Mapped[str]
    exit_code: Mapped[int | None]
    core_hours: Mapped[float | None]
    reason: Mapped[FailureReason | None]
    message: Mapped[str]
