"""An ensemble: K members on one backbone, each trained without one fold, calibrated on what it did not see.

Every training row is held out by exactly one member, so that cross-validated metrics, the calibration factor and the
baselines beside them never touch a row that the judged member was trained on. Gaussian-process members that score the
pool share the hyperparameters of one fit to all labels, and with them their kernel. All values are in learned units:
log10 for properties that span decades, linear otherwise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from engine.acquire.posterior import MemberPosterior, PoolPosterior
from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning.baselines import baseline_metrics
from engine.learning.features import CHUNK, Featuriser, chunks
from engine.learning.gp import FoldPredictor, GaussianProcessHead
from engine.learning.judgement import judge
from engine.learning.mlp import PerceptronHead
from engine.learning.seeding import one_thread
from engine.learning.training import GraphData, Schedule
from engine.metrics.calibration import shrunk_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbone import Backbone

Strategy = Literal["frozen", "full"]
HeadKind = Literal["gp", "mlp"]
Scale = Literal["log10", "linear"]

MIN_LABELS = 8
"""With fewer labels a model knows less than a spread-out first batch would tell."""


@dataclass(frozen=True)
class EnsembleSettings:
    """All that decides an ensemble besides backbone, labels and code version."""

    strategy: Strategy = "frozen"
    """``frozen``: heads on cached embeddings; ``full``: every weight of the network is trained."""
    head: HeadKind = "gp"
    """Head of the ``frozen`` strategy; ``full`` always ends in the network's own head."""
    members: int = 5
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    """Of the ``full`` strategy."""

    def __post_init__(self) -> None:
        """Refuse unknown words, and one member, which could not hold rows out."""
        for name, value, known in (("strategy", self.strategy, Strategy), ("head", self.head, HeadKind)):
            if value not in get_args(known):
                raise TrainingError(f"unknown {name} {value!r}; choose one of {', '.join(get_args(known))}")
        if self.members < 2:
            raise TrainingError(f"an ensemble needs at least 2 members to hold rows out, got {self.members}")

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
    held_out: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)), repr=False)
    """n x 2: mean and calibrated std of each training row from the member that had not seen it; not kept on disk."""

    def predict(self, featuriser: Featuriser, keys: Sequence[str]) -> MemberTable:
        """Members' predictions for crystals that ``featuriser`` holds, a chunk in memory at a time."""
        mean, std = np.empty((2, len(self.heads), len(keys)))
        for start, part in zip(range(0, len(keys), CHUNK), chunks(keys), strict=True):
            inputs = _Inputs(featuriser, self.settings.strategy, part)
            columns = slice(start, start + len(part))
            if self._folds is not None:
                mean[:, columns], std[:, columns] = self._folds(inputs.embeddings)
                continue
            for k, (head, noise) in enumerate(zip(self.heads, self.noise, strict=True)):
                mean[k, columns], own_std = inputs.predict(head, np.arange(len(part)))
                std[k, columns] = noise if own_std is None else own_std
        return MemberTable(mean, std)

    @cached_property
    def _folds(self) -> FoldPredictor | None:
        """What Gaussian-process members share, so that the pool's kernel is made once for all of them."""
        return FoldPredictor(self.heads) if isinstance(self.heads[0], GaussianProcessHead) else None

    def posterior(self, featuriser: Featuriser, keys: Sequence[str], n_draws: int, seed: int) -> PoolPosterior:
        """Give the calibrated joint posterior over a pool, as the acquisition reads it."""
        if isinstance(self.heads[0], GaussianProcessHead):
            return _FunctionPosterior(self, featuriser, keys, n_draws, seed)
        table = self.predict(featuriser, keys)
        rng = np.random.default_rng(seed)
        return MemberPosterior.from_members(table.mean, table.std, scale=self.calibration, n_draws=n_draws, rng=rng)


