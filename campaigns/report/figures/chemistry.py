"""Map of the queue in the space of embeddings, and its elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from campaigns.report.evidence import EmbeddingMap, Evidence
from campaigns.report.figures.drawing import GREY, INK, ORANGE, Panel, axis_ticks, named, new_figure
from campaigns.report.numbers import count, in_unit, interval, percent, significant
from db.records import Json

SCALE = ((0.0, "#f4f6f8"), (0.25, "#c9dceb"), (0.5, "#8fb8d6"), (0.75, "#4a86b3"), (1.0, "#174a73"))
WANTED_FIRST = ("#174a73", "#6fa3c8", "#bcc8d0", "#dcc596")
"""Colours of predicted values from wanted to unwanted."""


def embedding(evidence: Evidence) -> Panel:
    """Pool, labels and queue on the first two principal components of the embeddings."""
    key, title = "map", "Where the queue lies"
    found = evidence.embedding_map()
    if found is None:
        return Panel(key, title, "No embeddings on disk yet: the first round makes them.", shape="map")
    figure = new_figure()
    queued, labelled = evidence.on_the_map(), set(evidence.labels)
    ids = [k.material_id for k in found.keys]
    unit = evidence.section.unit
    rows = {
        "pool": [i for i, id_ in enumerate(ids) if id_ not in queued and id_ not in labelled],
        "labelled": [i for i, id_ in enumerate(ids) if id_ in labelled and id_ not in queued],
        "queued": [i for i, id_ in enumerate(ids) if id_ in queued],
    }
    styles: dict[str, Json] = {
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
        "Materials with similar embeddings lie close together (principal components of the standardised "
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
            "The same for all that the campaign has queried, on the same colours: darker than in the pool means that "
            "the campaign favours the element."
        )
        figure = _periodic_table(queue, pool, top)
        panels.append(Panel("elements-queue", "Elements in the queue", reading, figure, "table"))
    else:
        panels.append(Panel("elements-queue", "Elements in the queue", "Nothing has been queued yet."))
    return panels


def _coloured(evidence: Evidence, found: EmbeddingMap, rows: Sequence[int]) -> Json:
    """Markers of the pool: coloured by prediction where there is one."""
    marker: Json = {"size": 5, "color": GREY, "opacity": 0.8}
    means = [found.predicted.get(found.keys[i].material_id, (None,))[0] for i in rows]
    if not means or any(mean is None for mean in means):
        return marker
    learned = evidence.scale.learned(np.array(means, dtype=np.float64))
    low, high = (float(q) for q in np.quantile(learned, [0.02, 0.98]))
    ticks = axis_ticks(float(evidence.scale.true(low)), float(evidence.scale.true(high)), evidence.scale.name)
    unit = evidence.section.unit
    colorbar = {
        "title": {"text": f"predicted{in_unit(unit)}", "side": "top", "font": {"size": 12}},
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
    lines = [named(id_, evidence)]
    if id_ in found.predicted:
        lines.append(f"predicted {interval(*found.predicted[id_])} {unit}")
    if id_ in evidence.labels:
        lines.append(f"label {significant(evidence.labels[id_].value, unit)}")
    return "<br>".join(lines)


def _queued_name(evidence: Evidence) -> str:
    earlier = any(e.round != evidence.last_queued and not e.state.is_finished for e, _ in evidence.queue)
    return f"queue of round {evidence.last_queued}" + (" and awaited" if earlier else "")


def _periodic_table(shares: dict[str, float], reference: dict[str, float], top: float) -> go.Figure:
    """Share of crystals by element in percent; ``reference`` is shown on hovering."""
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
    figure = new_figure()
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
    """Row and column of an element, from 0; lanthanides and actinides in two separate rows at the bottom."""
    for first, last, row in ((57, 71, 7), (89, 103, 8)):
        if first <= element.Z <= last:
            return row, 2 + element.Z - first
    return element.row - 1, element.group - 1


def _share(share: float) -> str:
    return f"{significant(100 * share)} %"
