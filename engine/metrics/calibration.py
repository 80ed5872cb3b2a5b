"""Calibration of predicted spreads, and the factor that calibrates them.

Sources: CRPS of a Gaussian, Gneiting, Raftery, Westveld, Goldman, Mon. Weather Rev. 133, 1098 (2005), eq. 5;
calibration error and sharpness, Kuleshov, Fenner, Ermon, ICML 2018, arXiv:1807.00263; error against spread and its
expected normalised error, Levi, Gispan, Giladi, Fetaya, Sensors 22, 5540 (2022), arXiv:1905.11659; the probability
integral transform, Gneiting, Balabdaoui, Raftery, J. R. Stat. Soc. B 69, 243 (2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

LEVELS = (0.50, 0.80, 0.90, 0.95)
Z90 = 1.6448536269514722
"""Half width of a central 90 % interval in standard deviations."""
ERROR_GRID = np.linspace(0.05, 0.95, 19)
ROWS_A_BIN = 8
"""Fewest rows for a point of the error-against-spread curve."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of Gaussian predictions over n rows, in learned units: log10, or the unit itself on a linear scale.

    ``nll`` is the mean negative log likelihood (natural logarithm); ``crps`` the mean continuous ranked probability
    score, in these units; ``coverage`` the fraction of values inside the central interval of each level;
    ``calibration_error`` the mean absolute difference between observed and nominal coverage over the levels .05 to .95;
    ``sharpness`` the root mean predicted variance (smaller is sharper; meaningful only when calibrated);
    ``normalised_error`` the mean relative difference of error and spread over bins of spread (ENCE; 0 where in every
    bin the error equals the predicted spread).
    """

    n: int
    nll: float
    crps: float
    coverage: dict[float, float]
    calibration_error: float
    sharpness: float
    normalised_error: float


@dataclass(frozen=True)
class SpreadCurve:
    """Error against spread: rows in order of their predicted spread, in bins of equal number.

    ``spread`` is each bin's root mean predicted variance, ``rmse`` its root mean square error, both in learned units;
    ``rows`` the number of its rows. Calibrated spreads lie on the diagonal; uninformative ones on a horizontal line.
    """

    spread: tuple[float, ...]
    rmse: tuple[float, ...]
    rows: tuple[int, ...]

    @property
    def normalised_error(self) -> float:
        """Expected normalised calibration error: mean of ``|rmse - spread| / spread`` over the bins."""
        return float(np.mean([abs(e - s) / s for s, e in zip(self.spread, self.rmse, strict=True)]))


def calibration(true: ArrayLike, mean: ArrayLike, std: ArrayLike, levels: Sequence[float] = LEVELS) -> Calibration:
    """Calibration of n Gaussian predictions of n values, in learned units; standard deviations must be positive."""
    true, mean, std = (np.asarray(a, dtype=np.float64) for a in (true, mean, std))
    if not true.shape == mean.shape == std.shape or true.ndim != 1 or len(true) == 0:
        raise ValueError(f"expected three arrays of n values, received {true.shape}, {mean.shape}, {std.shape}")
    if not (std > 0).all():
        raise ValueError(
            f"{np.count_nonzero(~(std > 0))} of {len(std)} predicted standard deviations are not positive; "
            "calibration is not defined for a prediction without spread"
        )
    z = (true - mean) / std
    return Calibration(
        n=len(true),
        nll=float(np.mean(0.5 * z**2 + np.log(std) + 0.5 * np.log(2 * np.pi))),
        crps=float(gaussian_crps(true - mean, std).mean()),
        coverage=dict(zip(levels, coverage(z, levels).tolist(), strict=True)),
        calibration_error=float(np.abs(coverage(z, ERROR_GRID) - ERROR_GRID).mean()),
        sharpness=float(np.sqrt(np.square(std).mean())),
        normalised_error=error_against_spread(true - mean, std).normalised_error,
    )


def gaussian_crps(error: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Continuous ranked probability score of each Gaussian prediction (Gneiting and Raftery 2007, eq. 21)."""
    z = error / std
    score: NDArray[np.float64] = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    return score


def error_against_spread(error: ArrayLike, std: ArrayLike, bins: int = 10) -> SpreadCurve:
    """Sort n rows by predicted spread into at most ``bins`` bins of at least 8 rows, one bin where there are fewer."""
    error, std = np.asarray(error, dtype=np.float64), np.asarray(std, dtype=np.float64)
    order = np.argsort(std, kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(order) // ROWS_A_BIN)))
    return SpreadCurve(
        spread=tuple(float(np.sqrt(np.square(std[rows]).mean())) for rows in parts),
        rmse=tuple(float(np.sqrt(np.square(error[rows]).mean())) for rows in parts),
        rows=tuple(len(rows) for rows in parts),
    )


def pit_counts(z: ArrayLike, bins: int = 10) -> NDArray[np.int64]:
    """Counts of the predicted probabilities to lie below the actual value, ``Phi(z)``, in bins of equal width.

    Equal counts mean calibration; a U shape too small spreads, a hump too large ones, a slope a bias.
    """
    probability = norm.cdf(np.asarray(z, dtype=np.float64))
    return np.bincount(np.minimum((probability * bins).astype(np.int64), bins - 1), minlength=bins)


def coverage(z: ArrayLike, levels: ArrayLike) -> NDArray[np.float64]:
    """Fraction of standardised residuals ``(true - mean) / std`` inside the central Gaussian interval of each level."""
    half_width = norm.ppf(0.5 + np.asarray(levels, dtype=np.float64) / 2)
    return np.mean(np.abs(np.asarray(z, dtype=np.float64))[:, None] <= half_width, axis=0)


def shrunk_scale(z: ArrayLike, level: float = 0.9, prior_rows: int = 10) -> float:
    """Factor for all standard deviations that gives the central interval its nominal coverage, for any number of rows.

    The empirical quantile of ``|z|``, shrunk towards 1 by pseudo-observations of a calibrated model.

    The ``prior_rows`` pseudo-observations are quantiles of a standard normal residual, so that with no data the
    spreads stay the same and with many rows they do not matter. Without the finite-sample correction of
    :mod:`engine.metrics.conformal`, which would take the largest of a handful of residuals and make early intervals
    useless.
    """
    honest = norm.ppf(0.5 + (np.arange(prior_rows) + 0.5) / (2 * prior_rows))
    size = np.concatenate([np.abs(np.asarray(z, dtype=np.float64)), honest])
    return float(np.quantile(size, level, method="hazen") / norm.ppf(0.5 + level / 2))
