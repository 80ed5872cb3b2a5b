"""An ensemble: K members on one backbone, each trained without one fold, calibrated on what it did not see.

Every training row is held out by exactly one member, so that cross-validated metrics, the calibration factor and the
baselines beside them never touch a row that the judged member was trained on. Gaussian-process members that score the
pool share the hyperparameters of one fit to all labels, and with them their kernel. All values are in learned units:
log10 for properties that span decades, linear otherwise.

Extra-trees, and fine-tuned networks, may stand beside Gaussian processes: the mean is then a blend, see
:mod:`engine.learning.ensemble.stacking`. A share of zero means that they did not help; networks that have one are
trained once more, on all labels, to score the pool. As a column of the Gaussian process networks did harm: its
hyperparameters are fitted to some hundred rows, beside networks that have learned from thousands, and it
comes to trust them more than itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning.ensemble.baselines import baseline_metrics
from engine.learning.ensemble.evaluation import judge, judge_curves, judge_folds
from engine.learning.ensemble.stacking import Blend, Partner, held_out_shares
from engine.learning.features.featuriser import CHUNK, chunks
from engine.learning.features.statistics import STATISTICS
from engine.learning.heads.gp import FoldPredictor, GaussianProcessHead, union
from engine.learning.heads.mlp import PerceptronHead
from engine.learning.heads.multifidelity import MultiFidelityFunctions, MultiFidelityHead, evaluate_all, predict_all
from engine.learning.heads.trees import Trees
from engine.learning.networks import strategies
from engine.learning.networks.committee import NetworkCommittee, held_out, network_data
from engine.learning.networks.finetune import NetworkHead, fine_tuning, fit_heads
from engine.learning.networks.losses import Loss
from engine.learning.networks.training import Schedule
from engine.learning.seeding import one_thread
from engine.metrics.calibration import shrunk_scale
from engine.metrics.extrapolation import TrainingDistance, Widening, cross_widening, fit_widening, held_out_distances
from engine.posteriors.posterior import MemberPosterior, PoolPosterior

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.execution import Run
    from engine.learning.backbones.stack import AnyBackbone, AnyFeaturiser
    from engine.learning.networks.training import GraphData

HeadKind = Literal["gp", "mlp", "network"]
Scale = Literal["log10", "linear"]
Say = Callable[[str], None]

FROZEN, AUTO = "frozen", "auto"
UPPER, LOWER = "wanted", "cheaper"
"""The fidelity that members learn, and the one beneath."""
MIN_LABELS = 8
"""With fewer labels a model knows less than a spread-out first batch would tell."""
NETWORK_LABELS = 300
"""``auto`` trains networks from this many labels on; with fewer they always trailed the Gaussian process."""
TREE_LABELS = 3000
"""Trees are tried up to this many labels (11 s at 3,000). Band gaps still ask for most of the mean at 1,500, AGL kappa
for none from 300 on."""


@dataclass(frozen=True)
class EnsembleSettings:
    """All that decides an ensemble besides backbone, labels and code version."""

    strategy: str = FROZEN
    """``frozen``: heads on cached embeddings; ``auto``: with networks (``full``) where there are labels enough; or what
    networks train, see :mod:`engine.learning.networks.strategies` (``full``, ``last``, ``head``, ``blocks:k``, ...)."""
    head: HeadKind = "gp"
    """``gp`` and ``mlp`` read embeddings, and a ``gp`` is blended with trees and with networks where any are trained;
    ``network``: the networks' own heads."""
    members: int = 5
    seed: int = 0
    schedule: Schedule = field(default_factory=fine_tuning)
    """Of fine-tuned networks."""
    loss: Loss = "l1"
    """Of fine-tuned networks."""
    trees: bool = True
    """Whether a ``gp`` is blended with extra-trees, up to :data:`TREE_LABELS` labels; never above a cheaper fidelity,
    where they found .87 of the lowest 5 % of 238 compounds instead of .96."""

    def __post_init__(self) -> None:
        """Refuse unknown words, what does not go together, and one member, which could not hold rows out."""
        if self.strategy not in (FROZEN, AUTO):
            strategies.parse(self.strategy)
        if self.head not in get_args(HeadKind):
            raise TrainingError(f"unknown head {self.head!r}; choose one of {', '.join(get_args(HeadKind))}")
        if self.head == "network" and self.strategy == FROZEN:
            raise TrainingError(
                f"head 'network' needs a strategy that trains networks, not {self.strategy!r}; try 'full'"
            )
        if self.head == "mlp" and self.networks:
            raise TrainingError(
                f"head 'mlp' reads cached embeddings; strategy {self.strategy!r} needs 'gp' or 'network'"
            )
        if self.members < 2:
            raise TrainingError(f"an ensemble needs at least 2 members to hold rows out, got {self.members}")

    @property
    def networks(self) -> bool:
        """Whether networks are fine-tuned."""
        return self.strategy not in (FROZEN, AUTO)

    def resolved(self, n_labels: int, backbone: AnyBackbone) -> EnsembleSettings:
        """Give the settings with the strategy that ``auto`` stands for; a potential takes hours to fine-tune."""
        if self.strategy != AUTO:
            return self
        pays = n_labels >= NETWORK_LABELS and not backbone.is_potential
        networks = self.head == "network" or (self.head == "gp" and pays)
        return replace(self, strategy="full" if networks else FROZEN)

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

    backbone: AnyBackbone
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
    lower_fidelity: Ensemble | None = None
    """Model of a cheaper fidelity that the members stand on."""
    blend: Blend | None = None
    """Networks or trees beside the members, where they have a share of the mean."""
    widening: Widening = field(default_factory=Widening)
    """How much wider predictions are far from the training rows."""
    distance: TrainingDistance | None = None
    """Distance to the training rows, where the widening asks for it."""
    held_out: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)), repr=False)
    """n x 2: mean and calibrated std of each training row from the member that had not seen it; not kept on disk."""

    def predict(self, featuriser: AnyFeaturiser, keys: Sequence[str], fidelity: str = UPPER) -> MemberTable:
        """Members' predictions for crystals that ``featuriser`` holds, a chunk in memory at a time.

        Where the model extrapolates, members are moved apart and their own spreads widened. ``fidelity`` may be
        ``LOWER`` for members that stand on a cheaper one.
        """
        mean, std = np.empty((2, len(self.heads), len(keys)))
        for start, part in zip(range(0, len(keys), CHUNK), chunks(keys), strict=True):
            columns = slice(start, start + len(part))
            mean[:, columns], std[:, columns] = self._predict_chunk(featuriser, part, fidelity)
        return MemberTable(mean, std)

    def share_told(self, featuriser: AnyFeaturiser, keys: Sequence[str]) -> NDArray[np.float64]:
        """Share of what its own label would tell of a crystal that one of the cheaper fidelity would, N.

        In variance; the mean over the members, which have to stand on a cheaper fidelity.
        """
        embeddings = featuriser.embeddings(keys)
        tells = [[head.variance_reduction(embeddings, name) for name in (LOWER, UPPER)] for head in self.heads]
        cheaper, own = np.mean(tells, axis=0)
        return np.asarray(cheaper / np.maximum(own, 1e-300))

    def widening_factors(self, featuriser: AnyFeaturiser, keys: Sequence[str]) -> NDArray[np.float64]:
        """By how much the spread of each crystal grows with its distance to the training rows, N, at least 1."""
        if self.distance is None:
            return np.ones(len(keys))
        return self.widening(self.distance(featuriser.embeddings(keys)))

    def posterior(self, featuriser: AnyFeaturiser, keys: Sequence[str], n_draws: int, seed: int) -> PoolPosterior:
        """Give the calibrated joint posterior over a pool, as the acquisition reads it.

        Of members that stand on a cheaper fidelity, the same rows at that one are its ``cheaper``.
        """
        if isinstance(self.heads[0], GaussianProcessHead | MultiFidelityHead):
            each = math.ceil(n_draws / len(self.heads))
            functions = [head.functions(each, seed * 1009 + k) for k, head in enumerate(self.heads)]
            return _FunctionPosterior(self, featuriser, keys, functions, each * len(self.heads))
        table = self.predict(featuriser, keys)
        rng = np.random.default_rng(seed)
        return MemberPosterior.from_members(table.mean, table.std, scale=self.calibration, n_draws=n_draws, rng=rng)

    def _predict_chunk(
        self, featuriser: AnyFeaturiser, keys: Sequence[str], fidelity: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, std = np.empty((2, len(self.heads), len(keys)))
        embeddings = featuriser.embeddings(keys)
        if isinstance(self.heads[0], NetworkHead):
            data = network_data(featuriser, keys)
            for k, head in enumerate(self.heads):
                mean[k], own = head.predict_with_std(data[k % len(data)], np.arange(len(keys)))
                std[k] = self.noise[k] if own is None else own
        elif self._folds is not None:
            mean, std = self._folds(embeddings)
        elif isinstance(self.heads[0], MultiFidelityHead):
            mean, std = predict_all(self.heads, embeddings, fidelity)
        else:
            for k, head in enumerate(self.heads):
                mean[k], std[k] = head.predict(embeddings), self.noise[k]
        if self.blend is not None and fidelity == UPPER:
            mean = self.blend(mean, featuriser, keys, embeddings)
        factors = self.widening_factors(featuriser, keys)
        centre = mean.mean(axis=0)
        return centre + factors * (mean - centre), factors * std

    @cached_property
    def process(self) -> MultiFidelityHead:
        """The process of Gaussian-process members with all labels, for another fidelity to stand on."""
        return MultiFidelityHead.of(union(self.heads), LOWER)

    @cached_property
    def _folds(self) -> FoldPredictor | None:
        """What Gaussian-process members share, so that the pool's kernel is made once for all of them."""
        return FoldPredictor(self.heads) if isinstance(self.heads[0], GaussianProcessHead) else None


def train_ensemble(
    featuriser: AnyFeaturiser,
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
    run: Run | None = None,
) -> Ensemble:
    """Train on crystals that ``featuriser`` holds; ``values`` (n) are in learned units.

    Parameters
    ----------
    auxiliaries
        Other properties of the same crystals by name (n each, NaN where unknown, on a scale that suits a network);
        networks learn them beside the target.
    lower_fidelity
        A model of the same property at a cheaper fidelity, on the same backbone, with Gaussian-process members; each
        member then learns its own labels on top of all of that model's, see :mod:`engine.learning.heads.multifidelity`.
    workers
        With more than one, networks train in as many processes, to the same numbers.
    run
        Where networks train instead, to the same numbers, e.g. on a Dask cluster.

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
        run=run,
    )
    _check_folds(data, property)
    _check_lower_fidelity(data, settings)
    with one_thread():
        fit = _fit(data, settings.resolved(len(values), featuriser.backbone))
        one_kernel = isinstance(fit.heads[0], GaussianProcessHead)
        heads = _members_of_one(data, fit.settings) if one_kernel else fit.heads
        blend = _with_all_labels(data, fit)
        baselines = baseline_metrics(data.embeddings[:, : len(STATISTICS)], values, data.folds, settings.seed)
    error, folds = values - fit.mean, data.folds
    distances = held_out_distances(featuriser.embeddings(keys), folds, seed=settings.seed)
    widening = fit_widening(error / fit.std, distances, folds)
    widens = widening != Widening()
    factors = widening(distances) if widens else np.ones(len(values))
    honest_std = _honest_std(data, fit, distances if widens else None)
    return Ensemble(
        backbone=featuriser.backbone,
        settings=fit.settings,
        property=property,
        scale=scale,
        heads=heads,
        noise=tuple(_rms(error[folds == k]) for k in range(settings.members)),
        calibration=shrunk_scale(error / (fit.std * factors)),
        metrics={
            "labels": len(values),
            "model": judge(values, fit.mean, honest_std),
            "folds": judge_folds(values, fit.mean, honest_std, folds),
            "curves": judge_curves(values, fit.mean, honest_std),
            "chosen": fit.words,
            **baselines,
        },
        data_hash=labels_hash(keys, values),
        seen=tuple(sorted(key[:12] for key in keys)),
        lower_fidelity=lower_fidelity,
        blend=blend,
        widening=widening,
        distance=TrainingDistance.fit(featuriser.embeddings(keys), seed=settings.seed) if widens else None,
        held_out=np.stack([fit.mean, honest_std], axis=1),
    )


@dataclass(frozen=True, eq=False)
class _TrainingData:
    featuriser: AnyFeaturiser
    keys: Sequence[str]
    values: NDArray[np.float64]
    folds: NDArray[np.int64]
    auxiliaries: dict[str, NDArray[np.float64]]
    lower_fidelity: Ensemble | None
    progress: Say
    workers: int
    run: Run | None

    @property
    def jobs(self) -> list[NDArray[np.int64]]:
        """Training rows of each member."""
        return [np.flatnonzero(self.folds != k) for k in range(self.folds.max() + 1)]

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """What members on embeddings read, n x d."""
        return self.featuriser.embeddings(self.keys)

    @cached_property
    def lower(self) -> MultiFidelityHead | None:
        """The cheaper fidelity's process, with all its labels."""
        return None if self.lower_fidelity is None else self.lower_fidelity.process

    @cached_property
    def sight(self) -> Tensor:
        """What that process sees of the crystals, n x m."""
        assert self.lower is not None
        return self.lower.sees(self.embeddings)

    @cached_property
    def graphs(self) -> list[GraphData]:
        """For the networks of each backbone: the target first, then the auxiliaries."""
        targets = np.stack([self.values, *self.auxiliaries.values()], axis=1)
        return network_data(self.featuriser, self.keys, targets)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Members that each left a fold out, and what they say of it."""

    settings: EnsembleSettings
    heads: tuple[Any, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    blend: Blend | None = None
    blended: str = ""
    """Shares of all that was tried beside the members, in words."""

    @property
    def words(self) -> str:
        """What members are, for metrics and messages."""
        kind = f"{self.settings.strategy} {self.settings.head}"
        return f"{kind}, {self.blended}" if self.blended else kind


def _fit(data: _TrainingData, settings: EnsembleSettings) -> _Fit:
    """Fit every member without its fold, and predict that fold with it."""
    values, folds = data.values, data.folds
    embeddings, groups = data.embeddings, data.featuriser.backbone.groups
    population = data.featuriser.backbone.population
    networks = _networks(data, settings, data.jobs, "without its fold") if settings.networks else ()
    heads: list[Any] = []
    mean, std = np.empty_like(values), np.full_like(values, np.nan)
    for k, (rows, seed) in enumerate(zip(data.jobs, settings.member_seeds, strict=True)):
        held = np.flatnonzero(folds == k)
        head: Any
        if settings.head == "network":
            head = networks[k]
            mean[held], own = head.predict_with_std(data.graphs[k % len(data.graphs)], held)
            std[held] = np.nan if own is None else own
        elif settings.head == "mlp":
            head = PerceptronHead.fit(embeddings[rows], values[rows], seed)
            mean[held] = head.predict(embeddings[held])
        else:
            if data.lower is None:
                head = GaussianProcessHead.fit(embeddings[rows], values[rows], groups, seed, population)
            else:
                head = data.lower.above(UPPER, embeddings[rows], values[rows], seed, data.sight[rows])
            mean[held], std[held] = head.predict(embeddings[held])
        heads.append(head)
        told = f"{settings.head} member {k + 1} of {settings.members}"
        data.progress(f"{told}: held-out error {_rms(mean[held] - values[held]):.3f}")
    without_own = np.isnan(std)
    std[without_own] = _spread_from_other_folds(mean - values, folds)[without_own]
    return _blended(data, _Fit(settings, tuple(heads), mean, std), _partners(data, settings, networks))


def _blended(data: _TrainingData, fit: _Fit, partners: Mapping[str, tuple[Partner, NDArray[np.float64]]]) -> _Fit:
    """Give the members with those partners that deserve a share of the mean."""
    if not partners:
        return fit
    estimates = np.stack([held_out for _, held_out in partners.values()])
    mean, found = held_out_shares(data.values, fit.mean, estimates, data.folds)
    shares = dict(zip(partners, found.tolist(), strict=True))
    words = ", ".join(f"{name}' share {share:.2f}" for name, share in shares.items())
    data.progress(f"{words}: held-out error {_rms(mean - data.values):.3f}")
    kept = {name: partner for name, (partner, _) in partners.items() if shares[name]}
    blend = Blend(kept, {name: shares[name] for name in kept}) if kept else None
    return replace(fit, mean=mean, blend=blend, blended=words)


def _partners(
    data: _TrainingData, settings: EnsembleSettings, networks: tuple[NetworkHead, ...]
) -> dict[str, tuple[Partner, NDArray[np.float64]]]:
    """Train what may be blended with Gaussian processes; what it says of each label (n) that it has not seen."""
    partners: dict[str, tuple[Partner, NDArray[np.float64]]] = {}
    if settings.head != "gp":
        return partners
    if networks:
        partners["networks"] = NetworkCommittee(networks), held_out(networks, data.graphs, data.folds)
    if settings.trees and data.lower is None and len(data.values) <= TREE_LABELS:
        partners["trees"] = Trees.fit(data.keys, data.embeddings, data.values, data.folds, settings.seed)
    return partners


def _networks(
    data: _TrainingData, settings: EnsembleSettings, rows: Sequence[NDArray[np.int64]], told: str
) -> tuple[NetworkHead, ...]:
    """One network a member, trained on its ``rows``; ``told`` says which these are."""
    jobs = list(zip(rows, settings.member_seeds, strict=True))
    options: dict[str, Any] = {
        "strategy": strategies.parse(settings.strategy),
        "loss": settings.loss,
        "workers": data.workers,
        "run": data.run,
    }
    backbones = data.featuriser.backbone.trained
    networks: dict[int, NetworkHead] = {}
    for first, (backbone, graphs) in enumerate(zip(backbones, data.graphs, strict=True)):
        turns = range(first, len(jobs), len(backbones))
        fitted = fit_heads(backbone, graphs, [jobs[k] for k in turns], settings.schedule, **options)
        for k, network in zip(turns, fitted, strict=True):
            networks[k] = network
            data.progress(
                f"network {len(networks)} of {len(jobs)} trained {told} ({settings.strategy}, {backbone.name})"
            )
    return tuple(networks[k] for k in range(len(jobs)))


def _honest_std(data: _TrainingData, fit: _Fit, distances: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Held-out spread, widened and scaled for each fold as the other folds ask for."""
    std = fit.std
    if distances is not None:
        std = std * cross_widening((data.values - fit.mean) / std, distances, data.folds)
    return _cross_calibrated(data.values, fit.mean, std, data.folds)


def _members_of_one(data: _TrainingData, settings: EnsembleSettings) -> tuple[GaussianProcessHead, ...]:
    """Members that score the pool: one process fitted to all labels, each member without the labels of its fold.

    The members that held rows out were fitted without them, hyperparameters and scalers included, and gave the metrics
    and the calibration; these know a little more and share their kernel.
    """
    backbone = data.featuriser.backbone
    whole = GaussianProcessHead.fit(data.embeddings, data.values, backbone.groups, settings.seed, backbone.population)
    return tuple(whole.keeping(rows) for rows in data.jobs)


def _with_all_labels(data: _TrainingData, fit: _Fit) -> Blend | None:
    """Blend that scores the pool: its networks trained on all labels, as :func:`_members_of_one` is.

    Of 681 AGL crystals, after 2,725 others, networks without a fifth of these erred by .0965 beside a Gaussian process,
    networks of all by .0954.
    """
    if fit.blend is None or "networks" not in fit.blend.partners:
        return fit.blend
    everything = [np.arange(len(data.values))] * fit.settings.members
    networks = NetworkCommittee(_networks(data, fit.settings, everything, "on all labels"))
    return replace(fit.blend, partners={**fit.blend.partners, "networks": networks})


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

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        ensemble: Ensemble,
        featuriser: AnyFeaturiser,
        keys: Sequence[str],
        functions: Sequence[Any],
        n_draws: int,
        fidelity: str = UPPER,
    ):
        self._ensemble = ensemble
        self._featuriser = featuriser
        self._keys = keys
        self._functions = functions
        self._fidelity = fidelity
        self.n_draws = n_draws
        self.n_rows = len(keys)

    @property
    def cheaper(self) -> PoolPosterior:
        """The same functions at the cheaper fidelity that members stand on."""
        return _FunctionPosterior(
            self._ensemble, self._featuriser, self._keys, self._functions, self.n_draws, fidelity=LOWER
        )

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated mean and standard deviation of these rows."""
        table = self._ensemble.predict(self._featuriser, self._select(rows), self._fidelity)
        return table.total(self._ensemble.calibration)

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)``; the same functions whatever the rows."""
        out = np.empty((self.n_draws, len(rows)), dtype=np.float32)
        for start, part in zip(range(0, len(rows), CHUNK), chunks(self._select(rows)), strict=True):
            embeddings = self._featuriser.embeddings(part)
            means, drawn = self._evaluate(embeddings)
            blend = self._ensemble.blend if self._fidelity == UPPER else None
            blended = means if blend is None else blend(means, self._featuriser, part, embeddings)
            centre = blended.mean(axis=0)
            # each function keeps its distance to its member's mean, and that mean goes where the blend has it
            drawn += np.repeat(blended - means, len(drawn) // len(means), axis=0)
            factors = self._ensemble.calibration * self._ensemble.widening_factors(self._featuriser, part)
            out[:, start : start + len(part)] = centre + factors * (drawn - centre)
        return out

    def _evaluate(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of the members (K x N) and all functions' values (D x N)."""
        if isinstance(self._functions[0], MultiFidelityFunctions):
            return evaluate_all(self._functions, embeddings, self._fidelity)
        means, drawn = zip(*(functions(embeddings) for functions in self._functions), strict=True)
        return np.stack(means), np.concatenate(drawn)

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


def _check_folds(data: _TrainingData, property: str) -> None:
    values = data.values
    if any(np.ptp(values[rows]) == 0 for rows in data.jobs):
        found, counts = np.unique(values, return_counts=True)
        raise TooFewLabelsError(
            f"{counts.max()} of {len(values)} labels of {property} are equal ({found[counts.argmax()]:g}), so that a "
            "member that holds out the others has nothing to learn; add labels that differ"
        )


def _check_lower_fidelity(data: _TrainingData, settings: EnsembleSettings) -> None:
    lower = data.lower_fidelity
    if lower is None:
        return
    if settings.head != "gp" or not isinstance(lower.heads[0], GaussianProcessHead):
        raise TrainingError("a cheaper fidelity is learned from by Gaussian processes only; both models need head 'gp'")
    if lower.backbone.sha256 != data.featuriser.backbone.sha256:
        raise TrainingError(
            f"the model of the cheaper fidelity stands on backbone {lower.backbone.name} "
            f"({lower.backbone.sha256[:12]}), this one on {data.featuriser.backbone.name} "
            f"({data.featuriser.backbone.sha256[:12]}); train one of them again"
        )


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
