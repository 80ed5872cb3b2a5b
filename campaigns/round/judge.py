"""Evaluation of a round when its labels arrive: prediction against result, hits, best so far, cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from campaigns.configuration import round_settings
from campaigns.goals import Scale
from campaigns.pool.labels import best_value, training_labels
from campaigns.queue import Failed
from campaigns.round.intervals import interval_width
from campaigns.round.manifest import RoundFigures, RoundManifest
from campaigns.round.stopping import stopping_advice
from db.states import QueueState
from engine.learning.ensemble.evaluation import evaluate, evaluation_curves
from engine.metrics.spread import Spread

if TYPE_CHECKING:
    from campaigns.goals import Goal
    from campaigns.labelers.labelers import Labeler
    from campaigns.workspace import Workspace
    from db.records import Json, QueueEntryRecord, RoundRecord


def judge_round(
    workspace: Workspace, labeler: Labeler, record: RoundRecord, entries: list[QueueEntryRecord]
) -> RoundRecord:
    """Compare the predictions of a round's queue with the labels that have arrived, and store the figures."""
    whole = round_settings(record)
    settings = whole.campaign
    scale = Scale(settings.learned_scale)
    labels = training_labels(workspace.store, whole)
    done = [
        e for e in entries if e.state is QueueState.DONE and e.fidelity == settings.fidelity and e.material_id in labels
    ]
    values = np.array([labels[e.material_id].value for e in done])
    metrics: Json = {
        "rows": len(done),
        "failed": sum(e.state is QueueState.FAILED for e in entries),
        "failed_by_machine": sum(map(Failed.of(workspace).is_by_machine, entries)),
        "withdrawn": sum(e.state is QueueState.WITHDRAWN for e in entries),
        "deferred": sum(e.state is QueueState.DEFERRED for e in entries),
        "cheaper": sum(e.state is QueueState.DONE and e.fidelity != settings.fidelity for e in entries),
        "best": best_value(labels, settings.sought),
        "best_of_round": settings.sought.best(values),
        **_costs(workspace, entries, settings.property),
        **_hits(labeler, record, settings.sought, values),
        "stopping": stopping_advice(workspace).to_dict(),
    }
    predicted = [e for e in done if "learned_mean" in e.details]
    if predicted:
        truth = scale.learned([labels[e.material_id].value for e in predicted])
        mean, std = (_detail(predicted, name) for name in ("learned_mean", "learned_std"))
        half_width = RoundFigures.of(record).half_width
        std = std * interval_width(record)
        metrics |= {**evaluate(truth, mean, std), "curves": evaluation_curves(truth, mean, std), **_spread(predicted)}
        if half_width and whole.model.intervals == "conformal":
            metrics["conformal_coverage_90"] = float(np.mean(np.abs(truth - mean) <= half_width * std))
    return workspace.store.set_judgement(record.number, metrics)


def is_outdated(record: RoundRecord, entries: list[QueueEntryRecord]) -> bool:
    """Whether entries of an evaluated round were retried or reopened since, and have ended in another state."""
    known = record.metrics_after or {}
    states = {"failed": QueueState.FAILED, "withdrawn": QueueState.WITHDRAWN, "deferred": QueueState.DEFERRED}
    return any(known.get(name, 0) != sum(e.state is state for e in entries) for name, state in states.items())


def _spread(predicted: list[QueueEntryRecord]) -> Json:
    """Components of the spreads, and distances of the entries from the labels, where these were stored."""
    found: Json = {}
    if all(name in e.details for e in predicted for name in ("between_std", "within_std")):
        parts = Spread(_detail(predicted, "between_std"), _detail(predicted, "within_std"))
        found["spread"] = parts.summary()
    if all("distance_percentile" in e.details for e in predicted):
        found["distance_percentile"] = float(np.median(_detail(predicted, "distance_percentile")))
    return found


def _detail(entries: list[QueueEntryRecord], name: str) -> np.ndarray:
    return np.array([e.details[name] for e in entries], dtype=np.float64)


def _costs(workspace: Workspace, entries: list[QueueEntryRecord], property: str) -> dict[str, float | None]:
    """Core-hours that the round took, failed calculations too, and those expected of the entries that have ended."""
    ended = {(e.material_id, e.fidelity): e for e in entries if e.state in (QueueState.DONE, QueueState.FAILED)}
    failures = {(f.material_id, f.fidelity): f for f in workspace.store.failures(property)}
    # the cost of a withdrawn label counts, too
    taken = [label for label in workspace.store.labels(property, current_only=False) if label.superseded_by is None]
    labels = {(label.material_id, label.fidelity): label for label in taken}
    results = [labels.get(key) or failures.get(key) for key in ended]
    known = [e.expected_cost for e in ended.values() if e.expected_cost is not None]
    return {
        "cost": sum(result.cost or 0.0 for result in results if result is not None),
        "expected_cost": sum(known) if known and len(known) == len(ended) else None,
    }


def _hits(labeler: Labeler, record: RoundRecord, goal: Goal, values: np.ndarray) -> dict[str, float | int | None]:
    """Hits of the round, and the enhancement over a random choice.

    The hit rate of random choice is the share of hits in all answers where the labeler has them (``replay``), else the
    share that the round's own model expects in the pool.
    """
    hit = RoundManifest.of(record).hit
    if hit is None:
        return {"hit": None, "hits": None, "enhancement": None}
    hits = int(goal.is_hit(values, hit).sum())
    known = labeler.hit_rate(hit, goal)
    rate = known if known is not None else RoundFigures.of(record).expected_hit_rate
    enhancement = hits / len(values) / rate if len(values) and rate else None
    return {"hit": hit, "hits": hits, "enhancement": enhancement}
