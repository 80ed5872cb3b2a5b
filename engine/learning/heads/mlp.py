"""A small multilayer perceptron on embeddings: the neural head of the ``frozen`` strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from engine.learning.seeding import seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HIDDEN = (128, 64)
_EPOCHS = 120
_BATCH = 64
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-3


@dataclass(frozen=True, eq=False)
class PerceptronHead:
    """A fitted head: standardised embedding (d) -> 128 -> 64 -> 1, SiLU, trained with smooth L1."""

    tensors: Mapping[str, Tensor]
    """``centre``, ``scale`` (d), ``mean``, ``std`` of the values, and the layers' weights."""

    @classmethod
    def fit(cls, embeddings: NDArray[np.float32], values: NDArray[np.float64], seed: int) -> PerceptronHead:
        """Fit on n embeddings (n x d) and their values (n); a tenth of the rows chooses the epoch."""
        generator = np.random.default_rng(seed)
        rows = generator.permutation(len(values))
        held, used = rows[: len(rows) // 10], rows[len(rows) // 10 :]
        raw = torch.as_tensor(embeddings, dtype=torch.float32)
        centre, scale = raw[used].mean(0), raw[used].std(0).clamp_min(1e-6)
        x = (raw - centre) / scale
        raw_y = torch.as_tensor(np.asarray(values), dtype=torch.float32)
        mean, std = raw_y[used].mean(), raw_y[used].std().clamp_min(1e-6)
        y = (raw_y - mean) / std
        with seeded(seed):
            network = _layers(x.shape[1])
        optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        steps = max(1, math.ceil(len(used) / _BATCH))
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, epochs=_EPOCHS, steps_per_epoch=steps)
        best, best_loss = {k: v.clone() for k, v in network.state_dict().items()}, math.inf
        for _ in range(_EPOCHS):
            for chosen in np.array_split(generator.permutation(used), steps):
                optimiser.zero_grad()
                loss = nn.functional.smooth_l1_loss(network(x[chosen])[:, 0], y[chosen])
                loss.backward()
                optimiser.step()
                cycle.step()
            with torch.no_grad():
                judged = held if len(held) else used
                held_loss = nn.functional.l1_loss(network(x[judged])[:, 0], y[judged]).item()
            if held_loss < best_loss:
                best, best_loss = {k: v.clone() for k, v in network.state_dict().items()}, held_loss
        return cls({"centre": centre, "scale": scale, "mean": mean, "std": std, **best})

    def predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predicted values at N embeddings (N x d)."""
        t = self.tensors
        network = _layers(len(t["centre"]))
        network.load_state_dict({k: v for k, v in t.items() if k[0].isdigit()})
        with torch.no_grad():
            x = (torch.as_tensor(np.asarray(embeddings, dtype=np.float32)) - t["centre"]).div_(t["scale"])
            return (network(x)[:, 0] * t["std"] + t["mean"]).double().numpy()


def _layers(width: int) -> nn.Sequential:
    first, second = _HIDDEN
    return nn.Sequential(nn.Linear(width, first), nn.SiLU(), nn.Linear(first, second), nn.SiLU(), nn.Linear(second, 1))
