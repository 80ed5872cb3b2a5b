"""Networks fine-tuned on the same labels, one a member, and their mean as a model that stands beside others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engine.learning.networks.finetune import NetworkHead, fit_heads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.execution import Run
    from engine.learning.backbones.backbone import Backbone
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.networks.graph_data import Crystals, GraphData
    from engine.learning.networks.schedule import FineTuning

Job = tuple["NDArray[np.int64]", int]
"""Training rows and seed of a network."""
_FILE = "network-"


@dataclass(frozen=True, eq=False)
class NetworkCommittee:
    """A crystal is estimated by the mean of its networks."""

    kind: ClassVar[str] = "networks"
    networks: tuple[NetworkHead, ...]

    def estimate(self, crystals: Crystals) -> NDArray[np.float64]:
        """Mean of all networks, N, which read the crystals' graphs."""
        data, rows = crystals.graphs, np.arange(len(crystals))
        return np.mean([n.predict(data[k % len(data)], rows) for k, n in enumerate(self.networks)], axis=0)

    def to_files(self) -> dict[str, Mapping[str, Tensor]]:
        """Tensors by file name."""
        return {f"{_FILE}{k}.safetensors": network.to_tensors() for k, network in enumerate(self.networks)}

    @classmethod
    def from_files(cls, files: Mapping[str, Mapping[str, Tensor]], backbone: AnyBackbone) -> NetworkCommittee | None:
        """Inverse of :meth:`to_files`, on the backbone that they were fine-tuned from; ``None`` if there are none."""
        tensors = [content for name, content in files.items() if name.startswith(_FILE)]
        return cls(networks_of(backbone, tensors)) if tensors else None


def networks_of(backbone: AnyBackbone, tensors: Sequence[Mapping[str, Tensor]]) -> tuple[NetworkHead, ...]:
    """Stored networks, one a member, each on its own backbone."""
    trained = backbone.trained
    return tuple(NetworkHead.from_tensors(trained[k % len(trained)], t) for k, t in enumerate(tensors))


def held_out(
    networks: Sequence[NetworkHead], data: Sequence[GraphData], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Each training row (n) as the network that left its fold out has it; ``data`` as of :attr:`Crystals.graphs`."""
    values = np.empty(len(folds))
    for k, network in enumerate(networks):
        rows = np.flatnonzero(folds == k)
        values[rows] = network.predict(data[k % len(data)], rows)
    return values


def train_networks(
    backbones: Sequence[Backbone],
    data: Sequence[GraphData],
    jobs: Sequence[Job],
    tuning: FineTuning,
    *,
    which: str,
    progress: Callable[[str], None],
    workers: int = 1,
    run: Run | None = None,
) -> tuple[NetworkHead, ...]:
    """One network for each of ``jobs``, which take turns on the backbones (``data`` for each of these).

    ``which`` says in progress messages what they are trained on; ``workers`` and ``run`` as of :func:`fit_heads`.
    """
    networks: dict[int, NetworkHead] = {}
    for first, (backbone, graphs) in enumerate(zip(backbones, data, strict=True)):
        turns = range(first, len(jobs), len(backbones))
        fitted = fit_heads(backbone, graphs, [jobs[k] for k in turns], tuning, workers, run=run)
        for k, network in zip(turns, fitted, strict=True):
            networks[k] = network
            progress(f"network {len(networks)} of {len(jobs)} trained {which} ({tuning.strategy}, {backbone.name})")
    return tuple(networks[k] for k in range(len(jobs)))
