"""Choice of inducing points: each the row with the largest variance given those before it."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.learning.heads.kernels import SummedMatern

_SMALLEST = 1e-5
"""Conditional variance, in units of the largest prior one, below which a row adds nothing."""


def greedy_rows(kernel: SummedMatern, x: Tensor, count: int) -> Tensor:
    """Up to ``count`` of N standardised rows (N x d), in the order in which they were chosen; N x N numbers in memory.

    Each is the row with the largest variance given those before it: a pivoted Cholesky factorisation (LAPACK's
    ``pstrf``; Fine and Scheinberg, J. Mach. Learn. Res. 2, 243, 2001), whose error Burt, Rasmussen and van der Wilk
    bound (J. Mach. Learn. Res. 21, 131, 2020). BoTorch's ``GreedyVarianceReduction`` chooses the same, a row at a time.
    """
    from scipy.linalg.lapack import dpstrf

    covariance = kernel(x, x).numpy()
    smallest = _SMALLEST * float(covariance.diagonal().max())
    _, order, rank, _ = dpstrf(covariance.T, tol=smallest, overwrite_a=True)
    return torch.from_numpy(order[: min(count, int(rank))].astype("int64") - 1)
