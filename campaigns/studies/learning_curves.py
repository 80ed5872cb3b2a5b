"""Learning curves over the labels of two fidelities: slopes, what a label is worth, and bootstrap intervals.

After Hoffmann, Schmidt, Botti and Marques, Digital Discovery (2023), arXiv 2303.03000: the error is a straight line in
the number of labels of either fidelity on log-log axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from campaigns.studies.results import Figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESAMPLES = 1000
_AXES: tuple[Literal["n"], Literal["m"]] = ("n", "m")
_WITHOUT_AGL = {"joint gp": "gp"}
"""What a method is without labels of the low fidelity, where it has another name."""


class CurveRow(Figures):
    """Figures of one cell: ``n`` target labels, ``m`` labels of the low fidelity (AGL)."""

    method: str
    draw: int
    n: int
    m: int


class PowerLaw(TypedDict):
    """Straight line on log-log axes."""

    slope: float
    interval: list[float]
    """Of the slope: 5th and 95th percentile over draws."""
    at_1: float
    """Error at one label."""


class Sizes(TypedDict):
    """Numbers of target and of AGL labels."""

    n: int
    m: int


class Surface(TypedDict):
    """Plane ``log e = a - b log n - c log m``, with intervals over draws."""

    b: float
    b_interval: list[float]
    c: float
    c_interval: list[float]
    at: Sizes
    agl_labels_for_one_target_label: float | None
    """Of the next label at ``at``; None if AGL labels bring nothing."""
    interval: list[float | None]


class Exchange(TypedDict):
    """Target labels that ``m`` AGL labels save beside ``n`` target labels."""

    n: int
    m: int
    labels_saved: float
    interval: list[float]
    agl_labels_for_one: float | None
    agl_interval: list[float | None]


def power_law(rows: Sequence[CurveRow], axis: Literal["n", "m"]) -> PowerLaw:
    """Slope of log10 MAE against log10 of the number of labels, with a 90 % bootstrap interval over draws.

    ``rows`` are of one method and of one number of labels of the other fidelity; those without labels are left out.
    """
    chosen = [r for r in rows if r[axis]]

    def fit(part: Sequence[CurveRow]) -> NDArray[np.float64]:
        x, y = np.log10([r[axis] for r in part]), np.log10([r["mae"] for r in part])
        return np.asarray(np.polynomial.polynomial.polyfit(x, y, 1), np.float64)

    intercept, slope = fit(chosen)
    return {"slope": float(slope), "interval": _bootstrap(chosen, lambda p: fit(p)[1]), "at_1": float(10**intercept)}


def surface(rows: Sequence[CurveRow], method: str) -> Surface:
    """Fit ``log e = a - b log n - c log m`` over all m > 0; b, c and what a target label is worth, with intervals."""
    chosen = [r for r in rows if r["method"] == method and r["m"]]

    def fit(part: Sequence[CurveRow]) -> NDArray[np.float64]:
        x = np.column_stack([np.ones(len(part)), *(np.log10([r[k] for r in part]) for k in _AXES)])
        return np.linalg.lstsq(x, np.log10([r["mae"] for r in part]), rcond=None)[0]

    n, m = 50, max(r["m"] for r in rows)
    _, b, c = -fit(chosen)

    def worth(part: Sequence[CurveRow]) -> float:
        _, b, c = -fit(part)
        return float((b / n) / (c / m)) if c > 0 else np.inf

    return {
        "b": float(b),
        "b_interval": _bootstrap(chosen, lambda p: -fit(p)[1]),
        "c": float(c),
        "c_interval": _bootstrap(chosen, lambda p: -fit(p)[2]),
        "at": {"n": n, "m": m},
        "agl_labels_for_one_target_label": _finite(worth(chosen)),
        "interval": [_finite(v) for v in _bootstrap(chosen, worth)],
    }


def exchange(rows: Sequence[CurveRow], method: str) -> list[Exchange]:
    """For each n and m: target labels without AGL that reach the same error, and AGL labels per label so saved."""
    without = _WITHOUT_AGL.get(method, method)
    alone = [r for r in rows if r["method"] == without and r["m"] == 0]
    found: list[Exchange] = []
    for n, m in sorted({(r["n"], r["m"]) for r in rows if r["method"] == method and r["m"]}):
        together = [r for r in rows if r["method"] == method and r["n"] == n and r["m"] == m]

        def saved(part: Sequence[CurveRow], n: int = n) -> float:
            without = [r for r in part if r["m"] == 0]
            error = np.mean([r["mae"] for r in part if r["m"]])
            return _labels_for(without, float(error)) - n

        labels = saved([*alone, *together])
        low, high = _bootstrap([*alone, *together], saved)
        found.append(
            {
                "n": n,
                "m": m,
                "labels_saved": labels,
                "interval": [low, high],
                "agl_labels_for_one": m / labels if labels > 0 else None,
                "agl_interval": [m / high if high > 0 else None, m / low if low > 0 else None],
            }
        )
    return found


def _labels_for(rows: Sequence[CurveRow], error: float) -> float:
    """Labels at which the curve of ``rows``, straight between its points on log-log axes, falls to ``error``.

    Beyond its last point the last straight piece goes on, to at most ten times as many labels; nothing below 0 labels.
    """
    sizes = sorted({r["n"] for r in rows})
    mae = [np.mean([r["mae"] for r in rows if r["n"] == n]) for n in sizes]
    x, y = np.log10(sizes), np.log10(np.minimum.accumulate(mae))  # a curve that rises by chance is no better for it
    target = np.log10(error)
    if target >= y[0]:
        return float(sizes[0])
    if target < y[-1]:
        slope = np.polynomial.polynomial.polyfit(x[-3:], y[-3:], 1)[1]
        further = (target - y[-1]) / slope if slope < 0 else 1.0
        return float(10 ** (x[-1] + min(further, 1.0)))
    return float(10 ** np.interp(-target, -y, x))


def _bootstrap(rows: Sequence[CurveRow], statistic: Callable[[Sequence[CurveRow]], float]) -> list[float]:
    """5th and 95th percentile of a statistic over draws taken with replacement."""
    draws = sorted({r["draw"] for r in rows})
    by_draw = {d: [r for r in rows if r["draw"] == d] for d in draws}
    rng = np.random.default_rng(0)
    resampled = rng.choice(draws, (_RESAMPLES, len(draws)))
    known: dict[tuple[int, ...], float] = {}
    found = []
    for chosen in np.sort(resampled, axis=1):
        key = tuple(chosen.tolist())
        if key not in known:
            known[key] = statistic([r for d in key for r in by_draw[d]])
        found.append(known[key])
    return [float(np.quantile(found, q, method="nearest")) for q in (0.05, 0.95)]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
