"""Symmetry operations of a crystal in the cell as given, and symmetrised tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.materials.identity import SYMPREC, symmetry_dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

_SAME_SHIFT = 5 * SYMPREC
"""Angstrom; tolerance of translations of one operation in two slightly different cells, each found within SYMPREC."""


def operations(crystal: Crystal, symprec: float = SYMPREC) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rotations ``m x 3 x 3`` and translations ``m x 3`` in fractional coordinates; identity alone in P1."""
    dataset = symmetry_dataset(crystal, symprec)
    if dataset is None:
        return np.eye(3, dtype=np.int64)[None], np.zeros((1, 3))
    return np.asarray(dataset.rotations, dtype=np.int64), np.asarray(dataset.translations, dtype=np.float64)


def point_group(crystal: Crystal, symprec: float = SYMPREC) -> NDArray[np.float64]:
    """Rotations ``m x 3 x 3`` in Cartesian coordinates, in the orientation of the cell."""
    rotations = np.unique(operations(crystal, symprec)[0], axis=0)
    to_cartesian = crystal.lattice.T
    cartesian: NDArray[np.float64] = to_cartesian @ rotations @ np.linalg.inv(to_cartesian)
    return cartesian


def keeps_operations(before: Crystal, after: Crystal, symprec: float = SYMPREC) -> bool:
    """Whether every operation of a crystal is one of its relaxed form, in the same cell (there may be more)."""
    rotations, translations = operations(before, symprec)
    found, shifts = operations(after, symprec)
    for rotation, translation in zip(rotations, translations, strict=True):
        apart = shifts[(found == rotation).all(axis=(1, 2))] - translation
        apart = (apart - np.rint(apart)) @ after.lattice
        if not (np.linalg.norm(apart, axis=1) < _SAME_SHIFT).any():
            return False
    return True


def symmetrised(tensor: NDArray[np.float64], rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a ``3 x 3`` tensor over Cartesian rotations: the nearest one that has their symmetry."""
    mean: NDArray[np.float64] = (rotations @ tensor @ rotations.transpose(0, 2, 1)).mean(axis=0)
    return mean
