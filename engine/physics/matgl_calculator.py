"""ASE calculator of a MatGL potential that takes several cells in one graph; imports MatGL and torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matgl.ext.ase import Atoms2Graph, PESCalculator
from torch_geometric.data import Batch

from engine.physics.batches import ForcesInBatches

if TYPE_CHECKING:
    from ase import Atoms
    from matgl.apps.pes import Potential
    from numpy.typing import NDArray


class MatGLCalculator(PESCalculator, ForcesInBatches):
    """MatGL's own calculator, with forces of a batch of cells beside it."""

    def __init__(self, module: Potential, batch: int = 1):
        """``module`` is a network that gives forces, ``batch`` the most cells at once."""
        super().__init__(module, stress_unit="eV/A3", use_voigt=True)
        self.batch = batch
        self._converter = Atoms2Graph(module.model.element_types, module.model.cutoff)

    def forces_of(self, cells: Sequence[Atoms]) -> list[NDArray[np.float64]]:
        """Forces of each cell (n x 3, eV/Angstrom), from one pass of the network."""
        graphs, lattices, states = zip(*map(self._converter.get_graph, cells), strict=True)
        lattice = torch.cat([one.reshape(1, 3, 3) for one in lattices])
        found = self.potential(Batch.from_data_list(list(graphs)), lattice, torch.tensor(np.array(states)))[1]
        ends = np.cumsum([len(cell) for cell in cells])[:-1]
        return [np.asarray(part) for part in np.split(found.detach().cpu().numpy(), ends)]
