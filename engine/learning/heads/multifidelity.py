"""A Gaussian process over several fidelities of one property: what a cheap one tells of an expensive one, exactly.

Each fidelity is a multiple of the one below it plus a discrepancy (Kennedy and O'Hagan, Biometrika 87, 1, 2000),

    f_0(x) = d_0(x),   f_t(x) = slope_t f_{t-1}(x) + d_t(x),   y_t = mean_t + std f_t(x) + noise_t,

with independent Gaussian processes d_t: the lowest one is a :class:`GaussianProcessHead`; the discrepancies have its
groups and its metric, length scales and weights of their own, and a constant, since one fidelity is off from another by
a factor that nobody knows. All labels of all fidelities are conditioned on together.

Hyperparameters are fitted from the lowest fidelity upwards, those of each given the labels of the ones beneath (as in
Kennedy and O'Hagan; Le Gratiet and Garnier, Int. J. Uncertain. Quantif. 4, 365, 2014): thousands of cheap labels cost
one fit, whatever is learned above them, and a few expensive ones cannot spoil it.

The covariance of all labels is factorised a fidelity at a time: the factor of those beneath stays as it is, a label on
top adds a row (Schur complement). Processes that stand on one thus share its factor, and what it says of a crystal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning.heads.discrepancy import OTHER_PROPERTY, Expected, fit_discrepancy
from engine.learning.heads.gp import BLOCK, FIT_ROWS, MIN_GP_LABELS, GaussianProcessHead
from engine.learning.heads.kernels import LINEAR, PriorFunctions, SummedMatern
from engine.learning.heads.multifidelity_tensors import MultiFidelityTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class MultiFidelityHead:
    """A fitted process of all fidelities."""

    tensors: MultiFidelityTensors
    fidelities: tuple[str, ...]
    """From the cheapest to the one that is wanted."""
    built_on: MultiFidelityHead | None = field(default=None, repr=False)
    """Process of the fidelities beneath, where it is there already, with all that it has worked out."""
    sight: Tensor | None = field(default=None, repr=False)
    """What that one sees of the labels on top (:meth:`sees`), n x m, where it is known already."""

    @classmethod
    def fit(
        cls,
        embeddings: NDArray[np.float32],
        values: NDArray[np.float64],
        fidelities: Sequence[str],
        groups: Mapping[str, slice],
        seed: int,
        *,
        order: Sequence[str],
    ) -> MultiFidelityHead:
        """Fit on n labels: embeddings (n x d; a material labelled twice is there twice), values and fidelities (n).

        ``order`` names the fidelities from the cheapest to the one that is wanted; one without labels is left out.

        Raises
        ------
        TrainingError
            For a fidelity that ``order`` does not name.
        TooFewLabelsError
            With 1 to 3 labels of a fidelity, none of the last, or if all values of the lowest one are equal.
        """
        names = np.asarray(fidelities)
        if unknown := sorted(set(names.tolist()) - set(order)):
            raise TrainingError(
                f"labels of fidelity {', '.join(unknown)}, the order is {', '.join(order)}; name them there, or leave "
                "the labels out"
            )
        if order[-1] not in names:
            raise TooFewLabelsError(
                f"no label of {order[-1]}, the fidelity that is wanted; add {MIN_GP_LABELS} or more"
            )
        rows = {name: np.flatnonzero(names == name) for name in order if name in names}
        lowest, *above = rows
        head = GaussianProcessHead.fit(embeddings[rows[lowest]], values[rows[lowest]], groups, seed)
        process = cls.of(head, lowest)
        for name in above:
            process = process.above(name, embeddings[rows[name]], values[rows[name]], seed)
        return process

    @classmethod
    def of(cls, head: GaussianProcessHead, fidelity: str) -> MultiFidelityHead:
        """Process whose only fidelity is the one that ``head`` was trained on."""
        t = head.tensors
        tensors = MultiFidelityTensors(
            **{name: vars(t)[name] for name in ("centre", "scale", "x", "target", "row_noise", "columns", "std")},
            lengthscale=t.lengthscale,
            outputscale=t.outputscale,
            level=torch.zeros(len(t.x), dtype=torch.int64),
            kernel_level=torch.zeros(len(t.columns), dtype=torch.int64),
            slope=t.noise.new_zeros(1),
            noise=t.noise.reshape(1),
            mean=t.mean.reshape(1),
        )
        return cls(tensors, (fidelity,))

    def above(
        self,
        fidelity: str,
        embeddings: NDArray[np.float32],
        values: NDArray[np.float64],
        seed: int,
        sight: Tensor | None = None,
        expected: Expected = OTHER_PROPERTY,
    ) -> MultiFidelityHead:
        """Process with one more fidelity on top, learned from n embeddings and their values.

        ``sight`` is :meth:`sees` of the embeddings, for members that share most of them; ``expected`` how much the
        fidelity may differ from the one beneath.

        Raises
        ------
        TooFewLabelsError
            With fewer than 4 labels.
        """
        if len(values) < MIN_GP_LABELS:
            raise TooFewLabelsError(
                f"a fidelity needs at least {MIN_GP_LABELS} labels, {fidelity} has {len(values)}; add labels, or leave "
                "these out"
            )
        t, level = self.tensors, len(self.fidelities)
        x, y = self._standardise(embeddings), torch.as_tensor(np.asarray(values, dtype=np.float64))
        sight = self.sees(embeddings) if sight is None else sight
        below = sight @ self._target
        covariance = self._covariance(x, level - 1, x, level - 1) - sight @ sight.T
        mean = (y - below * t.std).mean()
        target = (y - mean) / t.std
        some = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:FIT_ROWS]
        lowest = self._discrepancy(0)
        groups = [c for c, length in zip(lowest.groups, lowest.lengthscale, strict=True) if length != LINEAR]
        fitted = fit_discrepancy(x[some], target[some], below[some], covariance[some][:, some], groups, expected)
        added = {
            **fitted._asdict(), "x": x, "target": target, "row_noise": fitted.noise.expand(len(x)),
            "level": torch.full((len(x),), level), "kernel_level": torch.full((len(fitted.columns),), level),
            "mean": mean.reshape(1),
        }  # fmt: skip
        return self.with_upper(added, fidelity, sight)

    def sees(self, embeddings: NDArray[np.float32]) -> Tensor:
        """Whitened covariance of N embeddings, at the highest fidelity, with the n labels: what these say of them."""
        return self._seen(self._standardise(embeddings), len(self.fidelities) - 1)

    def upper(self, lower: MultiFidelityHead) -> dict[str, Tensor]:
        """Tensors that this process has beyond those of ``lower``, which it was built on."""
        return self.tensors.beyond(lower.tensors)

    def with_upper(
        self, tensors: Mapping[str, Tensor], fidelity: str, sight: Tensor | None = None
    ) -> MultiFidelityHead:
        """Process whose :meth:`upper` tensors over this one are these."""
        return MultiFidelityHead(self.tensors.joined(tensors), (*self.fidelities, fidelity), self, sight)

    def keeping(self, rows: NDArray[np.int64]) -> MultiFidelityHead:
        """The same process with only these labels; what was fitted stays."""
        return MultiFidelityHead(self.tensors.labels(torch.as_tensor(rows)), self.fidelities)

    def predict(
        self, embeddings: NDArray[np.float32], fidelity: str | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of a new label (noise included) at N embeddings, in units of the values.

        Of the fidelity that is wanted if none is named. In single precision, as :meth:`GaussianProcessHead.predict`.
        """
        mean, std = predict_all([self], embeddings, fidelity)
        return mean[0], std[0]

    def functions(self, n_functions: int, seed: int) -> MultiFidelityFunctions:
        """Draw functions of all fidelities from the posterior (noise-free); the same ``seed`` gives the same ones."""
        t = self.tensors
        generator = torch.Generator().manual_seed(seed)
        discrepancies = [
            PriorFunctions(self._discrepancy(level), n_functions, generator) for level in range(len(self.fidelities))
        ]
        normal = torch.randn(n_functions, len(t.x), generator=generator, dtype=torch.float64)
        at_labels = torch.empty_like(normal)
        for loadings, rows in zip(self._loadings, self._rows, strict=True):
            at_labels[:, rows] = _prior(discrepancies, loadings, t.x[rows])
        return MultiFidelityFunctions(self, discrepancies, self._whitened(at_labels, normal))

    def variance_reduction(
        self, embeddings: NDArray[np.float32], fidelity: str, reference: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Fall of the variance of the wanted fidelity (noise-free) by one more label of ``fidelity`` at N embeddings.

        At the same material each, or on average over R ``reference`` embeddings (Seo et al., IJCNN 2000), in squared
        units of the values; divided by the price of a label it says which material to label next, and how.
        """
        level, wanted = self._level(fidelity), self._level(None)
        x = self._standardise(embeddings)
        seen = self._seen(x, level)
        variance = self._prior_covariance(x, level, level) - seen.square().sum(1) + self.tensors.noise[level]
        if reference is None:
            shared = self._prior_covariance(x, level, wanted) - (seen * self._seen(x, wanted)).sum(1)
            fall = shared.square() / variance
        else:
            at = self._standardise(reference)
            shared = self._covariance(x, level, at, wanted) - seen @ self._seen(at, wanted).T
            fall = shared.square().mean(1) / variance
        return (fall * self.tensors.std.square()).numpy()

    @cached_property
    def lower(self) -> MultiFidelityHead | None:
        """Process of the fidelities beneath the highest, conditioned on their labels alone."""
        if self.built_on is not None or len(self.fidelities) == 1:
            return self.built_on
        return MultiFidelityHead(self.tensors.beneath(len(self.fidelities) - 1), self.fidelities[:-1])

    @cached_property
    def _own(self) -> _Own:
        """What the labels of the highest fidelity add to those beneath."""
        t, top = self.tensors, len(self.fidelities) - 1
        rows = self._rows[top]
        x = t.x[rows]
        link = self._beneath(x, top, self.sight)
        covariance = self._covariance(x, top, x, top) - link @ link.T
        covariance.diagonal().add_(t.row_noise[rows])
        return _Own(t.centre, t.scale, x, torch.linalg.cholesky(covariance).T.contiguous(), link)

    @cached_property
    def _own_single(self) -> _Own:
        """The same in single precision, for whole pools."""
        return _Own(*(part.float().contiguous() for part in self._own))

    @cached_property
    def _target(self) -> Tensor:
        """Whitened targets of the labels, fidelity by fidelity, n."""
        target = self.tensors.target[None]
        beneath = target[:, :0] if self.lower is None else self.lower._target[None]
        return self._with_top(beneath, target[:, self._rows[len(self.fidelities) - 1]])[0]

    @cached_property
    def _groups(self) -> list[slice]:
        return [slice(start, stop) for start, stop in self.tensors.columns.tolist()]

    @cached_property
    def _rows(self) -> list[Tensor]:
        """Labels of each fidelity."""
        return [torch.nonzero(self.tensors.level == level)[:, 0] for level in range(len(self.fidelities))]

    @cached_property
    def _loadings(self) -> Tensor:
        """How much of each discrepancy (columns) is in each fidelity (rows), t x t."""
        loadings = torch.eye(len(self.fidelities), dtype=torch.float64)
        for level, slope in enumerate(self.tensors.slope[1:], start=1):
            loadings[level] += slope * loadings[level - 1]
        return loadings

    def _level(self, fidelity: str | None) -> int:
        if fidelity is None:
            return len(self.fidelities) - 1
        if fidelity not in self.fidelities:
            raise TrainingError(
                f"no fidelity {fidelity!r} in this process; it has learned {', '.join(self.fidelities)}: name one of "
                "these, or train with labels of it"
            )
        return self.fidelities.index(fidelity)

    def _standardise(self, embeddings: NDArray[np.float32]) -> Tensor:
        raw = torch.as_tensor(np.asarray(embeddings, dtype=np.float64))
        return (raw - self.tensors.centre) / self.tensors.scale

    def _whitened(self, values: Tensor, normal: Tensor | None = None) -> Tensor:
        """Values at the labels (F x n, as the tensors have them) times the inverse factor, fidelity by fidelity.

        With noise of the labels where standard ``normal`` numbers (F x n) are given for it.
        """
        top, rows = len(self.fidelities) - 1, self._rows[len(self.fidelities) - 1]
        beneath, at_top = values[:, :0], values[:, rows]
        if self.lower is not None:
            below = self.tensors.level < top
            beneath = self.lower._whitened(values[:, below], None if normal is None else normal[:, below])
        if normal is not None:
            at_top = at_top + normal[:, rows] * self.tensors.row_noise[rows].sqrt()
        return self._with_top(beneath, at_top)

    def _with_top(self, beneath: Tensor, at_top: Tensor) -> Tensor:
        """Whitened values (F x n) from those of the fidelities beneath and the values at the labels of the highest."""
        own = self._own
        rest = at_top - beneath @ own.link.T
        return torch.cat([beneath, torch.linalg.solve_triangular(own.factor, rest, upper=True, left=False)], dim=1)

    def _seen(self, x: Tensor, level: int, known: Tensor | None = None) -> Tensor:
        """Whitened covariance of a fidelity at standardised rows with the labels, N x n; squared, what they explain.

        Fidelity by fidelity; ``known`` is what :attr:`lower` sees of the rows, where that has been worked out.
        """
        own = self._own if x.dtype == torch.float64 else self._own_single
        beneath = self._beneath(x, level, known)
        rest = self._covariance(x, level, own.x, len(self.fidelities) - 1) - beneath @ own.link.T
        return torch.cat([beneath, torch.linalg.solve_triangular(own.factor, rest, upper=True, left=False)], dim=1)

    def _beneath(self, x: Tensor, level: int, known: Tensor | None = None) -> Tensor:
        """Whitened covariance of a fidelity at standardised rows with the labels beneath the highest, N x m."""
        if known is None:
            known = self._seen_by_lower(x, level)
        return float(self.tensors.slope[level]) * known if level == len(self.fidelities) - 1 else known

    def _seen_by_lower(self, x: Tensor, level: int) -> Tensor:
        """Part of a fidelity that the process of the lower ones knows, N x m."""
        if self.lower is None:
            return x.new_empty(len(x), 0)
        return self.lower._seen(x, min(level, len(self.fidelities) - 2))

    def _covariance(self, a: Tensor, level: int, b: Tensor, other: int) -> Tensor:
        """Prior covariance of a fidelity at ``a`` with another at ``b``."""
        return self._kernel(level, other)(a, b)

    def _prior_covariance(self, x: Tensor, level: int, other: int) -> Tensor:
        """Prior covariance of two fidelities at each of N standardised rows, N."""
        return self._kernel(level, other).diagonal(x)

    def _kernel(self, level: int, other: int) -> SummedMatern:
        """Prior covariance of two fidelities."""
        t = self.tensors
        amplitude = t.outputscale * (self._loadings[level] * self._loadings[other])[t.kernel_level]
        used = torch.nonzero(amplitude)[:, 0]
        return SummedMatern([self._groups[k] for k in used.tolist()], t.lengthscale[used], amplitude[used])

    def _discrepancy(self, level: int) -> SummedMatern:
        """Prior of one discrepancy by itself."""
        t, own = self.tensors, self.tensors.kernel_level == level
        groups = [slice(start, stop) for start, stop in t.columns[own].tolist()]
        return SummedMatern(groups, t.lengthscale[own], t.outputscale[own])


@dataclass(frozen=True, eq=False)
class MultiFidelityFunctions:
    """F functions of every fidelity drawn from the joint posterior, to be evaluated at any rows."""

    head: MultiFidelityHead
    discrepancies: Sequence[PriorFunctions]
    error: Tensor
    """F x n: whitened difference of each prior function from the labels' means, fidelity by fidelity."""

    def __call__(
        self, embeddings: NDArray[np.float32], fidelity: str | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of the posterior (N) and the functions' values (F x N) at N embeddings, in units of the values."""
        mean, values = evaluate_all([self], embeddings, fidelity)
        return mean[0], values

    def _evaluate(self, x: Tensor, level: int, known: Tensor) -> tuple[Tensor, Tensor]:
        t = self.head.tensors
        seen = self.head._seen(x, level, known)
        mean = seen @ self.head._target * t.std + t.mean[level]
        prior = _prior(self.discrepancies, self.head._loadings[level], x)
        return mean, mean + (prior - self.error @ seen.T) * t.std


class _Own(NamedTuple):
    """What the n labels of the highest fidelity add to the m beneath; d columns."""

    centre: Tensor
    scale: Tensor
    """Of the columns, d each."""
    x: Tensor
    """n x d standardised rows."""
    factor: Tensor
    """n x n: transposed Cholesky factor of their covariance with noise, given the labels beneath."""
    link: Tensor
    """n x m: their whitened covariance with the labels beneath."""


def predict_all(
    processes: Sequence[MultiFidelityHead], embeddings: NDArray[np.float32], fidelity: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of a new label by K processes that stand on one, which is asked once; K x N each.

    As :meth:`MultiFidelityHead.predict`.
    """
    first = processes[0]
    level = first._level(fidelity)
    centre, scale = first._own_single[:2]
    blocks = torch.tensor(np.asarray(embeddings), dtype=torch.float32).split(BLOCK)
    means, variances = [], []
    for block in blocks:
        x = (block - centre) / scale
        known = first._seen_by_lower(x, level)
        seen = [process._seen(x, level, known) for process in processes]
        means.append(torch.stack([s @ p._target.float() for s, p in zip(seen, processes, strict=True)]))
        prior = torch.stack([process._prior_covariance(x, level, level) for process in processes])
        variances.append(prior - torch.stack([s.square().sum(1) for s in seen]).double())
    mean, std = torch.cat(means, dim=1).double(), first.tensors.std
    offset = torch.stack([p.tensors.mean[level] for p in processes])[:, None]
    noise = torch.stack([p.tensors.noise[level] for p in processes])[:, None]
    variance = torch.cat(variances, dim=1).clamp_min(1e-10) + noise
    return (mean * std + offset).numpy(), (variance.sqrt() * std).numpy()


def evaluate_all(
    functions: Sequence[MultiFidelityFunctions], embeddings: NDArray[np.float32], fidelity: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means (K x N) and values (F x N, all functions) of K processes that stand on one, which is asked once."""
    first = functions[0].head
    level = first._level(fidelity)
    x = first._standardise(embeddings)
    known = first._seen_by_lower(x, level)
    means, values = zip(*(f._evaluate(x, level, known) for f in functions), strict=True)
    return torch.stack(means).numpy(), torch.cat(values).numpy()


def _prior(discrepancies: Sequence[PriorFunctions], loadings: Tensor, x: Tensor) -> Tensor:
    """Prior functions of a fidelity at standardised rows, F x N."""
    parts = [loading * functions(x) for loading, functions in zip(loadings, discrepancies, strict=True) if loading]
    return torch.stack(parts).sum(0)
