"""How an ensemble is trained: K members, each without one fold, calibrated on what it did not see.

Every training row is held out by exactly one member, so that cross-validated metrics, the calibration factor and the
baselines beside them never touch a row that the member was trained on. All values are in learned units: log10 for
properties that span decades, linear otherwise.

Extra-trees, and fine-tuned networks, may stand beside Gaussian processes: the mean is then a weighted one, see
:mod:`engine.learning.ensemble.stacking`. A weight of zero means that they did not help; networks that have one are
trained once more, on all labels, to score the pool. As a column of the Gaussian process networks did harm: its
hyperparameters are fitted to some hundred rows, beside networks that have learned from thousands, and it
comes to trust them more than itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning.ensemble.baselines import baseline_metrics
from engine.learning.ensemble.ensemble import Ensemble
from engine.learning.ensemble.evaluation import evaluate, evaluate_folds, evaluation_curves
from engine.learning.ensemble.records import SEEN_DIGITS
from engine.learning.ensemble.settings import TREE_LABELS, EnsembleSettings, Say, Scale, minimum_labels
from engine.learning.ensemble.stacking import StackedModel, Stacking, held_out_weights
from engine.learning.features.statistics import STATISTICS
from engine.learning.heads.members import AnyMembers, TrainingData, no_process
from engine.learning.heads.trees import Trees
from engine.learning.memory import check_memory, memory_errors_explained
from engine.learning.networks.committee import NetworkCommittee, held_out
from engine.learning.networks.graph_data import Crystals
from engine.learning.seeding import one_thread
from engine.metrics.calibration import shrunk_scale
from engine.metrics.extrapolation import (
    TrainingDistance,
    VarianceInflation,
    cross_variance_inflation,
    fit_variance_inflation,
    held_out_distances,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.execution import Run
    from engine.learning.backbones.stack import AnyFeaturiser

    Standing = dict[str, tuple[StackedModel, NDArray[np.float64]]]
    """Models beside the members by kind, and their held-out estimates (n)."""

_LESS_MEMORY = "give fewer labels, stop other programs, take a machine with more memory, or "


@dataclass(frozen=True, eq=False)
class Labels:
    """A property of n crystals that a featuriser holds."""

    keys: Sequence[str]
    """Content hash of each crystal, n."""
    values: NDArray[np.float64]
    """The property, n, in learned units."""
    property: str
    scale: Scale
    """How learned units are made of the property's own."""
    auxiliaries: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Other properties of the same crystals by name (n each, NaN where unknown, on a scale that suits a network);
    networks learn them beside the target."""

    def __getitem__(self, rows: NDArray[np.int64]) -> Labels:
        """Those rows; an auxiliary property that none of them has is left out."""
        others = {name: column[rows] for name, column in self.auxiliaries.items()}
        return replace(
            self,
            keys=[self.keys[row] for row in rows],
            values=self.values[rows],
            auxiliaries={name: column for name, column in others.items() if np.isfinite(column).any()},
        )


def train_ensemble(
    featuriser: AnyFeaturiser,
    labels: Labels,
    settings: EnsembleSettings,
    *,
    lower_fidelity: Ensemble | None = None,
    same_property: bool = False,
    progress: Say | None = None,
    workers: int = 1,
    run: Run | None = None,
) -> Ensemble:
    """Train on crystals that ``featuriser`` holds.

    Parameters
    ----------
    lower_fidelity
        A model of the same property at a lower fidelity, on the same backbone, with Gaussian-process members; each
        member then learns its own labels on top of all of that model's, see :mod:`engine.learning.heads.multifidelity`.
    same_property
        Whether ``lower_fidelity`` predicts the labels' own property (published values, say), so that no more than a
        factor is expected between them unless the labels say so.
    workers
        With more than one, networks train in as many processes, to the same numbers.
    run
        Where networks train instead, to the same numbers, e.g. on a Dask cluster.

    Raises
    ------
    TooFewLabelsError
        With fewer than 8 labels, fewer labels than members, or labels that are all equal.
    """
    labels = replace(labels, values=np.asarray(labels.values, dtype=np.float64))
    _check_labels(labels, settings)
    folds = assign_folds(labels.keys, settings.members, settings.seed)
    _check_folds(labels, folds)
    _check_lower_fidelity(lower_fidelity, featuriser, settings)
    settings = settings.resolved(len(labels.values), featuriser.backbone)
    data = TrainingData(
        crystals=Crystals(featuriser, labels.keys, np.stack([labels.values, *labels.auxiliaries.values()], axis=1)),
        values=labels.values,
        folds=folds,
        seed=settings.seed,
        seeds=settings.member_seeds,
        tuning=settings.tuning,
        lower=None if lower_fidelity is None else lower_fidelity.members.process,
        same_property=same_property,
        progress=progress or (lambda text: None),
        workers=workers,
        run=run,
    )
    needed, what = _members_class(data, settings).needed_bytes(data), f"training on {len(labels.values):,} labels"
    advice = _LESS_MEMORY + ("train head 'mlp'" if data.lower is None else "train without the lower fidelity")
    check_memory(needed, what, advice)
    with one_thread(), memory_errors_explained(needed, what, advice):
        fit = _fit(data, settings)
        fit = replace(fit, members=fit.members.scoring(data), stacking=_with_all_labels(data, fit.stacking))
        baselines = baseline_metrics(data.embeddings[:, : len(STATISTICS)], data.values, folds, settings.seed)
        return _calibrated(data, labels, fit, baselines, lower_fidelity)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Members that each left a fold out, and what they say of it."""

    settings: EnsembleSettings
    members: AnyMembers
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """Of each label by the member that had not seen it, n each."""
    stacking: Stacking | None = None
    tried: str = ""
    """Weights of all that was tried beside the members, in words."""

    @property
    def description(self) -> str:
        """What members are, for metrics and messages."""
        kind = " ".join(filter(None, (self.settings.strategy, self.members.variant, self.settings.head)))
        return f"{kind}, {self.tried}" if self.tried else kind


