"""An ensemble: K members on one backbone, each trained without one fold, calibrated on what it did not see.

Every training row is held out by exactly one member, so that cross-validated metrics, the calibration factor and the
baselines beside them never touch a row that the judged member was trained on. Gaussian-process members that score the
pool share the hyperparameters of one fit to all labels, and with them their kernel. All values are in learned units:
log10 for properties that span decades, linear otherwise.

What is trained is chosen by name or, with ``auto``, by held-out score: for each fold the choice that does best on the
others, so that the figures of what is chosen are as honest as those of each choice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from engine.acquire.posterior import MemberPosterior, PoolPosterior
from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning import strategies
from engine.learning.baselines import baseline_metrics
from engine.learning.estimators import Estimator, NetworkCommittee, graph_data, groups_with_estimates, with_estimates
from engine.learning.features import CHUNK, Featuriser, chunks
from engine.learning.finetune import NetworkHead, fit_heads
from engine.learning.gp import FoldPredictor, GaussianProcessHead
from engine.learning.judgement import judge, judge_curves, judge_folds
from engine.learning.losses import Loss
from engine.learning.mlp import PerceptronHead
from engine.learning.seeding import one_thread
from engine.learning.statistics import STATISTICS
from engine.learning.training import Schedule
from engine.metrics.calibration import gaussian_crps, shrunk_scale
from engine.metrics.extrapolation import TrainingDistance, Widening, cross_widening, fit_widening, held_out_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbone import Backbone
    from engine.learning.training import GraphData

HeadKind = Literal["gp", "mlp", "network"]
Scale = Literal["log10", "linear"]
Say = Callable[[str], None]

FROZEN, AUTO = "frozen", "auto"
MIN_LABELS = 8
"""With fewer labels a model knows less than a spread-out first batch would tell."""
NETWORK_LABELS = 300
"""``auto`` tries fine-tuned networks from this many labels on; with fewer they always trailed the Gaussian process."""


@dataclass(frozen=True)
class EnsembleSettings:
    """All that decides an ensemble besides backbone, labels and code version."""

    strategy: str = FROZEN
    """``frozen``: heads on cached embeddings; ``auto``: the best of that and fine-tuned networks, by held-out score; or
    what networks train, see :mod:`engine.learning.strategies` (``full``, ``last``, ``head``, ``blocks:k``, ...)."""
    head: HeadKind = "gp"
    """``gp`` and ``mlp`` read embeddings, and a ``gp`` the estimates of fine-tuned networks too; ``network``: a
    fine-tuned network's own head."""
    members: int = 5
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    """Of fine-tuned networks."""
    loss: Loss = "l1"
    """Of fine-tuned networks."""

    def __post_init__(self) -> None:
        """Refuse unknown words, what does not go together, and one member, which could not hold rows out."""
        if self.strategy not in (FROZEN, AUTO):
            strategies.parse(self.strategy)
        if self.head not in get_args(HeadKind):
            raise TrainingError(f"unknown head {self.head!r}; choose one of {', '.join(get_args(HeadKind))}")
        if self.head == "network" and not self.networks:
            raise TrainingError(
                f"head 'network' needs a strategy that trains networks, not {self.strategy!r}; try 'full'"
            )
        if self.head == "mlp" and self.strategy != FROZEN:
            raise TrainingError(
                f"head 'mlp' reads cached embeddings; strategy {self.strategy!r} needs 'gp' or 'network'"
            )
        if self.members < 2:
            raise TrainingError(f"an ensemble needs at least 2 members to hold rows out, got {self.members}")

    @property
    def networks(self) -> bool:
        """Whether networks are fine-tuned."""
        return self.strategy not in (FROZEN, AUTO)

    @property
    def member_seeds(self) -> list[int]:
        """Seed of each member."""
        return [self.seed * 1000 + k for k in range(self.members)]


