"""The figures by which predictions are judged, the same before and after labels arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.metrics.accuracy import mean_absolute_error, r2, spearman
from engine.metrics.calibration import coverage, gaussian_nll

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def judge(
    values: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> dict[str, float | int | None]:
    """Accuracy and honesty of n Gaussian predictions in learned units; ``None`` where a figure is not defined."""
    return {
        "rows": len(values),
        "mae": mean_absolute_error(values, mean),
        "r2": r2(values, mean),
        "spearman": spearman(values, mean),
        "nll": gaussian_nll(values, mean, std),
        "coverage_50": coverage(values, mean, std, 0.5),
        "coverage_90": coverage(values, mean, std, 0.9),
    }
