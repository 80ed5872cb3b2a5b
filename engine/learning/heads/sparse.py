"""Gaussian processes on any number of labels, conditioned on them through m inducing points.

An exact process stores an n x n matrix. A sparse one stores the posterior of the function's values u at m points
alone, the one that is nearest to the exact posterior (Titsias, Proc. AISTATS, PMLR 5, 567, 2009), which is that of
labels y_i ~ N(k_i K_uu^-1 u, noise_i) (the projected process of Seeger, Williams and Lawrence, 2003; Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, section 8.3.4). With all rows as inducing points it is the
exact process. The labels enter through two sums over rows, an m x m matrix and a vector, so that rows are read a block
at a time, and leaving some out is a subtraction. Labels that count less the farther a row lies from the inducing points
(the fully independent conditional of Snelson and Ghahramani, 2006) predict worse: see ``tests/benchmarks/SCALE.md``.

In whitened coordinates (K_uu = L L^T, v_i = L^-1 k_i^T) the sums are B = sum v_i v_i^T / noise_i and c = sum v_i y_i /
noise_i; with B = Q diag(b) Q^T and W = L^-T Q diag(b / (1 + b))^(1/2) the posterior at any rows x is

    mean = k(x, u) L^-T (1 + B)^-1 c,   covariance = k(x, x') - k(x, u) W W^T k(u, x').
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.learning.heads.gp import BLOCK, OUTLIER, GaussianProcessHead, GaussianProcessTensors
from engine.learning.heads.head_tensors import HeadTensors
from engine.learning.heads.kernels import KernelToRows, PriorFunctions, SummedMatern

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 2048
"""Training rows whose covariance with the inducing points is in memory together."""
_DIRECTIONS = 256
"""Most directions in which a member's variance differs from that given all labels."""
_NEGLIGIBLE = 1e-4
"""Variance, in units of the prior one of a direction, that is left out there."""
_JITTER = 1e-6
"""Added to the covariance of the inducing points, in units of the largest variance, so that its factor exists where two
of them are alike."""


@dataclass(frozen=True, eq=False)
class PosteriorTensors(HeadTensors):
    """Posterior of the function at the m inducing points, given all labels."""

    whitening: Tensor
    """W, m x m, float32: squared, the covariance with the inducing points times this is the explained variance."""
    whitened_target: Tensor
    """What W is multiplied by to give the mean, m."""
    remainder: Tensor
    """(1 + b)^(-1/2), m: posterior standard deviation in each direction of W."""


@dataclass(frozen=True, eq=False)
class LabelTensors(HeadTensors):
    """All n labels, so that some can be removed later."""

    label_key: Tensor
    """Number of each crystal (int64), see :func:`label_keys`."""
    label_target: Tensor
    """Standardised values."""
    label_noise: Tensor
    """Variance of the noise of each."""


@dataclass(frozen=True, eq=False)
class MemberTensors(HeadTensors):
    """Change of the posterior without the labels of a member's fold; r directions."""

    weights: Tensor
    """L^-T (1 + B)^-1 c, m: the mean is the covariance with the inducing points times these."""
    excess: Tensor
    """m x r, float32: squared, the covariance with the inducing points times this is the variance that the missing
    labels leave; directions in which it is negligible are left out."""


