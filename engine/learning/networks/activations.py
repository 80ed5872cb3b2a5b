"""What the frozen part of a network gives for each crystal, computed once and kept while the rest learns.

Where the whole body stays these are readouts; where its last blocks learn, the features of atoms, bonds and state at
the cut, from which MatGL's own forward pass goes on.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from engine.graphs.crystal_graph import pack
from engine.learning.backbones.network import GraphNetwork, body_features, body_readout
from engine.learning.memory import in_halves
from engine.learning.networks.strategies import LAYOUTS, Strategy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.networks.graph_data import GraphData

MAX_BYTES_IN_MEMORY = 1 << 30
"""Larger activations are in a temporary file, mapped into memory."""

Trunk = Callable[["NDArray[np.int64]"], Tensor]
"""Trunk outputs (n x trunk size) of n rows of a data set."""


class Activations(Protocol):
    """Outputs of the frozen part of a network for the rows of a data set."""

    def resume(self, network: GraphNetwork, data: GraphData) -> Trunk:
        """Trunk of ``network`` by row, computed from here on; gradients reach what comes after the frozen part."""


def from_graphs(network: GraphNetwork, data: GraphData) -> Trunk:
    """Trunk by row with nothing cached: every pass begins at the graphs."""

    def trunk(rows: NDArray[np.int64]) -> Tensor:
        return network.embed(*data.batch(rows, _device(network)))[1]

    return trunk


def frozen_activations(
    network: GraphNetwork, data: GraphData, rows: NDArray[np.int64], strategy: Strategy
) -> Activations | None:
    """Compute once what ``strategy`` leaves frozen, for ``rows`` of ``data``; ``None`` where nothing stays frozen.

    They serve every network with the same frozen weights: the members of an ensemble, for one.
    """
    if strategy.keeps_body:
        return Readouts.of(network, data, rows)
    if strategy.name not in ("blocks", "embedding_frozen"):
        return None
    cut = strategy.frozen_blocks(network)
    if getattr(network.body, "_use_warp", False):  # TensorNet's GPU kernels pass features on in another form
        return None
    return CutFeatures.of(network, data, rows, cut)


@dataclass(frozen=True, eq=False)
class Readouts:
    """Readouts of a frozen body: ``values`` is N x readout size, one row for each row of the data set."""

    values: Tensor

    @classmethod
    def of(cls, network: GraphNetwork, data: GraphData, rows: NDArray[np.int64]) -> Readouts:
        """Compute those of ``rows``; others stay NaN."""
        values = torch.full((len(data.graphs), network.readout_size), torch.nan)
        for part, readouts in _passes(network, data, rows, lambda batch: body_readout(network.body, batch)):
            values[part] = readouts.cpu()
        return cls(values)

    def resume(self, network: GraphNetwork, data: GraphData) -> Trunk:
        """See :class:`Activations`."""

        def trunk(rows: NDArray[np.int64]) -> Tensor:
            device = _device(network)
            statistics = torch.from_numpy(data.statistics[rows])
            return network.join(self.values[rows].to(device), statistics.to(device))

        return trunk


@dataclass(frozen=True, eq=False)
class CutFeatures:
    """Features at the output of block ``cut`` (0: of the embedding), the crystals' rows one after another.

    ``features`` by what a row stands for: ``node`` an atom, ``edge`` a neighbour pair, ``state`` a crystal;
    ``first`` where each crystal's rows begin, by the same names.
    """

    cut: int
    features: dict[str, NDArray[np.float32]]
    first: dict[str, NDArray[np.int64]]
    sizes: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, network: GraphNetwork, data: GraphData, rows: NDArray[np.int64], cut: int) -> CutFeatures:
        """Compute those of ``rows`` of ``data``."""
        sizes = _sizes(data, rows)
        first = {kind: np.cumsum(size) - size for kind, size in sizes.items()}
        features: dict[str, NDArray[np.float32]] = {}
        for part, found in _passes(network, data, rows, lambda batch: _at_cut(body_features(network.body, batch), cut)):
            if not features:
                shapes = {kind: (int(sizes[kind].sum()), *value.shape[1:]) for kind, value in found.items()}
                on_disk = sum(4 * int(np.prod(shape)) for shape in shapes.values()) > MAX_BYTES_IN_MEMORY
                features = {kind: _allocate(shape, on_disk) for kind, shape in shapes.items()}
            for kind, value in found.items():
                ends = np.cumsum(sizes[kind][part])
                for row, block in zip(part.tolist(), np.split(value.cpu().numpy(), ends[:-1]), strict=True):
                    features[kind][first[kind][row] : first[kind][row] + len(block)] = block
        return cls(cut, features, first, sizes)

    def resume(self, network: GraphNetwork, data: GraphData) -> Trunk:
        """See :class:`Activations`."""
        given = _Given(type(network.body).__name__)
        tail = _tail(network, self.cut, given)

        def trunk(rows: NDArray[np.int64]) -> Tensor:
            device = _device(network)
            given.features = {kind: self._rows(kind, rows).to(device) for kind in self.features}
            return tail.embed(*data.batch(rows, device))[1]

        return trunk

    def _rows(self, kind: str, rows: NDArray[np.int64]) -> Tensor:
        first, size = self.first[kind][rows], self.sizes[kind][rows]
        blocks = [self.features[kind][i : i + n] for i, n in zip(first.tolist(), size.tolist(), strict=True)]
        return torch.from_numpy(np.concatenate(blocks))


class _Given(nn.Module):
    """Stands in for the frozen layers of a body: gives what they gave."""

    def __init__(self, kind: str):
        super().__init__()
        self._kind = kind
        self.features: dict[str, Tensor] = {}

    def forward(self, *_: Any) -> tuple[Tensor | None, ...]:
        if self._kind == "TensorNet":
            return self.features["node"], None
        return self.features["node"], self.features["edge"], self.features.get("state")


def _tail(network: GraphNetwork, cut: int, given: _Given) -> GraphNetwork:
    """Network without its embedding and first ``cut`` blocks, sharing all other weights with ``network``."""
    body: Any = copy.copy(network.body)
    layout = LAYOUTS[type(body).__name__]
    body._modules = dict(body._modules)
    for name in layout.embedding:
        setattr(body, name, nn.Identity())
    setattr(body, layout.embedding[0], given)
    for name in layout.blocks:
        setattr(body, name, nn.ModuleList(list(getattr(body, name))[cut:]))
    if hasattr(body, "n_blocks"):  # M3GNet counts them rather than going through them
        body.n_blocks -= cut
    tail = copy.copy(network)
    tail._modules = {**network._modules, "body": body}
    return tail


def _at_cut(features: dict[str, Any], cut: int) -> dict[str, Tensor]:
    found = features[f"gc_{cut}" if cut else "embedding"]
    if isinstance(found, Tensor):
        return {"node": found}
    named = {"node": found["node_feat"], "edge": found["edge_feat"], "state": found["state_feat"]}
    return {kind: value for kind, value in named.items() if value is not None}


def _sizes(data: GraphData, rows: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Rows of each kind of each crystal of ``data``; none of crystals that are not among ``rows``."""
    used = np.zeros(len(data.graphs), dtype=bool)
    used[rows] = True
    nodes = np.array([len(g.numbers) for g in data.graphs], dtype=np.int64)
    edges = np.array([g.n_edges for g in data.graphs], dtype=np.int64)
    return {"node": nodes * used, "edge": edges * used, "state": used.astype(np.int64)}


def _allocate(shape: tuple[int, ...], on_disk: bool) -> NDArray[np.float32]:
    if not on_disk or not np.prod(shape):
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile(prefix="kappascout-activations-") as file:  # it lives as long as the mapping does
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _passes(
    network: GraphNetwork, data: GraphData, rows: NDArray[np.int64], compute: Callable[[Any], Any]
) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Rows, and what ``compute`` makes of their graphs with the network in evaluation mode."""
    network.eval()
    device = _device(network)
    with torch.no_grad():
        for part in pack([data.graphs[i].n_edges for i in rows]):
            yield from in_halves(rows[part], lambda chosen: compute(data.batch(chosen, device)[0]))


def _device(network: GraphNetwork) -> torch.device:
    return network.statistics_mean.device
