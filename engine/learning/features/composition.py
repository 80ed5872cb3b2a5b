"""What a crystal's composition and cell alone tell: 28 statistics, the floor every learned feature must beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.crystal import AVOGADRO_DENSITY
from engine.materials.elements import (
    ATOMIC_MASS,
    ATOMIC_RADIUS,
    ELECTRONEGATIVITY,
    GROUP,
    MAX_Z,
    MENDELEEV,
    PERIOD,
)

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
FORMULA_COLUMNS: tuple[int, ...] = tuple(
    column
    for column, name in enumerate(COMPOSITION_STATISTICS)
    if name not in ("volume_per_atom", "n_atoms", "density")
)
"""Columns that the formula determines, whatever the structure."""


def composition_statistics(crystals: Iterable[Crystal]) -> NDArray[np.float32]:
    """N x 28 statistics, columns as in :data:`COMPOSITION_STATISTICS`."""
    crystals = list(crystals)
    if not crystals:
        return np.empty((0, len(COMPOSITION_STATISTICS)), dtype=np.float32)
    sizes = np.array([len(crystal) for crystal in crystals])
    numbers = np.concatenate([crystal.numbers for crystal in crystals])
    owner, starts = np.repeat(np.arange(len(crystals)), sizes), np.concatenate([[0], np.cumsum(sizes)[:-1]])
    values = _PER_ELEMENT[:, numbers]  # 6 x all atoms
    mean = np.add.reduceat(values, starts, axis=1) / sizes
    variance = np.add.reduceat(np.square(values - mean[:, owner]), starts, axis=1) / sizes
    lowest, highest = (extreme.reduceat(values, starts, axis=1) for extreme in (np.minimum, np.maximum))
    present = np.zeros((len(crystals), MAX_Z + 1), dtype=bool)
    present[owner, numbers] = True
    volume = np.array([crystal.volume for crystal in crystals])
    density = np.bincount(owner, ATOMIC_MASS[numbers]) / volume * AVOGADRO_DENSITY
    moments = np.stack([mean, np.sqrt(variance), lowest, highest], axis=1).reshape(-1, len(crystals))
    return np.stack([*moments, volume / sizes, sizes, density, present.sum(axis=1)], axis=1).astype(np.float32)
