"""Crystals with sites at simple fractions of a lattice of simple proportions, identified by small integers.

Rock salt, half-Heusler, perovskite: databases hold such an arrangement thousands of times, with other elements and
sizes, and spglib is slowest (3 to 17 ms) for such high symmetries. The symmetry depends on neither: two points
of the grid of 24ths are the same or farther apart than any tolerance, so that one analysis is valid for all sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GRID = 24
"""Steps: halves, thirds, quarters and eighths, of lattice vectors and of the largest entry of the metric."""
_OFF = 1e-6
"""Largest distance to the grid, in the same units: a few millionths of an Angstrom."""


@dataclass(frozen=True)
class Arrangement:
    """A crystal without its size, its orientation and the names of its elements."""

    metric: bytes
    """Scalar products of the lattice vectors (3 x 3), in steps."""
    positions: bytes
    """Fractional coordinates (n x 3), in steps."""
    kinds: bytes
    """Element of each site (n), numbered in order of appearance."""
    left_handed: bool

    @classmethod
    def of(cls, crystal: Crystal) -> Arrangement | None:
        """Arrangement of a crystal; None if it is not on the grid."""
        positions = _steps(crystal.frac_coords)
        if positions is None:
            return None
        metric = crystal.lattice @ crystal.lattice.T
        products = _steps(metric / metric.max())
        if products is None:
            return None
        order = {number: kind for kind, number in enumerate(dict.fromkeys(crystal.numbers.tolist()))}
        kinds = bytes(order[number] for number in crystal.numbers.tolist())
        left_handed = bool(np.linalg.det(crystal.lattice) < 0)
        return cls(_bytes(products), _bytes(positions % _GRID), kinds, left_handed)

    def crystal(self, step: float) -> Crystal | None:
        """Crystal with atomic numbers 1, 2, ... as elements, points of the grid at least ``step`` (Angstrom) apart.

        None if its lattice vectors lie in one plane.
        """
        metric = np.frombuffer(self.metric, np.int8).reshape(3, 3) / _GRID
        if np.linalg.det(metric) < 1e-6:
            return None
        lattice = np.linalg.cholesky(metric)
        if self.left_handed:
            lattice[:, 2] *= -1
        # no lattice vector is shorter than the distance between lattice planes
        planes = 1 / np.sqrt(np.linalg.inv(metric).diagonal().max())
        positions = np.frombuffer(self.positions, np.int8).reshape(-1, 3) / _GRID
        numbers = np.frombuffer(self.kinds, np.uint8).astype(np.int64) + 1
        return Crystal(lattice * (step * _GRID / planes), numbers, positions)


def _steps(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Values as integer steps of the grid; None if one is off it."""
    steps = np.round(values * _GRID)
    return steps if np.abs(values * _GRID - steps).max() <= _GRID * _OFF else None


def _bytes(steps: NDArray[np.float64]) -> bytes:
    return steps.astype(np.int8).tobytes()
