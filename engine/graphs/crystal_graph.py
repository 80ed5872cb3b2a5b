"""A crystal as a graph of atoms and neighbour pairs, and many graphs as one batch for MatGL.

The graph is the one that ``matgl.ext.pymatgen.Structure2Graph`` builds (a test asserts it), made from plain arrays so
that no pymatgen object is needed per crystal, and batched without a ``Data`` object per crystal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch_geometric.data import Data

    from engine.materials.crystal import Crystal

GRAPH_VERSION = 1
"""Version of stored graphs, increased when their meaning changes, so that old shards are not read as new ones."""

_SAME_SITE = 1e-8  # Angstrom; MatGL's tolerance
_PERIODIC = np.array([1, 1, 1], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CrystalGraph:
    """Atoms and directed neighbour pairs within a cutoff.

    ``numbers`` n atomic numbers; ``positions`` n x 3 Cartesian in Angstrom; ``edges`` 2 x m site indices (source, then
    neighbour); ``shifts`` m x 3 Cartesian translations in Angstrom of the neighbour's periodic image.
    """

    numbers: NDArray[np.int16]
    positions: NDArray[np.float32]
    edges: NDArray[np.int32]
    shifts: NDArray[np.float32]

    @property
    def n_edges(self) -> int:
        """Number of directed neighbour pairs."""
        return self.edges.shape[1]


def build_graph(crystal: Crystal, cutoff: float) -> CrystalGraph:
    """All pairs of atoms of ``crystal`` within ``cutoff`` (Angstrom), periodic images included."""
    return build_graphs(crystal, [cutoff])[0]


def build_graphs(crystal: Crystal, cutoffs: Sequence[float]) -> list[CrystalGraph]:
    """Build a graph for each cutoff (Angstrom) from one search for neighbours."""
    positions = np.ascontiguousarray(crystal.frac_coords @ crystal.lattice)
    widest = max(cutoffs)
    source, neighbour, images, distances = find_points_in_spheres(
        positions, positions, r=widest, pbc=_PERIODIC, lattice=np.ascontiguousarray(crystal.lattice), tol=_SAME_SITE
    )
    apart = (source != neighbour) | (distances > _SAME_SITE)
    numbers, single = crystal.numbers.astype(np.int16), positions.astype(np.float32)
    graphs = []
    for cutoff in cutoffs:
        keep = np.flatnonzero(apart if cutoff == widest else apart & (distances < cutoff + _SAME_SITE))
        edges = np.stack([source[keep], neighbour[keep]]).astype(np.int32)
        graphs.append(CrystalGraph(numbers, single, edges, (images[keep] @ crystal.lattice).astype(np.float32)))
    return graphs


def collate(graphs: Sequence[CrystalGraph], node_types: NDArray[np.int64]) -> Data:
    """One disconnected graph for MatGL out of many.

    ``node_types`` maps an atomic number to the model's element index; an element the model does not know is -1
    and must have been refused before (see ``Backbone.check_elements``).
    """
    import torch
    from torch_geometric.data import Data

    sizes = np.array([len(g.numbers) for g in graphs])
    first_atom = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    edges = np.concatenate([g.edges + start for g, start in zip(graphs, first_atom, strict=True)], axis=1)
    batch = Data(
        node_type=torch.from_numpy(node_types[np.concatenate([g.numbers for g in graphs])]),
        pos=torch.from_numpy(np.concatenate([g.positions for g in graphs])),
        edge_index=torch.from_numpy(edges.astype(np.int64)),
        pbc_offshift=torch.from_numpy(np.concatenate([g.shifts for g in graphs])),
        batch=torch.from_numpy(np.repeat(np.arange(len(graphs)), sizes)),
    )
    batch.num_graphs = len(graphs)
    return batch


def pack(n_edges: Sequence[int], max_edges: int = 40_000, max_graphs: int = 128) -> Iterator[NDArray[np.int64]]:
    """The indices of batches of similar size: sorted by edges, each batch filled up to a budget of edges.

    A crystal with more edges than the budget is a separate batch.
    """
    batch: list[int] = []
    filled = 0
    for index in np.argsort(n_edges, kind="stable").tolist():
        if batch and (filled + n_edges[index] > max_edges or len(batch) == max_graphs):
            yield np.array(batch)
            batch, filled = [], 0
        batch.append(index)
        filled += n_edges[index]
    if batch:
        yield np.array(batch)
