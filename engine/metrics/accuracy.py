"""How far predictions lie from values: errors in log10, relative error in true units, rank correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over n rows.

    ``mae`` and ``rmse`` are in log10; ``mape`` is the mean absolute relative error in true units (1 is 100 %);
    ``r2`` is ``None`` when the values are constant, ``spearman`` when values or predictions are: they are undefined.
    """

    n: int
    mae: float
    rmse: float
    r2: float | None
    spearman: float | None
    mape: float


def accuracy(log10_true: ArrayLike, log10_predicted: ArrayLike) -> Accuracy:
    """Compare n predictions with n values, both in log10 of the true unit."""
    true = np.asarray(log10_true, dtype=np.float64)
    predicted = np.asarray(log10_predicted, dtype=np.float64)
    if true.shape != predicted.shape or true.ndim != 1 or len(true) == 0:
        raise ValueError(
            f"expected two arrays of n values, received shapes {true.shape} and {predicted.shape}; pass the same rows"
        )
    error = predicted - true
    spread = np.square(true - true.mean()).sum()
    varies = np.ptp(true) > 0
    return Accuracy(
        n=len(true),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt(np.square(error).mean())),
        r2=float(1 - np.square(error).sum() / spread) if varies else None,
        spearman=float(spearmanr(true, predicted).statistic) if varies and np.ptp(predicted) > 0 else None,
        mape=float(np.abs(10.0**error - 1).mean()),
    )
