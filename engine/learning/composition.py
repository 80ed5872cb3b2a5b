"""What a crystal's composition and cell alone tell: 28 statistics, the floor every learned feature must beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.elements import ATOMIC_MASS, ATOMIC_RADIUS, ELECTRONEGATIVITY, GROUP, MENDELEEV, PERIOD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

_PER_ELEMENT = np.stack([ATOMIC_MASS, ELECTRONEGATIVITY, ATOMIC_RADIUS, PERIOD, GROUP, MENDELEEV])
_PROPERTIES = ("mass", "electronegativity", "radius", "period", "group", "mendeleev")
COMPOSITION_STATISTICS: tuple[str, ...] = (
    *(f"{s}_{p}" for p in _PROPERTIES for s in ("mean", "std", "min", "max")),
    "volume_per_atom",
    "n_atoms",
    "density",
    "n_elements",
)
"""Names of the columns: mean, standard deviation, minimum and maximum over the atoms of six elemental properties, then
volume per atom (cubic Angstrom), atoms per primitive cell, density (g/cm3) and number of elements."""


def composition_statistics(crystals: Iterable[Crystal]) -> NDArray[np.float32]:
    """N x 28 statistics, columns as in :data:`COMPOSITION_STATISTICS`."""
    rows = []
    for crystal in crystals:
        values = _PER_ELEMENT[:, crystal.numbers]
        spread = np.stack([values.mean(1), values.std(1), values.min(1), values.max(1)], axis=1)
        n = len(crystal)
        cell = [crystal.volume / n, n, crystal.density, len(np.unique(crystal.numbers))]
        rows.append(np.concatenate([spread.ravel(), cell]))
    return np.array(rows, dtype=np.float32).reshape(-1, len(COMPOSITION_STATISTICS))