@dataclass(frozen=True, eq=False)
class SparsePrior:
    """Kernel, inducing points, standardisation and noise: everything but the labels."""

    head: GaussianProcessHead
    """With the inducing points in the place of its training rows; no targets of its own are used."""

    @classmethod
    def of(cls, fitted: GaussianProcessHead, inducing: Tensor) -> SparsePrior:
        """Kernel, standardisation and noise of a ``fitted`` exact process, with m standardised inducing points."""
        nothing = inducing.new_zeros(len(inducing))
        t = replace(fitted.tensors, x=inducing.contiguous(), target=nothing, row_noise=nothing.clone(), rows=None)
        return cls(GaussianProcessHead(t))

    @property
    def tensors(self) -> GaussianProcessTensors:
        """Those of the exact process; ``x`` are the inducing points."""
        return self.head.tensors

    @property
    def kernel(self) -> SummedMatern:
        """Prior covariance, in units of the standardised target."""
        return self.head.kernel

    @cached_property
    def to_inducing(self) -> KernelToRows:
        """Covariance of any embeddings with the inducing points, in single precision."""
        t = self.tensors
        return KernelToRows.of(self.kernel, t.x, t.centre, t.scale)

    @cached_property
    def factor(self) -> Tensor:
        """L, m x m: lower Cholesky factor of the covariance of the inducing points."""
        covariance = self.kernel(self.tensors.x, self.tensors.x)
        covariance.diagonal().add_(_JITTER * float(covariance.diagonal().max()))
        return torch.linalg.cholesky(covariance)

    def standardised_target(self, values: NDArray[np.float64]) -> Tensor:
        """N values in units of the kernel."""
        return (torch.as_tensor(np.asarray(values, dtype=np.float64)) - self.tensors.mean) / self.tensors.std

    def whitened(self, embeddings: NDArray[np.float32]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Numbers, prior variance (b) and v (m x b) of the rows of N embeddings, a block of them at a time."""
        for start in range(0, len(embeddings), ROWS):
            rows = slice(start, min(start + ROWS, len(embeddings)))
            x = self.head.standardise(embeddings[rows])
            cross = self.kernel(self.tensors.x, x)
            yield rows, self.kernel.diagonal(x), torch.linalg.solve_triangular(self.factor, cross, upper=False)

    def evidence(self, embeddings: NDArray[np.float32], values: NDArray[np.float64]) -> Evidence:
        """Sums over N labels."""
        target, m = self.standardised_target(values), len(self.tensors.x)
        precision, shift = target.new_zeros(m, m), target.new_zeros(m)
        for rows, _, v in self.whitened(embeddings):
            precision.addmm_(v, v.T)
            shift.addmv_(v, target[rows])
        return Evidence(precision / self.tensors.noise, shift / self.tensors.noise)

    def correction(
        self, embeddings: NDArray[np.float32], values: NDArray[np.float64], known: Evidence
    ) -> tuple[Evidence, Tensor]:
        """Terms to add to the sums over N labels for those that ``known`` labels contradict, and the noise of each, N.

        As in an exact process, a label whose squared error is beyond :data:`OUTLIER` times its predicted variance gets
        a noise of its own: half its squared error.
        """
        target, m = self.standardised_target(values), len(self.tensors.x)
        factor = torch.linalg.cholesky(known.precision + torch.eye(m, dtype=target.dtype))
        mean = torch.cholesky_solve(known.shift[:, None], factor)[:, 0]
        precision, shift, noise = target.new_zeros(m, m), target.new_zeros(m), self.tensors.noise
        own = noise.expand(len(target)).clone()
        for rows, prior, v in self.whitened(embeddings):
            square = (target[rows] - mean @ v).square()
            unseen = (prior - v.square().sum(0)).clamp_min_(0) + noise
            far = torch.nonzero(square > OUTLIER * unseen)[:, 0]
            variance = unseen[far] + torch.linalg.solve_triangular(factor, v[:, far], upper=False).square().sum(0)
            far = far[square[far] > OUTLIER * variance]
            own[rows][far] = (square[far] / 2).maximum(noise)
            weighted = v[:, far] * (1 / own[rows][far] - 1 / noise)
            precision.addmm_(weighted, v[:, far].T)
            shift.addmv_(weighted, target[rows][far])
        return Evidence(precision, shift), own

    def given(self, evidence: Evidence, labels: LabelTensors) -> SparseProcess:
        """The process given labels and the sums over them."""
        b, directions = torch.linalg.eigh(evidence.precision)
        basis = torch.linalg.solve_triangular(self.factor.T, directions, upper=True)
        return SparseProcess(self, _posterior(basis, b, directions.T @ evidence.shift), labels)

    def members(self, process: SparseProcess, total: Evidence, parts: Sequence[Evidence]) -> Iterator[SparseHead]:
        """The ``process`` given ``total``, without each of ``parts`` of it in turn."""
        inverse = _inverse(total)
        for part in parts:
            rest = total - part
            own = _inverse(rest)
            weights = torch.linalg.solve_triangular(self.factor.T, (own @ rest.shift)[:, None], upper=True)[:, 0]
            gains, directions = torch.linalg.eigh(own.sub_(inverse))
            used = (gains > _NEGLIGIBLE).nonzero()[-_DIRECTIONS:, 0]
            root = directions[:, used] * gains[used].sqrt()
            excess = torch.linalg.solve_triangular(self.factor.T, root, upper=True)
            yield SparseHead(process, MemberTensors(weights, excess.float()))


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
class SparseProcess:
    """A sparse process given all labels; its members each lack some."""

    prior: SparsePrior
    posterior: PosteriorTensors
    labels: LabelTensors

    @property
    def weights(self) -> Tensor:
        """The mean is the covariance with the inducing points times these, m."""
        return self.posterior.whitening.double() @ self.posterior.whitened_target

    def without(self, keys: Tensor, embeddings: NDArray[np.float32]) -> SparseProcess:
        """The process without its labels of N crystals (:func:`label_keys`, N x d); others among them are ignored."""
        number = {key: row for row, key in enumerate(self.labels.label_key.tolist())}
        given = np.array([row for row, key in enumerate(keys.tolist()) if key in number], dtype=np.int64)
        rows = torch.tensor([number[key] for key in keys[given].tolist()], dtype=torch.int64)
        kept = torch.ones(len(number), dtype=torch.bool)
        kept[rows] = False
        target, noise = self.labels.label_target[rows], self.labels.label_noise[rows]
        p = self.posterior
        b = (p.remainder.square().reciprocal() - 1).clamp_min(1e-12)
        basis = p.whitening.double() * ((1 + b) / b).sqrt()
        x = self.prior.head.standardise(embeddings[given])
        v = basis.T @ self.prior.kernel(self.prior.tensors.x, x)
        shift = p.whitened_target * (b * (1 + b)).sqrt() - v @ (target / noise)
        left, turn = torch.linalg.eigh(torch.diag(b) - (v / noise) @ v.T)
        labels = LabelTensors(**{name: tensor[kept] for name, tensor in self.labels.to_tensors().items()})
        return SparseProcess(self.prior, _posterior(basis @ turn, left, turn.T @ shift), labels)


@dataclass(frozen=True, eq=False)
class SparseHead:
    """A sparse process without the labels of a member's fold."""

    process: SparseProcess
    own: MemberTensors

    def predict(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of a new label (noise included) at N embeddings, in units of the values."""
        mean, std = predict_together([self], embeddings)
        return mean[0], std[0]

    def functions(self, n_functions: int, seed: int) -> SparseFunctions:
        """Draw functions from the posterior (noise-free); the same ``seed`` gives the same functions.

        By Matheron's rule from all labels, with what the missing ones leave open added in its own directions.
        """
        generator = torch.Generator().manual_seed(seed)
        normal = partial(torch.randn, n_functions, generator=generator, dtype=torch.float64)
        prior, posterior = self.process.prior, self.process.posterior
        functions = PriorFunctions(prior.kernel, n_functions, generator)
        whitening, excess = posterior.whitening.double(), self.own.excess.double()
        error = functions(prior.tensors.x) @ whitening + normal(len(posterior.whitened_target)) * posterior.remainder
        return SparseFunctions(self, functions, error @ whitening.T + normal(excess.shape[1]) @ excess.T)


@dataclass(frozen=True, eq=False)
class SparseFunctions:
    """F functions drawn from a member's posterior, to be evaluated at any rows."""

    head: SparseHead
    functions: PriorFunctions
    correction: Tensor
    """F x m: weights of the update of each prior function by the labels (Matheron's rule)."""

    def __call__(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of the posterior (N) and the functions' values (F x N) at N embeddings, in units of the values."""
        prior = self.head.process.prior
        t, x = prior.tensors, prior.head.standardise(embeddings)
        cross = prior.kernel(t.x, x)
        mean = self.head.own.weights @ cross * t.std + t.mean
        return mean.numpy(), (mean + (self.functions(x) - self.correction @ cross) * t.std).numpy()


def predict_together(
    heads: Sequence[SparseHead], embeddings: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of a new label by K members of one process, K x N each, in units of the values.

    In single precision, with one covariance for all members.
    """
    process = heads[0].process
    prior, whitening, t = process.prior, process.posterior.whitening, process.prior.tensors
    weights = torch.stack([head.own.weights for head in heads], dim=1).float()
    means, variances = [], []
    for block in torch.as_tensor(np.asarray(embeddings, dtype=np.float32)).split(BLOCK):
        cross, own = prior.to_inducing(block)
        means.append((cross @ weights).T)
        left = own - (cross @ whitening).square().sum(1).double()
        excess = torch.stack([(cross @ head.own.excess).square().sum(1) for head in heads])
        variances.append(left.clamp_min(1e-10) + excess.double())
    mean, variance = torch.cat(means, dim=1).double(), torch.cat(variances, dim=1)
    return (mean * t.std + t.mean).numpy(), ((variance + t.noise).sqrt() * t.std).numpy()


def label_keys(keys: Sequence[str]) -> Tensor:
    """Numbers of N content hashes, int64."""
    digests = [hashlib.sha256(key.encode()).digest()[:8] for key in keys]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


def _posterior(basis: Tensor, found: Tensor, shift: Tensor) -> PosteriorTensors:
    """From L^-T Q (m x m), b (m; rounding may have made it negative) and Q^T c (m)."""
    b = found.clamp_min(0)
    target = torch.where(b > 0, shift / (b * (1 + b)).sqrt().clamp_min(1e-12), torch.zeros_like(b))
    return PosteriorTensors((basis * (b / (1 + b)).sqrt()).float(), target, (1 + b).rsqrt())


def _inverse(evidence: Evidence) -> Tensor:
    """(1 + B)^-1, m x m."""
    covariance = evidence.precision.clone()
    covariance.diagonal().add_(1)
    return torch.cholesky_inverse(torch.linalg.cholesky(covariance))
