"""The report's figures: each with a sentence that tells how to read it, or one that tells why there is none yet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from campaigns.report.evidence import EXTREME, EmbeddingMap, Evidence, Predictions
from campaigns.report.numbers import count, hours, interval, percent, significant
from campaigns.training_set import Scale
from engine.metrics.calibration import LEVELS, coverage, error_against_spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Groups = dict[str, tuple[NDArray[np.bool_], str]]
    """Rows and colour of points by the name in the legend."""

INK, GREY, PALE, BLUE, ORANGE = "#1f2933", "#8a94a0", "#d5dbe1", "#2b6a99", "#c8641b"
SCALE = ((0.0, "#f4f6f8"), (0.25, "#c9dceb"), (0.5, "#8fb8d6"), (0.75, "#4a86b3"), (1.0, "#174a73"))
WANTED_FIRST = ("#174a73", "#6fa3c8", "#bcc8d0", "#dcc596")
"""Predicted values from wanted to unwanted."""
LINEAR = Scale("linear")
_Z90 = 1.6448536269514722


@dataclass(frozen=True)
class Panel:
    """A figure between its title and the sentence that tells how to read it."""

    key: str
    """Name of its element in the page."""
    title: str
    reading: str
    """How to read it, and what it shows; where there is no figure, why."""
    figure: go.Figure | None = None
    shape: str = "wide"
    """``wide``, ``square`` or ``table``: which proportions it is drawn in."""


def best_so_far(evidence: Evidence) -> Panel:
    """Every label in order of arrival, and the best of those before it."""
    key, title = "best", "Best so far"
    labels = list(evidence.labels.values())
    if not labels:
        return Panel(key, title, "No labels yet: the curve starts with the first one.")
    goal, unit = evidence.section.goal, evidence.section.unit
    values = np.array([label.value for label in labels])
    rounds = np.array([evidence.bought_in.get(label.material_id, 0) for label in labels])
    hover = [
        f"{_named(label.material_id, evidence)}<br>{significant(label.value, unit)}<br>"
        + (f"asked for in round {number}" if number else "known before")
        for label, number in zip(labels, rounds, strict=True)
    ]
    figure = _figure()
    order = np.arange(1, len(labels) + 1)
    for name, chosen, colour in (("known before", rounds == 0, GREY), ("asked for", rounds > 0, BLUE)):
        if chosen.any():
            figure.add_scatter(
                x=order[chosen],
                y=values[chosen],
                name=name,
                mode="markers",
                marker={"color": colour, "size": 6, "opacity": 0.75},
                hovertext=[text for text, shown in zip(hover, chosen, strict=True) if shown],
                hoverinfo="text",
            )
    utility = evidence.section.sought.utility(values)
    first_best = np.flatnonzero(utility >= np.maximum.accumulate(utility))
    best = values[first_best[np.searchsorted(first_best, np.arange(len(values)), side="right") - 1]]
    figure.add_scatter(
        x=order, y=best, name="best so far", mode="lines", line={"color": ORANGE, "shape": "hv"}, hoverinfo="skip"
    )
    seen = [*values]
    if evidence.hit is not None:
        side = {"min": "≤ ", "max": "≥ "}.get(goal, "")
        _level(figure, evidence.hit, f"hit {side}{significant(evidence.hit)}", evidence.scale)
        seen.append(evidence.hit)
    for number in np.unique(rounds[rounds > 0])[:20]:
        start = float(order[rounds == number][0]) - 0.5
        figure.add_vline(start, line={"color": PALE, "width": 1})
    figure.update_xaxes(title_text="labels, in order of arrival")
    _value_axis(figure.update_yaxes, evidence, seen, f"{evidence.section.property}{_in(unit)}")
    reading = (
        f"Each dot is one label, the orange line the {EXTREME.get(goal, 'best')} value known by then; "
        "thin vertical lines mark where a round's labels begin."
    )
    return Panel(key, title, reading, figure)


def enhancement(evidence: Evidence) -> Panel:
    """How many times more hits each round found than a random choice would."""
    key, title = "enhancement", "Enhancement over random"
    judged = [r for r in evidence.rounds if (r.metrics_after or {}).get("enhancement") is not None]
    if not judged:
        return Panel(key, title, "No round has been judged on its hits yet.")
    after = [r.metrics_after or {} for r in judged]
    values = [float(m["enhancement"]) for m in after]
    figure = _figure()
    figure.add_bar(
        x=[r.number for r in judged],
        y=values,
        marker_color=BLUE,
        width=0.6,
        textposition="outside",
        text=[f"{m['hits']} of {m['rows']}" for m in after],
        hovertext=[
            f"round {r.number}: {m['hits']} hits in {count(m['rows'], 'label')}, {v:.3g} times random"
            for r, m, v in zip(judged, after, values, strict=True)
        ],
        hoverinfo="text",
        showlegend=False,
    )
    _level(figure, 1.0, "random")
    _round_axis(figure, [r.number for r in judged])
    first, last = judged[0].number, judged[-1].number
    figure.update_xaxes(range=[first - 0.6, last + 0.7 + 0.15 * (last - first)])  # the word stands beside the bars
    figure.update_yaxes(title_text="hits, times random", range=[0, 1.18 * max(1.0, *values)])
    hit = significant(evidence.hit, evidence.section.unit)
    side = {"min": "or less", "max": "or more"}.get(evidence.section.goal, "or nearer")
    rate = (
        "the share of hits among all answers of the replayed data"
        if evidence.campaign.configuration.labeler.kind == "replay"
        else "the share of hits that the round's model expected in the pool"
    )
    reading = (
        f"A bar above 1 means the round found more hits ({hit} {side}) than as many labels bought at random; the words "
        f"on it say how many of its labels were hits. What random finds is {rate}."
    )
    return Panel(key, title, reading, figure)


def errors(evidence: Evidence) -> Panel:
    """Error before (cross-validated) and after (prospective) by round, beside the baselines."""
    key, title = "errors", "Error before and after"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    figure = _figure()
    numbers = [r.number for r in evidence.trained]
    before = [r.metrics_before or {} for r in evidence.trained]
    after = [r.metrics_after or {} for r in evidence.trained]
    lines = (
        ("ensemble, cross-validated", [m["model"]["mae"] for m in before], BLUE, "solid"),
        ("extra-trees", [m.get("extra_trees", {}).get("mae") for m in before], GREY, "dash"),
        ("constant", [m.get("constant", {}).get("mae") for m in before], GREY, "dot"),
        ("ensemble, labels that arrived", [m.get("mae") for m in after], ORANGE, "solid"),
    )
    for name, values, colour, dash in lines:
        if any(v is not None for v in values):
            figure.add_scatter(
                x=numbers,
                y=values,
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                hovertemplate=f"round %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
            )
    _round_axis(figure, numbers)
    figure.update_yaxes(title_text=f"mean absolute error{_in(_learned_unit(evidence))}", rangemode="tozero")
    reading = (
        "Lower is better. Blue: the ensemble on labels its members had not seen; grey: two baselines on the same "
        "folds; orange: what was predicted for the queue against the labels that came back, a harder and narrower test."
    )
    return Panel(key, title, reading, figure)


def parity_before(evidence: Evidence) -> Panel:
    """Show the latest model on the labels it was trained on."""
    key, title = "parity-before", "Parity before"
    predictions = evidence.before()
    if predictions is None:
        return Panel(key, title, "No model has been trained yet.")
    number = int(predictions.rounds[0])
    origin = (
        f"Labels known to round {number} against the prediction of the member that had not seen them (cross-validated)."
    )
    reading = f"{origin} Bars are 90 % intervals; a perfect prediction lies on the line."
    return Panel(
        key,
        title,
        reading,
        _parity(evidence, predictions, {"labels": (np.full(len(predictions), True), BLUE)}),
        "square",
    )


def parity_after(evidence: Evidence) -> Panel:
    """Show what was predicted when queued against the label that arrived."""
    key, title = "parity-after", "Parity after"
    predictions = evidence.prospective()
    if predictions is None:
        return Panel(key, title, "No label has come back for a prediction yet.")
    latest = predictions.rounds == predictions.rounds.max()
    groups: Groups = {f"round {predictions.rounds.max()}": (latest, ORANGE)}
    if not latest.all():
        groups = {"earlier rounds": (~latest, BLUE)} | groups
    inside = int((np.abs(predictions.z) <= _Z90).sum())
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
    figure = _figure()
    figure.add_scatter(x=[40, 100], y=[40, 100], mode="lines", line={"color": PALE}, hoverinfo="skip", showlegend=False)
    last = evidence.trained[-1]
    model = (last.metrics_before or {})["model"]
    observed = [model[f"coverage_{100 * level:.0f}"] for level in LEVELS]
    _coverage_line(figure, f"before (round {last.number}, cross-validated)", observed, model["rows"], BLUE, -0.25)
    predictions = evidence.prospective()
    if predictions is not None:
        arrived = coverage(predictions.z, LEVELS).tolist()
        _coverage_line(figure, "after (labels that arrived)", arrived, len(predictions), ORANGE, 0.25)
    figure.update_xaxes(title_text="interval that was promised, %", range=[44, 101], tickvals=[50, 80, 90, 95])
    figure.update_yaxes(title_text="labels found inside, %", range=[0, 103])
    reading = (
        "On the line, a 90 % interval holds 90 % of the labels; below it the model is too sure, above it too careful. "
        "Bars are one standard error of a share of so many labels."
    )
    return Panel(key, title, reading, figure, "square")


def coverage_by_round(evidence: Evidence) -> Panel:
    """Share of labels inside their 90 % interval, round by round."""
    key, title = "coverage", "90 % intervals by round"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    figure = _figure()
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
    _round_axis(figure, numbers)
    figure.update_yaxes(title_text="labels found inside, %", range=[0, 103])
    reading = (
        "Honest intervals hold 90 % of the labels; the grey band is 85 to 95 %. Bars are one standard error of a share "
        "of so many labels: few labels scatter widely. What was chosen for the queue is harder than what is held out."
    )
    return Panel(key, title, reading, figure)


def spread_by_round(evidence: Evidence) -> Panel:
    """Predicted spread and the error that came, round by round."""
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
    figure = _figure()
    for name, values, colour, dash in lines:
        if any(v is not None for v in values):
            figure.add_scatter(
                x=numbers,
                y=values,
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                hovertemplate=f"round %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
            )
    _round_axis(figure, numbers)
    figure.update_yaxes(title_text=f"root mean square{_in(_learned_unit(evidence))}", rangemode="tozero")
    reading = (
        "Dashed: the standard deviation that was predicted; solid: the error that came. Where both lie together the "
        "spread is honest; dashed below solid is too sure."
    )
    if any(parts):
        reading += " Dotted: the part of the spread on which members disagree, which more labels can remove."
    return Panel(key, title, reading, figure)


def error_by_spread(evidence: Evidence) -> Panel:
    """Whether rows that are said to be uncertain err more."""
    key, title = "error-by-spread", "Error against spread"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    figure = _figure()
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
    figure.update_xaxes(title_text=f"predicted spread{_in(_learned_unit(evidence))}", rangemode="tozero")
    figure.update_yaxes(title_text="root mean square error", rangemode="tozero")
    reading = (
        "Labels in order of their predicted spread, in groups. On the line, a group errs by as much as it was said to; "
        "a rising curve means that the spread tells sure from unsure, a level one that it does not. Bars are one "
        "standard error."
    )
    return Panel(key, title, reading, figure, "square")


def costs(evidence: Evidence) -> Panel:
    """Core-hours that each round took, beside those that were expected."""
    key, title = "cost", "Core-hours"
    if not evidence.costs:
        return Panel(key, title, "No result has said yet what it cost in core-hours.")
    numbers = [number for number, _, _ in evidence.costs]
    spent = [cost for _, cost, _ in evidence.costs]
    figure = _figure()
    figure.add_bar(
        x=numbers,
        y=spent,
        name="spent",
        marker_color=BLUE,
        width=0.6,
        hovertext=[f"round {n}: {hours(c)} core-hours" for n, c in zip(numbers, spent, strict=True)],
        hoverinfo="text",
    )
    expected = [(number, cost) for number, _, cost in evidence.costs if cost is not None]
    if expected:
        figure.add_scatter(
            x=[number for number, _ in expected],
            y=[cost for _, cost in expected],
            name="expected when queued",
            mode="markers",
            marker={"color": ORANGE, "size": 10, "symbol": "diamond"},
            hovertemplate="round %{x}: %{y:.3g} expected<extra></extra>",
        )
    _round_axis(figure, numbers)
    figure.update_yaxes(title_text="core-hours", rangemode="tozero")
    reading = f"What the finished and failed calculations of each round took, {hours(sum(spent))} in all."
    if expected:
        reading += " Diamonds: what was expected of the same entries when they were queued."
    return Panel(key, title, reading, figure)


def embedding(evidence: Evidence) -> Panel:
    """Pool, labels and queue on the first two principal components of the embeddings."""
    key, title = "map", "Where the queue lies"
    found = evidence.embedding_map()
    if found is None:
        return Panel(key, title, "No embeddings on disk yet: the first round makes them.", shape="map")
    figure = _figure()
    queued, labelled = evidence.on_the_map(), set(evidence.labels)
    ids = [k.material_id for k in found.keys]
    unit = evidence.section.unit
    rows = {
        "pool": [i for i, id_ in enumerate(ids) if id_ not in queued and id_ not in labelled],
        "labelled": [i for i, id_ in enumerate(ids) if id_ in labelled and id_ not in queued],
        "queued": [i for i, id_ in enumerate(ids) if id_ in queued],
    }
    styles: dict[str, dict[str, Any]] = {
        "pool": _coloured(evidence, found, rows["pool"]),
        "labelled": {"size": 7, "color": "rgba(0,0,0,0)", "line": {"width": 1.3, "color": INK}},
        "queued": {"size": 9, "symbol": "diamond", "color": ORANGE, "line": {"width": 1, "color": "#ffffff"}},
    }
    names = {"pool": "pool", "labelled": "labelled", "queued": _queued_name(evidence)}
    for group, chosen in rows.items():
        if chosen:
            figure.add_scattergl(
                x=np.round(found.position[chosen, 0], 3),
                y=np.round(found.position[chosen, 1], 3),
                name=names[group],
                mode="markers",
                marker=styles[group],
                hovertext=[_map_hover(ids[i], evidence, found, unit) for i in chosen],
                hoverinfo="text",
            )
    one, two = (percent(float(share)) for share in found.explained)
    figure.update_xaxes(title_text=f"first component ({one} of the variance)", zeroline=False, showticklabels=False)
    figure.update_yaxes(title_text=f"second component ({two})", zeroline=False, showticklabels=False)
    drawn = (
        f"all {found.pool_size:,} materials"
        if found.sampled >= found.pool_size
        else f"{found.sampled:,} of {found.pool_size:,} materials, drawn at random, and all labelled and queued ones"
    )
    coloured = "; the colour of the pool is the predicted value" if found.predicted else ""
    search = (
        " Diamonds far from all circles explore, diamonds among them exploit."
        if rows["labelled"] and rows["queued"]
        else ""
    )
    reading = (
        "Materials that the backbone finds alike lie close together (principal components of the standardised "
        f"embeddings; {drawn}){coloured}.{search}"
    )
    return Panel(key, title, reading, figure, "map")


def elements(evidence: Evidence) -> list[Panel]:
    """Periodic tables: share of crystals that hold each element, in the pool and in the queue."""
    pool, queue = evidence.prevalence()
    if not pool:
        return [Panel("elements-pool", "Elements in the pool", "The pool is empty.")]
    top = max([*pool.values(), *queue.values()])
    panels = [
        Panel(
            "elements-pool",
            "Elements in the pool",
            f"The darker an element, the more of the {count(len(evidence.index), 'material')} hold it; palest: none.",
            _periodic_table(pool, {}, top),
            "table",
        )
    ]
    if queue:
        reading = (
            "The same for all that the campaign has asked for, on the same colours: darker than in the pool means that "
            "the campaign favours the element."
        )
        figure = _periodic_table(queue, pool, top)
        panels.append(Panel("elements-queue", "Elements in the queue", reading, figure, "table"))
    else:
        panels.append(Panel("elements-queue", "Elements in the queue", "Nothing has been queued yet."))
    return panels


def _figure() -> go.Figure:
    axis = {
        "gridcolor": "#edf0f3",
        "linecolor": PALE,
        "zerolinecolor": PALE,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": PALE,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
        "tickfont": {"size": 12},
        "tickangle": 0,
    }
    layout = go.Layout(
        template=go.layout.Template(),
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=[BLUE, ORANGE, GREY],
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": PALE, "font": {"color": INK}},
        hovermode="closest",
        dragmode=False,
        modebar={"bgcolor": "#ffffff", "color": GREY, "activecolor": INK},
        xaxis=axis,
        yaxis=axis,
    )
    return go.Figure(layout=layout)


def _parity(evidence: Evidence, p: Predictions, groups: Groups) -> go.Figure:
    """Labels across, predictions up with 90 % error bars."""
    true = evidence.scale.true
    x, y = true(p.values), true(p.mean)
    lower, upper = true(p.mean - _Z90 * p.std), true(p.mean + _Z90 * p.std)
    unit = evidence.section.unit
    figure = _figure()
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
                "color": _faint(colour),
            },
            hovertext=[
                f"{p.formulas[i]} ({p.ids[i]})<br>predicted {interval(y[i], lower[i], upper[i])} {unit}<br>"
                f"label {significant(x[i], unit)}"
                for i in rows
            ],
            hoverinfo="text",
        )
    _value_axis(figure.update_xaxes, evidence, ends, f"label{_in(unit)}")
    _value_axis(figure.update_yaxes, evidence, ends, f"predicted{_in(unit)}")
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
            f"{level:.0%} promised, {found:.0%} of {count(rows, 'label')} found"
            for level, found in zip(LEVELS, observed, strict=True)
        ],
        hoverinfo="text",
    )


def _share_error(share: NDArray[np.float64], rows: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the standard error of an observed share of so many labels; one more of each kind keeps it above zero."""
    likely = (share * rows + 1) / (np.asarray(rows) + 2)
    return np.sqrt(likely * (1 - likely) / rows)


