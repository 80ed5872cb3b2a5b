"""Two descriptions of one crystal: the rotation between their axes and which site is which.

Cells of one crystal from two programs differ in basis, orientation, origin, order of the sites, and a little in lattice
constants and coordinates. Tensors of the sites, such as Born charges, go from one to the other by the rotation and the
order of the sites found here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import CellMatchError
from engine.physics.supercells import SYMPREC, to_phonopy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

LARGEST_STRETCH = 0.08
"""Of two lattices at equal volume; relaxations by two methods differ by a few percent."""
LARGEST_DISPLACEMENT = 0.4
"""Angstrom; sites that are farther apart are not the same."""
AS_GOOD = 0.05
"""Angstrom; a match that is worse than the best by up to this is as good."""


@dataclass(frozen=True)
class Match:
    """How one cell lies in another."""

    rotation: NDArray[np.float64]
    """3 x 3, orthogonal, of determinant 1 or -1: ``rotation @ v`` is a vector ``v`` of the first cell in the axes of
    the second."""
    sites: NDArray[np.int64]
    """For each site of the second cell the site of the first."""
    distance: float
    """Largest displacement of a site in Angstrom, plus the strain of the lattices times the spacing of the atoms."""

    def tensors(self, of_first: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tensors of the sites of the first cell (n x 3 x 3) at the sites of the second, in its axes."""
        return np.asarray(self.rotation @ of_first[self.sites] @ self.rotation.T)


def matches(first: Crystal, second: Crystal) -> list[Match]:
    """All ways in which two cells are one crystal that are as good as the best one, the best first.

    Parameters
    ----------
    first
        Any cell; a conventional cell or a supercell is reduced to its primitive cell.
    second
        A primitive cell.

    Raises
    ------
    CellMatchError
        If they are not the same crystal.
    """
    if first.formula != second.formula:
        raise CellMatchError(f"{first.formula} is not {second.formula}")
    lattice, kept = _primitive(first)
    if len(kept) != len(second):
        raise CellMatchError(f"one primitive cell has {len(kept)} sites, the other {len(second)}")
    positions = first.frac_coords[kept] @ first.lattice @ np.linalg.inv(lattice)
    found = []
    for basis, aligned in _bases(lattice, second):
        rotation, stretch = _polar(np.linalg.inv(second.lattice) @ aligned)
        if stretch > LARGEST_STRETCH:
            continue
        frac = positions @ np.linalg.inv(basis)
        for sites, displacement in _orders(frac, first.numbers[kept], second):
            found.append(Match(rotation, kept[sites], displacement + stretch * second.spacing))
    if not found:
        raise CellMatchError(
            f"no rotation takes one {first.formula} into the other with the lattices strained by at most "
            f"{LARGEST_STRETCH:.0%} and the atoms displaced by at most {LARGEST_DISPLACEMENT} Angstrom"
        )
    found.sort(key=lambda match: match.distance)
    return [match for match in found if match.distance <= found[0].distance + AS_GOOD]


def _primitive(crystal: Crystal) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Primitive lattice in the same axes (rows), and the sites in one primitive cell."""
    from phonopy.structure.cells import get_primitive, guess_primitive_matrix

    cell = to_phonopy(crystal)
    primitive = get_primitive(cell, guess_primitive_matrix(cell, symprec=SYMPREC), symprec=SYMPREC)
    return np.asarray(primitive.cell), np.asarray(primitive.p2s_map, dtype=np.int64)


def _bases(lattice: NDArray[np.float64], other: Crystal) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Bases of a lattice whose lengths and angles are nearly those of ``other``, and their vectors at its volume."""
    from pymatgen.core import Lattice

    scale = (other.volume / abs(np.linalg.det(lattice))) ** (1 / 3)
    own = Lattice(scale * lattice)
    mappings = own.find_all_mappings(
        Lattice(other.lattice),
        ltol=2 * LARGEST_STRETCH,
        atol=np.degrees(2 * LARGEST_STRETCH),
        skip_rotation_matrix=True,
    )
    for aligned, _, basis in mappings:
        if abs(round(float(np.linalg.det(basis)))) == 1:
            yield basis, aligned.matrix


def _polar(gradient: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Rotation of a deformation gradient, and the largest change of a length by the rest of it."""
    left, stretches, right = np.linalg.svd(gradient)
    return left @ right, float(np.abs(stretches - 1).max())


def _orders(
    frac: NDArray[np.float64], numbers: NDArray[np.int64], other: Crystal
) -> Iterator[tuple[NDArray[np.int64], float]]:
    """For each origin the site nearest to each site of ``other``, and the largest distance; Angstrom."""
    rarest = min(Counter(numbers.tolist()).items(), key=lambda item: (item[1], item[0]))[0]
    start = frac[np.flatnonzero(numbers == rarest)[0]]
    unlike = numbers[None, :] != other.numbers[:, None]
    for end in other.frac_coords[other.numbers == rarest]:
        apart = frac[None, :] + (end - start) - other.frac_coords[:, None]
        apart -= np.rint(apart)
        distances = np.where(unlike, np.inf, np.linalg.norm(apart @ other.lattice, axis=2))
        sites = distances.argmin(axis=1)
        if len(np.unique(sites)) < len(sites):
            continue
        own = (apart @ other.lattice)[np.arange(len(sites)), sites]
        displacement = float(np.linalg.norm(own - own.mean(axis=0), axis=1).max())
        if displacement <= LARGEST_DISPLACEMENT:
            yield sites, displacement
