"""A panel of the report, and what its figures share: colours, axes, texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from campaigns.goals import Scale
from campaigns.report.evidence import Evidence
from campaigns.report.numbers import significant

INK, GREY, PALE, BLUE, ORANGE = "#1f2933", "#8a94a0", "#d5dbe1", "#2b6a99", "#c8641b"
LINEAR = Scale("linear")


@dataclass(frozen=True)
class Panel:
    """A figure with its title and a sentence on how to read it."""

    key: str
    """Id of its element in the page."""
    title: str
    reading: str
    """How to read it; where there is no figure, why."""
    figure: go.Figure | None = None
    shape: str = "wide"
    """``wide``, ``square`` or ``table``: its proportions."""


def new_figure() -> go.Figure:
    """An empty figure in the report's style."""
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


def level_line(figure: go.Figure, value: float, text: str, scale: Scale = LINEAR) -> None:
    """Draw a dashed horizontal line with a text above its right end."""
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


def round_axis(figure: go.Figure, numbers: Sequence[int]) -> None:
    """Put rounds on the horizontal axis, a dozen of them at most."""
    step = max(1, math.ceil(len(numbers) / 12))
    figure.update_xaxes(
        title_text="round", tickvals=list(numbers)[::step], range=[min(numbers) - 0.6, max(numbers) + 0.6]
    )


def value_axis(update: Any, evidence: Evidence, values: Iterable[float], title: str) -> None:
    """Make an axis of the property: logarithmic where it is learned so."""
    if evidence.scale.name != "log10":
        update(title_text=title)
        return
    values = list(values)
    low, high = min(values), max(values)
    ticks = axis_ticks(low, high, "log10")
    pad = 0.05 * max(math.log10(high / low), 0.2)
    update(
        title_text=title,
        type="log",
        range=[math.log10(low) - pad, math.log10(high) + pad],
        tickvals=ticks,
        ticktext=[significant(t) for t in ticks],
    )


def axis_ticks(low: float, high: float, scale: str) -> list[float]:
    """Round values between ``low`` and ``high``; on a logarithmic axis fewer per decade the longer it is."""
    if scale != "log10":
        step = 10 ** math.floor(math.log10(max(high - low, 1e-12)))
        step *= 0.5 if (high - low) / step < 3 else 1
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1e2 else (1, 3) if high / low < 1e3 else (1,)
    return [f * 10.0**k for k in decades for f in factors if low * 0.8 <= f * 10.0**k <= high * 1.25]


def named(id_: str, evidence: Evidence) -> str:
    """Write formula and id of a material."""
    return f"{evidence.formulas[id_]} ({id_})"


def lines_by_round(
    figure: go.Figure, numbers: Sequence[int], lines: Iterable[tuple[str, Sequence[float | None], str, str]]
) -> None:
    """Draw lines over the rounds, each a name, its values, a colour and a dash; one without values is left out."""
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
    round_axis(figure, numbers)


def faint(colour: str, opacity: float = 0.35) -> str:
    """Make a colour of six hexadecimal digits translucent."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
