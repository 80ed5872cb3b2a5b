"""Rounds: one transaction for each step, so that a killed process leaves the round at its last finished step."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from db.connection import StoreConnection
from db.exceptions import IllegalMoveError, UnknownRecordError
from db.json_values import require_json
from db.models import find_model, insert_model
from db.queue import insert_entries
from db.records import ArtifactRecord, Json, ModelRecord, QueueEntryRecord, RoundRecord, utc_now
from db.states import RoundState, round_moves
from db.tables import Round


class Rounds(StoreConnection):
    """Methods for rounds."""

    def start_round(self, manifest: Json) -> RoundRecord:
        """Open the next round; the one before must be queued or evaluated."""
        require_json(manifest, "manifest")
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            last = session.scalars(_of_campaign(campaign_pk).order_by(Round.number.desc()).limit(1)).one_or_none()
            if last is not None and last.state.step < RoundState.QUEUED.step:
                raise IllegalMoveError(
                    f"round {last.number} is {last.state}, and another cannot start before it is queued; "
                    "finish it with `kappascout run DIR`"
                )
            now = utc_now()
            row = Round(
                campaign_id=campaign_pk,
                number=1 if last is None else last.number + 1,
                state=RoundState.STARTED,
                manifest=manifest,
                steps={RoundState.STARTED.value: now},
                started_at=now,
            )
            session.add(row)
            session.flush()
            return _round_record(row)

    def finish_step(
        self,
        number: int,
        state: RoundState,
        *,
        model: ModelRecord | None = None,
        model_id: str | None = None,
        metrics_before: Json | None = None,
        predictions: ArtifactRecord | None = None,
        queue: Sequence[QueueEntryRecord] | None = None,
    ) -> RoundRecord:
        """Move a round forward and store the result of the step, in one transaction.

        ``model`` is written and becomes the round's model; ``model_id`` names one written before. ``queue`` is
        written as proposed. Fields that are not given are unchanged.
        """
        require_json(metrics_before, "metrics_before")
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            row = _find_round(session, campaign_pk, number)
            _advance(row, state)
            if model is not None:
                row.model = insert_model(session, campaign_pk, model)
            elif model_id is not None:
                row.model = find_model(session, campaign_pk, model_id)
            if metrics_before is not None:
                row.metrics_before = metrics_before
            if predictions is not None:
                row.predictions_path, row.predictions_sha256 = predictions.path, predictions.sha256
                row.predictions_rows = predictions.rows
            if queue is not None:
                insert_entries(session, campaign_pk, row, queue)
            session.flush()
            return _round_record(row)

    def set_judgement(self, number: int, metrics: Json) -> RoundRecord:
        """Record the prospective metrics of a round; again when more labels arrive."""
        require_json(metrics, "metrics")
        with self.session(write=True) as session:
            row = _find_round(session, self.lock_campaign(session), number)
            if not row.state.is_finished:
                _advance(row, RoundState.JUDGED)
                row.finished_at = row.steps[RoundState.JUDGED.value]
            row.metrics_after = metrics
            session.flush()
            return _round_record(row)

    def rounds(self) -> list[RoundRecord]:
        """All rounds, first to last."""
        with self.session() as session:
            query = _of_campaign(self.campaign_pk(session)).order_by(Round.number)
            return [_round_record(row) for row in session.scalars(query)]

    def round(self, number: int) -> RoundRecord:
        """Find one round."""
        with self.session() as session:
            return _round_record(_find_round(session, self.campaign_pk(session), number))


def _of_campaign(campaign_pk: int) -> Select[Round]:
    return select(Round).options(joinedload(Round.model)).where(Round.campaign_id == campaign_pk)


def _find_round(session: Session, campaign_pk: int, number: int) -> Round:
    row = session.scalars(_of_campaign(campaign_pk).where(Round.number == number)).one_or_none()
    if row is None:
        raise UnknownRecordError(f"no round {number}; `kappascout rounds DIR` lists them")
    return row


def _advance(row: Round, to: RoundState) -> None:
    legal = round_moves(row.state)
    if to not in legal:
        options = f"it may go to {', '.join(legal)}" if legal else "it is over"
        raise IllegalMoveError(f"round {row.number} cannot go from {row.state} to {to}; {options}")
    row.state = to
    row.steps = row.steps | {to.value: utc_now()}


def _round_record(row: Round) -> RoundRecord:
    predictions = None
    if row.predictions_path is not None:
        predictions = ArtifactRecord(row.predictions_path, str(row.predictions_sha256), row.predictions_rows)
    names = ("number", "state", "manifest", "metrics_before", "metrics_after", "steps", "started_at", "finished_at")
    return RoundRecord(
        **{name: getattr(row, name) for name in names},
        model_id=row.model.model_id if row.model else None,
        predictions=predictions,
    )
