"""Gaussian-process heads that differ only in the training rows they leave out, predicted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.learning.heads.gp import BLOCK, GaussianProcessHead
from engine.learning.heads.kernels import KernelToRows

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FoldPredictor:
    """Predicts K heads that differ only in the training rows they leave out, with one kernel and one factorisation.

    With ``C = (K + noise)^-1`` of all rows, ``a = C y`` and ``c = k(x) C``, leaving the rows H out changes the mean by
    ``-c_H C_HH^-1 a_H`` and the variance by ``+c_H C_HH^-1 c_H^T`` (block inverse; for one row Rasmussen and Williams,
    Gaussian Processes for Machine Learning, 2006, eq. 5.12). Every round predicts the whole pool, so that this is where
    its time goes: single precision, a block of rows that fits the processor's cache at a time.

    Parameters
    ----------
    heads
        Made by :meth:`GaussianProcessHead.keeping` of one head; each row is left out by exactly one of them.
    """

    def __init__(self, heads: Sequence[GaussianProcessHead]):
        together = union(heads)
        everything = torch.arange(len(together.tensors.x))
        left_out = [everything[~torch.isin(everything, kept_rows(head))] for head in heads]
        whole = together.keeping(torch.cat(left_out).numpy())  # fold after fold, for blocks of triangular matrices
        inverse = torch.linalg.solve_triangular(whole.cholesky, torch.eye(len(everything)).double(), upper=False)
        precision = inverse.T @ inverse
        self._tensors = whole.tensors
        self._kernel = KernelToRows.of(whole.kernel, whole.tensors.x, whole.tensors.centre, whole.tensors.scale)
        self._folds = []
        weights = []
        stop = 0
        for rows in left_out:
            start, stop = stop, stop + len(rows)
            held = slice(start, stop)
            without = torch.linalg.inv(precision[held, held])
            root = torch.linalg.cholesky((without + without.T) / 2)
            weights.append(whole.weights - precision[:, held] @ (without @ whole.weights[held]))
            own, change = inverse[held, :stop].T, inverse[start:, held] @ root
            self._folds.append((start, stop, own.float().contiguous(), change.float().contiguous()))
        self._weights = torch.stack(weights, dim=1).float()

    def __call__(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of a new label (noise included), each K x N, in units of the values."""
        blocks = torch.as_tensor(np.asarray(embeddings, dtype=np.float32)).split(BLOCK)
        means, parts = zip(*(self._standardised(block) for block in blocks), strict=True)
        t = self._tensors
        mean, variance = torch.cat(means, dim=1).double(), torch.cat(parts, dim=1).clamp_min(1e-10) + t.noise
        return (mean * t.std + t.mean).numpy(), (variance.sqrt() * t.std).numpy()

    def _standardised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, and variance without noise (double precision), each K x N, in units of the standardised target."""
        cross, prior = self._kernel(rows)
        seen = torch.cat([cross[:, :stop] @ own for _, stop, own, _ in self._folds], dim=1)
        explained = seen.square().sum(1)
        parts = [explained - (seen[:, start:] @ change).square().sum(1) for start, _, _, change in self._folds]
        return (cross @ self._weights).T, prior - torch.stack(parts).double()


def union(heads: Sequence[GaussianProcessHead]) -> GaussianProcessHead:
    """Head with the training rows of all ``heads``, in the order in which they were fitted."""
    first = heads[0].tensors
    n = 1 + max(int(kept_rows(head).max()) for head in heads)
    x, target, row_noise = (old.new_empty(n, *old.shape[1:]) for old in (first.x, first.target, first.row_noise))
    for head in heads:
        rows = kept_rows(head)
        x[rows], target[rows], row_noise[rows] = head.tensors.x, head.tensors.target, head.tensors.row_noise
    return GaussianProcessHead(replace(first, x=x, target=target, row_noise=row_noise))


def kept_rows(head: GaussianProcessHead) -> Tensor:
    """Which training rows a head made by :meth:`GaussianProcessHead.keeping` has kept, n."""
    rows = head.tensors.rows
    if rows is None:
        raise ValueError("this head has all training rows; give those that :meth:`GaussianProcessHead.keeping` made")
    return rows
