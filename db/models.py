"""Models, their members and their lineage."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload, selectinload

from db.connection import StoreConnection
from db.exceptions import InvalidRecordError, UnknownRecordError
from db.records import MemberRecord, ModelRecord, utc_now
from db.tables import Member, Model

PLAIN_FIELDS = ("model_id", "stage", "backbone_hash", "data_hash", "settings", "code_version", "metrics")


class Models(StoreConnection):
    """Methods for models."""

    def add_model(self, record: ModelRecord) -> None:
        """Add a model; the same one again changes nothing, a different one under its id is refused."""
        with self.session(write=True) as session:
            insert_model(session, self.lock_campaign(session), record)

    def models(self) -> list[ModelRecord]:
        """All models, oldest first."""
        with self.session() as session:
            query = _full_models().where(Model.campaign_id == self.campaign_pk(session)).order_by(Model.id)
            return [_model_record(row) for row in session.scalars(query)]

    def model(self, model_id: str) -> ModelRecord:
        """Find one model."""
        with self.session() as session:
            return _model_record(find_model(session, self.campaign_pk(session), model_id))

    def lineage(self, model_id: str) -> list[ModelRecord]:
        """Lineage of a model, from the root to the model itself."""
        with self.session() as session:
            row: Model | None = find_model(session, self.campaign_pk(session), model_id)
            stages = []
            while row is not None:
                stages.append(_model_record(row))
                row = row.parent
        return stages[::-1]


def insert_model(session: Session, campaign_pk: int, record: ModelRecord) -> Model:
    """Write a model and its members, or find the same one written before."""
    query = _full_models().where(Model.campaign_id == campaign_pk, Model.model_id == record.model_id)
    if existing := session.scalars(query).one_or_none():
        _require_same(_model_record(existing), record)
        return existing
    parent = find_model(session, campaign_pk, record.parent_id) if record.parent_id is not None else None
    row = Model(
        **{name: getattr(record, name) for name in PLAIN_FIELDS},
        campaign_id=campaign_pk,
        parent=parent,
        seeds=list(record.seeds),
        created_at=utc_now(),
        members=[Member(**vars(member)) for member in record.members],
    )
    session.add(row)
    session.flush()
    return row


def find_model(session: Session, campaign_pk: int, model_id: str) -> Model:
    """Row of a model, or an error that names the known ones."""
    row = session.scalars(
        _full_models().where(Model.campaign_id == campaign_pk, Model.model_id == model_id)
    ).one_or_none()
    if row is None:
        known = session.scalars(select(Model.model_id).where(Model.campaign_id == campaign_pk)).all()
        raise UnknownRecordError(f"no model {model_id!r}; there are: {', '.join(known[-20:]) or 'none yet'}")
    return row


def _require_same(known: ModelRecord, record: ModelRecord) -> None:
    names = (*PLAIN_FIELDS, "parent_id", "seeds", "members")
    differing = [name for name in names if _plain(getattr(known, name)) != _plain(getattr(record, name))]
    if differing:
        raise InvalidRecordError(
            f"model {record.model_id!r} is known already with another {', '.join(differing)}; choose a new id"
        )


def _plain(value: object) -> object:
    """The value after a round trip through JSON: tuples are lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _full_models() -> Select[Model]:
    return select(Model).options(selectinload(Model.members), joinedload(Model.parent))


def _model_record(row: Model) -> ModelRecord:
    members = tuple(
        MemberRecord(**{name: getattr(member, name) for name in MemberRecord.__dataclass_fields__})
        for member in row.members
    )
    return ModelRecord(
        **{name: getattr(row, name) for name in PLAIN_FIELDS},
        parent_id=row.parent.model_id if row.parent else None,
        seeds=tuple(row.seeds),
        members=members,
        created_at=row.created_at,
    )
