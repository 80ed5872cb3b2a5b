"""What a model must beat, on the same folds or split: the best constant, and extra-trees on the statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.learning.ensemble.evaluation import Figures, evaluate
from engine.metrics.accuracy import accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.metrics.splits import Split

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


def split_baselines(
    statistics: NDArray[np.float32], values: NDArray[np.float64], split: Split, seed: int
) -> dict[str, Figures]:
    """Figures on the test rows of a split of n rows (statistics n x 88): as above, and the extreme training value.

    That one is ``lowest_training_value``, or ``highest_training_value`` where the highest values are tested; it has no
    spread, and so no figures of calibration.
    """
    known, true = values[split.training], values[split.test]
    extreme, name = (known.min(), "lowest") if split.settings.tail == "low" else (known.max(), "highest")
    error = accuracy(true, np.full(len(true), extreme), scale="linear")
    constant = np.full((2, len(true)), [[known.mean()], [max(known.std(), _SMALLEST_SPREAD)]])
    trees = _extra_trees(statistics[split.training], known, statistics[split.test], seed)
    return {
        "constant": evaluate(true, *constant),
        f"{name}_training_value": {"rows": error.n, "mae": error.mae, "rmse": error.rmse, "r2": error.r2},
        "extra_trees": evaluate(true, *trees),
    }


def _extra_trees(
    x: NDArray[np.float32], y: NDArray[np.float64], new: NDArray[np.float32], seed: int
) -> NDArray[np.float64]:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(_TREES, max_features=0.5, random_state=seed).fit(x, y)
    predicted = np.stack([tree.predict(new) for tree in forest.estimators_])
    return np.stack([predicted.mean(0), np.maximum(predicted.std(0), _SMALLEST_SPREAD)])
