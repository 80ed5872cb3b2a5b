"""Gaussian processes on any number of labels, conditioned on them through m inducing points.

An exact process keeps an n x n matrix. A sparse one keeps the values u of the function at m points alone: given u, each
label is independent of the others,

    y_i | u ~ N(k_i K_uu^-1 u, d_i),   d_i = k_ii - k_i K_uu^-1 k_i^T + noise_i,

the fully independent training conditional of Snelson and Ghahramani (Advances in Neural Information Processing Systems
18, 1257, 2006; Quinonero-Candela and Rasmussen, J. Mach. Learn. Res. 6, 1939, 2005). With all rows as inducing points
it is the exact process. The labels enter through two sums over rows, an m x m matrix and a vector, so that rows are
read a block at a time, and leaving some out is a subtraction.

In whitened coordinates (K_uu = L L^T, v_i = L^-1 k_i^T) the sums are B = sum v_i v_i^T / d_i and c = sum v_i y_i / d_i;
with B = Q diag(b) Q^T and W = L^-T Q diag(b / (1 + b))^(1/2) the posterior at any rows x is

    mean = k(x, u) L^-T (1 + B)^-1 c,   covariance = k(x, x') - k(x, u) W W^T k(u, x').
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.learning.heads.gp import BLOCK, OUTLIER
from engine.learning.heads.head_tensors import HeadTensors
from engine.learning.heads.kernels import KernelToRows, PriorFunctions, SummedMatern

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 2048
"""Training rows whose covariance with the inducing points is in memory together."""
_JITTER = 1e-6
"""Added to the covariance of the inducing points, in units of the largest variance, so that its factor exists where two
of them are alike."""


@dataclass(frozen=True, eq=False)
class SharedTensors(HeadTensors):
    """What the members of one sparse process share: ``m`` inducing points, ``d`` columns, ``g`` groups; float64."""

    centre: Tensor
    scale: Tensor
    """Standardisation of the columns, d each."""
    inducing: Tensor
    """Standardised inducing points, m x d."""
    lengthscale: Tensor
    outputscale: Tensor
    """Length scale and variance of each group's kernel (g each), in units of the standardised target."""
    noise: Tensor
    """Variance of a new label's noise, in the same units."""
    mean: Tensor
    std: Tensor
    """Of the values."""
    columns: Tensor
    """Where each group's columns start and stop, g x 2."""


@dataclass(frozen=True, eq=False)
class PosteriorTensors(HeadTensors):
    """What the labels of one member say of the function at the m inducing points."""

    weights: Tensor
    """L^-T (1 + B)^-1 c, m: the mean is the covariance with the inducing points times these."""
    whitening: Tensor
    """W, m x m, float32: squared, the covariance with the inducing points times this is the explained variance."""
    target: Tensor
    """What W is multiplied by to give the weights, m."""
    remainder: Tensor
    """(1 + b)^(-1/2), m: standard deviation of what the labels leave open in each direction of W."""


