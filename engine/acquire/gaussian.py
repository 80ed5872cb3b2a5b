"""Acquisition functions on the joint Gaussian of a pool, conditioned on chosen rows as if labelled at their means.

That is the kriging believer (Ginsbourger, Le Riche, Carraro, in Computational Intelligence in Expensive Optimization
Problems, 2010) or hallucinated feedback (Desautels, Krause, Burdick, J. Mach. Learn. Res. 15, 4053, 2014): means stay,
spreads fall. With the centred draws ``F`` (``D x n``, covariance ``F^T F``), a label on row j multiplies F from the
left by ``I - (1 - sqrt(noise / (noise + |f_j|^2))) u u^T``, ``u = f_j / |f_j|``: exact, and the same for any chunk.
The excess of the marginal variance over that of the draws is label noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from botorch.acquisition.cost_aware import CostAwareUtility
from botorch.acquisition.max_value_entropy_search import (
    MaxValueBase,
    qLowerBoundMaxValueEntropy,
    qMaxValueEntropy,
    qMultiFidelityLowerBoundMaxValueEntropy,
    qMultiFidelityMaxValueEntropy,
)
from botorch.sampling.normal import SobolQMCNormalSampler
from torch import Tensor

from engine.acquire.model import PoolModel
from engine.acquire.sequential import Kind
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.acquire.marginal import Rule
    from engine.acquire.objectives import Objective
    from engine.acquire.pool import CandidatePool, Rows

MIN_DRAWS = 32
"""Fewest draws for a covariance; with fewer it is too noisy."""
MAXIMA = 64
"""Samples of the pool's best value for GIBBON."""
MAXIMA_MES = 10
"""Samples of the best value for qMES, each with many samples of the label."""
LABELS_MES = 16
"""Samples of the label for each sample of the best value."""
PROMISING_ROWS = 256
"""Rows over which the knowledge gradient maximises the mean."""
NODES, NODES_END = 61, 6.0
"""Number of label values of the knowledge gradient, evenly spaced, and their range in standard deviations."""
CHANCE = 4.0
"""Squared correlation of independent rows, times the number of draws, that 95 % of them stay below."""
STRADDLE = 1.96
"""Standard deviations of the straddle heuristic."""


