"""Best value, enhancement, errors and cost by round."""

from __future__ import annotations

import numpy as np

from campaigns.report.evidence import EXTREME, Evidence
from campaigns.report.figures.drawing import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    Panel,
    level_line,
    lines_by_round,
    named,
    new_figure,
    round_axis,
    value_axis,
)
from campaigns.report.numbers import count, hours, in_unit, significant


def best_so_far(evidence: Evidence) -> Panel:
    """Every label in order of arrival, and the best of those before it."""
    key, title = "best", "Best so far"
    labels = list(evidence.labels.values())
    if not labels:
        return Panel(key, title, "No labels yet: the curve starts with the first one.")
    goal, unit = evidence.section.goal, evidence.section.unit
    values = np.array([label.value for label in labels])
    rounds = np.array([evidence.queried_in.get(label.material_id, 0) for label in labels])
    hover = [
        f"{named(label.material_id, evidence)}<br>{significant(label.value, unit)}<br>"
        + (f"queried in round {number}" if number else "not queried")
        for label, number in zip(labels, rounds, strict=True)
    ]
    figure = new_figure()
    order = np.arange(1, len(labels) + 1)
    for name, chosen, colour in (("not queried", rounds == 0, GREY), ("queried", rounds > 0, BLUE)):
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
        level_line(figure, evidence.hit, f"hit {side}{significant(evidence.hit)}", evidence.scale)
        seen.append(evidence.hit)
    for number in np.unique(rounds[rounds > 0])[:20]:
        start = float(order[rounds == number][0]) - 0.5
        figure.add_vline(start, line={"color": PALE, "width": 1})
    figure.update_xaxes(title_text="labels, in order of arrival")
    value_axis(figure.update_yaxes, evidence, seen, f"{evidence.section.property}{in_unit(unit)}")
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
        return Panel(key, title, "No round has been evaluated on its hits yet.")
    after = [r.metrics_after or {} for r in judged]
    values = [float(m["enhancement"]) for m in after]
    figure = new_figure()
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
    level_line(figure, 1.0, "random")
    round_axis(figure, [r.number for r in judged])
    first, last = judged[0].number, judged[-1].number
    figure.update_xaxes(range=[first - 0.6, last + 0.7 + 0.15 * (last - first)])  # the label is beside the bars
    figure.update_yaxes(title_text="hits, times random", range=[0, 1.18 * max(1.0, *values)])
    hit = significant(evidence.hit, evidence.section.unit)
    side = {"min": "or less", "max": "or more"}.get(evidence.section.goal, "or nearer")
    rate = (
        "the share of hits among all answers of the replayed data"
        if evidence.campaign.configuration.labeler.kind == "replay"
        else "the share of hits that the round's model expected in the pool"
    )
    reading = (
        f"A bar above 1 means the round found more hits ({hit} {side}) than as many labels chosen at random; the words "
        f"on it say how many of its labels were hits. The hit rate of random choice is {rate}."
    )
    return Panel(key, title, reading, figure)


def errors(evidence: Evidence) -> Panel:
    """Error before (cross-validated) and after (prospective) by round, beside the baselines."""
    key, title = "errors", "Error before and after"
    if not evidence.trained:
        return Panel(key, title, "No model has been trained yet.")
    figure = new_figure()
    numbers = [r.number for r in evidence.trained]
    before = [r.metrics_before or {} for r in evidence.trained]
    after = [r.metrics_after or {} for r in evidence.trained]
    lines = (
        ("ensemble, cross-validated", [m["model"]["mae"] for m in before], BLUE, "solid"),
        ("extra-trees", [m.get("extra_trees", {}).get("mae") for m in before], GREY, "dash"),
        ("constant", [m.get("constant", {}).get("mae") for m in before], GREY, "dot"),
        ("ensemble, labels that arrived", [m.get("mae") for m in after], ORANGE, "solid"),
    )
    lines_by_round(figure, numbers, lines)
    figure.update_yaxes(title_text=f"mean absolute error{in_unit(evidence.learned_unit)}", rangemode="tozero")
    reading = (
        "Lower is better. Blue: the ensemble on labels its members were not trained on; grey: two baselines, same "
        "folds; orange: what was predicted for the queue against the labels that came back, a harder and narrower test."
    )
    return Panel(key, title, reading, figure)


def costs(evidence: Evidence) -> Panel:
    """Core-hours of each round, spent and expected."""
    key, title = "cost", "Core-hours"
    if not evidence.costs:
        return Panel(key, title, "No result with a cost in core-hours yet.")
    numbers = [number for number, _, _ in evidence.costs]
    spent = [cost for _, cost, _ in evidence.costs]
    figure = new_figure()
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
    round_axis(figure, numbers)
    figure.update_yaxes(title_text="core-hours", rangemode="tozero")
    reading = f"What the finished and failed calculations of each round took, {hours(sum(spent))} in all."
    if expected:
        reading += " Diamonds: what was expected of the same entries when they were queued."
    return Panel(key, title, reading, figure)