def _fit(data: TrainingData, settings: EnsembleSettings) -> _Fit:
    """Fit every member without its fold, and predict that fold with it."""
    values, folds = data.values, data.folds
    kind = _members_class(data, settings)
    if settings.networks:
        data.networks  # noqa: B018  # trained before the members
    heads = []
    mean, std = np.empty_like(values), np.full_like(values, np.nan)
    for k, head in enumerate(kind.fit_heads(data)):
        held = np.flatnonzero(folds == k)
        mean[held], own = kind.predict_head(head, data.crystals, k, held)
        std[held] = np.nan if own is None else own
        heads.append(head)
        member = f"{settings.head} member {k + 1} of {settings.members}"
        data.progress(f"{member}: held-out error {_rms(mean[held] - values[held]):.3f}")
    without_own = np.isnan(std)
    std[without_own] = _spread_from_other_folds(mean - values, folds)[without_own]
    return _stacked(data, _Fit(settings, kind(tuple(heads)), mean, std))


def _members_class(data: TrainingData, settings: EnsembleSettings) -> type[AnyMembers]:
    """Kind of members for so many labels, above a lower fidelity or not."""
    kind = settings.members_class
    return kind.of_labels(len(data.values)) if data.lower is None else kind.above_lower_fidelity()


def _stacked(data: TrainingData, fit: _Fit) -> _Fit:
    """The members with those models beside them that deserve a weight in the mean."""
    beside = _beside(data, fit)
    if not beside:
        return fit
    estimates = np.stack([estimate for _, estimate in beside.values()])
    mean, found = held_out_weights(data.values, fit.mean, estimates, data.folds)
    weights = dict(zip(beside, found.tolist(), strict=True))
    tried = ", ".join(f"{name}' share {weight:.2f}" for name, weight in weights.items())
    data.progress(f"{tried}: held-out error {_rms(mean - data.values):.3f}")
    kept = {name: model for name, (model, _) in beside.items() if weights[name]}
    stacking = Stacking(kept, {name: weights[name] for name in kept}) if kept else None
    return replace(fit, mean=mean, stacking=stacking, tried=tried)


def _beside(data: TrainingData, fit: _Fit) -> Standing:
    """Train what may stand beside Gaussian processes, and estimate each label (n) by what has not seen it."""
    beside: Standing = {}
    if not fit.members.kind.is_stacked:
        return beside
    if data.networks:
        beside[NetworkCommittee.kind] = (
            NetworkCommittee(data.networks),
            held_out(data.networks, data.graphs, data.folds),
        )
    if fit.settings.trees and data.lower is None and len(data.values) <= TREE_LABELS:
        beside[Trees.kind] = Trees.fit(data.crystals.keys, data.embeddings, data.values, data.folds, data.seed)
    return beside


