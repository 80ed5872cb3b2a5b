"""A pool's posterior as a BoTorch model: X holds row indices, the posterior is made of the joint draws of these rows.

Ensembles, Gaussian processes on embeddings and multi-fidelity processes (one row for each material and fidelity) all
enter as D joint draws; a Gaussian of the same mean and covariance is used where BoTorch needs one. So Monte Carlo
functions, those that need a distribution (entropy search) and those that fantasise (knowledge gradient, integrated
variance) run on any subset of the pool without a network call.

The default sampler of BoTorch draws 512 random members for each candidate; :class:`EveryDraw` takes each draw exactly
once, which is exact and much faster.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from botorch.sampling.base import MCSampler
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from torch import Tensor

from engine.exceptions import AcquisitionError

JITTER = 1e-10
"""Share of the variance added to the diagonal before a covariance is factorised."""


class PoolModel(Model):
    """Joint draws ``D x N`` or ``D x N x m`` of N rows, and the noise variance of a label of each (N)."""

    def __init__(self, draws: Tensor, noise: Tensor | None = None):
        super().__init__()
        table = draws.to(torch.float64)
        self.register_buffer("table", table if table.ndim == 3 else table.unsqueeze(-1))
        self.register_buffer("noise", None if noise is None else noise.to(torch.float64))

    @property
    def num_outputs(self) -> int:
        """Number m of properties."""
        return int(self.table.shape[-1])

    @property
    def batch_shape(self) -> torch.Size:
        """One model."""
        return torch.Size()

    def values(self, X: Tensor) -> Tensor:
        """``batch_shape x D x q x m`` draws at row indices X, ``batch_shape x q x 1`` in float64.

        Float32 cannot tell indices above 2^24 apart, so it is refused.
        """
        if X.dtype != torch.float64 or X.shape[-1] != 1:
            raise ValueError(f"expected row indices of shape ... x q x 1 in float64, received {X.shape} in {X.dtype}")
        return self.table[:, X[..., 0].long()].movedim(0, -3)

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
        **kwargs: Any,
    ) -> Posterior:
        """Joint posterior over the q rows of each batch."""
        values = self.values(X)
        if output_indices is not None:
            values = values[..., output_indices]
        noise = self.noise[X[..., 0].long()] if observation_noise is not False and self.noise is not None else None
        posterior = PoolDraws(values, noise)
        return posterior if posterior_transform is None else posterior_transform(posterior=posterior, X=X)

    def forward(self, X: Tensor) -> MultivariateNormal:
        """Gaussian of the noise-free values, as GIBBON reads it."""
        return PoolDraws(self.values(X)).distribution

    def sampler(self) -> EveryDraw:
        """Sampler to pass to an acquisition function on this model."""
        return EveryDraw(len(self.table))

    def rows(self) -> Tensor:
        """All N rows as ``N x 1 x 1`` inputs: N batches of one point."""
        return torch.arange(self.table.shape[1], dtype=torch.float64).view(-1, 1, 1)


class PoolDraws(GPyTorchPosterior):
    """Draws ``batch_shape x D x q x m``, and the Gaussian of their mean and covariance where requested.

    The covariance is that of the draws as a population (divided by D), which moment-matched draws have exactly.
    ``noise`` (``batch_shape x q``) is added to the diagonal of the Gaussian, not to the draws.
    """

    def __init__(self, values: Tensor, noise: Tensor | None = None):
        self.values = values
        self._noise = noise
        self._is_mt = values.shape[-1] > 1

    @cached_property
    def distribution(self) -> MultivariateNormal:
        """Gaussian of the draws' mean and covariance."""
        means = self.values.mean(dim=-3)
        centred = (self.values - means.unsqueeze(-3)) / self.values.shape[-3] ** 0.5
        by_output = centred.movedim(-1, 0)
        covariance = by_output.transpose(-1, -2) @ by_output
        diagonal = JITTER * covariance.diagonal(dim1=-1, dim2=-2) + 1e-300
        if self._noise is not None:
            diagonal = diagonal + self._noise
        covariance = covariance + torch.diag_embed(diagonal)
        normals = [MultivariateNormal(mean, part) for mean, part in zip(means.movedim(-1, 0), covariance, strict=True)]
        return normals[0] if len(normals) == 1 else MultitaskMultivariateNormal.from_independent_mvns(normals)

    @property
    def mean(self) -> Tensor:
        """``batch_shape x q x m``."""
        return self.values.mean(dim=-3)

    @property
    def variance(self) -> Tensor:
        """``batch_shape x q x m``, noise included where requested."""
        variance = self.values.var(dim=-3, correction=0)
        return variance if self._noise is None else variance + self._noise.unsqueeze(-1)

    @property
    def device(self) -> torch.device:
        """Device of the draws."""
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the draws."""
        return self.values.dtype


class EveryDraw(MCSampler):
    """Samples are the draws, each exactly once: ``D x batch_shape x q x m``."""

    def __init__(self, n_draws: int):
        super().__init__(sample_shape=torch.Size([n_draws]), seed=0)

    def forward(self, posterior: Posterior) -> Tensor:
        """Move the draws' axis of ``batch_shape x D x q x m`` to the front."""
        if not isinstance(posterior, PoolDraws):
            raise TypeError(f"expected the posterior of a PoolModel, received {type(posterior).__name__}")
        return posterior.values.movedim(-3, 0)

    def _update_base_samples(self, posterior: Posterior, base_sampler: MCSampler) -> None:
        """Do nothing: there are no base samples."""


def cholesky(covariance: Tensor) -> Tensor:
    """Lower factor of ``... x n x n``, with a growing jitter where it is singular.

    Raises
    ------
    AcquisitionError
        If a thousandth of the mean variance on the diagonal is not enough.
    """
    scale = covariance.diagonal(dim1=-1, dim2=-2).mean(dim=-1, keepdim=True).clamp_min(1e-300)
    for jitter in (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-3):
        factor, failed = torch.linalg.cholesky_ex(
            covariance + torch.diag_embed((jitter * scale).expand(covariance.shape[:-1]))
        )
        if not failed.any():
            return factor
    raise AcquisitionError(
        f"a covariance of {covariance.shape[-1]} rows is not positive even with jitter; look for rows that are not "
        "finite, or for inconsistent draws of a posterior"
    )
