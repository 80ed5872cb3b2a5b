"""Fantasies of a pool's Gaussian, so that BoTorch's own functions can be compared with."""

from __future__ import annotations

from typing import Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.sampling.base import MCSampler
from gpytorch.distributions import MultivariateNormal
from torch import Tensor

from engine.acquire.model import JITTER, PoolModel, cholesky


class FantasyPoolModel(PoolModel):
    """A pool that can be conditioned on labels."""

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> ConditionedPoolModel:
        """Gaussian model of the pool given labels Y (``... x q x 1``) of the rows X (``... x q x 1``)."""
        return ConditionedPoolModel(self, X, Y)

    def fantasize(self, X: Tensor, sampler: MCSampler, **kwargs: Any) -> ConditionedPoolModel:
        """Models given labels of X (``... x q x 1``) drawn by the sampler, one a sample."""
        return self.condition_on_observations(X, sampler(self.posterior(X, observation_noise=True)))


class ConditionedPoolModel(Model):
    """A pool given labels, as the Gaussian with the draws' mean and covariance; BoTorch's fantasies are made of it."""

    def __init__(self, pool: PoolModel, X: Tensor, Y: Tensor):
        super().__init__()
        self.pool = pool
        self.num_labels = X.shape[-2]
        self.X, self.Y = X, Y[..., 0]

    @property
    def num_outputs(self) -> int:
        """One property."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """One model a fantasy."""
        return self.Y.shape[:-1]

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
        **kwargs: Any,
    ) -> GPyTorchPosterior:
        """Condition the joint Gaussian of labelled rows and X on the labels."""
        batch = torch.broadcast_shapes(X.shape[:-2], self.X.shape[:-2], self.Y.shape[:-1])
        q, n = X.shape[-2], self.num_labels
        together = torch.cat([self.X.expand(*batch, n, 1), X.expand(*batch, q, 1)], dim=-2)
        joint = self.pool.posterior(together).distribution
        mean, covariance = joint.mean, joint.covariance_matrix
        seen = covariance[..., :n, :n]
        noise = 0.0 if self.pool.noise is None else self.pool.noise[self.X[..., 0].long()]
        factor = cholesky(seen + torch.diag_embed(torch.zeros_like(seen[..., 0]) + noise))
        cross = torch.linalg.solve_triangular(factor, covariance[..., :n, n:], upper=False)
        residual = torch.linalg.solve_triangular(factor, (self.Y - mean[..., :n]).unsqueeze(-1), upper=False)
        conditioned = MultivariateNormal(
            mean[..., n:] + (cross.transpose(-1, -2) @ residual).squeeze(-1),
            covariance[..., n:, n:] - cross.transpose(-1, -2) @ cross + JITTER * torch.eye(q, dtype=X.dtype),
        )
        return GPyTorchPosterior(conditioned)