def train_ensemble(
    featuriser: Featuriser,
    keys: Sequence[str],
    values: NDArray[np.float64],
    settings: EnsembleSettings,
    *,
    property: str,
    scale: Scale,
    progress: Callable[[str], None] | None = None,
    workers: int = 1,
) -> Ensemble:
    """Train on crystals that ``featuriser`` holds; ``values`` (n) are in learned units.

    With more than one of ``workers`` the members of the ``full`` strategy train in as many processes, to the same
    numbers.

    Raises
    ------
    TooFewLabelsError
        With fewer than 8 labels, fewer labels than members, or labels that are all equal.
    """
    values = np.asarray(values, dtype=np.float64)
    _check_labels(values, settings, property)
    folds = assign_folds(keys, settings.members, settings.seed)
    inputs = _Inputs(featuriser, settings.strategy, keys, values)
    heads = []
    mean, std = np.empty_like(values), np.full_like(values, np.nan)
    with one_thread():
        for k, head in enumerate(_fit_members(inputs, values, folds, settings, workers)):
            held = np.flatnonzero(folds == k)
            mean[held], own_std = inputs.predict(head, held)
            if own_std is not None:
                std[held] = own_std
            heads.append(head)
            if progress:
                progress(f"member {k + 1} of {settings.members}: held-out error {_rms(mean[held] - values[held]):.3f}")
    if isinstance(heads[0], GaussianProcessHead):
        heads = _members_of_one(inputs, values, folds, settings)
    error = mean - values
    without_own = np.isnan(std)
    std[without_own] = _spread_from_other_folds(error, folds)[without_own]
    honest_std = _cross_calibrated(values, mean, std, folds)
    return Ensemble(
        backbone=featuriser.backbone,
        settings=settings,
        property=property,
        scale=scale,
        heads=tuple(heads),
        noise=tuple(_rms(error[folds == k]) for k in range(settings.members)),
        calibration=shrunk_scale(error / std),
        metrics={
            "labels": len(values),
            "model": judge(values, mean, honest_std),
            **baseline_metrics(inputs.statistics, values, folds, settings.seed),
        },
        data_hash=labels_hash(keys, values),
        seen=tuple(sorted(key[:12] for key in keys)),
        held_out=np.stack([mean, honest_std], axis=1),
    )


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
            embeddings = self._featuriser.embeddings(part)
            means, drawn = zip(*(functions(embeddings) for functions in self._functions), strict=True)
            centre = np.mean(means, axis=0)
            deviations = np.concatenate(drawn) - centre
            out[:, start : start + len(part)] = centre + self._ensemble.calibration * deviations
        return out

    def _select(self, rows: NDArray[np.int64]) -> list[str]:
        return [self._keys[i] for i in rows.tolist()]


class _Inputs:
    """What the members of a strategy read for a list of crystals."""

    def __init__(
        self,
        featuriser: Featuriser,
        strategy: Strategy,
        keys: Sequence[str],
        values: NDArray[np.float64] | None = None,
    ):
        self.embeddings = featuriser.embeddings(keys)
        self.groups = featuriser.backbone.groups
        self.statistics = self.embeddings[:, self.groups["composition"]]
        self.backbone = featuriser.backbone
        self.graph_data: GraphData | None = None
        if strategy == "full":
            targets = np.full((len(keys), 1), np.nan) if values is None else values[:, None]
            self.graph_data = GraphData(
                featuriser.graphs(keys), self.statistics, targets.astype(np.float32), featuriser.backbone.node_types
            )

    def predict(self, head: Any, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Mean and, where the member has one, its own standard deviation."""
        if isinstance(head, GaussianProcessHead):
            return head.predict(self.embeddings[rows])
        if self.graph_data is not None:
            return head.predict(self.graph_data, rows), None
        return head.predict(self.embeddings[rows]), None


def _fit_members(
    inputs: _Inputs, values: NDArray[np.float64], folds: NDArray[np.int64], settings: EnsembleSettings, workers: int
) -> Iterator[Any]:
    jobs = [(np.flatnonzero(folds != k), seed) for k, seed in enumerate(settings.member_seeds)]
    if inputs.graph_data is not None:
        from engine.learning.finetune import fit_heads

        yield from fit_heads(inputs.backbone, inputs.graph_data, jobs, settings.schedule, workers)
        return
    for rows, seed in jobs:
        if settings.head == "gp":
            yield GaussianProcessHead.fit(inputs.embeddings[rows], values[rows], inputs.groups, seed)
        else:
            yield PerceptronHead.fit(inputs.embeddings[rows], values[rows], seed)


def _members_of_one(
    inputs: _Inputs, values: NDArray[np.float64], folds: NDArray[np.int64], settings: EnsembleSettings
) -> list[GaussianProcessHead]:
    """Members that score the pool: one process fitted to all labels, each member without the labels of its fold.

    The members that held rows out were fitted without them, hyperparameters and scalers included, and gave the metrics
    and the calibration; these know a little more and share their kernel.
    """
    whole = GaussianProcessHead.fit(inputs.embeddings, values, inputs.groups, settings.seed)
    return [whole.keeping(np.flatnonzero(folds != k)) for k in range(settings.members)]


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