@dataclass(frozen=True, eq=False)
class MemberTable:
    """Predictions of S members for N crystals in learned units: ``mean`` and ``std`` are S x N.

    ``std`` is each member's own spread for a new label; a member that predicts none carries the root mean square of its
    held-out errors.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def total(self, calibration: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and calibrated standard deviation (between and within members), each N."""
        variance = self.mean.var(axis=0, ddof=1) + np.square(self.std).mean(axis=0)
        return self.mean.mean(axis=0), calibration * np.sqrt(variance)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A trained, calibrated ensemble."""

    backbone: Backbone
    settings: EnsembleSettings
    property: str
    scale: Scale
    heads: tuple[Any, ...]
    noise: tuple[float, ...]
    """Root mean square of each member's held-out errors, in learned units."""
    calibration: float
    metrics: dict[str, Any]
    """Cross-validated, for the model and the baselines on the same folds."""
    data_hash: str
    seen: tuple[str, ...]
    """First 12 hex digits of the content hash of every crystal it was trained on, so that leaks can be found."""
    estimators: tuple[Estimator, ...] = ()
    """Models whose estimates the members read behind the embedding."""
    widening: Widening = field(default_factory=Widening)
    """How much wider predictions are far from the training rows."""
    distance: TrainingDistance | None = None
    """Distance to the training rows, where the widening asks for it."""
    held_out: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)), repr=False)
    """n x 2: mean and calibrated std of each training row from the member that had not seen it; not kept on disk."""

    def predict(self, featuriser: Featuriser, keys: Sequence[str]) -> MemberTable:
        """Members' predictions for crystals that ``featuriser`` holds, a chunk in memory at a time.

        Where the model extrapolates, members are moved apart and their own spreads widened.
        """
        mean, std = np.empty((2, len(self.heads), len(keys)))
        for start, part in zip(range(0, len(keys), CHUNK), chunks(keys), strict=True):
            columns = slice(start, start + len(part))
            mean[:, columns], std[:, columns] = self._predict_chunk(featuriser, part)
        return MemberTable(mean, std)

    def inputs(self, featuriser: Featuriser, keys: Sequence[str]) -> NDArray[np.float32]:
        """Give what members on embeddings read, N x d."""
        columns = [estimator.estimate(featuriser, keys) for estimator in self.estimators]
        return with_estimates(featuriser.embeddings(keys), columns)

    def widening_factors(self, featuriser: Featuriser, keys: Sequence[str]) -> NDArray[np.float64]:
        """By how much the spread of each crystal grows with its distance to the training rows, N, at least 1."""
        if self.distance is None:
            return np.ones(len(keys))
        return self.widening(self.distance(featuriser.embeddings(keys)))

    def posterior(self, featuriser: Featuriser, keys: Sequence[str], n_draws: int, seed: int) -> PoolPosterior:
        """Give the calibrated joint posterior over a pool, as the acquisition reads it."""
        if isinstance(self.heads[0], GaussianProcessHead):
            return _FunctionPosterior(self, featuriser, keys, n_draws, seed)
        table = self.predict(featuriser, keys)
        rng = np.random.default_rng(seed)
        return MemberPosterior.from_members(table.mean, table.std, scale=self.calibration, n_draws=n_draws, rng=rng)

    def estimate(self, featuriser: Featuriser, keys: Sequence[str]) -> NDArray[np.float64]:
        """Mean of the members (N), as a column for a model of a dearer fidelity."""
        return self.predict(featuriser, keys).mean.mean(axis=0)

    def _predict_chunk(
        self, featuriser: Featuriser, keys: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, std = np.empty((2, len(self.heads), len(keys)))
        if isinstance(self.heads[0], NetworkHead):
            data = graph_data(featuriser, keys)
            for k, head in enumerate(self.heads):
                mean[k], own = head.predict_with_std(data, np.arange(len(keys)))
                std[k] = self.noise[k] if own is None else own
        elif self._folds is not None:
            mean, std = self._folds(self.inputs(featuriser, keys))
        else:
            inputs = self.inputs(featuriser, keys)
            for k, head in enumerate(self.heads):
                mean[k], std[k] = head.predict(inputs), self.noise[k]
        factors = self.widening_factors(featuriser, keys)
        centre = mean.mean(axis=0)
        return centre + factors * (mean - centre), factors * std

    @cached_property
    def _folds(self) -> FoldPredictor | None:
        """What Gaussian-process members share, so that the pool's kernel is made once for all of them."""
        return FoldPredictor(self.heads) if isinstance(self.heads[0], GaussianProcessHead) else None


def train_ensemble(
    featuriser: Featuriser,
    keys: Sequence[str],
    values: NDArray[np.float64],
    settings: EnsembleSettings,
    *,
    property: str,
    scale: Scale,
    auxiliaries: Mapping[str, NDArray[np.float64]] | None = None,
    lower_fidelity: Ensemble | None = None,
    progress: Say | None = None,
    workers: int = 1,
) -> Ensemble:
    """Train on crystals that ``featuriser`` holds; ``values`` (n) are in learned units.

    Parameters
    ----------
    auxiliaries
        Other properties of the same crystals by name (n each, NaN where unknown, on a scale that suits a network);
        networks learn them beside the target.
    lower_fidelity
        A model of the same property at a cheaper fidelity, on the same backbone; its estimate becomes a column.
    workers
        With more than one, networks train in as many processes, to the same numbers.

    Raises
    ------
    TooFewLabelsError
        With fewer than 8 labels, fewer labels than members, or labels that are all equal.
    """
    values = np.asarray(values, dtype=np.float64)
    _check_labels(values, settings, property)
    data = _TrainingData(
        featuriser=featuriser,
        keys=keys,
        values=values,
        folds=assign_folds(keys, settings.members, settings.seed),
        auxiliaries=dict(auxiliaries or {}),
        lower_fidelity=lower_fidelity,
        progress=progress or (lambda text: None),
        workers=workers,
    )
    with one_thread():
        fits = [_fit(data, candidate) for candidate in _candidates(settings, len(values))]
        chosen, choice = _choose(data, fits)
        heads = _members_of_one(data, chosen) if chosen.settings.head == "gp" else chosen.heads
        baselines = baseline_metrics(chosen.inputs[:, : len(STATISTICS)], values, data.folds, settings.seed)
    error, folds = values - chosen.mean, data.folds
    distances = held_out_distances(featuriser.embeddings(keys), folds, seed=settings.seed)
    widening = fit_widening(error / chosen.std, distances, folds)
    widens = widening != Widening()
    factors = widening(distances) if widens else np.ones(len(values))
    honest = _honest_std(data, chosen, distances if widens else None)
    mean, honest_std = _held_out_of_choice(data, fits, chosen, honest)
    return Ensemble(
        backbone=featuriser.backbone,
        settings=chosen.settings,
        property=property,
        scale=scale,
        heads=heads,
        noise=tuple(_rms(error[folds == k]) for k in range(settings.members)),
        calibration=shrunk_scale(error / (chosen.std * factors)),
        metrics={
            "labels": len(values),
            "model": judge(values, mean, honest_std),
            "folds": judge_folds(values, mean, honest_std, folds),
            "curves": judge_curves(values, mean, honest_std),
            **choice,
            **baselines,
        },
        data_hash=labels_hash(keys, values),
        seen=tuple(sorted(key[:12] for key in keys)),
        estimators=chosen.estimators,
        widening=widening,
        distance=TrainingDistance.fit(featuriser.embeddings(keys), seed=settings.seed) if widens else None,
        held_out=np.stack([mean, honest_std], axis=1),
    )


@dataclass(frozen=True, eq=False)
class _TrainingData:
    featuriser: Featuriser
    keys: Sequence[str]
    values: NDArray[np.float64]
    folds: NDArray[np.int64]
    auxiliaries: dict[str, NDArray[np.float64]]
    lower_fidelity: Ensemble | None
    progress: Say
    workers: int

    @property
    def jobs(self) -> list[NDArray[np.int64]]:
        """Training rows of each member."""
        return [np.flatnonzero(self.folds != k) for k in range(self.folds.max() + 1)]

    @cached_property
    def graphs(self) -> GraphData:
        """For networks: the target first, then the auxiliaries."""
        targets = np.stack([self.values, *self.auxiliaries.values()], axis=1)
        return graph_data(self.featuriser, self.keys, targets)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Members that each left a fold out, and what they say of it."""

    settings: EnsembleSettings
    inputs: NDArray[np.float32]
    groups: dict[str, slice]
    estimators: tuple[Estimator, ...]
    heads: tuple[Any, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @property
    def name(self) -> str:
        """In metrics and messages."""
        return f"{self.settings.strategy} {self.settings.head}"


def _candidates(settings: EnsembleSettings, n_labels: int) -> list[EnsembleSettings]:
    """Give what ``auto`` stands for, the cheapest first."""
    if settings.strategy != AUTO:
        return [settings]
    frozen = replace(settings, strategy=FROZEN)
    return [frozen, replace(settings, strategy="full")] if n_labels >= NETWORK_LABELS else [frozen]


def _fit(data: _TrainingData, settings: EnsembleSettings) -> _Fit:
    """Fit every member without its fold, and predict that fold with it."""
    values, folds = data.values, data.folds
    estimators: list[Estimator] = []
    columns: list[NDArray[np.float64]] = []
    if data.lower_fidelity is not None:
        estimators.append(data.lower_fidelity)
        columns.append(data.lower_fidelity.estimate(data.featuriser, data.keys))
    networks = _networks(data, settings)
    if networks and settings.head == "gp":
        committee = NetworkCommittee(networks)
        estimators.append(committee)
        columns.append(committee.held_out(data.graphs, folds))
    inputs = with_estimates(data.featuriser.embeddings(data.keys), columns)
    groups = groups_with_estimates(data.featuriser.backbone.groups, len(columns))
    heads: list[Any] = []
    mean, std = np.empty_like(values), np.full_like(values, np.nan)
    for k, (rows, seed) in enumerate(zip(data.jobs, settings.member_seeds, strict=True)):
        held = np.flatnonzero(folds == k)
        head: Any
        if settings.head == "network":
            head = networks[k]
            mean[held], own = head.predict_with_std(data.graphs, held)
            std[held] = np.nan if own is None else own
        elif settings.head == "gp":
            head = GaussianProcessHead.fit(inputs[rows], values[rows], groups, seed)
            mean[held], std[held] = head.predict(inputs[held])
        else:
            head = PerceptronHead.fit(inputs[rows], values[rows], seed)
            mean[held] = head.predict(inputs[held])
        heads.append(head)
        told = f"{settings.strategy} {settings.head}, member {k + 1} of {settings.members}"
        data.progress(f"{told}: held-out error {_rms(mean[held] - values[held]):.3f}")
    without_own = np.isnan(std)
    std[without_own] = _spread_from_other_folds(mean - values, folds)[without_own]
    return _Fit(settings, inputs, groups, tuple(estimators), tuple(heads), mean, std)


def _networks(data: _TrainingData, settings: EnsembleSettings) -> tuple[NetworkHead, ...]:
    """One network a fold that it leaves out, where the strategy trains any."""
    if not settings.networks:
        return ()
    jobs = list(zip(data.jobs, settings.member_seeds, strict=True))
    options: dict[str, Any] = {"strategy": strategies.parse(settings.strategy), "loss": settings.loss}
    networks = []
    for network in fit_heads(data.featuriser.backbone, data.graphs, jobs, settings.schedule, data.workers, **options):
        networks.append(network)
        data.progress(f"network {len(networks)} of {len(jobs)} trained ({settings.strategy})")
    return tuple(networks)


def _choose(data: _TrainingData, fits: Sequence[_Fit]) -> tuple[_Fit, dict[str, Any]]:
    """Take the fit with the best held-out score, and say how the others did."""
    if len(fits) == 1:
        return fits[0], {"chosen": fits[0].name}
    scores = [float(_scores(data, fit).mean()) for fit in fits]
    best = int(np.argmin(scores))
    told = {fit.name: score for fit, score in zip(fits, scores, strict=True)}
    data.progress(
        f"chosen: {fits[best].name} (held-out CRPS " + ", ".join(f"{n} {v:.4f}" for n, v in told.items()) + ")"
    )
    return fits[best], {"chosen": fits[best].name, "choices_crps": told}


def _scores(data: _TrainingData, fit: _Fit) -> NDArray[np.float64]:
    """Continuous ranked probability score of each held-out row, n."""
    return gaussian_crps(data.values - fit.mean, _honest_std(data, fit, None))


def _held_out_of_choice(
    data: _TrainingData, fits: Sequence[_Fit], chosen: _Fit, honest: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Held-out mean and spread of the procedure, the choice included: a fold's own scores do not choose for it."""
    if len(fits) == 1:
        return chosen.mean, honest
    scores = np.stack([_scores(data, fit) for fit in fits])
    spreads = [honest if fit is chosen else _honest_std(data, fit, None) for fit in fits]
    mean, std = np.empty_like(data.values), np.empty_like(data.values)
    for k in range(data.folds.max() + 1):
        held = data.folds == k
        best = int(np.argmin(scores[:, ~held].mean(axis=1)))
        mean[held], std[held] = fits[best].mean[held], spreads[best][held]
    return mean, std


def _honest_std(data: _TrainingData, fit: _Fit, distances: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Held-out spread, widened and scaled for each fold as the other folds ask for."""
    std = fit.std
    if distances is not None:
        std = std * cross_widening((data.values - fit.mean) / std, distances, data.folds)
    return _cross_calibrated(data.values, fit.mean, std, data.folds)


def _members_of_one(data: _TrainingData, fit: _Fit) -> tuple[GaussianProcessHead, ...]:
    """Members that score the pool: one process fitted to all labels, each member without the labels of its fold.

    The members that held rows out were fitted without them, hyperparameters and scalers included, and gave the metrics
    and the calibration; these know a little more and share their kernel.
    """
    whole = GaussianProcessHead.fit(fit.inputs, data.values, fit.groups, fit.settings.seed)
    return tuple(whole.keeping(rows) for rows in data.jobs)


def minimum_labels(members: int) -> int:
    """Fewest labels that this many members can be trained on: one to hold out each, and never fewer than 8."""
    return max(MIN_LABELS, members)


def assign_folds(keys: Sequence[str], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each key (n), of equal size, whatever the order of the keys.

    Ordered by a hash of key and seed, so that the same labels give the same folds however they came in.
    """
    digests = [hashlib.sha256(f"{seed} {key}".encode()).hexdigest() for key in keys]
    folds = np.empty(len(keys), dtype=np.int64)
    folds[np.argsort(digests)] = np.arange(len(keys)) % n_folds
    return folds


def labels_hash(keys: Sequence[str], values: NDArray[np.float64]) -> str:
    """SHA-256 of the labels, whatever their order."""
    lines = sorted(f"{key} {value!r}" for key, value in zip(keys, np.asarray(values).tolist(), strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class _FunctionPosterior:
    """Posterior of an ensemble of Gaussian processes: each draw is a function of one member, scaled for calibration."""

    def __init__(self, ensemble: Ensemble, featuriser: Featuriser, keys: Sequence[str], n_draws: int, seed: int):
        self._ensemble = ensemble
        self._featuriser = featuriser
        self._keys = keys
        each = math.ceil(n_draws / len(ensemble.heads))
        self._functions = [head.functions(each, seed * 1009 + k) for k, head in enumerate(ensemble.heads)]
        self.n_draws = each * len(ensemble.heads)
        self.n_rows = len(keys)

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated mean and standard deviation of these rows."""
        table = self._ensemble.predict(self._featuriser, self._select(rows))
        return table.total(self._ensemble.calibration)

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)``; the same functions whatever the rows."""
        out = np.empty((self.n_draws, len(rows)), dtype=np.float32)
        for start, part in zip(range(0, len(rows), CHUNK), chunks(self._select(rows)), strict=True):
            inputs = self._ensemble.inputs(self._featuriser, part)
            means, drawn = zip(*(functions(inputs) for functions in self._functions), strict=True)
            centre = np.mean(means, axis=0)
            factors = self._ensemble.calibration * self._ensemble.widening_factors(self._featuriser, part)
            out[:, start : start + len(part)] = centre + factors * (np.concatenate(drawn) - centre)
        return out

    def _select(self, rows: NDArray[np.int64]) -> list[str]:
        return [self._keys[i] for i in rows.tolist()]


def _spread_from_other_folds(error: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Root mean square error of the other folds for each row: what a member without a spread of its own expects."""
    return np.array([_rms(error[folds != k]) for k in range(folds.max() + 1)])[folds]


def _rms(error: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(error).mean()))


def _cross_calibrated(
    values: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Held-out spread, each fold scaled by the factor that the other folds ask for."""
    z = (values - mean) / std
    scaled = std.copy()
    for k in np.unique(folds):
        scaled[folds == k] *= shrunk_scale(z[folds != k])
    return scaled


def _check_labels(values: NDArray[np.float64], settings: EnsembleSettings, property: str) -> None:
    needed = minimum_labels(settings.members)
    if len(values) < needed:
        raise TooFewLabelsError(
            f"{property} has {len(values)} labels, {settings.members} members need at least {needed}; "
            "add labels or ask for fewer members"
        )
    if not np.isfinite(values).all():
        raise TrainingError(
            f"{np.count_nonzero(~np.isfinite(values))} labels of {property} are not finite; remove them"
        )
    if np.ptp(values) == 0:
        raise TooFewLabelsError(f"all {len(values)} labels of {property} are equal ({values[0]:g}); check the column")
