"""A sparse Gaussian process of a lower fidelity, on top of which labels of a higher one are learned.

A process of the higher fidelity needs the whitened covariance of the lower fidelity's labels with any rows, and the
whitened labels. A sparse process has both, in the m directions of its inducing points (W in
:mod:`engine.learning.heads.sparse`) instead of one for each label.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from engine.learning.heads.multifidelity import MultiFidelityHead
from engine.learning.heads.sparse import PosteriorTensors, SparseProcess


@dataclass(frozen=True, eq=False)
class SparseLowerFidelity(MultiFidelityHead):
    """A process whose only fidelity is the one that a sparse process was trained on; its labels stay together."""

    posterior: PosteriorTensors = field(kw_only=True)

    @classmethod
    def of_sparse(cls, process: SparseProcess, fidelity: str) -> SparseLowerFidelity:
        """With inducing points in the place of labels."""
        base = MultiFidelityHead.of(process.prior.head, fidelity)
        return cls(base.tensors, base.fidelities, posterior=process.posterior)

    @cached_property
    def _target(self) -> Tensor:
        return self.posterior.whitened_target

    @cached_property
    def _whitening(self) -> Tensor:
        """W in double precision, m x m."""
        return self.posterior.whitening.double()

    def _whitened(self, values: Tensor, normal: Tensor | None = None) -> Tensor:
        seen = values @ self._whitening
        return seen if normal is None else seen + normal * self.posterior.remainder

    def _seen(self, x: Tensor, level: int, known: Tensor | None = None) -> Tensor:
        double = x.dtype == torch.float64
        inducing = self.tensors.x.to(x.dtype)
        return self._covariance(x, 0, inducing, 0) @ (self._whitening if double else self.posterior.whitening)
