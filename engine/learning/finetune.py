"""The ``full`` strategy: the whole network, body and trunk, learns on from the backbone's weights with a new head."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.learning.network import GraphNetwork
from engine.learning.training import GraphData, Schedule, predict_network, train_network

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.learning.backbone import Backbone

TRUNK_SIZE = 128
"""Width of the trunk put on a backbone that has none."""


@dataclass(frozen=True, eq=False)
class NetworkHead:
    """A fine-tuned network and the scale of its output."""

    network: GraphNetwork
    mean: float
    std: float

    @classmethod
    def fit(
        cls,
        backbone: Backbone,
        data: GraphData,
        rows: NDArray[np.int64],
        schedule: Schedule,
        seed: int,
        on_epoch: Callable[..., None] | None = None,
    ) -> NetworkHead:
        """Fine-tune a copy of ``backbone`` on ``rows`` of ``data``, whose targets (N x 1) are in learned units."""
        values = data.targets[rows, 0].astype(np.float64)
        mean, std = float(values.mean()), float(max(values.std(), 1e-6))
        network = new_network(backbone, seed)
        if not backbone.network.trunk_size:
            network.fit_statistics(torch.from_numpy(data.statistics[rows]))
        standardised = replace(data, targets=((data.targets - mean) / std).astype(np.float32))
        train_network(network, standardised, rows, schedule, seed, on_epoch)
        return cls(network, mean, std)

    def predict(self, data: GraphData, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predicted values of ``rows`` in learned units."""
        return predict_network(self.network, data, rows)[:, 0].astype(np.float64) * self.std + self.mean

    def tensors(self) -> dict[str, Tensor]:
        """All that :meth:`from_tensors` needs."""
        scale = {"output.mean": torch.tensor(self.mean), "output.std": torch.tensor(self.std)}
        return {**self.network.state_dict(), **scale}

    @classmethod
    def from_tensors(cls, backbone: Backbone, tensors: Mapping[str, Tensor]) -> NetworkHead:
        """A trained head from its stored tensors; they must match the network one to one."""
        network = new_network(backbone, seed=0)
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("output.")}, strict=True)
        return cls(network.eval(), float(tensors["output.mean"]), float(tensors["output.std"]))


def new_network(backbone: Backbone, seed: int) -> GraphNetwork:
    """A copy of the backbone's body (and trunk, where it has one) under a fresh head for one property."""
    torch.manual_seed(seed)
    start = backbone.network
    network = GraphNetwork(
        copy.deepcopy(start.body), start.readout_size, ("target",), start.trunk_size or TRUNK_SIZE
    )
    if start.trunk_size:
        network.trunk.load_state_dict(start.trunk.state_dict())
        network.statistics_mean.copy_(start.statistics_mean)
        network.statistics_std.copy_(start.statistics_std)
    return network
