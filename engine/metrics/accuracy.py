"""Accuracy of predictions: errors in learned units, relative error in true units, rank correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import spearmanr

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over n rows.

    ``mae`` and ``rmse`` are in learned units (log10, or the unit itself on a linear scale); ``mape`` is the mean
    absolute relative error in true units (1 is 100 %), ``None`` when a value is 0; ``r2`` is ``None`` when the values
    are constant, ``spearman`` when values or predictions are: they are undefined.
    """

    n: int
    mae: float
    rmse: float
    r2: float | None
    spearman: float | None
    mape: float | None


def accuracy(true: ArrayLike, predicted: ArrayLike, scale: Literal["log10", "linear"]) -> Accuracy:
    """Compare n predictions with n values, both in log10 of the true unit or, on a ``linear`` scale, in the unit."""
    true = np.asarray(true, dtype=np.float64)
    predicted = np.asarray(predicted, dtype=np.float64)
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
        mape=_relative_error(true, error, scale),
    )


def _relative_error(true: NDArray[np.float64], error: NDArray[np.float64], scale: str) -> float | None:
    if scale == "log10":
        return float(np.abs(10.0**error - 1).mean())
    return float(np.abs(error / true).mean()) if true.all() else None


WORST_SYMMETRIC_ERROR = 2.0
"""Largest symmetric relative error, that of a conductivity which could not be calculated."""


def symmetric_error(kappa: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Symmetric relative errors ``2 |k - r| / (k + r)`` of positive values, between 0 and 2; 2 where ``kappa`` is NaN.

    The score kappa_SRE of conductivities (B. Póta, P. Ahlawat, G. Csányi, M. Simoncelli, arXiv:2408.00755).
    """
    k, r = np.asarray(kappa, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    return np.where(np.isnan(k), WORST_SYMMETRIC_ERROR, 2 * np.abs(k - r) / (k + r))
