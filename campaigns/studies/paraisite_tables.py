"""Tables of the study ``paraisite``: its methods, its figures beside the published ones, and why these differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from campaigns.studies.results import markdown, mean_std

METHODS = {
    "constant": "best constant for log10 kappa (median)",
    "random forest": "300 trees on crystal statistics (AFLOW: 100)",
    "extra-trees": "300 trees on crystal statistics (AFLOW: 100)",
    "extra-trees, transfer": "the same, with the shipped backbone's embedding and, but for AFLOW, the AGL prediction",
    "AGL line": "straight line through the AGL prediction of the network of step III, no other feature",
    "I": "from scratch",
    "II": "formation energy -> set",
    "III": "formation energy -> AGL -> set; no AGL label of a compound of L96 or HH143",
    "III, mean of three": "mean of log10 kappa of III trained three times, with other seeds and inner splits",
    "III with overlap": "III, AGL labels of the same compounds included",
    "III without formation energy": "scratch -> AGL -> set; no AGL label of a compound of L96 or HH143",
    "process": "Gaussian process on statistics or shipped embedding, AGL prediction as column or mean (chosen by "
    "leave-one-out error on training rows); AFLOW: on the embedding",
    "ours": "the product's ensemble on both shipped backbones, over all AGL labels but those of compounds of L96 or "
    "HH143 as the cheaper fidelity; AFLOW: the same ensemble by itself, no network trained",
    "mean of ours, process and III": "mean of log10 kappa of these, III the mean of three; AFLOW: II for III",
    "ours with overlap": "ours, AGL labels of the same compounds included",
}
PUBLISHED = {
    "I": {"L96": ".82 (.21); 2026: .55", "HH143": ".42 (.07)", "MIX": ".83 (.07)", "AFLOW": ".62 (.33)"},
    "II": {"L96": ".76 (.29); 2026: .53", "HH143": ".42 (.06)", "MIX": ".81 (.11)", "AFLOW": ".50 (.03)"},
    "III": {"L96": ".34 (.15); 2026: .28", "HH143": ".78 (.20)", "MIX": ".69 (.19)"},
    "III without formation energy": {"L96": "2026: .43"},
}


def tables(rows: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> str:
    """Tables of all figures in Markdown, with the published ones, why these differ, and the methods."""
    sections = ["Mean (standard deviation) over splits; a figure in bold is the best of its column.\n"]
    figures = {
        "mape": "MAPE in true units (W/(m K))",
        "mae": "MAE in log10 kappa",
        "r2": "R2 in log10 kappa",
        "spearman": "Spearman",
        "recall_lowest": "Recall of the lowest 10 % of test rows",
    }
    for figure, title in figures.items():
        low = figure in ("mape", "mae")
        table = {m: {s: _values(rows, m, s, figure) for s in sets} for m in METHODS}
        best = {s: _best({m: table[m][s] for m in METHODS}, low) for s in sets}
        body = []
        for method in METHODS:
            cells = [mean_std(table[method][s]) for s in sets]
            cells = [f"**{c}**" if best[s] == method else c for s, c in zip(sets, cells, strict=True)]
            if figure == "mape":
                cells += [PUBLISHED.get(method, {}).get(s, "-") for s in sets]
            body.append([method, *cells])
        head = ["method", *sets, *([f"published, {s}" for s in sets] if figure == "mape" else [])]
        sections.append(f"## {title}\n\n{markdown(body, head)}")
    return "\n".join([*sections, _WHY, "## Methods\n", *(f"- {m}: {words}" for m, words in METHODS.items())])


def _values(rows: Sequence[Mapping[str, Any]], method: str, set_: str, figure: str) -> list[float | None]:
    return [row[figure] for row in rows if row["method"] == method and row["set"] == set_]


def _best(table: Mapping[str, Sequence[float | None]], low: bool) -> str:
    means = {
        m: np.mean([v for v in values if v is not None])
        for m, values in table.items()
        if any(v is not None for v in values)
    }
    return min(means, key=lambda m: means[m] if low else -means[m]) if means else ""


_WHY = """## Why the published figures differ

- In the released code the weights of step II were never loaded (key prefix, `strict=False`), so that it repeats step I.
- Published figures of step III, MIX and across sets are not in W/(m K): labels are scaled with one set's mean and
  deviation and unscaled with another's; in true units .28 and .34 are about .45 and .62.
- There validation, choice of checkpoint and test are the same 20 %, and the scaler has seen all rows; here an inner
  split of the 80 % chooses, and the test rows are used once.
- The best constant for the relative error has MAPE .81 on L96, .44 on HH143 and .82 on AFLOW in all rows; several
  published cells are no better. The constant here is the best one for log10 kappa.
- AFLOW here is 3,406 crystals (5,578 there); L96 has 95 rows.
"""
