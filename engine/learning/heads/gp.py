"""Exact Gaussian-process heads on embeddings: Matern 5/2 and linear kernels of groups of columns, summed.

Groups (statistics, readout, trunk, estimates) get a length scale and a weight each, so that a wide group does not drown
a narrow one; the statistics get a length scale a column, since each means something by itself. The linear kernels are
what the process goes by beyond the range of its labels, where campaigns look and a Matern kernel falls back to the
mean. Hyperparameters are fitted with GPyTorch; prediction and function draws are plain linear algebra on the fitted
numbers, so that a trained head is a handful of tensors.

Labels that the others contradict are trusted less: a row whose leave-one-out error (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, eq. 5.12) is far beyond its spread gets a noise of its own. With few labels the
bonding statistics are used only if the leave-one-out predictive density (eq. 5.10) prefers them.

Function draws follow Wilson et al., J. Mach. Learn. Res. 22, 105 (2021): a prior function from random Fourier features
(Rahimi and Recht 2007; the spectral density of a Matern 5/2 kernel is a multivariate t with 5 degrees of freedom), plus
the exact kernel's update on the labels (Matheron's rule).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.exceptions import TooFewLabelsError
from engine.learning.backbones.column_statistics import ColumnStatistics
from engine.learning.heads.head_tensors import HeadTensors
from engine.learning.heads.kernels import LINEAR, PriorFunctions, SummedMatern
from engine.learning.seeding import seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_GP_LABELS = 4
"""Fewest labels that a Gaussian process is fitted to."""
FIT_ROWS = 700
"""Hyperparameters are fitted on at most this many rows; the head is then conditioned on all of them."""
BLOCK = 512
"""Rows predicted together: their covariance with the training rows fits the processor's cache."""
_SHORTEST = math.log(math.expm1(1e-3))
"""Of a length scale, as GPyTorch keeps it (inverse softplus). Where a step of the search lands far below, distances are
so large that rounding makes the covariance indefinite."""
_FLATTEST = math.log(math.expm1(1e-7))
"""Of the factor of an inner product, as GPyTorch keeps it: below, it would be rounded to zero, where a log-normal prior
has no density."""
_PER_COLUMN = "statistics"
"""The group with a length scale a column."""
_LINEAR = 0.3
_LINEAR_WIDTH = 1.5
"""Typical factor of the inner product relative to the variance of the Matern kernel of the same columns, and standard
deviation of its logarithm."""
_CHOICE_ROWS = 200
"""Below this many labels it is tested whether the bonding statistics help; above they always did."""
_ROBUST_ROWS = 50
"""With fewer labels none is called an outlier."""
OUTLIER = 6.0
"""Squared leave-one-out error, in units of its predicted variance, beyond which a label gets noise of its own."""


@dataclass(frozen=True, eq=False)
class GaussianProcessTensors(HeadTensors):
    """Of ``n`` training rows, ``d`` columns and ``g`` groups of columns; float64, indices int64."""

    centre: Tensor
    scale: Tensor
    """Standardisation of the columns (d each), with widths of groups and own length scales folded in."""
    x: Tensor
    """Standardised training rows, n x d."""
    target: Tensor
    """Their standardised values, n."""
    lengthscale: Tensor
    outputscale: Tensor
    """Length scale and variance of each kernel (g each), in units of the standardised target; see
    :class:`engine.learning.heads.kernels.SummedMatern` for linear kernels."""
    noise: Tensor
    """Variance of a new label's noise, in the same units."""
    row_noise: Tensor
    """Variance of the noise of each training label, n."""
    mean: Tensor
    std: Tensor
    """Of the values."""
    columns: Tensor
    """Where each kernel's columns start and stop, g x 2."""
    rows: Tensor | None = None
    """Which of the rows that the hyperparameters were fitted with these are, where some were left out (n)."""