class _Believer:
    """Joint Gaussian, conditioned on the chosen rows."""

    kind = Kind.POSITIVE
    needs_draws = True
    keeps_bounds = True
    only_orders = False

    def __init__(self, n_draws: int):
        self._forget = np.eye(n_draws)  # remaining variance along each direction after the labels
        self._near: tuple[NDArray[Any], ...] = ()  # rows, factor and noise of the last call of all_of

    def take(self, rows: Rows) -> None:
        """Condition on these rows, one after the other."""
        for one in range(len(rows)):
            row = rows[np.array([one])]
            factor, noise = self.factor(row), self.noise(row)[0]
            direction = factor[:, 0]
            variance = float(direction @ direction)
            if variance <= 0:
                continue
            unit = direction / np.sqrt(variance)
            kept = np.sqrt(noise / (noise + variance))
            for matrix in (self._forget, *self._near[1:2]):
                np.subtract(matrix, (1 - kept) * np.outer(unit, unit @ matrix), out=matrix)
            self.learned(unit, kept)

    def learned(self, unit: NDArray[np.float64], kept: float) -> None:
        """Update with a label: along the unit vector only the share ``kept`` remains."""

    def factor(self, rows: Rows) -> NDArray[np.float64]:
        """``D x n``: the conditional covariance is ``F^T F``."""
        return self._forget @ _centred(rows)

    def noise(self, rows: Rows) -> NDArray[np.float64]:
        """Variance of a label beyond that of the draws, n."""
        return np.maximum(np.square(rows.std) - np.square(_centred(rows)).sum(axis=0), 1e-9 * np.square(rows.std))

    def all_of(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factor and noise of all rows that may still be chosen, cached between picks."""
        if not self._near:
            self._near = (rows.rows, self.factor(rows), self.noise(rows))
        kept = np.isin(self._near[0], rows.rows)
        if not kept.all():
            self._near = tuple(np.ascontiguousarray(part[..., kept]) for part in self._near)
        return self._near[1], self._near[2]

    def std(self, rows: Rows) -> NDArray[np.float64]:
        """Standard deviation of a label given the chosen rows, n."""
        before, after = np.square(_centred(rows)).sum(axis=0), np.square(self.factor(rows)).sum(axis=0)
        return np.sqrt(np.maximum(np.square(rows.std) - before + after, 0.0))

    def nil(self) -> float:
        """Gains above 0 count."""
        return 1e-12

    def value(self, gain: float) -> float:
        """Return the gain itself."""
        return gain


class BelieverRule(_Believer):
    """A rule of mean and spread with the conditional spread: for ucb this is GP-BUCB (Desautels et al., see above)."""

    def __init__(self, rule: Rule, objective: Objective, n_draws: int):
        super().__init__(n_draws)
        self.rule, self.objective, self.kind = rule, objective, rule.kind

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Return the value without chosen rows."""
        return self.rule(*pool.moments[0])

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Value given the chosen rows."""
        return self.rule(*self.objective.moments(rows.mean, self.std(rows)))

    def nil(self) -> float:
        """Every value counts."""
        return -np.inf


class LevelSet(_Believer):
    """Straddle heuristic ``1.96 std - |mean - threshold|`` (Bryan et al., NIPS 2005): uncertainty about the side."""

    kind = Kind.FREE

    def __init__(self, threshold: float, n_draws: int):
        super().__init__(n_draws)
        self.threshold = threshold

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Value without chosen rows."""
        mean, std = pool.mean_std
        return STRADDLE * std - np.abs(mean - self.threshold)

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Value given the chosen rows."""
        return STRADDLE * self.std(rows) - np.abs(rows.mean - self.threshold)

    def nil(self) -> float:
        """Every value counts."""
        return -np.inf


class IntegratedVariance(_Believer):
    """Reduction of the mean variance over reference rows by a label, as of qNegIntegratedPosteriorVariance.

    Seo et al., IJCNN 2000; BoTorch's function fantasises one row after the other; this gives the same for all at once.
    """

    keeps_bounds = False  # not submodular: two rows together may reduce the variance of a third by more than their sum
    only_orders = True

    def __init__(self, reference: Rows):
        factor = _centred(reference)
        super().__init__(len(factor))
        self._integral = factor @ factor.T / len(reference)

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Rows are evaluated in random order: the most uncertain ones correlate least with the others."""
        return -pool.priority.astype(np.float64)

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Reduction of the mean variance."""
        factor, noise = self.all_of(rows)
        shared = np.einsum("dn,dn->n", factor, self._integral @ factor)
        total = np.square(factor).sum(axis=0) + noise
        return shared / np.maximum(total, 1e-300)

    def learned(self, unit: NDArray[np.float64], kept: float) -> None:
        """Condition the integral together with the draws."""
        for axis in (0, 1):
            integral = self._integral if axis == 0 else self._integral.T
            integral -= (1 - kept) * np.outer(unit, unit @ integral)


class MaxValueEntropy(_Believer):
    """Information about the pool's best value: GIBBON (Moss et al. 2021) or qMES (Wang, Jegelka 2017) by BoTorch.

    The best value is sampled from the joint draws, not by BoTorch's Gumbel fit, which assumes independent rows. Where
    rows have a target (the same material at the target fidelity) the best value is that of the targets: the
    multi-fidelity version (Takeno et al., ICML 2020, arXiv:1901.08275).
    """

    keeps_bounds = False
    only_orders = True

    def __init__(self, name: str, sign: float, best: float | None, n_draws: int):
        super().__init__(n_draws)
        self.name, self.sign, self.best = name, sign, -np.inf if best is None else best

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Rows are evaluated in the order of mean + 2 standard deviations."""
        return pool.marginal(4.0)

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Information in nats; ``rows`` are all that may still be chosen."""
        factor, noise = self.all_of(rows)
        tables, noises = [self._draws(rows, factor)], [noise]
        if rows.target is not None:
            tables.append(self._draws(rows.target, self.factor(rows.target)))
            noises.append(self.noise(rows.target))
        model = PoolModel(torch.from_numpy(np.concatenate(tables, axis=1)), torch.from_numpy(np.concatenate(noises)))
        maxima = np.maximum(tables[-1].max(axis=1), self.best)
        some = MAXIMA if self.name == "GIBBON" else MAXIMA_MES
        maxima = np.quantile(maxima, (np.arange(some) + 0.5) / some)
        function = _entropy_search(self.name, model, 0 if rows.target is None else len(rows))
        function.posterior_max_values = torch.from_numpy(maxima).unsqueeze(-1)
        with torch.no_grad():
            return function(model.rows()[: len(rows)]).numpy()

    def _draws(self, rows: Rows, factor: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.sign * (rows.mean + np.sqrt(len(factor)) * factor)


class ExcessByFidelity(_Believer):
    """Expected excess of a material at the target fidelity, times what a label at the row's own fidelity tells of it.

    What it tells is the fall of the target's variance, as a share of the fall by a label of the target itself: 1 there.
    Multiple-fidelity sequential kriging (Huang, Allen, Notz, Miller, Struct. Multidiscip. Optim. 32, 369, 2006), which
    takes the correlation instead, and the improvement on the best value.
    """

    keeps_bounds = False
    only_orders = True

    def __init__(self, rule: Rule, objective: Objective, n_draws: int):
        super().__init__(n_draws)
        self.rule, self.objective = rule, objective

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Rows are evaluated in the order of the excess of their targets."""
        return self.rule(*pool.moments[0])

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Excess on the model's scale; ``rows`` are all that may still be chosen, with their targets."""
        assert rows.target is not None
        (factor, noise), target = self.all_of(rows), rows.target
        over = self.factor(target)
        here, own = np.square(factor).sum(axis=0), np.square(over).sum(axis=0)
        correlation = np.square((factor * over).sum(axis=0)) / np.maximum(here * own, 1e-300)
        correlation = np.maximum(correlation - CHANCE / len(factor), 0.0)
        fall, own_fall = (v / np.maximum(v + e, 1e-300) for v, e in ((here, noise), (own, self.noise(target))))
        told = np.minimum(correlation * fall / np.maximum(own_fall, 1e-300), 1.0)
        told[rows.rows == target.rows] = 1.0
        return np.asarray(told * np.exp(self.rule(*self.objective.moments(target.mean, self.std(target)))))


class KnowledgeGradient(_Believer):
    """Expected increase of the best posterior mean by a label, over the most promising rows: qKG with q = 1.

    Frazier, Powell, Dayanik, INFORMS J. Comput. 21, 599 (2009). BoTorch's one-shot qKG searches a continuous space for
    the best mean of each fantasy; over a pool it is a maximum over rows, integrated here over the label by trapezia.
    """

    keeps_bounds = False
    only_orders = True

    def __init__(self, sign: float, n_draws: int):
        super().__init__(n_draws)
        self.sign = sign

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Rows are evaluated in the order of mean + 2 standard deviations."""
        return pool.marginal(4.0)

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Increase on the model's scale; ``rows`` are all that may still be chosen."""
        (factor, noise), target = self.all_of(rows), rows if rows.target is None else rows.target
        ends = self.sign * target.mean
        promising = np.argsort(-(ends + 2 * target.std), kind="stable")[:PROMISING_ROWS]
        ends = ends[promising]
        over = factor[:, promising] if rows.target is None else self.factor(target[promising])
        total = np.sqrt(np.square(factor).sum(axis=0) + noise)
        moves = self.sign * (over.T @ factor) / np.maximum(total, 1e-300)  # change of each mean by one unit of label
        nodes = np.linspace(-NODES_END, NODES_END, NODES)
        weights = np.exp(-0.5 * nodes**2)
        best = np.zeros(len(rows))
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            best += weight * (ends[:, None] + node * moves).max(axis=0)
        return best - ends.max()


def _entropy_search(name: str, model: PoolModel, target_at: int) -> MaxValueBase:
    """BoTorch's function; ``target_at`` is where the targets of the first rows begin, 0 without."""
    some = model.rows()[:2, 0]
    if target_at:
        kind = _MultiFidelityGibbon if name == "GIBBON" else _MultiFidelityEntropy
        function = kind(model, some, cost_aware_utility=_NoCost(), project=lambda X: (X + target_at) % (2 * target_at))
    else:
        function = _Gibbon(model, some) if name == "GIBBON" else _Entropy(model, some)
    if name == "qMES":
        function.sampler = SobolQMCNormalSampler(torch.Size([LABELS_MES]), seed=0)
    return function


class _SampledElsewhere:
    """BoTorch's base class with samples of the best value given by the caller."""

    def _sample_max_values(self, num_samples: int, X_pending: Any = None) -> None:
        self.posterior_max_values = torch.empty(0)


class _Gibbon(_SampledElsewhere, qLowerBoundMaxValueEntropy):
    pass


class _Entropy(_SampledElsewhere, qMaxValueEntropy):
    pass


class _MultiFidelityGibbon(_SampledElsewhere, qMultiFidelityLowerBoundMaxValueEntropy):
    pass


class _MultiFidelityEntropy(_SampledElsewhere, qMultiFidelityMaxValueEntropy):
    pass


class _NoCost(CostAwareUtility):
    """No cost here: costs enter where the batch is chosen."""

    def forward(self, X: Tensor, deltas: Tensor, sampler: Any = None, **kwargs: Any) -> Tensor:
        return deltas


def _centred(rows: Rows) -> NDArray[np.float64]:
    """Draws about their mean, ``D x n``, so that the squares of a column sum to its variance."""
    draws = rows.draws.astype(np.float64)
    return (draws - draws.mean(axis=0)) / np.sqrt(len(draws))


def require_gaussian(name: str, n_draws: int) -> None:
    """Refuse too few draws for a joint Gaussian.

    Raises
    ------
    AcquisitionError
        With fewer than 32 draws.
    """
    if n_draws < MIN_DRAWS:
        raise AcquisitionError(
            f"{name} needs a joint Gaussian, and {n_draws} joint draws do not make one; use at least {MIN_DRAWS} "
            "draws, or use qLogEI"
        )