def _with_all_labels(data: TrainingData, stacking: Stacking | None) -> Stacking | None:
    """What stands beside the members that score the pool: its networks trained once more, on all labels."""
    if stacking is None or NetworkCommittee.kind not in stacking.models:
        return stacking
    everything = [np.arange(len(data.values))] * len(data.seeds)
    networks = NetworkCommittee(data.train_networks(everything, "on all labels"))
    return replace(stacking, models={**stacking.models, NetworkCommittee.kind: networks})


def _calibrated(
    data: TrainingData, labels: Labels, fit: _Fit, baselines: Mapping[str, object], lower_fidelity: Ensemble | None
) -> Ensemble:
    """The ensemble with its calibration, its metrics and how its spread grows away from the training rows."""
    values, folds, error = data.values, data.folds, data.values - fit.mean
    distances = held_out_distances(data.embeddings, folds, seed=data.seed)
    inflation = fit_variance_inflation(error / fit.std, distances, folds)
    inflates = inflation != VarianceInflation()
    factors = inflation(distances) if inflates else np.ones(len(values))
    held_out_std = _held_out_std(data, fit, distances if inflates else None)
    return Ensemble(
        backbone=data.backbone,
        settings=fit.settings,
        property=labels.property,
        scale=labels.scale,
        members=fit.members,
        noise=tuple(_rms(error[folds == k]) for k in range(len(data.seeds))),
        calibration=shrunk_scale(error / (fit.std * factors)),
        metrics={
            "labels": len(values),
            "model": evaluate(values, fit.mean, held_out_std),
            "folds": evaluate_folds(values, fit.mean, held_out_std, folds),
            "curves": evaluation_curves(values, fit.mean, held_out_std),
            "chosen": fit.description,
            **baselines,
        },
        data_hash=labels_hash(labels.keys, values),
        seen=tuple(sorted(key[:SEEN_DIGITS] for key in labels.keys)),
        lower_fidelity=lower_fidelity,
        stacking=fit.stacking,
        variance_inflation=inflation,
        distance=TrainingDistance.fit(data.embeddings, seed=data.seed) if inflates else None,
        held_out=np.stack([fit.mean, held_out_std], axis=1),
    )


def _held_out_std(data: TrainingData, fit: _Fit, distances: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Held-out spread, inflated by distance and scaled for each fold as the other folds ask for."""
    std = fit.std
    if distances is not None:
        std = std * cross_variance_inflation((data.values - fit.mean) / std, distances, data.folds)
    return _cross_calibrated(data.values, fit.mean, std, data.folds)


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


def _check_folds(labels: Labels, folds: NDArray[np.int64]) -> None:
    values = labels.values
    if any(np.ptp(values[folds != k]) == 0 for k in np.unique(folds)):
        found, counts = np.unique(values, return_counts=True)
        raise TooFewLabelsError(
            f"{counts.max()} of {len(values)} labels of {labels.property} are equal ({found[counts.argmax()]:g}), so "
            "that a member that holds out the others has nothing to learn; add labels that differ"
        )


def _check_lower_fidelity(lower: Ensemble | None, featuriser: AnyFeaturiser, settings: EnsembleSettings) -> None:
    if lower is None:
        return
    settings.members_class.above_lower_fidelity()
    if not lower.members.kind.has_process:
        raise no_process()
    backbone = featuriser.backbone
    if lower.backbone.sha256 != backbone.sha256:
        raise TrainingError(
            f"the model of the cheaper fidelity stands on backbone {lower.backbone.name} "
            f"({lower.backbone.sha256[:12]}), this one on {backbone.name} "
            f"({backbone.sha256[:12]}); train one of them again"
        )


def _check_labels(labels: Labels, settings: EnsembleSettings) -> None:
    values, property_, needed = labels.values, labels.property, minimum_labels(settings.members)
    if len(values) < needed:
        raise TooFewLabelsError(
            f"{property_} has {len(values)} labels, {settings.members} members need at least {needed}; "
            "add labels or ask for fewer members"
        )
    if not np.isfinite(values).all():
        raise TrainingError(
            f"{np.count_nonzero(~np.isfinite(values))} labels of {property_} are not finite; remove them"
        )
    if np.ptp(values) == 0:
        raise TooFewLabelsError(f"all {len(values)} labels of {property_} are equal ({values[0]:g}); check the column")
