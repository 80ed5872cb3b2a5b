"""Diversity of a batch in embedding space: a factor on each row's acquisition value that falls near chosen rows.

Local penalisation: Gonzalez, Dai, Hennig, Lawrence, Batch Bayesian optimization via local penalization, AISTATS 2016,
arXiv:1505.08052, eq. 7. Determinantal: greedy maximum a posteriori of a determinantal point process, Chen, Zhang, Zhou,
Fast greedy MAP inference for determinantal point process, NeurIPS 2018, arXiv:1709.05135; with quality and similarity
apart as in Kulesza, Taskar, arXiv:1207.6083, section 3.1, each pick multiplies quality by the similarity kernel's
conditional variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import log_ndtr

from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.acquire.pool import CandidatePool

Embeddings = Callable[["NDArray[np.int64]"], "NDArray[np.float32]"]
"""Rows of the pool -> their embeddings, ``n x d``."""
DiversityName = Literal["none", "hallucinate", "penalise", "determinant"]
SAMPLED_ROWS = 512
"""Number of candidates from which length scales and slopes are estimated."""
STEEPEST = 0.99
"""Quantile of the slopes between sampled rows used as the Lipschitz constant: two nearly identical crystals with
different predictions would make the largest slope infinite."""
_SAME = 1e-6


class Diversity(Protocol):
    """A factor for each row that falls as similar rows are chosen."""

    def take(self, rows: NDArray[np.int64]) -> None:
        """Add these rows of the pool to the chosen ones."""

    def log_factor(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Natural logarithm of the factor of each row, never above 0."""


class NoDiversity:
    """Every factor is 1."""

    def take(self, rows: NDArray[np.int64]) -> None:
        """Ignored."""

    def log_factor(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Zeros, one for each row."""
        return np.zeros(len(rows))


class LocalPenalisation:
    """Probability that a row lies outside the ball around each chosen row that cannot contain the optimum.

    The ball's radius is ``(best - f(x_j)) / L`` with f Gaussian and L the steepest slope of the predicted means.
    """

    def __init__(self, pool: CandidatePool, embeddings: Embeddings, best: float | None, rng: np.random.Generator):
        sample = _sample(pool, rng)
        self._space = _Space(embeddings, pool.rows[sample])
        self._pool = pool
        utility = pool.marginal(0.0)
        self._best = max(float(utility.max()), -np.inf if best is None else best)
        slopes = np.abs(np.subtract.outer(utility[sample], utility[sample])) / np.maximum(self._space.between, _SAME)
        apart = self._space.between > _SAME
        self._slope = float(np.quantile(slopes[apart], STEEPEST)) if apart.any() else 0.0
        self._taken: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []

    def take(self, rows: NDArray[np.int64]) -> None:
        """Add a ball around each row."""
        mean, std = self._pool.objective.moments(*self._pool.posterior.mean_std(rows))
        self._taken.append((self._space(rows), mean, np.maximum(std, 1e-9)))

    def log_factor(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sum of the logarithms of the probabilities."""
        total, x = np.zeros(len(rows)), self._space(rows) if self._taken else np.empty((0, 0))
        for taken, mean, std in self._taken:
            total += log_ndtr((self._slope * cdist(x, taken) - self._best + mean) / std).sum(axis=1)
        return total


class Determinant:
    """Conditional variance of a Gaussian kernel of embeddings, given the chosen rows.

    Its length scale is half the median distance between sampled candidates.
    """

    def __init__(self, pool: CandidatePool, embeddings: Embeddings, rng: np.random.Generator):
        sample = _sample(pool, rng)
        self._space = _Space(embeddings, pool.rows[sample])
        apart = self._space.between[self._space.between > _SAME]
        self._length = 0.5 * float(np.median(apart)) if apart.size else 1.0
        self._taken: NDArray[np.float64] = np.empty((0, 0))
        self._factor: NDArray[np.float64] = np.empty((0, 0))

    def take(self, rows: NDArray[np.int64]) -> None:
        """Condition on these rows."""
        x = self._space(rows)
        own = self._kernel(x, x) + 1e-6 * np.eye(len(x))
        if not len(self._taken):
            self._taken, self._factor = x, np.asarray(np.linalg.cholesky(own))
            return
        n, seen = len(self._taken), self._seen(x)
        factor = np.zeros((n + len(x), n + len(x)))
        factor[:n, :n], factor[n:, :n] = self._factor, seen.T
        factor[n:, n:] = np.linalg.cholesky(own - seen.T @ seen)
        self._taken, self._factor = np.concatenate([self._taken, x]), factor

    def log_factor(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log of the conditional variance, at least 1e-12."""
        if not len(self._taken):
            return np.zeros(len(rows))
        return np.log(np.clip(1.0 - np.square(self._seen(self._space(rows))).sum(axis=0), 1e-12, 1.0))

    def _seen(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Components of n points along the T chosen rows, T x n; their squares sum to the explained variance."""
        return np.asarray(solve_triangular(self._factor, self._kernel(self._taken, x), lower=True))

    def _kernel(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(-0.5 * np.square(cdist(a, b) / self._length))


def diversity(
    name: str, pool: CandidatePool, embeddings: Embeddings | None, best: float | None, rng: np.random.Generator
) -> Diversity:
    """Make the diversity of this name; ``best`` is the best known utility."""
    if name in ("none", "hallucinate"):
        return NoDiversity()
    if name not in ("penalise", "determinant"):
        raise AcquisitionError(f"unknown diversity {name!r}; use none, hallucinate, penalise or determinant")
    if embeddings is None:
        raise AcquisitionError(f"diversity {name!r} works in embedding space; pass embeddings, or use 'hallucinate'")
    if name == "penalise":
        return LocalPenalisation(pool, embeddings, best, rng)
    return Determinant(pool, embeddings, rng)


class _Space:
    """Embeddings standardised over sampled rows."""

    def __init__(self, embeddings: Embeddings, rows: NDArray[np.int64]):
        raw = np.asarray(embeddings(rows), dtype=np.float64)
        spread = raw.std(axis=0)
        self._embeddings, self._centre = embeddings, raw.mean(axis=0)
        self._scale = np.where(spread > 1e-8, spread, 1.0)
        standard = (raw - self._centre) / self._scale
        self.between = cdist(standard, standard)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return (np.asarray(self._embeddings(rows), dtype=np.float64) - self._centre) / self._scale


def _sample(pool: CandidatePool, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.choice(len(pool), min(SAMPLED_ROWS, len(pool)), replace=False))
