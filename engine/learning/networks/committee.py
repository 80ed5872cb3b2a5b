"""Networks fine-tuned on the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.learning.networks.training import GraphData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.features.featuriser import Featuriser
    from engine.learning.networks.finetune import NetworkHead


@dataclass(frozen=True, eq=False)
class NetworkCommittee:
    """A crystal is estimated by the mean of its networks."""

    networks: tuple[NetworkHead, ...]

    def estimate(
        self, featuriser: AnyFeaturiser, keys: Sequence[str], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Mean of all networks, N, which read the crystals' graphs."""
        data = network_data(featuriser, keys)
        rows = np.arange(len(keys))
        return np.mean([n.predict(data[k % len(data)], rows) for k, n in enumerate(self.networks)], axis=0)


def held_out(
    networks: Sequence[NetworkHead], data: Sequence[GraphData], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Each training row (n) as the network that left its fold out has it; ``data`` as of :func:`network_data`."""
    values = np.empty(len(folds))
    for k, network in enumerate(networks):
        rows = np.flatnonzero(folds == k)
        values[rows] = network.predict(data[k % len(data)], rows)
    return values


def network_data(
    featuriser: AnyFeaturiser, keys: Sequence[str], targets: NDArray[np.float64] | None = None
) -> list[GraphData]:
    """Graphs and statistics for each backbone that networks are fine-tuned from; member k reads the (k modulo n)-th."""
    trained = set(featuriser.backbone.trained)
    return [graph_data(part, keys, targets) for part in featuriser.parts if part.backbone in trained]


def graph_data(featuriser: Featuriser, keys: Sequence[str], targets: NDArray[np.float64] | None = None) -> GraphData:
    """Graphs and statistics of crystals, with targets (N x P) where they are known."""
    groups = featuriser.backbone.groups
    statistics = featuriser.embeddings(keys)[:, : groups["bonding"].stop]
    known = np.full((len(keys), 1), np.nan) if targets is None else targets
    return GraphData(featuriser.graphs(keys), statistics, known.astype(np.float32), featuriser.backbone.node_types)
