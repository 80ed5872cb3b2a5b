"""Metrics of Gaussian predictions against labels, the same for cross-validated and for prospective ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.metrics.accuracy import accuracy
from engine.metrics.calibration import ERROR_GRID, calibration, coverage, error_against_spread, pit_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

Figures = dict[str, float | int | None]
Curves = dict[str, Any]
CONTRADICTED = 5.0
"""Standard deviations between a label and its held-out prediction from which the other labels contradict it."""


def evaluate(values: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64]) -> Figures:
    """Accuracy and calibration of n Gaussian predictions in learned units; ``None`` where a figure is not defined."""
    error = accuracy(values, mean, scale="linear")  # every figure below is in learned units
    spread = calibration(values, mean, std)
    return {
        "rows": error.n,
        "mae": error.mae,
        "rmse": error.rmse,
        "r2": error.r2,
        "spearman": error.spearman,
        "nll": spread.nll,
        "crps": spread.crps,
        **{f"coverage_{level:.0%}".rstrip("%"): share for level, share in spread.coverage.items()},
        "calibration_error": spread.calibration_error,
        "normalised_error": spread.normalised_error,
        "sharpness": spread.sharpness,
    }


def evaluation_curves(values: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64]) -> Curves:
    """Curves behind the figures of :func:`evaluate`, as JSON.

    ``reliability``: observed coverage of the central intervals ``levels``; ``error_against_spread``: see
    :class:`engine.metrics.calibration.SpreadCurve`; ``pit``: counts of the probability integral transform in ten bins.
    """
    z = (values - mean) / std
    curve = asdict(error_against_spread(values - mean, std))
    return {
        "reliability": {"levels": ERROR_GRID.round(2).tolist(), "observed": coverage(z, ERROR_GRID).tolist()},
        "error_against_spread": {name: list(points) for name, points in curve.items()},
        "pit": pit_counts(z).tolist(),
    }


def evaluate_folds(
    values: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64], folds: NDArray[np.int64]
) -> list[Figures]:
    """Figures of each fold, in the order of their numbers; their scatter tells how far to trust the figures of all."""
    parts = [np.flatnonzero(folds == k) for k in np.unique(folds)]
    return [evaluate(values[rows], mean[rows], std[rows]) for rows in parts]


def contradicted(values: NDArray[np.float64], held_out: NDArray[np.float64]) -> list[int]:
    """Rows of labels that the others contradict, the farthest first.

    Parameters
    ----------
    values
        n labels in learned units.
    held_out
        n x 2: mean and calibrated standard deviation of each label by a member that had not seen it.
    """
    z = np.abs(values - held_out[:, 0]) / held_out[:, 1]
    return [int(row) for row in np.argsort(-z, kind="stable") if z[row] > CONTRADICTED]
