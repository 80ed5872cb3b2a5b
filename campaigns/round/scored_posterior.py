"""Posterior of a round's model over its pool: stored predictions are read, joint draws are predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from engine.posteriors.posterior import PoolPosterior


class ScoredPosterior:
    """Marginals from the round's stored predictions; joint draws from the ensemble, made when needed."""

    notes: tuple[str, ...] = ()

    def __init__(self, context: RoundContext, n_draws: int):
        self._context = context
        self._mean, self._std = context.predicted()
        self._asked = n_draws
        self._joint: PoolPosterior | None = None
        self.n_rows = len(self._mean)

    def at(self, fidelity: str) -> PoolPosterior:
        """The same rows at a lower fidelity that members are trained on top of, as named by the ensemble."""
        whole: Any = self._draws()  # only of members that are trained on top of a lower fidelity
        found: PoolPosterior = whole.at(fidelity)
        return found

    @property
    def n_draws(self) -> int:
        """Number of joint draws."""
        return self._draws().n_draws

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and calibrated standard deviation of these rows, as stored."""
        return self._mean[rows], self._std[rows]

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """D x len(rows) joint draws."""
        return self._draws().draws(rows)

    def _draws(self) -> PoolPosterior:
        if self._joint is None:
            context = self._context
            self._joint = context.ensemble.posterior(context.featuriser, context.pool.hashes, self._asked, context.seed)
        return self._joint
