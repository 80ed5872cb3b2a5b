"""Failed calculations: nothing is overwritten; a failure is voided when its queue entry is retried or reopened."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from db.connection import StoreConnection, chunks
from db.exceptions import IllegalMoveError, UnknownRecordError
from db.owners import of_materials, resolve_owners
from db.records import FailureRecord, Json, utc_now
from db.tables import Failure, Material

IDENTITY = ("material_pk", "property", "fidelity", "reason", "message", "method", "source")
"""Columns that are equal in a failure that is reported twice."""
FILLED_IN = frozenset({"id", "material_id", "created_at", "voiding", "voided_at", "voided_by", "voided_note"})
"""Fields of a record that the store alone writes."""


class Failures(StoreConnection):
    """Methods for failed calculations."""

    def add_failures(self, batch: Iterable[FailureRecord]) -> list[int]:
        """Record failed calculations; return the ids of new ones.

        A failure that is known already is not new, unless the known one was voided.
        """
        failures = list(batch)
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            owners = resolve_owners(session, campaign_pk, (failure.material_id for failure in failures))
            query = select(*(getattr(Failure, name) for name in IDENTITY)).where(Failure.voiding.is_(None))
            of_these = (query.where(Failure.material_pk.in_(p)) for p in chunks({pk for pk, _ in owners.values()}))
            known = {tuple(row) for part in of_these for row in session.execute(part)}
            rows = []
            for failure in failures:
                row = _row(failure, owners[failure.material_id][0], campaign_pk)
                if (identity := tuple(row[name] for name in IDENTITY)) not in known:
                    known.add(identity)
                    rows.append(row)
            if not rows:
                return []
            return list(session.scalars(insert(Failure).returning(Failure.id, sort_by_parameter_order=True), rows))

    def failures(
        self,
        property: str | None = None,
        material_ids: Collection[str] | None = None,
        current_only: bool = True,
    ) -> list[FailureRecord]:
        """Failures in the order they were written, filtered by what is given; voided ones if not ``current_only``."""
        with self.session() as session:
            campaign_pk = self.campaign_pk(session)
            query = select(Failure, Material.material_id).join(Material, Failure.material_pk == Material.id)
            query = query.where(Failure.campaign_id == campaign_pk)
            if property is not None:
                query = query.where(Failure.property == property)
            if current_only:
                query = query.where(Failure.voiding.is_(None))
            rows = of_materials(session, campaign_pk, query, Failure, material_ids)
            return sorted((_record(row, material_id) for row, material_id in rows), key=lambda failure: failure.id or 0)

    def void_failures(self, ids: Iterable[int], author: str, note: str = "") -> None:
        """Void failures, all or none: they stay in the store with who, when and why, and nothing is learned from them.

        Raises
        ------
        UnknownRecordError
            If a failure is not there.
        IllegalMoveError
            If a failure is void already.
        """
        wanted = list(dict.fromkeys(ids))
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            rows: list[Failure] = []
            for part in chunks(wanted):
                query = select(Failure).where(Failure.campaign_id == campaign_pk, Failure.id.in_(part))
                rows += session.scalars(query.order_by(Failure.id))
            if unknown := sorted(set(wanted) - {row.id for row in rows}):
                raise UnknownRecordError(
                    f"no failures {', '.join(map(str, unknown))}; `kappascout queue list DIR --state failed` lists "
                    "those that stand"
                )
            if void := [row for row in rows if row.voiding is not None]:
                raise IllegalMoveError(
                    "; ".join(f"failure {row.id} was voided on {row.voided_at} by {row.voided_by}" for row in void)
                )
            number, now = _last_voiding(session, campaign_pk) + 1, utc_now()
            for row in rows:
                row.voiding, row.voided_at, row.voided_by, row.voided_note = number, now, author, note
            session.flush()

    def last_voiding(self) -> int:
        """Number of the latest voiding of failures, 0 if there was none."""
        with self.session() as session:
            return _last_voiding(session, self.campaign_pk(session))


def _last_voiding(session: Session, campaign_pk: int) -> int:
    return session.scalar(select(func.max(Failure.voiding)).where(Failure.campaign_id == campaign_pk)) or 0


def _row(failure: FailureRecord, material_pk: int, campaign_pk: int) -> Json:
    row = {name: value for name, value in vars(failure).items() if name not in FILLED_IN}
    return row | {"campaign_id": campaign_pk, "material_pk": material_pk, "created_at": utc_now()}


def _record(row: Failure, material_id: str) -> FailureRecord:
    names = (name for name in FailureRecord.__dataclass_fields__ if name != "material_id")
    return FailureRecord(material_id=material_id, **{name: getattr(row, name) for name in names})