def _coloured(evidence: Evidence, found: EmbeddingMap, rows: Sequence[int]) -> dict[str, Any]:
    """Markers of the pool: coloured by prediction where there is one."""
    marker: dict[str, Any] = {"size": 5, "color": GREY, "opacity": 0.8}
    means = [found.predicted.get(found.keys[i].material_id, (None,))[0] for i in rows]
    if not means or any(mean is None for mean in means):
        return marker
    learned = evidence.scale.learned(np.array(means, dtype=np.float64))
    low, high = (float(q) for q in np.quantile(learned, [0.02, 0.98]))
    ticks = _ticks(float(evidence.scale.true(low)), float(evidence.scale.true(high)), evidence.scale.name)
    unit = evidence.section.unit
    colorbar = {
        "title": {"text": f"predicted{_in(unit)}", "side": "top", "font": {"size": 12}},
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": -0.13,
        "yanchor": "top",
        "len": 0.6,
        "thickness": 9,
        "outlinewidth": 0,
        "tickvals": evidence.scale.learned(ticks).tolist() if ticks else None,
        "ticktext": [significant(t) for t in ticks],
    }
    return marker | {
        "color": np.round(learned, 3),
        "colorscale": list(WANTED_FIRST if evidence.section.goal == "min" else WANTED_FIRST[::-1]),
        "cmin": low,
        "cmax": max(high, low + 1e-9),
        "colorbar": colorbar,
    }


