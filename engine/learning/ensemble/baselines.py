"""What a model must beat, on the same folds: the best constant, and extra-trees on the statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.learning.ensemble.evaluation import Figures, evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TREES = 100
_ROWS = 6000
"""Rows that the trees learn from at most, chosen at random of more: their time grows with the rows, and what they are
a baseline for needs no more."""
_SMALLEST_SPREAD = 1e-6  # trees that all agree


def baseline_metrics(
    statistics: NDArray[np.float32], values: NDArray[np.float64], folds: NDArray[np.int64], seed: int
) -> dict[str, Figures]:
    """Cross-validated figures of ``constant`` and ``extra_trees`` for n rows (statistics n x 88)."""
    constant = np.empty((2, len(values)))
    trees = np.empty((2, len(values)))
    for k in np.unique(folds):
        held, rows = folds == k, folds != k
        constant[0, held], constant[1, held] = values[rows].mean(), max(values[rows].std(), _SMALLEST_SPREAD)
        if np.count_nonzero(rows) > _ROWS:
            rows = np.random.default_rng(seed).choice(np.flatnonzero(rows), _ROWS, replace=False)
        trees[:, held] = _extra_trees(statistics[rows], values[rows], statistics[held], seed)
    return {"constant": evaluate(values, *constant), "extra_trees": evaluate(values, *trees)}


def _extra_trees(
    x: NDArray[np.float32], y: NDArray[np.float64], new: NDArray[np.float32], seed: int
) -> NDArray[np.float64]:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(_TREES, max_features=0.5, random_state=seed).fit(x, y)
    predicted = np.stack([tree.predict(new) for tree in forest.estimators_])
    return np.stack([predicted.mean(0), np.maximum(predicted.std(0), _SMALLEST_SPREAD)])
