"""Status of a campaign in plain values: its state, its rounds and its queue as rows for display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from campaigns.budget import asked, core_hours
from campaigns.intake.doubts import best_doubt, doubts
from campaigns.pool.labels import best_value, training_labels
from campaigns.queue import Failed
from campaigns.round.manifest import RoundManifest
from db.states import QueueState
from engine.metrics.stopping import StoppingAdvice

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.records import Json, LabelRecord, RoundRecord

CALIBRATION_FIGURES = (
    "nll", "crps", "coverage_50", "coverage_80", "coverage_90", "coverage_95", "calibration_error", "normalised_error",
    "sharpness",
)  # fmt: skip
"""Figures of the coverage of intervals, cross-validated and prospective."""

STATUS_WORDS = {
    "materials": "materials in the pool",
    "rejections": "rejected crystals",
    "best": "best value",
    "best_doubtful": "the best value is doubtful",
    "last_round": "state of the last round",
    "queue": "queue entries",
    "failed_by": "failed entries by what they failed by",
    "asked": "queried labels",
    "budget": "budget of queried labels",
    "core_hours": "core-hours spent",
    "budget_core_hours": "budget of core-hours",
    "advice": "advice on stopping",
}
"""Names in the table of a status where the keys of its JSON and CSV, which scripts rely on, are short."""


def label_rows(workspace: Workspace, every: bool = False, doubtful: bool = False) -> list[Json]:
    """Labels as rows for display: the current ones, or ``every`` one ever written, or only the ``doubtful``.

    ``trains``: whether a label is the one of its material that models are trained on.
    """
    store, settings = workspace.store, workspace.configuration
    doubted = doubts(store)
    fidelities = dict.fromkeys(filter(None, (settings.campaign.fidelity, *settings.lower_fidelities)))
    training = {label.id for name in fidelities for label in training_labels(store, settings, fidelity=name).values()}
    return [
        vars(label)
        | {
            "state": _label_state(label),
            "trains": label.id in training,
            "doubtful": list(doubted[label.id].reasons) if label.id in doubted else [],
        }
        for label in store.labels(current_only=not every)
        if label.id in doubted or not doubtful
    ]


def _label_state(label: LabelRecord) -> str:
    if label.withdrawal is not None:
        return f"withdrawn by {label.withdrawn_by}: {label.withdrawn_reason}"
    return "current" if label.superseded_by is None else f"corrected by {label.superseded_by}"


def round_row(record: RoundRecord) -> Json:
    """A round as a row for display: labels, error before and after, coverage, hits, best, cost."""
    before, after = record.metrics_before or {}, record.metrics_after or {}
    model = before.get("model", {})
    figures = ("spearman", "r2", *CALIBRATION_FIGURES)
    return {
        "round": record.number,
        "state": str(record.state),
        "labels": RoundManifest.of(record).labels,
        "cv_mae": model.get("mae"),
        "cv_mae_trees": before.get("extra_trees", {}).get("mae"),
        "cv_mae_constant": before.get("constant", {}).get("mae"),
        **{f"cv_{name}": model.get(name) for name in figures},
        "new_labels": after.get("rows"),
        "cheaper_labels": after.get("cheaper"),
        "mae": after.get("mae"),
        **{name: after.get(name) for name in figures},
        "conformal_coverage_90": after.get("conformal_coverage_90"),
        "distance_percentile": after.get("distance_percentile"),
        **{name: after.get(name) for name in ("failed", "hits", "enhancement", "best", "expected_cost", "cost")},
    }


def status(workspace: Workspace) -> Json:
    """Status of a campaign, in plain values."""
    section, cheaper = workspace.configuration.campaign, workspace.configuration.acquisition.fidelities
    store = workspace.store
    labels = training_labels(store, workspace.configuration)
    doubt = best_doubt(workspace, labels)
    rounds = store.rounds()
    failed = Failed.of(workspace).counts(store.queue([QueueState.FAILED]))
    return {
        "campaign": section.name,
        "state": str(store.campaign().state),
        "goal": section.goal,
        "property": section.property,
        "fidelity": section.fidelity,
        **{noun: count for noun, count in store.counts().items() if noun in ("materials", "rejections")},
        "labels": len(labels),
        **{f"labels ({name})": store.fidelities(section.property).get(name, 0) for name in cheaper},
        "best": best_value(labels, section.sought),
        **({"best_doubtful": str(doubt)} if doubt else {}),
        "rounds": len(rounds),
        "last_round": str(rounds[-1].state) if rounds else None,
        "queue": {str(state): n for state, n in store.queue_counts().items() if n},
        **({"failed_by": failed} if failed else {}),
        "asked": asked(workspace),
        "budget": section.budget,
        "core_hours": core_hours(workspace),
        "budget_core_hours": section.budget_core_hours,
        "advice": next((_advice(record) for record in reversed(rounds) if record.metrics_after), None),
    }


def _advice(record: RoundRecord) -> str | None:
    """Advice recorded when a round was evaluated."""
    kept = (record.metrics_after or {}).get("stopping")
    return StoppingAdvice.from_dict(kept).words if kept else None
