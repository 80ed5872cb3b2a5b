"""The ``full`` strategy: the whole network, body and trunk, learns on from the backbone's weights with a new head."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save

from engine.learning.network import GraphNetwork
from engine.learning.seeding import seeded
from engine.learning.training import Epoch, GraphData, Schedule, predict_network, train_network

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.learning.backbone import Backbone

TRUNK_SIZE = 128
"""Width of the trunk put on a backbone that has none."""
_OUTPUT = "output."


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
        on_epoch: Callable[[Epoch], None] | None = None,
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

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that :meth:`from_tensors` needs."""
        scale = {"mean": self.mean, "std": self.std}
        output = {_OUTPUT + name: torch.tensor(value, dtype=torch.float64) for name, value in scale.items()}
        return {**self.network.state_dict(), **output}

    @classmethod
    def from_tensors(cls, backbone: Backbone, tensors: Mapping[str, Tensor]) -> NetworkHead:
        """Build a trained head from its stored tensors; they must match the network one to one."""
        network = new_network(backbone, seed=0)
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_OUTPUT)}, strict=True)
        return cls(network.eval(), float(tensors[_OUTPUT + "mean"]), float(tensors[_OUTPUT + "std"]))


def fit_heads(
    backbone: Backbone,
    data: GraphData,
    jobs: Sequence[tuple[NDArray[np.int64], int]],
    schedule: Schedule,
    workers: int = 1,
) -> Iterator[NetworkHead]:
    """Fit one head a job (training rows and seed), in order, here or in ``workers`` processes of one thread each.

    The numbers are the same either way if torch runs on one thread here too.
    """
    if workers == 1:
        for rows, seed in jobs:
            yield NetworkHead.fit(backbone, data, rows, schedule, seed)
        return
    with tempfile.TemporaryDirectory(prefix="kappascout-members-") as folder:
        given = (backbone.save(folder), data, schedule)
        context = get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, given) as pool:
            for stored in pool.map(_fit_stored, jobs):
                yield NetworkHead.from_tensors(backbone, load(stored))


def _start_worker(folder: Path, data: GraphData, schedule: Schedule) -> None:
    from engine.learning.backbone import load_backbone

    torch.set_num_threads(1)
    _worker.update(backbone=load_backbone(folder), data=data, schedule=schedule)


def _fit_stored(job: tuple[NDArray[np.int64], int]) -> bytes:
    rows, seed = job
    head = NetworkHead.fit(_worker["backbone"], _worker["data"], rows, _worker["schedule"], seed)
    return save({name: tensor.contiguous() for name, tensor in head.tensors.items()})


_worker: dict[str, Any] = {}
"""What a worker process was given when it started, so that it travels once and not with every job."""


def new_network(backbone: Backbone, seed: int) -> GraphNetwork:
    """Copy the backbone's body (and trunk, where it has one) under a fresh head for one property."""
    start = backbone.network
    with seeded(seed):
        body = copy.deepcopy(start.body)
        network = GraphNetwork(body, start.readout_size, ("target",), start.trunk_size or TRUNK_SIZE)
    if start.trunk_size:
        network.trunk.load_state_dict(start.trunk.state_dict(), strict=True)
        network.statistics_mean.copy_(start.statistics_mean)
        network.statistics_std.copy_(start.statistics_std)
    return network
