"""The figures by which predictions are judged, the same before and after labels arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.metrics.accuracy import accuracy
from engine.metrics.calibration import calibration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Judgement = dict[str, float | int | None]


def judge(values: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64]) -> Judgement:
    """Accuracy and honesty of n Gaussian predictions in learned units; ``None`` where a figure is not defined."""
    error = accuracy(values, mean, scale="linear")  # every figure below is in learned units
    honesty = calibration(values, mean, std)
    return {
        "rows": error.n,
        "mae": error.mae,
        "rmse": error.rmse,
        "r2": error.r2,
        "spearman": error.spearman,
        "nll": honesty.nll,
        "crps": honesty.crps,
        **{f"coverage_{level:.0%}".rstrip("%"): share for level, share in honesty.coverage.items()},
        "calibration_error": honesty.calibration_error,
        "sharpness": honesty.sharpness,
    }
