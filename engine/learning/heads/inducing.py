"""Which rows a sparse Gaussian process remembers: each the one that those before it say least of."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.learning.heads.kernels import SummedMatern

_SMALLEST = 1e-5
"""Conditional variance, in units of the largest prior one, below which a row adds nothing."""


def greedy_rows(kernel: SummedMatern, x: Tensor, count: int) -> Tensor:
    """Up to ``count`` of N standardised rows (N x d), in the order in which they were chosen.

    Each is the row with the largest variance given those before it: a pivoted Cholesky factorisation (Fine and
    Scheinberg, J. Mach. Learn. Res. 2, 243, 2001), whose error Burt, Rasmussen and van der Wilk bound (J. Mach. Learn.
    Res. 21, 131, 2020); BoTorch's ``GreedyVarianceReduction`` chooses the same. In single precision.
    """
    rows = x.float()
    left = kernel.diagonal(rows).clone()
    smallest = _SMALLEST * float(left.max())
    factor = rows.new_zeros(min(count, len(rows)), len(rows))
    chosen: list[int] = []
    for number in range(len(factor)):
        row = int(left.argmax())
        if float(left[row]) <= smallest:
            break
        covariance = kernel(rows[row : row + 1], rows)[0] - factor[:number, row] @ factor[:number]
        factor[number] = covariance / left[row].sqrt()
        left -= factor[number].square()
        left[row] = 0.0
        chosen.append(row)
    return torch.tensor(chosen)
