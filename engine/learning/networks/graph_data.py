"""Crystals as networks read them: graphs, statistics and targets of a whole data set, and batches of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.graphs.crystal_graph import CrystalGraph, collate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch_geometric.data import Data

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.features.featuriser import Featuriser


@dataclass(frozen=True)
class GraphData:
    """N crystals ready for a network: graphs, statistics (N x 88) and targets (N x P, NaN where unknown)."""

    graphs: Sequence[CrystalGraph]
    statistics: NDArray[np.float32]
    targets: NDArray[np.float32]
    node_types: NDArray[np.int64] = field(repr=False)
    """Element index of the model by atomic number."""
    teacher_columns: NDArray[np.float32] | None = field(default=None, repr=False)
    """Standardised columns of teachers (N x C), for a network with ``teacher_columns`` columns."""

    def batch(self, rows: NDArray[np.int64], where: torch.device) -> tuple[Data, Tensor]:
        """Graphs and statistics of ``rows`` as tensors on a device."""
        graphs = collate([self.graphs[i] for i in rows], self.node_types)
        return graphs.to(where), torch.from_numpy(self.statistics[rows]).to(where)

    def labels(self, rows: NDArray[np.int64], where: torch.device) -> Tensor:
        """Targets of ``rows`` on a device."""
        return torch.from_numpy(self.targets[rows]).to(where)


@dataclass(frozen=True, eq=False)
class Crystals:
    """N crystals that a featuriser holds, as models read them: embeddings and graphs, fetched when they are needed."""

    featuriser: AnyFeaturiser
    keys: Sequence[str]
    """Content hash of each, N."""
    targets: NDArray[np.float64] | None = None
    """What networks learn of them (N x P, NaN where unknown), where they are trained on."""

    def __len__(self) -> int:
        """How many there are, N."""
        return len(self.keys)

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """Of each, N x d."""
        return self.featuriser.embeddings(self.keys)

    @cached_property
    def graphs(self) -> list[GraphData]:
        """For each backbone that networks are fine-tuned from; member k reads the (k modulo n)-th."""
        return network_data(self.featuriser, self.keys, self.targets)


def network_data(
    featuriser: AnyFeaturiser, keys: Sequence[str], targets: NDArray[np.float64] | None = None
) -> list[GraphData]:
    """Graphs and statistics for each backbone that networks are fine-tuned from; member k reads the (k modulo n)-th."""
    trained = featuriser.backbone.trained
    return [
        graph_data(part, backbone, keys, targets)
        for part in featuriser.parts
        for backbone in trained
        if part.backbone is backbone
    ]


def graph_data(
    featuriser: Featuriser, backbone: Backbone, keys: Sequence[str], targets: NDArray[np.float64] | None = None
) -> GraphData:
    """Graphs and statistics of crystals for the featuriser's own backbone, with targets (N x P) where known."""
    groups = backbone.groups
    statistics = featuriser.embeddings(keys)[:, : groups["bonding"].stop]
    known = np.full((len(keys), 1), np.nan) if targets is None else targets
    return GraphData(featuriser.graphs(keys), statistics, known.astype(np.float32), backbone.node_types)
