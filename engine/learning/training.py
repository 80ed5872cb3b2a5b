"""One training loop for every network of ours: AdamW, one-cycle learning rate, clipped gradients, early choice.

The weights kept are those of the epoch with the lowest loss on validation rows taken from the training set; rows held
out by the caller are never seen here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from engine.exceptions import TrainingError
from engine.graphs.crystal_graph import CrystalGraph, collate, pack
from engine.learning.seeding import seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch_geometric.data import Data

    from engine.learning.network import GraphNetwork


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns."""

    epochs: int = 30
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule; 1e-3 is the sound default of Devi et al. 2024, 1e-5 fails."""
    batch_size: int = 64
    weight_decay: float = 1e-5
    clip_norm: float = 1.0
    validation_fraction: float = 0.1
    """Part of the training rows set aside to choose the epoch."""


@dataclass(frozen=True)
class GraphData:
    """N crystals ready for a network: graphs, statistics (N x 28) and targets (N x P, NaN where unknown)."""

    graphs: Sequence[CrystalGraph]
    statistics: NDArray[np.float32]
    targets: NDArray[np.float32]
    node_types: NDArray[np.int64] = field(repr=False)
    """Element index of the model by atomic number."""

    def batch(self, rows: NDArray[np.int64]) -> tuple[Data, Tensor, Tensor]:
        """Graphs, statistics and targets of ``rows`` as tensors."""
        graphs = collate([self.graphs[i] for i in rows], self.node_types)
        return graphs, torch.from_numpy(self.statistics[rows]), torch.from_numpy(self.targets[rows])


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows ended with; losses in units of the standardised targets."""

    number: int
    train_loss: float
    validation_loss: float


def train_network(
    network: GraphNetwork,
    data: GraphData,
    rows: NDArray[np.int64],
    schedule: Schedule,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train ``network`` in place on ``rows`` of ``data`` and leave it with its best validation weights.

    Raises
    ------
    TrainingError
        If the loss becomes NaN or infinite; the network then holds its last good weights.
    """
    with seeded(seed):  # dropout, where the body has it
        return _train(network, data, rows, schedule, np.random.default_rng(seed), on_epoch)


def predict_network(network: GraphNetwork, data: GraphData, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """``len(rows)`` x P standardised predictions, in batches packed by edges."""
    network.eval()
    out = np.empty((len(rows), len(network.properties)), dtype=np.float32)
    with torch.no_grad():
        for part in pack([data.graphs[i].n_edges for i in rows]):
            graphs, statistics, _ = data.batch(rows[part])
            out[part] = network(graphs, statistics).numpy()
    return out


def masked_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 averaged over the rows of each property that have a label, then over properties.

    Averaging per property first keeps a large data set from drowning a small one.
    """
    known = torch.isfinite(target)
    error = nn.functional.smooth_l1_loss(prediction, torch.where(known, target, prediction.detach()), reduction="none")
    count = known.sum(0)
    return ((error * known).sum(0)[count > 0] / count[count > 0]).mean()


def _train(
    network: GraphNetwork,
    data: GraphData,
    rows: NDArray[np.int64],
    schedule: Schedule,
    generator: np.random.Generator,
    on_epoch: Callable[[Epoch], None] | None,
) -> list[Epoch]:
    validation, training = _split(rows, schedule.validation_fraction, generator)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    steps = math.ceil(len(training) / schedule.batch_size)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.learning_rate, epochs=schedule.epochs, steps_per_epoch=steps
    )
    judged = bool(np.isfinite(data.targets[validation]).any())
    history: list[Epoch] = []
    best_weights, best_loss = copy.deepcopy(network.state_dict()), math.inf
    for number in range(1, schedule.epochs + 1):
        network.train()
        losses = []
        for chosen in np.array_split(generator.permutation(training), steps):
            loss = _step(network, data.batch(chosen), optimiser, parameters, schedule.clip_norm)
            if not math.isfinite(loss):
                network.load_state_dict(best_weights)
                network.eval()
                raise TrainingError(
                    f"the loss became {loss} in epoch {number}; the weights of the best epoch before are kept. "
                    f"Lower the learning rate (now {schedule.learning_rate:g}) or look for extreme labels"
                )
            cycle.step()
            losses.append(loss)
        epoch = Epoch(number, float(np.mean(losses)), _evaluate(network, data, validation))
        history.append(epoch)
        if epoch.validation_loss <= best_loss or not judged:
            best_weights, best_loss = copy.deepcopy(network.state_dict()), epoch.validation_loss
        if on_epoch:
            on_epoch(epoch)
    network.load_state_dict(best_weights)
    network.eval()
    return history


def _split(
    rows: NDArray[np.int64], fraction: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shuffled = generator.permutation(rows)
    n = round(fraction * len(rows))
    return shuffled[:n], shuffled[n:]


def _step(
    network: GraphNetwork,
    batch: tuple[Data, Tensor, Tensor],
    optimiser: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    clip_norm: float,
) -> float:
    graphs, statistics, targets = batch
    optimiser.zero_grad()
    loss = masked_loss(network(graphs, statistics), targets)
    if torch.isfinite(loss):
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimiser.step()
    return loss.item()


def _evaluate(network: GraphNetwork, data: GraphData, rows: NDArray[np.int64]) -> float:
    if not len(rows):
        return math.nan
    prediction = predict_network(network, data, rows)
    return float(masked_loss(torch.from_numpy(prediction), torch.from_numpy(data.targets[rows])))
