"""An ensemble's predictions as a BoTorch model: X holds a row's index, the model looks the row up.

Any Monte Carlo acquisition function runs on it without a network call. The default sampler of BoTorch draws 512 random
members for each candidate; :class:`EveryMember` takes each member exactly once, which is exact and much faster.
"""

from __future__ import annotations

import torch
from botorch.models.ensemble import EnsembleModel
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.sampling.base import MCSampler
from torch import Tensor


class EnsembleTable(EnsembleModel):
    """Lookup in an ``S x N`` table of member predictions or joint draws (float64, log10 kappa)."""

    def __init__(self, table: Tensor):
        super().__init__()
        self._num_outputs = 1
        self.register_buffer("table", table.to(torch.float64))

    def forward(self, X: Tensor) -> Tensor:
        """Gather ``batch_shape x S x q x 1`` for row indices X, ``batch_shape x q x 1`` in float64.

        Float32 cannot tell indices above 2^24 apart, so it is refused.
        """
        if X.dtype != torch.float64 or X.shape[-1] != 1:
            raise ValueError(f"expected row indices of shape ... x q x 1 in float64, received {X.shape} in {X.dtype}")
        return self.table[:, X[..., 0].long()].movedim(0, -2).unsqueeze(-1)

    def sampler(self) -> EveryMember:
        """Sampler to pass to an acquisition function on this table."""
        return EveryMember(len(self.table))

    def rows(self) -> Tensor:
        """All N rows as ``N x 1 x 1`` inputs: N batches of one point."""
        return torch.arange(self.table.shape[1], dtype=torch.float64).view(-1, 1, 1)


class EveryMember(MCSampler):
    """Samples are the members, each exactly once: ``S x batch_shape x q x m``."""

    def __init__(self, n_members: int):
        super().__init__(sample_shape=torch.Size([n_members]), seed=0)

    def forward(self, posterior: EnsemblePosterior) -> Tensor:
        """Move the member axis of ``batch_shape x S x q x m`` to the front."""
        return posterior.values.movedim(-3, 0)
