"""Distance of a crystal from the labelled ones in embedding space, and the variance inflation at that distance.

Errors grow with the mean distance to the k nearest training rows of a learned representation (Hirschfeld et al.,
J. Chem. Inf. Model. 60, 3770 (2020); Janet, Duan, Yang, Nandy, Kulik, Chem. Sci. 10, 7913 (2019), who calibrate the
spread on it). The growth is fitted to held-out rows by isotonic regression. Distances are computed after a
random projection, which keeps them within a tenth or so (Johnson and Lindenstrauss 1984), to at most a thousand
training rows, so that a pool of millions takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.metrics.calibration import shrunk_scale

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NEIGHBOURS = 5
REFERENCES = 1000
"""Most reference rows for distances; of more training rows, a random sample, which leaves ranks unbiased."""
HELD_OUT_REFERENCES = 6000
"""The same for rows that were held out."""
DIRECTIONS = 64
"""Number of random directions that more columns are projected on."""
_BLOCK = 8192
"""Rows of a block of distances: 32 MB for a thousand references."""


@dataclass(frozen=True, eq=False)
class TrainingDistance:
    """Mean distance of any crystal to the nearest training rows; build it with :meth:`fit`."""

    centre: NDArray[np.float32]
    """Mean of each column over the training rows, d."""
    projection: NDArray[np.float32]
    """d x p; each column of the embedding divided by its standard deviation, then projected."""
    references: NDArray[np.float32]
    """m x p projected training rows."""
    own: NDArray[np.float64]
    """Distances of the n training rows to the nearest others."""
    neighbours: int

    @classmethod
    def fit(
        cls,
        embeddings: NDArray[np.float32],
        *,
        neighbours: int = NEIGHBOURS,
        references: int = REFERENCES,
        seed: int = 0,
    ) -> TrainingDistance:
        """Fit to n training rows (n x d), at least 2; fewer neighbours are used where there are fewer rows."""
        rows = np.asarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"distances to training rows take at least 2 of them, received shape {rows.shape}")
        rng = np.random.default_rng(seed)
        centre, projection = _projection(rows, rng)
        points = _project(rows, centre, projection)
        chosen = np.arange(len(rows))
        if len(rows) > references:
            chosen = np.sort(rng.choice(len(rows), references, replace=False))
        neighbours = min(neighbours, len(chosen) - 1)
        itself = np.full(len(rows), -1)
        itself[chosen] = np.arange(len(chosen))
        own = _nearest(points, points[chosen], neighbours, itself)
        return cls(centre, projection, points[chosen], own, neighbours)

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances of N rows (N x d), computed in blocks."""
        parts = [
            _nearest(_project(block, self.centre, self.projection), self.references, self.neighbours)
            for block in _blocks(np.asarray(embeddings, dtype=np.float32))
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def percentile(self, distances: ArrayLike) -> NDArray[np.float64]:
        """Distance percentile: percentage of training rows that are nearer to the others than these; 100 is beyond all.

        Distances of training rows leave the row itself out, so that an unlabelled crystal like them ranks as one
        of them.
        """
        return 100 * np.searchsorted(np.sort(self.own), np.asarray(distances), side="left") / len(self.own)


def held_out_distances(
    embeddings: NDArray[np.float32], folds: NDArray[np.int64], *, neighbours: int = NEIGHBOURS, seed: int = 0
) -> NDArray[np.float64]:
    """Distance of each training row (n) to the rows of the other folds, on which its held-out prediction is based.

    To at most :data:`HELD_OUT_REFERENCES` of them, a random sample of more, so that time grows with n and not with its
    square.
    """
    rows = np.asarray(embeddings, dtype=np.float32)
    rng = np.random.default_rng(seed)
    centre, projection = _projection(rows, rng)
    points = _project(rows, centre, projection)
    distances = np.empty(len(rows))
    for k in np.unique(folds):
        held, known = np.flatnonzero(folds == k), np.flatnonzero(folds != k)
        if len(known) > HELD_OUT_REFERENCES:
            known = rng.choice(known, HELD_OUT_REFERENCES, replace=False)
        distances[held] = _nearest(points[held], points[known], min(neighbours, len(known)))
    return distances


@dataclass(frozen=True)
class VarianceInflation:
    """Factor of a predicted spread as a function of distance: 1 near the training rows, at least 1, not decreasing."""

    distances: tuple[float, ...] = (0.0,)
    factors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse factors below 1 or decreasing with distance."""
        if len(self.distances) != len(self.factors) or not self.factors:
            raise ValueError(f"{len(self.distances)} distances for {len(self.factors)} factors; give one each")
        if min(self.factors) < 1 or np.any(np.diff(self.factors) < 0) or np.any(np.diff(self.distances) < 0):
            raise ValueError(f"factors {self.factors} must be at least 1 and rise with distance {self.distances}")

    def __call__(self, distances: ArrayLike) -> NDArray[np.float64]:
        """Factors at N distances: linear between the fitted ones, constant outside them."""
        return np.interp(np.asarray(distances, dtype=np.float64), self.distances, self.factors)

    @classmethod
    def fit(
        cls, z: ArrayLike, distances: ArrayLike, *, bins: int = 8, rows_a_bin: int = 12, prior_rows: int = 12
    ) -> VarianceInflation:
        """Fit the growth of errors over the predicted spread to held-out standardised residuals and distances.

        Use :func:`fit_variance_inflation`, which keeps it only where it helps.

        Parameters
        ----------
        z
            ``(true - mean) / std`` of n held-out rows.
        distances
            Distances of the same rows to the training rows of their model (:func:`held_out_distances`).
        bins, rows_a_bin
            Rows are sorted by distance into at most ``bins`` of at least ``rows_a_bin``; with fewer than two bins
            there is no inflation.
        prior_rows
            Pseudo-observations of average size in each bin, which shrink the factors of small samples.

        Notes
        -----
        The mean ``|z|`` of each bin over that of all, shrunk to 1 and made monotone by isotonic regression; below 1 it
        is 1. The factor is relative to the average row, so that the calibration factor for all rows is to be fitted
        after it.
        """
        size, distance = np.abs(np.asarray(z, dtype=np.float64)), np.asarray(distances, dtype=np.float64)
        if size.shape != distance.shape or size.ndim != 1:
            raise ValueError(f"expected n residuals and n distances, received {size.shape} and {distance.shape}")
        n_bins = min(bins, len(size) // rows_a_bin)
        if n_bins < 2 or size.mean() == 0:
            return cls()
        from scipy.optimize import isotonic_regression

        parts = np.array_split(np.argsort(distance, kind="stable"), n_bins)
        weight = np.array([len(rows) + prior_rows for rows in parts], dtype=np.float64)
        total = np.array([size[rows].sum() for rows in parts]) / size.mean()
        rising = isotonic_regression((total + prior_rows) / weight, weights=weight).x
        middle = [float(np.median(distance[rows])) for rows in parts]
        return cls(tuple(middle), tuple(np.maximum(rising, 1.0).tolist()))


def fit_variance_inflation(z: ArrayLike, distances: ArrayLike, folds: NDArray[np.int64]) -> VarianceInflation:
    """Fit an inflation (see :meth:`VarianceInflation.fit`); kept only if it raises the likelihood of held-out rows.

    Gaussian processes widen by themselves and gain nothing; heads that predict one spread for all rows gain.
    """
    z = np.asarray(z, dtype=np.float64)
    gains = _log_score(z, cross_variance_inflation(z, distances, folds)) > _log_score(z, np.ones_like(z))
    return VarianceInflation.fit(z, distances) if gains else VarianceInflation()


def cross_variance_inflation(z: ArrayLike, distances: ArrayLike, folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Factor of each held-out row (n), fitted to the rows of the other folds, for cross-validated metrics."""
    z, distances = np.asarray(z, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    factors = np.empty_like(z)
    for k in np.unique(folds):
        held, others = folds == k, folds != k
        factors[held] = VarianceInflation.fit(z[others], distances[others])(distances[held])
    return factors


def _log_score(z: NDArray[np.float64], factors: NDArray[np.float64]) -> float:
    """Mean log likelihood of residuals under spreads times ``factors``, then calibrated; up to a constant."""
    scale = shrunk_scale(z / factors) * factors
    return float(np.mean(-0.5 * np.square(z / scale) - np.log(scale)))


def _projection(rows: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre (d) and standardising projection (d x p); a constant column is not scaled."""
    spread = rows.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0)
    width = rows.shape[1]
    if width <= DIRECTIONS:
        directions = np.eye(width)
    else:
        directions = rng.standard_normal((width, DIRECTIONS)) / np.sqrt(DIRECTIONS)
    # divided by the root of the width: a distance of 1 is one standard deviation in every column
    return rows.mean(axis=0), (directions / spread[:, None] / np.sqrt(width)).astype(np.float32)


def _project(
    rows: NDArray[np.float32], centre: NDArray[np.float32], projection: NDArray[np.float32]
) -> NDArray[np.float32]:
    return np.asarray((rows - centre) @ projection, dtype=np.float32)


def _nearest(
    points: NDArray[np.float32],
    references: NDArray[np.float32],
    neighbours: int,
    itself: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Mean distance of N points to their nearest references; ``itself``: the reference each leaves out, or -1."""
    length = np.square(references).sum(axis=1)
    out = np.empty(len(points))
    start = 0
    for block in _blocks(points):
        square = np.square(block).sum(axis=1)[:, None] + length - 2 * (block @ references.T)
        if itself is not None:
            rows = np.flatnonzero(itself[start : start + len(block)] >= 0)
            square[rows, itself[start + rows]] = np.inf
        near = np.partition(square, neighbours - 1, axis=1)[:, :neighbours]
        out[start : start + len(block)] = np.sqrt(np.maximum(near, 0)).mean(axis=1)
        start += len(block)
    return out


def _blocks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]
