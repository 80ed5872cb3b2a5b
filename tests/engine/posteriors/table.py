"""A posterior held in memory, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.acquire.model import cholesky
from engine.posteriors.posterior import MemberPosterior


@dataclass(frozen=True, eq=False)
class TablePosterior:
    """Joint draws in memory: ``mean`` and ``std`` are N, ``table`` is ``D x N``, all in log10 kappa."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    table: NDArray[np.float32]
    notes: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows in the pool."""
        return len(self.mean)

    @property
    def n_draws(self) -> int:
        """Number D of joint draws."""
        return len(self.table)

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Marginal mean and standard deviation of these rows."""
        return self.mean[rows], self.std[rows]

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)`` draws of these rows."""
        return self.table[:, rows]

    @classmethod
    def from_members(
        cls,
        member_mean: NDArray[np.float64],
        member_std: NDArray[np.float64] | None = None,
        *,
        n_draws: int = 128,
        rng: np.random.Generator,
    ) -> TablePosterior:
        """Make the draws of an ensemble's posterior once and keep them."""
        lazy = MemberPosterior.from_members(member_mean, member_std, n_draws=n_draws, rng=rng)
        return cls(lazy.mean, lazy.std, lazy.draws(np.arange(lazy.n_rows)), lazy.notes)

    @classmethod
    def from_gaussian(
        cls,
        mean: NDArray[np.float64],
        covariance: NDArray[np.float64],
        noise_std: NDArray[np.float64] | None = None,
        *,
        n_draws: int = 512,
        rng: np.random.Generator,
    ) -> TablePosterior:
        """Take a joint Gaussian: ``covariance`` is ``N x N`` without the noise of a label, whose std is N."""
        factor = cholesky(torch.as_tensor(covariance, dtype=torch.float64)).numpy()
        z = rng.standard_normal((n_draws, len(factor)))
        if n_draws > len(factor):  # sample mean 0 and covariance 1
            z -= z.mean(axis=0)
            z = np.linalg.solve(np.linalg.cholesky(z.T @ z / n_draws), z.T).T
        noise = 0.0 if noise_std is None else np.square(noise_std)
        std = np.sqrt(np.square(factor).sum(axis=1) + noise)
        return cls(np.asarray(mean, dtype=np.float64), std, (mean + z @ factor.T).astype(np.float32))