@dataclass(frozen=True, eq=False)
class GaussianProcessHead:
    """A fitted Gaussian process."""

    tensors: GaussianProcessTensors

    @cached_property
    def kernel(self) -> SummedMatern:
        """Prior covariance, in units of the standardised target."""
        t = self.tensors
        return SummedMatern([slice(start, stop) for start, stop in t.columns.tolist()], t.lengthscale, t.outputscale)

    @cached_property
    def cholesky(self) -> Tensor:
        """Lower factor (n x n) of the training covariance with noise; made when needed, since it outweighs all else."""
        covariance = self.kernel(self.tensors.x, self.tensors.x)
        covariance.diagonal().add_(self.tensors.row_noise)
        return torch.linalg.cholesky(covariance)

    @cached_property
    def weights(self) -> Tensor:
        """(K + noise)^-1 (y - mean), n."""
        return torch.cholesky_solve(self.tensors.target[:, None], self.cholesky)[:, 0]

    @classmethod
    def fit(
        cls,
        embeddings: NDArray[np.float32],
        values: NDArray[np.float64],
        groups: Mapping[str, slice],
        seed: int,
        statistics: ColumnStatistics | None = None,
    ) -> GaussianProcessHead:
        """Fit on n embeddings (n x d) and their values (n).

        ``groups`` are those of :attr:`Backbone.groups`, perhaps with more behind them; ``statistics`` standardise the
        columns (d), those of the rows themselves if not given.

        Raises
        ------
        TooFewLabelsError
            With fewer than 4 rows, or if all values are equal.
        """
        y = torch.as_tensor(np.asarray(values, dtype=np.float64))
        if len(y) < MIN_GP_LABELS or float(y.std()) == 0.0:
            raise TooFewLabelsError(
                f"a Gaussian process needs at least {MIN_GP_LABELS} labels that differ, got {len(y)} "
                f"with standard deviation {float(y.std()) if len(y) > 1 else 0.0:g}; add labels"
            )
        raw = torch.as_tensor(np.asarray(embeddings, dtype=np.float64))
        kernels = kernel_groups(groups)
        if len(y) >= _CHOICE_ROWS:
            kernels = kernels[-1:]
        heads = [cls._fitted(raw, y, kernel, seed, statistics) for kernel in kernels]
        best = max(heads, key=lambda head: head.leave_one_out_density)
        return best.with_outlier_noise() if len(y) >= _ROBUST_ROWS else best

    @classmethod
    def _fitted(
        cls, raw: Tensor, y: Tensor, groups: Mapping[str, slice], seed: int, statistics: ColumnStatistics | None
    ) -> GaussianProcessHead:
        known = statistics or ColumnStatistics.unknown(raw.shape[1])
        centre, scale = (torch.from_numpy(part) for part in known.standardisation(raw.numpy()))
        scale = torch.where(scale > 1e-8, scale, torch.ones_like(scale))
        for columns in groups.values():
            scale[columns] *= math.sqrt(columns.stop - columns.start)
        x = (raw - centre) / scale
        mean, std = y.mean(), y.std()
        target = (y - mean) / std
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(y), generator=generator)[:FIT_ROWS]
        with seeded(seed):  # BoTorch starts again from random hyperparameters where a fit fails
            fitted = _fit_hyperparameters(x[rows], target[rows], groups)
        tensors = GaussianProcessTensors(
            centre=centre, scale=scale * fitted.own, x=x / fitted.own, target=target,
            lengthscale=fitted.lengthscale, outputscale=fitted.outputscale, noise=fitted.noise,
            row_noise=fitted.noise.expand(len(y)).clone(), mean=mean, std=std, columns=fitted.columns,
        )  # fmt: skip
        return cls(tensors)

    @property
    def leave_one_out_density(self) -> float:
        """Sum over the labels of the logarithm of each one's predictive density given the others."""
        error, variance = self._leave_one_out()
        return float(-0.5 * (variance.log() + error.square() / variance).sum())

    def with_outlier_noise(self) -> GaussianProcessHead:
        """The same head with more noise on labels that the others contradict."""
        error, variance = self._leave_one_out()
        doubtful = error.square() > OUTLIER * variance
        noise = torch.where(doubtful, error.square() / 2, self.tensors.row_noise).maximum(self.tensors.noise)
        return GaussianProcessHead(replace(self.tensors, row_noise=noise))

    def keeping(self, rows: NDArray[np.int64]) -> GaussianProcessHead:
        """The same head with only these training rows; what was fitted stays."""
        t, chosen = self.tensors, torch.as_tensor(rows)
        kept = replace(t, x=t.x[chosen], target=t.target[chosen], row_noise=t.row_noise[chosen], rows=chosen)
        return GaussianProcessHead(kept)

    def _leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Error and variance (n each, standardised) of each label as the others predict it."""
        variance = 1.0 / torch.cholesky_inverse(self.cholesky).diagonal()
        return self.weights * variance, variance

    def predict(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of a new label (noise included) at N embeddings, in units of the values.

        In single precision, a block that fits the processor's cache at a time: every round predicts the whole pool.
        """
        t = self.tensors
        rows = torch.tensor(np.asarray(embeddings), dtype=torch.float32)
        means, parts = zip(*(self._standardised(block) for block in rows.split(BLOCK)), strict=True)
        mean, variance = torch.cat(means).double(), torch.cat(parts).clamp_min(1e-10) + t.noise
        return (mean * t.std + t.mean).numpy(), (variance.sqrt() * t.std).numpy()

    def functions(self, n_functions: int, seed: int) -> PosteriorFunctions:
        """Draw functions from the posterior (noise-free); the same ``seed`` gives the same functions."""
        t = self.tensors
        generator = torch.Generator().manual_seed(seed)
        prior = PriorFunctions(self.kernel, n_functions, generator)
        noise = torch.randn(n_functions, len(t.x), generator=generator, dtype=torch.float64) * t.row_noise.sqrt()
        # K^-1 (y - f(x) - e): the first term, the mean's, is stored
        correction = torch.cholesky_solve((prior(t.x) + noise).T, self.cholesky).T
        return PosteriorFunctions(self, prior, correction)

    @cached_property
    def _single(self) -> tuple[Tensor, ...]:
        """What prediction reads, in single precision: centre, scale, x, upper factor, weights."""
        t = self.tensors
        return tuple(v.float().contiguous() for v in (t.centre, t.scale, t.x, self.cholesky.T, self.weights))

    def _standardised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, and variance without noise (double precision), each N, in units of the standardised target."""
        centre, scale, x, factor, weights = self._single
        own = (rows - centre) / scale
        cross = self.kernel(own, x)
        seen = torch.linalg.solve_triangular(factor, cross, upper=True, left=False)
        return cross @ weights, self.kernel.diagonal(own) - seen.square().sum(1).double()

    def standardise(self, embeddings: NDArray[np.float32]) -> Tensor:
        """N embeddings (N x d) in the columns of the training rows."""
        raw = torch.as_tensor(np.asarray(embeddings, dtype=np.float64))
        return (raw - self.tensors.centre) / self.tensors.scale


def kernel_groups(groups: Mapping[str, slice]) -> list[dict[str, slice]]:
    """Columns of each kernel for each choice worth a test: without the bonding statistics, and with them."""
    rest = {name: columns for name, columns in groups.items() if name not in ("composition", "bonding")}
    composition, bonding = groups["composition"], groups["bonding"]
    return [
        {_PER_COLUMN: composition, **rest},
        {_PER_COLUMN: slice(composition.start, bonding.stop), **rest},
    ]


@dataclass(frozen=True, eq=False)
class PosteriorFunctions:
    """F functions drawn from a head's posterior, to be evaluated at any rows, whole pools in parts."""

    head: GaussianProcessHead
    prior: PriorFunctions
    correction: Tensor
    """F x n: what the labels, seen through each prior function, take from it."""

    def __call__(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of the posterior (N) and the functions' values (F x N) at N embeddings, in units of the values."""
        t = self.head.tensors
        x = self.head.standardise(embeddings)
        cross = self.head.kernel(t.x, x)
        mean = self.head.weights @ cross * t.std + t.mean
        deviation = (self.prior(x) - self.correction @ cross) * t.std
        return mean.numpy(), (mean + deviation).numpy()


class _Hyperparameters(NamedTuple):
    """Of d columns in g groups and k kernels, in units of the standardised target."""

    own: Tensor
    """Length scale of each column that has one, 1 for the others, d."""
    columns: Tensor
    """Where each kernel's columns start and stop, k x 2."""
    lengthscale: Tensor
    outputscale: Tensor
    """Length scale and variance of each kernel (k each), see :class:`engine.learning.heads.kernels.SummedMatern`."""
    noise: Tensor
    """Variance of a label's noise, a scalar."""


def _fit_hyperparameters(x: Tensor, target: Tensor, groups: Mapping[str, slice]) -> _Hyperparameters:
    """Fit n rows (n x d) and their values (n), both standardised, by penalised likelihood."""
    import gpytorch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import AdditiveKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.priors import GammaPrior, LogNormalPrior

    from engine.learning.heads.matern_and_linear import MaternAndLinear

    kernels = [
        ScaleKernel(
            MaternAndLinear(
                columns=c,
                per_column=name == _PER_COLUMN,
                lengthscale_prior=LogNormalPrior(0.5, 1.0),
                linear_prior=LogNormalPrior(math.log(_LINEAR), _LINEAR_WIDTH),
            ),
            outputscale_prior=GammaPrior(1.5, 1.5),
        )
        for name, c in groups.items()
    ]
    likelihood = GaussianLikelihood(noise_prior=LogNormalPrior(-4.0, 1.0), noise_constraint=GreaterThan(1e-4))
    likelihood.noise = 0.02
    model = SingleTaskGP(
        x, target[:, None], likelihood=likelihood, covar_module=AdditiveKernel(*kernels),
        mean_module=gpytorch.means.ZeroMean(), outcome_transform=None, input_transform=None,
    )  # fmt: skip
    for kernel in kernels:
        kernel.base_kernel.lengthscale = 1.5
        kernel.base_kernel.set_linear(_LINEAR)
        kernel.outputscale = 1.0 / len(kernels)
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    least = {"raw_lengthscale": _SHORTEST, "raw_linear": _FLATTEST}
    bounds = {
        name: (least[kind], None) for name, _ in mll.named_parameters() if (kind := name.rpartition(".")[2]) in least
    }
    fit_gpytorch_mll(mll, optimizer_kwargs={"bounds": bounds, "options": {"maxiter": 60}})
    own, lengthscale = torch.ones(x.shape[1], dtype=torch.float64), torch.ones(len(kernels), dtype=torch.float64)
    for k, (kernel, columns) in enumerate(zip(kernels, groups.values(), strict=True)):
        found = kernel.base_kernel.lengthscale.detach().reshape(-1)
        if len(found) > 1:
            own[columns] = found
        else:
            lengthscale[k] = found[0]
    outputscale = torch.stack([kernel.outputscale.detach().reshape(()) for kernel in kernels])
    linear = torch.stack([kernel.base_kernel.linear.detach().reshape(()) for kernel in kernels])
    return _Hyperparameters(
        own=own,
        columns=torch.tensor([[c.start, c.stop] for c in groups.values()] * 2),
        lengthscale=torch.cat([lengthscale, torch.full_like(lengthscale, LINEAR)]),
        outputscale=torch.cat([outputscale, outputscale * linear]),
        noise=likelihood.noise.detach().reshape(()),
    )
