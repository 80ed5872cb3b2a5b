"""The report's tables: plain rows of text for the template."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from campaigns.report.evidence import Evidence
from campaigns.report.numbers import NONE, hours, interval, percent, significant
from campaigns.stability.names import STABILITY_UNKNOWN, UNKNOWN
from campaigns.status import round_row
from db.records import Json

if TYPE_CHECKING:
    from db.records import ModelRecord, QueueEntryRecord

CRITERIA = {
    "budget": "budget in labels",
    "core_hours": "budget in core-hours",
    "undiscovered_hits": "hits left",
    "best_found": "best found",
    "idle_rounds": "improvement",
}
SHOWN_HASH = 10
"""Number of characters of a hash that are shown."""


def queue_tables(evidence: Evidence) -> list[Json]:
    """List the queue by round, the latest first."""
    numbers = sorted({e.round or 0 for e, _ in evidence.queue}, reverse=True)
    return [
        {
            "round": number,
            "rows": [_queue_row(evidence, e, formula) for e, formula in evidence.queue if e.round == number],
            "unknown": sum(
                evidence.stability.get(e.material_id) == UNKNOWN for e, _ in evidence.queue if e.round == number
            ),
            "has_cost": any(e.expected_cost is not None for e, _ in evidence.queue if e.round == number),
            "has_distance": any("distance_percentile" in e.details for e, _ in evidence.queue if e.round == number),
        }
        for number in numbers
    ]


def round_table(evidence: Evidence) -> list[dict[str, str]]:
    """One row for each round, the latest last."""
    shares = {"cv_coverage_50", "cv_coverage_90", "coverage_50", "coverage_90"}
    rows = []
    for record in evidence.rounds:
        row = round_row(record)
        rows.append({name: _cell(name, value, shares) for name, value in row.items()})
    return rows


def uncertainty_table(evidence: Evidence) -> list[Json]:
    """One row of cross-validated and one of prospective figures for each round; missing figures are dashes."""
    rows = []
    for record in evidence.trained:
        before, after = record.metrics_before or {}, record.metrics_after or {}
        rows.append(_calibration_row(record.number, "held out", before["model"], before))
        if "nll" in after:
            rows.append(_calibration_row(record.number, "arrived", after, after))
    return rows


def stopping_table(evidence: Evidence) -> list[dict[str, str]]:
    """Every stopping criterion: its state and its figures."""
    says = {True: "stop", False: "go on", None: NONE}
    return [
        {"criterion": CRITERIA[check.name], "says": says[check.met], "words": _capital(check.words)}
        for check in evidence.advice.checks
    ]


def model_table(evidence: Evidence) -> list[Json]:
    """Every model with its lineage, the latest first."""
    return [_model_row(model, evidence) for model in reversed(evidence.models)]


def data_facts(evidence: Evidence) -> dict[str, dict[str, int]]:
    """Count labels by fidelity, failures and rejected records by reason."""
    store = evidence.campaign.store
    return {
        "labels": store.fidelities(evidence.section.property),
        "others": {name: n for name, n in store.labelled_properties().items() if name != evidence.section.property},
        "failures": dict(
            Counter(f"{_words(str(f.reason))} ({f.reason.kind})" for f in evidence.failures).most_common()
        ),
        "rejections": {_words(reason): n for reason, n in evidence.rejection_counts().items()},
    }


def _queue_row(evidence: Evidence, entry: QueueEntryRecord, formula: str) -> Json:
    label = evidence.labels.get(entry.material_id)
    stability = evidence.stability.get(entry.material_id, UNKNOWN)
    stability = "" if stability == UNKNOWN else stability
    arrived = label is not None and evidence.queried_in.get(entry.material_id) == entry.round
    return {
        "rank": entry.rank,
        "id": entry.material_id,
        "formula": formula,
        "prediction": interval(entry.predicted_mean, entry.predicted_lower, entry.predicted_upper),
        "state": str(entry.state),
        "meaning": evidence.failed.words(entry) or entry.state.meaning,
        "label": significant(label.value) if label is not None and arrived else significant(None),
        "cost": hours(entry.expected_cost),
        "distance": _whole(entry.details.get("distance_percentile")),
        "reason": entry.reason.replace(STABILITY_UNKNOWN, f"; {stability}") if stability else entry.reason,
    }


def _calibration_row(number: int, rows: str, judged: Json, metrics: Json) -> Json:
    names = ("nll", "crps", "calibration_error", "normalised_error", "sharpness", "rmse")
    return {
        "round": number,
        "rows": f"{judged['rows']:,} {rows}",
        **{name: significant(judged.get(name)) for name in names},
        **{f"in_{level}": percent(judged.get(f"coverage_{level}")) for level in (50, 80, 90, 95)},
        "between": percent(metrics.get("spread", {}).get("between_share")),
        "distance": _whole(metrics.get("distance_percentile")),
    }


def _whole(percentile: float | None) -> str:
    return NONE if percentile is None else f"{percentile:.0f}"


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _model_row(model: ModelRecord, evidence: Evidence) -> Json:
    judged = model.metrics.get("model", {})
    return {
        "id": model.model_id,
        "parent": model.parent_id,
        "backbone": model.stage.get("backbone", ""),
        "backbone_hash": model.backbone_hash[:SHOWN_HASH],
        "lineage": [_stage(stage) for stage in model.stage.get("lineage", [])],
        "settings": ", ".join(str(model.settings[k]) for k in ("strategy", "head") if k in model.settings),
        "labels": model.metrics.get("labels"),
        "data_hash": model.data_hash[:SHOWN_HASH],
        "mae": significant(judged.get("mae")),
        "spearman": significant(judged.get("spearman")),
        "coverage": percent(judged.get("coverage_90")),
        "members": [(m.seed, m.sha256[:SHOWN_HASH]) for m in model.members],
        "created": model.created_at[:16].replace("T", " "),
        "code": model.code_version,
    }


def _stage(stage: Any) -> str:
    """A training stage of a backbone, as text."""
    if not isinstance(stage, dict):
        return str(stage)
    start = stage.get("start")
    properties = ", ".join(_words(str(p).removesuffix("_scaled")) for p in stage.get("properties", []))
    parts = [f"from {start}" if start else "", f"trained on {properties}" if properties else ""]
    return ", ".join(p for p in parts if p) or ", ".join(f"{k} {v}" for k, v in stage.items())


def _cell(name: str, value: Any, shares: set[str]) -> str:
    if isinstance(value, str):
        return value
    return percent(value) if name in shares else significant(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
