"""Statistics over seeds: mean, standard deviation and confidence bands of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from campaigns.backtest.ladder import FRACTIONS, LadderRun
from db.records import Json
from engine.metrics.discovery import top_words

if TYPE_CHECKING:
    from campaigns.backtest.replay import BacktestRun

LEVEL = 0.9
"""Confidence level of the bands of a mean over seeds."""
FEWEST_SEEDS = 3
"""Fewest seeds for a band; of two, Student's t gives one too wide to be useful."""
CURVES = ("recall_top1", "recall_top5", "enhancement_top1", "enhancement_top5", "regret", "best")
COST_CURVES = ("cost", "cost_enhancement_top1", "cost_enhancement_top5")
_ACCELERATIONS = ("acceleration_50", "acceleration_80", "cost_acceleration_50", "cost_acceleration_80")


def summarise(runs: Sequence[BacktestRun]) -> list[Json]:
    """One row a strategy at the end of its runs: means over seeds, ``*_std`` their standard deviations.

    An acceleration is the mean over the runs that reach the level; ``*_reached`` counts them.
    """
    rows = []
    for strategy, own in by_strategy(runs).items():
        ends = [run.rounds[-1] for run in own]
        row: Json = {
            "strategy": strategy, "seeds": len(own), "labels": _common(ends, "labels"), "pool": pool_size(own[0])
        }  # fmt: skip
        for name in _curves(ends[0]):
            row[name], row[f"{name}_std"] = _mean_std([end[name] for end in ends])
        for name in _ACCELERATIONS[: 4 if "cost" in ends[0] else 2]:
            reached = [value for run in own if (value := vars(run)[name]) is not None]
            row[name], row[f"{name}_std"] = _mean_std(reached)
            row[f"{name}_reached"] = len(reached)
        if isinstance(own[0], LadderRun):
            row |= _of_ladder([run for run in own if isinstance(run, LadderRun)])
        row["seconds_a_round"] = float(np.mean([s for run in own for s in run.round_seconds]))
        row["cpu_seconds_a_round"] = float(np.mean([s for run in own for s in run.cpu_seconds]))
        row["seen"] = any(run.seen for run in own)
        rows.append(row)
    return rows


def bands(runs: Sequence[BacktestRun]) -> list[Json]:
    """Every curve's mean, standard deviation and confidence band after each round; one record for each strategy.

    Also ``labels`` and ``pool_share``, acquired by then. The band is the 90 % confidence interval of the mean by
    Student's t, with the seeds as independent samples; None for fewer than three seeds.
    """
    found = []
    for strategy, own in by_strategy(runs).items():
        record: Json = {"strategy": strategy, "seeds": len(own)}
        for name in ("labels", "pool_share"):
            record[name] = [_common(points, name) for points in zip(*(run.rounds for run in own), strict=True)]
        for name in _curves(own[0].rounds[0]):
            record[name] = band(np.array([[point[name] for point in run.rounds] for run in own]))
        found.append(record)
    return found


def band(values: np.ndarray) -> Json:
    """Mean, standard deviation and confidence interval of each column of ``seeds x rounds``."""
    from scipy.stats import t

    seeds = len(values)
    mean, std = values.mean(0), values.std(0, ddof=1 if seeds > 1 else 0)
    if seeds < FEWEST_SEEDS:
        return {"mean": mean.tolist(), "std": std.tolist(), "lower": None, "upper": None}
    half = t.ppf((1 + LEVEL) / 2, seeds - 1) * std / np.sqrt(seeds)
    return {
        "mean": mean.tolist(),
        "std": std.tolist(),
        "lower": (mean - half).tolist(),
        "upper": (mean + half).tolist(),
    }


