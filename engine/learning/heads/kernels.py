"""Sums of Matern 5/2 and linear kernels of groups of columns: covariances, random functions, and whole pools at once.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 4.17 and section 4.2.2. The linear part goes
on beyond the range of the labels, where a Matern kernel returns to the mean. All rows are standardised columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

SQRT5 = math.sqrt(5.0)
FREQUENCIES = 512
"""Random frequencies of the Fourier features of a group of columns."""
LINEAR = math.inf
"""Length scale that stands for a linear kernel, which has none."""


@dataclass(frozen=True, eq=False)
class SummedMatern:
    """Kernels of ``g`` groups of columns, added: Matern 5/2, or linear; a group without columns is a constant."""

    groups: Sequence[slice]
    """Columns of each kernel, g."""
    lengthscale: Tensor
    """Length scale of each Matern kernel, and :data:`LINEAR`, g."""
    outputscale: Tensor
    """Variance of each Matern kernel, and factor of the inner product of each linear one, g."""

    def diagonal(self, x: Tensor) -> Tensor:
        """Covariance of each of N rows with itself, N, in double precision."""
        total = self.outputscale[~torch.isinf(self.lengthscale)].sum().expand(len(x))
        for columns, length, amplitude in zip(self.groups, self.lengthscale, self.outputscale, strict=True):
            if length == LINEAR:
                total = total + amplitude * x[:, columns].square().sum(1).double()
        return total

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance (N x M) of N rows with M rows."""
        total = a.new_zeros(len(a), len(b))
        for columns, length, amplitude in zip(self.groups, self.lengthscale, self.outputscale, strict=True):
            if length == LINEAR:
                total.addmm_(a[:, columns], b[:, columns].T, alpha=float(amplitude))
                continue
            factor = SQRT5 / float(length)
            distance = torch.cdist(a[:, columns] * factor, b[:, columns] * factor)
            polynomial = torch.addcmul(distance, distance, distance, value=1 / 3).add_(1)
            total.addcmul_(polynomial, distance.neg_().exp_(), value=float(amplitude))
        return total


class PriorFunctions:
    """Random functions with the covariance of ``kernel``, as Fourier features common to all of them.

    Sines and cosines of the same frequencies, which are exact at distance 0, rather than cosines of random phase: near
    labelled rows the posterior is a small difference of large prior terms.
    """

    def __init__(self, kernel: SummedMatern, n_functions: int, generator: torch.Generator):
        f = FREQUENCIES
        normal = partial(torch.randn, generator=generator, dtype=torch.float64)
        self._parts = []
        self._linear = []
        for columns, length, amplitude in zip(kernel.groups, kernel.lengthscale, kernel.outputscale, strict=True):
            width = columns.stop - columns.start
            if length == LINEAR:
                self._linear.append((columns, normal(n_functions, width) * amplitude.sqrt()))
                continue
            chi_square = normal(5, f).square().sum(0)
            frequency = normal(width, f) * (5.0 / chi_square).sqrt() / length
            weight = normal(n_functions, 2 * f) * (amplitude / f).sqrt()
            self._parts.append((columns, frequency, weight))

    def __call__(self, x: Tensor) -> Tensor:
        """``n_functions`` x N values at standardised rows (N x d)."""
        total = torch.zeros((), dtype=x.dtype)
        for columns, frequency, weight in self._parts:
            angle = x[:, columns] @ frequency
            total = total + weight @ torch.cat([torch.cos(angle), torch.sin(angle)], dim=1).T
        for columns, slope in self._linear:
            total = total + slope @ x[:, columns].T
        return total


@dataclass(frozen=True, eq=False)
class KernelToRows:
    """A kernel between any embeddings and fixed training rows in single precision, all that is fixed worked out once.

    For whole pools: each kernel costs one matrix product, by ``|a - b|^2 = |a|^2 + |b|^2 - 2 a b``.
    """

    multiplier: Tensor
    shift: Tensor
    """d: what brings an embedding to length scales of its groups."""
    groups: tuple[tuple[slice, Tensor, Tensor, float, float], ...]
    """Columns, training rows (d x n), their squared norms (n), amplitude of the Matern kernel and factor of the inner
    product of each group."""

    @classmethod
    def of(cls, kernel: SummedMatern, x: Tensor, centre: Tensor, scale: Tensor) -> KernelToRows:
        """Between embeddings and ``x`` (n x d), which are embeddings standardised by ``centre`` and ``scale`` (d)."""
        multiplier = 1.0 / scale
        parts = list(zip(kernel.groups, kernel.lengthscale, kernel.outputscale, strict=True))
        linear = {(c.start, c.stop): float(amplitude) for c, length, amplitude in parts if length == LINEAR}
        groups = []
        for columns, length, amplitude in parts:
            if length == LINEAR:  # with the Matern kernel of the same columns, whose products it shares
                continue
            factor = SQRT5 / length
            multiplier[columns] *= factor
            rows = (x[:, columns] * factor).float()
            inner = linear.get((columns.start, columns.stop), 0.0) / float(factor) ** 2
            groups.append((columns, rows.T.contiguous(), rows.square().sum(1), float(amplitude), inner))
        return cls(multiplier.float(), (-centre * multiplier).float(), tuple(groups))

    def __call__(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Covariance of N embeddings (N x d, float32) with each training row (N x n), and each with itself (N)."""
        scaled = torch.addcmul(self.shift, embeddings, self.multiplier)
        total = embeddings.new_zeros(len(embeddings), self.groups[0][1].shape[1])
        diagonal = torch.zeros(len(embeddings), dtype=torch.float64)
        for columns, x, norms, amplitude, inner in self.groups:
            own = scaled[:, columns]
            size = own.square().sum(1, keepdim=True)
            if inner:
                total.addmm_(own, x, alpha=inner)
                diagonal.add_(size[:, 0].double(), alpha=inner)
            diagonal.add_(amplitude)
            squared = torch.addmm(norms, own, x, alpha=-2).add_(size)
            distance = squared.clamp_min_(0).sqrt_()
            polynomial = torch.addcmul(distance, distance, distance, value=1 / 3).add_(1)
            total.addcmul_(polynomial, distance.neg_().exp_(), value=amplitude)
        return total, diagonal
