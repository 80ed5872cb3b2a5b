"""Estimates by other models as columns of what a member sees.

They come from a model of a cheaper fidelity; a Gaussian process with such an estimate among its columns learns what it
leaves unexplained, and how far to trust it. Networks fine-tuned on the same labels estimate each training row without
having seen its fold; a new crystal gets the mean of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.learning.training import GraphData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.features import Featuriser
    from engine.learning.finetune import NetworkHead

GROUP = "estimates"
"""Name of the column group they form behind those of the backbone."""


class Estimator(Protocol):
    """A model whose prediction is a column for others."""

    def estimate(self, featuriser: Featuriser, keys: Sequence[str]) -> NDArray[np.float64]:
        """Its values (N), in its own learned units, for crystals that ``featuriser`` holds."""


@dataclass(frozen=True, eq=False)
class NetworkCommittee:
    """Fine-tuned networks, one for each fold that it left out."""

    networks: tuple[NetworkHead, ...]

    def estimate(self, featuriser: Featuriser, keys: Sequence[str]) -> NDArray[np.float64]:
        """Mean of all networks, N."""
        data = graph_data(featuriser, keys)
        rows = np.arange(len(keys))
        return np.mean([network.predict(data, rows) for network in self.networks], axis=0)

    def held_out(self, data: GraphData, folds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each training row (n) as the network that left its fold out has it."""
        values = np.empty(len(folds))
        for k, network in enumerate(self.networks):
            rows = np.flatnonzero(folds == k)
            values[rows] = network.predict(data, rows)
        return values


def graph_data(featuriser: Featuriser, keys: Sequence[str], targets: NDArray[np.float64] | None = None) -> GraphData:
    """Graphs and statistics of crystals, with targets (N x P) where they are known."""
    groups = featuriser.backbone.groups
    statistics = featuriser.embeddings(keys)[:, : groups["bonding"].stop]
    known = np.full((len(keys), 1), np.nan) if targets is None else targets
    return GraphData(featuriser.graphs(keys), statistics, known.astype(np.float32), featuriser.backbone.node_types)


def with_estimates(embeddings: NDArray[np.float32], columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Embeddings (N x d) with one more column for each estimate (N)."""
    if not columns:
        return embeddings
    return np.concatenate([embeddings, *(c[:, None].astype(np.float32) for c in columns)], axis=1)


def groups_with_estimates(groups: dict[str, slice], count: int) -> dict[str, slice]:
    """Column groups with ``count`` estimates behind them."""
    if not count:
        return groups
    end = max(columns.stop for columns in groups.values())
    return {**groups, GROUP: slice(end, end + count)}