def readable(rows: Sequence[Json]) -> list[dict[str, str]]:
    """Rows of :func:`summarise` for display, mean ± standard deviation; the same columns in every row."""
    written = []
    for row in rows:
        cells = {
            "strategy": row["strategy"] + (" (seen)" if row["seen"] else ""),
            "seeds": str(row["seeds"]),
            "labels": str(row["labels"]),
            f"recall of {top_words(row['pool'], 1)}": _plus_minus(row, "recall_top1", ".2f"),
            f"of {top_words(row['pool'], 5)}": _plus_minus(row, "recall_top5", ".2f"),
            "EF (5 %)": _plus_minus(row, "enhancement_top5", ".1f"),
            "AF50": _reached(row, "acceleration_50"),
            "AF80": _reached(row, "acceleration_80"),
            "regret": _plus_minus(row, "regret", ".3f"),
        }
        if "cost" in row:
            cells |= {
                "cost": _plus_minus(row, "cost", ",.0f"),
                "EF by cost (5 %)": _plus_minus(row, "cost_enhancement_top5", ".1f"),
                "AF80 by cost": _reached(row, "cost_acceleration_80"),
            }
        if "labels_by_level" in row:
            cells = _ladder_cells(row)
        written.append(cells | {"CPU s a round": f"{row['cpu_seconds_a_round']:.1f}"})
    return written


def pool_size(run: BacktestRun) -> int:
    """Count the rows of the pool that a run acquired from: of those with a split, the candidates."""
    first, last = run.rounds[0], run.rounds[-1]
    if first["pool_share"]:
        return round(first["labels"] / first["pool_share"])
    return round((last["labels"] - first["labels"]) / last["pool_share"])  # initial labels are none of them


def by_strategy(runs: Sequence[BacktestRun]) -> dict[str, list[BacktestRun]]:
    """Group the runs of each strategy, in the order they came."""
    found: dict[str, list[BacktestRun]] = {}
    for run in runs:
        found.setdefault(run.strategy, []).append(run)
    return found


def _common(points: Sequence[Json], name: str) -> float:
    """A figure that all seeds share; the mean where they differ, as labels do that a budget of core-hours bought."""
    values = [point[name] for point in points]
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def _of_ladder(runs: Sequence[LadderRun]) -> Json:
    """Labels of each fidelity at the end, and the core-hours until parts of the best 5 % were found."""
    ends = [run.rounds[-1] for run in runs]
    row: Json = {
        "spent": float(np.mean([end["spent"] for end in ends])),
        "labels_by_level": {
            name: float(np.mean([end["labels_by_level"][name] for end in ends])) for name in ends[0]["labels_by_level"]
        },
    }
    for percent in FRACTIONS:
        name, reached = f"hours_to_{percent}", [h for run in runs if (h := run.hours_to[str(percent)]) is not None]
        row[name], row[f"{name}_std"] = _mean_std(reached)
        row[f"{name}_reached"] = len(reached)
    return row


def _ladder_cells(row: Json) -> dict[str, str]:
    """Cells of a strategy that has a budget of core-hours."""
    wanted, *lower = row["labels_by_level"]
    best = top_words(row["pool"], 5)
    return {
        "strategy": row["strategy"] + (" (seen)" if row["seen"] else ""),
        "seeds": str(row["seeds"]),
        "core-hours": f"{row['spent']:,.0f}",
        "labels": f"{row['labels_by_level'][wanted]:.0f}",
        **{name: f"{row['labels_by_level'][name]:.0f}" for name in lower},
        f"recall of {top_words(row['pool'], 1)}": _plus_minus(row, "recall_top1", ".2f"),
        f"of {best}": _plus_minus(row, "recall_top5", ".2f"),
        "regret": _plus_minus(row, "regret", ".3f"),
        **{
            f"core-hours to {percent} % of these": _reached(row, f"hours_to_{percent}", ",.0f") for percent in FRACTIONS
        },
    }


def _curves(point: Json) -> tuple[str, ...]:
    return (*CURVES, *COST_CURVES) if "cost" in point else CURVES


def _mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; the latter is 0 for one value."""
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _plus_minus(row: Json, name: str, form: str) -> str:
    return f"{row[name]:{form}} ± {row[f'{name}_std']:{form}}"


def _reached(row: Json, name: str, form: str = ".1f") -> str:
    """Mean, with the number of runs that reached the level where not all did."""
    if row[name] is None:
        return "not reached"
    some = "" if row[f"{name}_reached"] == row["seeds"] else f" ({row[f'{name}_reached']} of {row['seeds']})"
    return f"{_plus_minus(row, name, form)}{some}"
