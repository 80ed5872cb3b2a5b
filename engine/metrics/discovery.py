"""Discovery of extreme values: recall of the top, enhancement over random, acceleration, simple regret.

Liang et al., npj Comput. Mater. 7, 188 (2021): ``Top%(i) = found / n_top``, ``EF(i) = Top%(i) / (i / N)``,
``AF(a) = i_random(a) / i(a)``. Values are those of the whole labelled pool, on the model's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


AT_LEAST = {1: 10}
"""Fewest rows of the best 1 %, which is too few rows in a small pool."""


@dataclass(frozen=True)
class DiscoveryPoint:
    """Discovery at the end of a round.

    ``labels`` counts the rows acquired so far; ``recall_top1`` and ``recall_top5`` are the found fractions of the best
    1 % (at least 10 rows) and 5 %, of which there are ``rows_top1`` and ``rows_top5``; ``enhancement_*`` the same over
    that of random choice; ``best`` the best acquired value and ``regret`` its distance from the best of the pool, both
    on the model's scale; ``hits`` the rows at or beyond the threshold, ``None`` without one.
    """

    round: int
    labels: int
    recall_top1: float
    recall_top5: float
    enhancement_top1: float
    enhancement_top5: float
    best: float
    regret: float
    hits: int | None
    rows_top1: int
    rows_top5: int


def discovery_curve(
    values: ArrayLike,
    acquired: Sequence[int],
    *,
    goal: str,
    initial: int,
    batch: int,
    threshold: float | None = None,
    candidates: ArrayLike | None = None,
) -> list[DiscoveryPoint]:
    """Discovery of a campaign after its initial rows (round 0) and after every full batch.

    Parameters
    ----------
    values
        True values of the N rows of the pool, on the model's scale.
    acquired
        Positions in the pool in order of acquisition.
    goal
        ``min`` or ``max``.
    initial, batch
        Rows acquired before the first round and in each round.
    threshold
        A row at or beyond it is a hit; same scale as ``values``.
    candidates
        Rows, ascending and without the initial ones, that are chosen from and of which the best count; or all.
    """
    target = _target(values, goal)
    given = 0 if candidates is None else initial
    rows = np.arange(len(target)) if candidates is None else np.asarray(candidates, dtype=np.int64)
    order = np.asarray(acquired, dtype=np.int64)
    if len(np.unique(order)) != len(order):
        raise ValueError(f"{len(order) - len(np.unique(order))} rows were acquired twice; pass each position once")
    if len(order) < initial or initial < 1 or batch < 1:
        raise ValueError(
            f"{len(order)} acquired rows are fewer than the initial {initial}, or the batch of {batch} is 0"
        )
    among = np.asarray(values)[rows]
    tops = [rows[top_rows(among, goal, percent=p, at_least=AT_LEAST.get(p, 1))] for p in (1, 5)]
    points: list[DiscoveryPoint] = []
    for labels in range(initial, len(order) + 1, batch):
        bought = order[:labels]
        recalls = [float(np.isin(top, bought).mean()) for top in tops]
        share, best = (labels - given) / len(rows), target[bought].min()
        points.append(
            DiscoveryPoint(
                round=len(points),
                labels=labels,
                recall_top1=recalls[0],
                recall_top5=recalls[1],
                enhancement_top1=recalls[0] / share if share else 1.0,
                enhancement_top5=recalls[1] / share if share else 1.0,
                best=float(best if goal == "min" else -best),
                regret=float(best - target.min()),
                hits=None if threshold is None else count_hits(np.asarray(values)[bought], goal, threshold),
                rows_top1=len(tops[0]),
                rows_top5=len(tops[1]),
            )
        )
    return points


def top_words(n: int, percent: int, extreme: str = "best") -> str:
    """Name of the best 1 % or 5 % of n rows with their count; the count alone where it is not that share.

    ``best 5 % (11)`` and ``best 10`` of 238 rows, whose best 1 % would be two.
    """
    count = _top_count(n, percent, AT_LEAST.get(percent, 1))
    return f"{extreme} {percent} % ({count})" if count == n * percent // 100 else f"{extreme} {count}"


def top_rows(values: ArrayLike, goal: str, *, percent: int, at_least: int = 1) -> NDArray[np.int64]:
    """Positions of the best ``percent`` % of N values (rounded down, but ``at_least``); ties by position."""
    target = _target(values, goal)
    return np.argsort(target, kind="stable")[: _top_count(len(target), percent, at_least)]


def acceleration(points: Sequence[DiscoveryPoint], n_pool: int, fraction: float, given: int = 0) -> float | None:
    """Labels that random choice needs to find this fraction of the best 5 % over those needed; ``None`` if never.

    ``given`` labels are of rows outside the pool that is chosen from, and do not count.
    """
    for point in points:
        if point.recall_top5 >= fraction - 1e-12:
            return fraction * n_pool / (point.labels - given)
    return None


def count_hits(values: ArrayLike, goal: str, threshold: float) -> int:
    """Mask of values at or below (goal ``min``) or above (``max``) the threshold."""
    return int(np.count_nonzero(_target(values, goal) <= (threshold if goal == "min" else -threshold)))


def _top_count(n: int, percent: int, at_least: int) -> int:
    return min(n, max(at_least, n * percent // 100))


def _target(values: ArrayLike, goal: str) -> NDArray[np.float64]:
    """Values to be minimised: negated for goal ``max``."""
    if goal not in {"min", "max"}:
        raise ValueError(f"unknown goal {goal!r}; use 'min' or 'max'")
    return np.asarray(values, dtype=np.float64) * (1 if goal == "min" else -1)
