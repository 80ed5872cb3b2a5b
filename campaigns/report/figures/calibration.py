"""Predictions against labels: errors, spreads and coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from campaigns.report.evidence import Evidence, Predictions
from campaigns.report.figures.drawing import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    Panel,
    faint,
    lines_by_round,
    new_figure,
    round_axis,
    value_axis,
)
from campaigns.report.numbers import count, in_unit, interval, percent, significant
from engine.metrics.calibration import LEVELS, Z90, coverage, error_against_spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Groups = dict[str, tuple[NDArray[np.bool_], str]]
    """Rows and colour of points by the name in the legend."""


def parity_before(evidence: Evidence) -> Panel:
    """Cross-validated predictions of the latest model against its labels."""
    key, title = "parity-before", "Parity before"
    predictions = evidence.before()
    if predictions is None:
        return Panel(key, title, "No model has been trained yet.")
    number = int(predictions.rounds[0])
    origin = f"Labels known to round {number} against the prediction of the member that was not trained on them."
    reading = f"{origin} Bars are 90 % intervals; a perfect prediction lies on the line."
    return Panel(
        key,
        title,
        reading,
        _parity(evidence, predictions, {"labels": (np.full(len(predictions), True), BLUE)}),
        "square",
    )


def parity_after(evidence: Evidence) -> Panel:
    """Predictions at the time of queueing against the labels that arrived."""
    key, title = "parity-after", "Parity after"
    predictions = evidence.prospective()
    if predictions is None:
        return Panel(key, title, "No label has arrived for a prediction yet.")
    latest = predictions.rounds == predictions.rounds.max()
    groups: Groups = {f"round {predictions.rounds.max()}": (latest, ORANGE)}
    if not latest.all():
        groups = {"earlier rounds": (~latest, BLUE)} | groups
    inside = predictions.inside
    reading = (
        f"What was predicted when a material was queued, against the label that arrived; bars are 90 % intervals. "
        f"{inside} of {count(len(predictions), 'label')} ({percent(inside / len(predictions))}) lie inside theirs."
    )
    return Panel(key, title, reading, _parity(evidence, predictions, groups), "square")


def calibration_curve(evidence: Evidence) -> Panel:
    """Nominal against observed coverage, before and after."""
    key, title = "calibration", "Calibration"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    figure = new_figure()
    figure.add_scatter(x=[40, 100], y=[40, 100], mode="lines", line={"color": PALE}, hoverinfo="skip", showlegend=False)
    last = evidence.trained[-1]
    model = (last.metrics_before or {})["model"]
    observed = [model[f"coverage_{100 * level:.0f}"] for level in LEVELS]
    _coverage_line(figure, f"before (round {last.number}, cross-validated)", observed, model["rows"], BLUE, -0.25)
    predictions = evidence.prospective()
    if predictions is not None:
        arrived = coverage(predictions.z, LEVELS).tolist()
        _coverage_line(figure, "after (labels that arrived)", arrived, len(predictions), ORANGE, 0.25)
    figure.update_xaxes(title_text="nominal coverage, %", range=[44, 101], tickvals=[50, 80, 90, 95])
    figure.update_yaxes(title_text="labels found inside, %", range=[0, 103])
    reading = (
        "On the line, a 90 % interval holds 90 % of the labels; below it intervals are too narrow, above it too wide. "
        "Bars are one standard error of a share of so many labels."
    )
    return Panel(key, title, reading, figure, "square")


def coverage_by_round(evidence: Evidence) -> Panel:
    """Share of labels inside their 90 % interval, round by round."""
    key, title = "coverage", "90 % intervals by round"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    figure = new_figure()
    numbers = [r.number for r in evidence.trained]
    figure.add_hrect(85, 95, fillcolor=PALE, opacity=0.45, line_width=0, layer="below")
    figure.add_hline(90, line={"color": GREY, "width": 1, "dash": "dash"})
    for name, judged, colour, shift in (
        ("before, cross-validated", [(r.metrics_before or {})["model"] for r in evidence.trained], BLUE, -0.08),
        ("after, labels that arrived", [r.metrics_after or {} for r in evidence.trained], ORANGE, 0.08),
    ):
        met = [(n, m["coverage_90"], m["rows"]) for n, m in zip(numbers, judged, strict=True) if "coverage_90" in m]
        if not met:
            continue
        share = np.array([found for _, found, _ in met])
        rows = np.array([n for _, _, n in met])
        figure.add_scatter(
            x=[n + shift for n, _, _ in met],
            y=100 * share,
            name=name,
            mode="lines+markers",
            line={"color": colour},
            error_y={"type": "data", "array": 100 * _share_error(share, rows), "thickness": 1, "width": 3},
            hovertext=[f"round {n}: {found:.0%} of {count(rows, 'label')}" for n, found, rows in met],
            hoverinfo="text",
        )
    round_axis(figure, numbers)
    figure.update_yaxes(title_text="labels found inside, %", range=[0, 103])
    reading = (
        "Calibrated intervals hold 90 % of the labels; the grey band is 85 to 95 %. Bars: standard error of a share "
        "of so many labels: few labels scatter widely. Queued materials are harder to predict than held-out ones."
    )
    return Panel(key, title, reading, figure)


def spread_by_round(evidence: Evidence) -> Panel:
    """Predicted spread and actual error, round by round."""
    key, title = "spread", "Uncertainty by round"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    before = [(r.metrics_before or {}) for r in evidence.trained]
    after = [(r.metrics_after or {}) for r in evidence.trained]
    numbers = [r.number for r in evidence.trained]
    parts = [m.get("spread", {}) for m in after]
    lines = (
        ("predicted, held out", [m["model"].get("sharpness") for m in before], BLUE, "dash"),
        ("error, held out", [m["model"].get("rmse") for m in before], BLUE, "solid"),
        ("predicted, queue", [m.get("sharpness") for m in after], ORANGE, "dash"),
        ("error, labels that arrived", [m.get("rmse") for m in after], ORANGE, "solid"),
        ("between members, queue", [m.get("between") for m in parts], GREY, "dot"),
    )
    figure = new_figure()
    lines_by_round(figure, numbers, lines)
    figure.update_yaxes(title_text=f"root mean square{in_unit(evidence.learned_unit)}", rangemode="tozero")
    reading = (
        "Dashed: the predicted standard deviation; solid: the actual error. Where both agree the "
        "spread is calibrated; dashed below solid means that it is too small."
    )
    if any(parts):
        reading += " Dotted: the part of the spread on which members disagree, which more labels can remove."
    return Panel(key, title, reading, figure)


def error_by_spread(evidence: Evidence) -> Panel:
    """Whether errors grow with the predicted spread."""
    key, title = "error-by-spread", "Error against spread"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    figure = new_figure()
    reach = 0.0
    for name, met, colour in (
        ("before, cross-validated", evidence.before(), BLUE),
        ("after, labels that arrived", evidence.prospective(), ORANGE),
    ):
        if met is None:
            continue
        curve = error_against_spread(met.values - met.mean, met.std, bins=6)
        rows, rmse = np.array(curve.rows), np.array(curve.rmse)
        reach = max(reach, *curve.spread, *curve.rmse)
        figure.add_scatter(
            x=curve.spread,
            y=rmse,
            name=name,
            mode="lines+markers",
            line={"color": colour},
            error_y={"type": "data", "array": rmse / np.sqrt(2 * rows), "thickness": 1, "width": 3},
            hovertext=[
                f"{count(n, 'label')}: predicted {s:.3g}, error {e:.3g}"
                for n, s, e in zip(curve.rows, curve.spread, curve.rmse, strict=True)
            ],
            hoverinfo="text",
        )
    diagonal = {"color": PALE, "width": 2}
    ends = [0.0, 1.1 * reach]
    figure.add_scatter(x=ends, y=ends, mode="lines", line=diagonal, hoverinfo="skip", showlegend=False)
    figure.update_xaxes(title_text=f"predicted spread{in_unit(evidence.learned_unit)}", rangemode="tozero")
    figure.update_yaxes(title_text="root mean square error", rangemode="tozero")
    reading = (
        "Labels in groups by their predicted spread. On the line, the error of a group is as large as predicted; "
        "a rising curve means that a larger spread goes with larger errors, a level one that it does not. Bars are one "
        "standard error."
    )
    return Panel(key, title, reading, figure, "square")


def _parity(evidence: Evidence, p: Predictions, groups: Groups) -> go.Figure:
    """Labels across, predictions up with 90 % error bars."""
    true = evidence.scale.true
    x, y = true(p.values), true(p.mean)
    lower, upper = true(p.mean - Z90 * p.std), true(p.mean + Z90 * p.std)
    unit = evidence.section.unit
    figure = new_figure()
    ends = [float(min(x.min(), lower.min())), float(max(x.max(), upper.max()))]
    line = {"color": GREY, "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for name, (mask, colour) in groups.items():
        rows = np.flatnonzero(mask)
        figure.add_scatter(
            x=x[rows],
            y=y[rows],
            name=name,
            showlegend=len(groups) > 1,
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.85},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": upper[rows] - y[rows],
                "arrayminus": y[rows] - lower[rows],
                "thickness": 1,
                "width": 0,
                "color": faint(colour),
            },
            hovertext=[
                f"{p.formulas[i]} ({p.ids[i]})<br>predicted {interval(y[i], lower[i], upper[i])} {unit}<br>"
                f"label {significant(x[i], unit)}"
                for i in rows
            ],
            hoverinfo="text",
        )
    value_axis(figure.update_xaxes, evidence, ends, f"label{in_unit(unit)}")
    value_axis(figure.update_yaxes, evidence, ends, f"predicted{in_unit(unit)}")
    return figure


def _coverage_line(
    figure: go.Figure, name: str, observed: Sequence[float], rows: int, colour: str, shift: float
) -> None:
    share = np.array(observed)
    figure.add_scatter(
        x=100 * np.array(LEVELS) + shift,
        y=100 * share,
        name=name,
        mode="lines+markers",
        line={"color": colour},
        error_y={"type": "data", "array": 100 * _share_error(share, rows), "thickness": 1, "width": 3},
        hovertext=[
            f"{level:.0%} nominal, {found:.0%} of {count(rows, 'label')} inside"
            for level, found in zip(LEVELS, observed, strict=True)
        ],
        hoverinfo="text",
    )


def _share_error(share: NDArray[np.float64], rows: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard error of a share observed among ``rows`` labels; one more label on either side makes it positive."""
    likely = (share * rows + 1) / (np.asarray(rows) + 2)
    return np.sqrt(likely * (1 - likely) / rows)