def _map_hover(id_: str, evidence: Evidence, found: EmbeddingMap, unit: str) -> str:
    lines = [_named(id_, evidence)]
    if id_ in found.predicted:
        lines.append(f"predicted {interval(*found.predicted[id_])} {unit}")
    if id_ in evidence.labels:
        lines.append(f"label {significant(evidence.labels[id_].value, unit)}")
    return "<br>".join(lines)


def _queued_name(evidence: Evidence) -> str:
    earlier = any(e.round != evidence.last_queued and not e.state.is_finished for e, _ in evidence.queue)
    return f"queue of round {evidence.last_queued}" + (" and awaited" if earlier else "")


def _periodic_table(shares: dict[str, float], reference: dict[str, float], top: float) -> go.Figure:
    """Share of crystals by element in percent; ``reference`` is told beside it on hovering."""
    from pymatgen.core import Element

    z = np.full((9, 18), np.nan)
    symbols = np.full((9, 18), "", dtype=object)
    hover = np.full((9, 18), "", dtype=object)
    for element in (Element.from_Z(number) for number in range(1, 104)):
        row, column = _place(element)
        share = shares.get(element.symbol, 0.0)
        z[row, column] = 100 * share
        symbols[row, column] = element.symbol
        hover[row, column] = f"{element.long_name}: {_share(share)}"
        if reference:
            known = reference.get(element.symbol, 0.0)
            ratio = f", {share / known:.2g} times as common" if known and share else ""
            hover[row, column] += f" of the queue, {_share(known)} of the pool{ratio}"
        else:
            hover[row, column] += " of the pool"
    figure = _figure()
    figure.add_heatmap(
        z=z[::-1],
        text=symbols[::-1],
        texttemplate="%{text}",
        customdata=hover[::-1],
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=1.5,
        ygap=1.5,
        zmin=0,
        zmax=100 * top,
        colorscale=SCALE,
        colorbar={
            "title": {"text": "% of crystals", "side": "top", "font": {"size": 11}},
            "orientation": "h",
            "x": 0.42,
            "y": 0.86,
            "yanchor": "middle",
            "len": 0.42,
            "thickness": 7,
            "outlinewidth": 0,
            "nticks": 5,
            "tickfont": {"size": 10},
        },
    )
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(visible=False, fixedrange=True)
    figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0})
    return figure


