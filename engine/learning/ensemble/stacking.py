"""Models that stand beside Gaussian-process members, networks or trees, and the weight of each in the mean.

Held-out errors decide the weights (super learner, van der Laan et al., Stat. Appl. Genet. Mol. Biol. 6, 25, 2007),
drawn towards equal ones by a few imagined labels, since the errors of a handful of labels say little (Diebold and
Pauly, Int. J. Forecast. 6, 503, 1990). For each fold the errors of the others decide, so that metrics are of unseen
labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from engine.learning.heads.trees import Trees
from engine.learning.networks.committee import NetworkCommittee

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.networks.graph_data import Crystals

PRIOR_LABELS = 10
"""Imagined labels that ask for equal weights."""
SMALLEST_WEIGHT = 0.05
"""A smaller weight is not worth its time: the model is left out instead."""
_STEPS = 20
"""Weights are whole multiples of one by this, before they are drawn together."""


class StackedModel(Protocol):
    """Estimates crystals by itself."""

    kind: ClassVar[str]

    def estimate(self, crystals: Crystals) -> NDArray[np.float64]:
        """N estimates."""

    def to_files(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Tensors by file name."""


@dataclass(frozen=True, eq=False)
class Stacking:
    """Models beside the members by kind, and the weight of each in the mean; the members have the rest."""

    models: Mapping[str, StackedModel]
    weights: Mapping[str, float]

    def __call__(self, mean: NDArray[np.float64], crystals: Crystals) -> NDArray[np.float64]:
        """Mean of members (... x N) and models together."""
        stacked = (1 - sum(self.weights.values())) * mean
        for name, model in self.models.items():
            stacked = stacked + self.weights[name] * model.estimate(crystals)
        return stacked

    @classmethod
    def from_files(
        cls, files: Mapping[str, Mapping[str, Tensor]], backbone: AnyBackbone, weights: Mapping[str, float]
    ) -> Stacking | None:
        """Models of stored tensors, by file name, and their weights; ``None`` if there are none."""
        found = [kind.from_files(files, backbone) for kind in (NetworkCommittee, Trees)]
        models: dict[str, StackedModel] = {model.kind: model for model in found if model is not None}
        return cls(models, {name: weights[name] for name in models}) if models else None


def held_out_weights(
    values: NDArray[np.float64],
    mean: NDArray[np.float64],
    estimates: NDArray[np.float64],
    folds: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Held-out mean of n labels, each fold with the weights of the other folds; the weights (M) by all folds.

    ``mean`` (n) is that of the members and ``estimates`` (M x n) those of the models beside them, all held out.
    """
    grid = _weights(len(estimates))
    means = mean + grid @ (estimates - mean)
    errors = np.abs(means - values)
    stacked = np.empty_like(mean)
    for k in np.unique(folds):
        held = folds == k
        weights = _drawn_together(grid[errors[:, ~held].mean(axis=1).argmin()], int(np.count_nonzero(~held)))
        stacked[held] = mean[held] + weights @ (estimates - mean)[:, held]
    return stacked, _drawn_together(grid[errors.mean(axis=1).argmin()], len(values))


def _weights(n_models: int) -> NDArray[np.float64]:
    """Weights of the models (G x M) that leave the members none or more."""
    steps = itertools.product(range(_STEPS + 1), repeat=n_models)
    return np.array([taken for taken in steps if sum(taken) <= _STEPS]) / _STEPS


def _drawn_together(best: NDArray[np.float64], n_labels: int) -> NDArray[np.float64]:
    equal = 1 / (len(best) + 1)
    weights = (n_labels * best + PRIOR_LABELS * equal) / (n_labels + PRIOR_LABELS)
    return np.where(weights < SMALLEST_WEIGHT, 0.0, weights)
