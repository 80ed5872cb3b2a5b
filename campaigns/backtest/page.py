"""A backtest as a page: curves with confidence bands and a table, in one HTML file that opens offline."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from campaigns.backtest.curves import FEWEST_SEEDS, LEVEL, bands, pool_size, readable, summarise
from campaigns.backtest.peers import PEERS
from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.property_names import Property
from campaigns.report.figures.drawing import GREY, Panel, faint, new_figure
from campaigns.report.html import drawn, render
from campaigns.report.numbers import count, percent, unbroken
from db.records import Json
from engine.metrics.discovery import top_words

if TYPE_CHECKING:
    from campaigns.backtest.protocol import Protocol
    from campaigns.backtest.replay import BacktestRun

TEMPLATE = "backtest.html.j2"
OURS = ("#2b6a99", "#c8641b", "#3f8f5f", "#8a4f9e", "#b8860b", "#174a73")
THEIRS = ("#7b8794", "#b07c5c", "#6f9a86", "#a88fb3", "#c2ab72", "#5d7285", "#9a6a6a", "#4f6f6a")
"""Colours of peers, whose lines are dashed."""


def write_page(protocol: Protocol, runs: Sequence[BacktestRun], out: Path) -> Path:
    """Write one self-contained HTML page to ``out``, completely or not at all."""
    extreme = "lowest" if protocol.goal == "min" else "highest"
    page = render(
        TEMPLATE,
        title=f"Finding the {extreme} {protocol.property}",
        subtitle=_subtitle(protocol, runs),
        seen=any(run.seen for run in runs),
        logarithmic=protocol.scale == "log10",
        rows=readable(summarise(runs)),
        panels=[drawn(panel) for panel in _panels(protocol, runs)],
    )
    return write_whole(out, page)


def check_place(out: Path) -> None:
    """Check before the runs that the page can be written."""
    if out.is_dir():
        raise CampaignError(f"--report {out} is a folder; name the HTML file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


def _subtitle(protocol: Protocol, runs: Sequence[BacktestRun]) -> str:
    begin = "chosen by each strategy itself (peers: at random)" if protocol.cold_start else "at random"
    if protocol.initial_ids is not None:
        begin = "given"
    if protocol.split is not None:
        begin += f" on the training side of a split by {protocol.split.kind.replace('_', ' ')}, candidates on the other"
    lower = "".join(f", also of {level.name}" for level in protocol.levels)
    batch = f"the core-hours of {protocol.batch} labels{lower}" if lower else protocol.batch
    return unbroken(
        f"{count(pool_size(runs[0]), 'labelled material')}; {count(protocol.initial, 'label')} {begin}, then "
        f"{count(protocol.rounds, 'round')} of {batch}; {count(len(protocol.seeds), 'seed')}; "
        f"starting from {protocol.start_name}"
    )


def _panels(protocol: Protocol, runs: Sequence[BacktestRun]) -> list[Panel]:
    found = bands(runs)
    sure = "Lines are means over seeds."
    if len(protocol.seeds) >= FEWEST_SEEDS:
        sure = f"Lines are means over seeds, bands their {percent(LEVEL)} confidence intervals."
    unit = "decades" if protocol.scale == "log10" else Property(protocol.property).unit or "the property's unit"
    random = " The dotted line is the expectation of random choice."
    best = {share: top_words(pool_size(runs[0]), share) for share in (1, 5)}
    curves = [
        ("recall-top5", "recall_top5", f"Recall of the {best[5]}", f"found of the {best[5]}", f"{sure}{random}"),
        ("recall-top1", "recall_top1", f"Recall of the {best[1]}", f"found of the {best[1]}", f"{sure}{random}"),
        ("regret", "regret", "Simple regret", f"regret, {unit}", f"How far the best found is from the best. {sure}"),
        ("enhancement", "enhancement_top5", f"Enhancement, {best[5]}", "times random", f"{sure}{random}"),
    ]
    panels = [
        Panel(key, title, reading, _curves(found, "labels", "labels acquired", name, words))
        for key, name, title, words, reading in curves
        if not protocol.levels  # labels of several fidelities are compared by cost alone
    ]
    if "cost" in found[0]:
        by_cost = f"The same against what the labels cost. {sure}"
        spent = "core-hours" if protocol.levels else protocol.cost or "cost"
        panels += [
            Panel(f"cost-{n}", f"Recall of the {best[n]}, by cost", by_cost,
                  _curves(found, "cost", spent, f"recall_top{n}", f"found of the {best[n]}"))
            for n in (5, 1)
        ]  # fmt: skip
    return panels


def _curves(found: Sequence[Json], across: str, across_words: str, name: str, words: str) -> go.Figure:
    figure = new_figure()
    figure.update_layout(hovermode="x unified")
    colours = _colours([record["strategy"] for record in found])
    for record in found:
        strategy, curve = record["strategy"], record[name]
        x = record["labels"] if across == "labels" else record[across]["mean"]
        colour = colours[strategy]
        if curve["lower"] is not None:
            figure.add_scatter(
                x=[*x, *x[::-1]],
                y=[*_clipped(curve["upper"], name), *_clipped(curve["lower"], name)[::-1]],
                mode="lines",
                fill="toself",
                fillcolor=faint(colour, 0.07 if strategy in PEERS else 0.18),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=strategy,
            )
        figure.add_scatter(
            x=x,
            y=curve["mean"],
            name=strategy,
            legendgroup=strategy,
            mode="lines+markers",
            line={"color": colour, "dash": "dash" if strategy in PEERS else "solid"},
            marker={"size": 5},
            customdata=curve["std"],
            hovertemplate=f"{strategy}: %{{y:.3f}} ± %{{customdata:.3f}}<extra></extra>",
        )
    _random_line(figure, found, across, name)
    figure.update_xaxes(title_text=across_words)
    top = {"range": [0, 1.03]} if name.startswith("recall") else {"rangemode": "tozero"}
    figure.update_yaxes(title_text=words, **top)
    return figure


def _random_line(figure: go.Figure, found: Sequence[Json], across: str, name: str) -> None:
    """Draw the expectation of random choice: for recall the share of the pool acquired, for enhancement 1."""
    if across != "labels" or not name.startswith(("recall", "enhancement")):
        return
    labels = found[0]["labels"]
    figure.add_scatter(
        x=labels,
        y=found[0]["pool_share"] if name.startswith("recall") else [1.0] * len(labels),
        name="expected of random",
        mode="lines",
        line={"color": GREY, "dash": "dot", "width": 1.5},
        hoverinfo="skip",
    )


def _clipped(values: Sequence[float], name: str) -> list[float]:
    """Recall lies between 0 and 1; nothing else here is below 0."""
    high = 1.0 if name.startswith("recall") else float("inf")
    return [min(max(v, 0.0), high) for v in values]


def _colours(strategies: Sequence[str]) -> dict[str, str]:
    ours = [s for s in strategies if s not in PEERS]
    theirs = [s for s in strategies if s in PEERS]
    return {s: group[i % len(group)] for names, group in ((ours, OURS), (theirs, THEIRS)) for i, s in enumerate(names)}
