"""Networks fine-tuned on the same labels, one for each fold that it left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.learning.training import GraphData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.features import Featuriser
    from engine.learning.finetune import NetworkHead


@dataclass(frozen=True, eq=False)
class NetworkCommittee:
    """A row of a training set is estimated by the network that has not seen it, a new crystal by all of them."""

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