def _place(element: Any) -> tuple[int, int]:
    """Row and column of an element, from 0; lanthanides and actinides in two rows of their own at the foot."""
    for first, last, row in ((57, 71, 7), (89, 103, 8)):
        if first <= element.Z <= last:
            return row, 2 + element.Z - first
    return element.row - 1, element.group - 1


def _share(share: float) -> str:
    return f"{significant(100 * share)} %"


def _named(id_: str, evidence: Evidence) -> str:
    return f"{evidence.formulas[id_]} ({id_})"


def _in(unit: str) -> str:
    return f" in {unit}" if unit else ""


def _learned_unit(evidence: Evidence) -> str:
    return "log10" if evidence.scale.name == "log10" else evidence.section.unit


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.35)"


def _level(figure: go.Figure, value: float, text: str, scale: Scale = LINEAR) -> None:
    """Draw a dashed horizontal line with a word above its right end."""
    figure.add_hline(value, line={"color": GREY, "width": 1, "dash": "dash"})
    figure.add_annotation(
        text=text,
        x=1,
        xref="x domain",
        xanchor="right",
        y=float(scale.learned(value)),  # Plotly wants the logarithm for an annotation, the value for a line
        yanchor="bottom",
        showarrow=False,
        font={"size": 11, "color": GREY},
        bgcolor="rgba(255,255,255,0.8)",
    )


