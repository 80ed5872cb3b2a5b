"""Rounds judged when their labels arrive: prediction against result, hits, best so far, cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.configuration import round_settings
from campaigns.training_set import Scale, best_value, training_labels
from db.states import QueueState
from engine.learning.judgement import judge
from engine.metrics.discovery import count_hits

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from db.records import QueueEntryRecord, RoundRecord


def judge_round(campaign: Campaign, record: RoundRecord, entries: list[QueueEntryRecord]) -> RoundRecord:
    """Compare the predictions of a round's queue with the labels that have arrived, and keep the figures."""
    settings = round_settings(record).campaign
    scale = Scale(settings.learned_scale)
    labels = training_labels(campaign.store, settings)
    done = [e for e in entries if e.state is QueueState.DONE and e.material_id in labels]
    values = np.array([labels[e.material_id].value for e in done])
    metrics: dict[str, Any] = {
        "rows": len(done),
        "failed": sum(e.state is QueueState.FAILED for e in entries),
        "withdrawn": sum(e.state is QueueState.WITHDRAWN for e in entries),
        "best": best_value(labels, settings.goal),
        "best_of_round": best_value({e.material_id: labels[e.material_id] for e in done}, settings.goal),
        "cost": sum(labels[e.material_id].cost or 0.0 for e in done),
        **_hits(campaign, record, settings.goal, values),
    }
    predicted = [e for e in done if "learned_mean" in e.details]
    if predicted:
        metrics |= judge(
            scale.learned([labels[e.material_id].value for e in predicted]),
            np.array([e.details["learned_mean"] for e in predicted]),
            np.array([e.details["learned_std"] for e in predicted]),
        )
    return campaign.store.set_judgement(record.number, metrics)


def _hits(campaign: Campaign, record: RoundRecord, goal: str, values: np.ndarray) -> dict[str, float | int | None]:
    """Hits of the round, and how many times more than a random choice would have given.

    What random would give is the share of hits among all answers where the labeler knows them (``replay``), else the
    share that the round's own model expects in the pool.
    """
    hit = record.manifest["hit"]
    if hit is None:
        return {"hit": None, "hits": None, "enhancement": None}
    hits = count_hits(values, goal, hit) if len(values) else 0
    known = campaign.labeler.hit_rate(hit, goal)
    rate = known if known is not None else (record.metrics_before or {}).get("expected_hit_rate")
    enhancement = hits / len(values) / rate if len(values) and rate else None
    return {"hit": hit, "hits": hits, "enhancement": enhancement}
