"""A small multilayer perceptron on embeddings: the neural head of the ``frozen`` strategy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from engine.learning.heads.kinds import PERCEPTRON, HeadKind
from engine.learning.heads.members import Members, TrainingData
from engine.learning.seeding import seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.heads.multifidelity import MultiFidelityHead
    from engine.learning.networks.graph_data import Crystals

_HIDDEN = (128, 64)
_EPOCHS = 120
_BATCH = 64
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-3


@dataclass(frozen=True, eq=False)
class PerceptronHead:
    """A fitted head: standardised embedding (d) -> 128 -> 64 -> 1, SiLU, trained with smooth L1."""

    centre: Tensor
    scale: Tensor
    """Standardisation of the columns, d each."""
    mean: Tensor
    std: Tensor
    """Of the values."""
    layers: Mapping[str, Tensor]
    """Weights of the layers by their names in a file, such as ``0.weight``."""

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
                measured = held if len(held) else used
                held_loss = nn.functional.l1_loss(network(x[measured])[:, 0], y[measured]).item()
            if held_loss < best_loss:
                best, best_loss = {k: v.clone() for k, v in network.state_dict().items()}, held_loss
        return cls(centre, scale, mean, std, best)

    def predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predicted values at N embeddings (N x d)."""
        network = _layers(len(self.centre))
        network.load_state_dict(dict(self.layers))
        with torch.no_grad():
            x = (torch.as_tensor(np.asarray(embeddings, dtype=np.float32)) - self.centre).div_(self.scale)
            return (network(x)[:, 0] * self.std + self.mean).double().numpy()

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors by the names they have in a file."""
        return {"centre": self.centre, "scale": self.scale, "mean": self.mean, "std": self.std, **self.layers}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PerceptronHead:
        """Inverse of :meth:`to_tensors`."""
        layers = {name: tensor for name, tensor in tensors.items() if name[0].isdigit()}
        return cls(tensors["centre"], tensors["scale"], tensors["mean"], tensors["std"], layers)


@dataclass(frozen=True, eq=False)
class PerceptronMembers(Members[PerceptronHead]):
    """Perceptrons on embeddings, which know no standard deviation of their own."""

    kind: ClassVar[HeadKind] = PERCEPTRON

    @classmethod
    def fit_heads(cls, data: TrainingData) -> Iterable[PerceptronHead]:
        """See :meth:`Members.fit_heads`."""
        for rows, seed in zip(data.jobs, data.seeds, strict=True):
            yield PerceptronHead.fit(data.embeddings[rows], data.values[rows], seed)

    @classmethod
    def predict_head(
        cls, head: PerceptronHead, crystals: Crystals, number: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], None]:
        """See :meth:`Members.predict_head`."""
        return head.predict(crystals.embeddings[rows]), None

    def to_tensors(self) -> list[dict[str, Tensor]]:
        """See :meth:`Members.to_tensors`."""
        return [head.to_tensors() for head in self.heads]

    @classmethod
    def from_tensors(
        cls, tensors: Sequence[Mapping[str, Tensor]], backbone: AnyBackbone, lower: MultiFidelityHead | None
    ) -> PerceptronMembers:
        """See :meth:`Members.from_tensors`."""
        return cls(tuple(PerceptronHead.from_tensors(t) for t in tensors))


def _layers(width: int) -> nn.Sequential:
    first, second = _HIDDEN
    return nn.Sequential(nn.Linear(width, first), nn.SiLU(), nn.Linear(first, second), nn.SiLU(), nn.Linear(second, 1))