def _round_axis(figure: go.Figure, numbers: Sequence[int]) -> None:
    step = max(1, math.ceil(len(numbers) / 12))
    figure.update_xaxes(
        title_text="round", tickvals=list(numbers)[::step], range=[min(numbers) - 0.6, max(numbers) + 0.6]
    )


def _value_axis(update: Any, evidence: Evidence, values: Iterable[float], title: str) -> None:
    """Make an axis of the property: logarithmic where it is learned so."""
    if evidence.scale.name != "log10":
        update(title_text=title)
        return
    values = list(values)
    low, high = min(values), max(values)
    ticks = _ticks(low, high, "log10")
    pad = 0.05 * max(math.log10(high / low), 0.2)
    update(
        title_text=title,
        type="log",
        range=[math.log10(low) - pad, math.log10(high) + pad],
        tickvals=ticks,
        ticktext=[significant(t) for t in ticks],
    )


def _ticks(low: float, high: float, scale: str) -> list[float]:
    """Round values between ``low`` and ``high``; on a logarithmic axis the longer, the fewer in a decade."""
    if scale != "log10":
        step = 10 ** math.floor(math.log10(max(high - low, 1e-12)))
        step *= 0.5 if (high - low) / step < 3 else 1
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1e2 else (1, 3) if high / low < 1e3 else (1,)
    return [f * 10.0**k for k in decades for f in factors if low * 0.8 <= f * 10.0**k <= high * 1.25]