@dataclass(frozen=True, eq=False)
class SparseProcess:
    """A kernel with its inducing points, standardisation and noise: all but the labels."""

    tensors: SharedTensors
    whole: PosteriorTensors | None = None
    """Given the labels of all members, where these are known."""

    @cached_property
    def kernel(self) -> SummedMatern:
        """Prior covariance, in units of the standardised target."""
        t = self.tensors
        return SummedMatern([slice(start, stop) for start, stop in t.columns.tolist()], t.lengthscale, t.outputscale)

    @cached_property
    def to_inducing(self) -> KernelToRows:
        """Covariance of any embeddings with the inducing points, in single precision."""
        t = self.tensors
        return KernelToRows.of(self.kernel, t.inducing, t.centre, t.scale)

    @cached_property
    def factor(self) -> Tensor:
        """L, m x m: lower Cholesky factor of the covariance of the inducing points."""
        covariance = self.kernel(self.tensors.inducing, self.tensors.inducing)
        covariance.diagonal().add_(_JITTER * float(covariance.diagonal().max()))
        return torch.linalg.cholesky(covariance)

    def standardise(self, embeddings: NDArray[np.float32]) -> Tensor:
        """N embeddings (N x d) in the columns of the inducing points."""
        raw = torch.as_tensor(np.asarray(embeddings, dtype=np.float64))
        return (raw - self.tensors.centre) / self.tensors.scale

    def standardised_target(self, values: NDArray[np.float64]) -> Tensor:
        """N values in units of the kernel."""
        return (torch.as_tensor(np.asarray(values, dtype=np.float64)) - self.tensors.mean) / self.tensors.std

    def whitened(self, embeddings: NDArray[np.float32]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, v (m x b) and d without noise (b) of the rows of N embeddings, a block at a time."""
        for start in range(0, len(embeddings), ROWS):
            rows = slice(start, min(start + ROWS, len(embeddings)))
            x = self.standardise(embeddings[rows])
            v = torch.linalg.solve_triangular(self.factor, self.kernel(self.tensors.inducing, x), upper=False)
            yield rows, v, (self.kernel.diagonal(x) - v.square().sum(0)).clamp_min_(0)

    def evidence(self, embeddings: NDArray[np.float32], values: NDArray[np.float64]) -> Evidence:
        """Sums over N labels."""
        target, m = self.standardised_target(values), len(self.tensors.inducing)
        precision, shift = target.new_zeros(m, m), target.new_zeros(m)
        for rows, v, own in self.whitened(embeddings):
            weighted = v / (own + self.tensors.noise)
            precision.addmm_(weighted, v.T)
            shift.addmv_(weighted, target[rows])
        return Evidence(precision, shift)

    def correction(
        self, embeddings: NDArray[np.float32], values: NDArray[np.float64], known: Evidence
    ) -> tuple[Evidence, int]:
        """What to add to the sums over N labels for those that ``known`` labels contradict, and how many these are.

        As in an exact process, a label whose squared error is beyond :data:`OUTLIER` times its predicted variance gets
        a noise of its own: half its squared error.
        """
        target, m = self.standardised_target(values), len(self.tensors.inducing)
        factor = torch.linalg.cholesky(known.precision + torch.eye(m, dtype=target.dtype))
        mean = torch.cholesky_solve(known.shift[:, None], factor)[:, 0]
        precision, shift, count = target.new_zeros(m, m), target.new_zeros(m), 0
        for rows, v, own in self.whitened(embeddings):
            square, before = (target[rows] - mean @ v).square(), own + self.tensors.noise
            far = torch.nonzero(square > OUTLIER * before)[:, 0]
            variance = before[far] + torch.linalg.solve_triangular(factor, v[:, far], upper=False).square().sum(0)
            far = far[square[far] > OUTLIER * variance]
            after = own[far] + (square[far] / 2).maximum(self.tensors.noise)
            weighted = v[:, far] * (1 / after - 1 / before[far])
            precision.addmm_(weighted, v[:, far].T)
            shift.addmv_(weighted, target[rows][far])
            count += len(far)
        return Evidence(precision, shift), count

    def posterior(self, evidence: Evidence) -> PosteriorTensors:
        """What labels say."""
        found, directions = torch.linalg.eigh(evidence.precision)
        b = found.clamp_min(0)
        whitening = torch.linalg.solve_triangular(self.factor.T, directions, upper=True)
        turned = directions.T @ evidence.shift
        return PosteriorTensors(
            weights=whitening @ (turned / (1 + b)),
            whitening=(whitening * (b / (1 + b)).sqrt()).float(),
            target=torch.where(b > 0, turned / (b * (1 + b)).sqrt().clamp_min(1e-12), torch.zeros_like(b)),
            remainder=(1 + b).rsqrt(),
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """B (m x m) and c (m), the sums over labels that a sparse process is conditioned on."""

    precision: Tensor
    shift: Tensor

    def __add__(self, other: Evidence) -> Evidence:
        """Of both sets of labels."""
        return Evidence(self.precision + other.precision, self.shift + other.shift)

    def __sub__(self, other: Evidence) -> Evidence:
        """Without the labels of the other, which must be among these."""
        return Evidence(self.precision - other.precision, self.shift - other.shift)


@dataclass(frozen=True, eq=False)
class SparseHead:
    """A sparse process with the labels of one member."""

    process: SparseProcess
    posterior: PosteriorTensors

    def predict(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of a new label (noise included) at N embeddings, in units of the values."""
        mean, std = predict_together([self], embeddings)
        return mean[0], std[0]

    def functions(self, n_functions: int, seed: int) -> SparseFunctions:
        """Draw functions from the posterior (noise-free); the same ``seed`` gives the same functions."""
        generator = torch.Generator().manual_seed(seed)
        prior = PriorFunctions(self.process.kernel, n_functions, generator)
        open_part = torch.randn(n_functions, len(self.posterior.target), generator=generator, dtype=torch.float64)
        seen = prior(self.process.tensors.inducing) @ self.posterior.whitening.double()
        return SparseFunctions(self, prior, seen + open_part * self.posterior.remainder)


@dataclass(frozen=True, eq=False)
class SparseFunctions:
    """F functions drawn from a member's posterior, to be evaluated at any rows; by Matheron's rule."""

    head: SparseHead
    prior: PriorFunctions
    error: Tensor
    """F x m: what the labels, seen through each prior function, take from it, in directions of W."""

    def __call__(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of the posterior (N) and the functions' values (F x N) at N embeddings, in units of the values."""
        process = self.head.process
        t, x = process.tensors, process.standardise(embeddings)
        cross = process.kernel(t.inducing, x)
        mean = self.head.posterior.weights @ cross * t.std + t.mean
        taken = (self.error @ self.head.posterior.whitening.double().T) @ cross
        return mean.numpy(), (mean + (self.prior(x) - taken) * t.std).numpy()


def predict_together(
    heads: Sequence[SparseHead], embeddings: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of a new label by K members of one process, K x N each, in units of the values.

    In single precision, with one covariance for all members.
    """
    process = heads[0].process
    t, centre, scale = process.tensors, process.tensors.centre.float(), process.tensors.scale.float()
    weights = torch.stack([head.posterior.weights for head in heads], dim=1).float()
    means, variances = [], []
    for block in torch.as_tensor(np.asarray(embeddings, dtype=np.float32)).split(BLOCK):
        cross = process.to_inducing(block)
        means.append((cross @ weights).T)
        explained = torch.stack([(cross @ head.posterior.whitening).square().sum(1) for head in heads])
        variances.append(process.kernel.diagonal((block - centre) / scale) - explained)
    mean, variance = torch.cat(means, dim=1).double(), torch.cat(variances, dim=1).double()
    return (mean * t.std + t.mean).numpy(), ((variance.clamp_min(1e-10) + t.noise).sqrt() * t.std).numpy()
