"""A Matern 5/2 kernel and a linear one on the same columns, as GPyTorch fits them.

Apart from :mod:`engine.learning.heads.gp`, since GPyTorch takes seconds to import.
"""

from __future__ import annotations

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import MaternKernel
from gpytorch.priors import Prior
from torch import Tensor


class MaternAndLinear(MaternKernel):
    """``matern(a, b) + linear a . b`` on some columns of rows a and b, with ``linear`` learned.

    Parameters
    ----------
    columns
        Those that the kernel sees.
    per_column
        Whether each has a length scale of its own; the inner product is then of columns divided by theirs.
    lengthscale_prior, linear_prior
        Of the length scales, and of the factor of the inner product.
    """

    def __init__(self, columns: slice, per_column: bool, lengthscale_prior: Prior, linear_prior: Prior):
        super().__init__(
            2.5,
            active_dims=tuple(range(columns.start, columns.stop)),
            ard_num_dims=columns.stop - columns.start if per_column else None,
            lengthscale_prior=lengthscale_prior,
        )
        self.per_column = per_column
        self.register_parameter("raw_linear", torch.nn.Parameter(torch.zeros(1)))
        self.register_constraint("raw_linear", Positive())
        self.register_prior("linear_prior", linear_prior, _linear, _set_linear)

    @property
    def linear(self) -> Tensor:
        """Factor of the inner product, 1."""
        return self.raw_linear_constraint.transform(self.raw_linear)

    def set_linear(self, value: float | Tensor) -> None:
        """Set the factor of the inner product."""
        inverse = self.raw_linear_constraint.inverse_transform
        self.initialize(raw_linear=inverse(torch.as_tensor(value).to(self.raw_linear)))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        """Covariance of rows (N x d) with rows (M x d), N x M, or of each with its own, N."""
        matern = super().forward(x1, x2, diag=diag, **params)
        a, b = (x1 / self.lengthscale, x2 / self.lengthscale) if self.per_column else (x1, x2)
        return matern + self.linear * ((a * b).sum(-1) if diag else a @ b.mT)


def _linear(kernel: MaternAndLinear) -> Tensor:
    return kernel.linear


def _set_linear(kernel: MaternAndLinear, value: Tensor) -> None:
    kernel.set_linear(value)
