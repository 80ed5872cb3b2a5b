"""Checks that a crystal must pass to enter a pool, and the record of one that was refused.

Covalent radii are those of Cordero et al., Dalton Trans. 2008, 2832 (elements.COVALENT_RADIUS).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.elements import COVALENT_RADIUS, MAX_Z, SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

MIN_DISTANCE = 0.5
"""Angstrom; no two nuclei of a crystal are closer, hydrogen included (H2 has 0.74)."""
MIN_BOND_FRACTION = 0.5
"""Shortest plausible distance as a fraction of the sum of covalent radii."""
DENSITY_RANGE = (0.01, 30.0)
"""g/cm3; solid hydrogen has 0.09, osmium 22.6, compressed cells somewhat more."""
REACH = 2.2
"""Radius of the surroundings of a site, in units of the crystal's spacing."""
MIN_CELL_SHAPE = 1e-5
"""Volume over the product of the cell lengths; below it the three vectors are coplanar to numerical accuracy."""


class RejectionReason(StrEnum):
    """Why a record was refused; ``sentence`` explains it."""

    UNKNOWN_FORMAT = "unknown_format"
    UNREADABLE = "unreadable"
    MISSING_FIELD = "missing_field"
    DISORDERED = "disordered"
    UNKNOWN_ELEMENT = "unknown_element"
    NOT_FINITE = "not_finite"
    ZERO_VOLUME = "zero_volume"
    OVERLAPPING_ATOMS = "overlapping_atoms"
    IMPLAUSIBLE_DENSITY = "implausible_density"
    TOO_MANY_SITES = "too_many_sites"
    CONTRADICTION = "contradiction"
    ID_CONFLICT = "id_conflict"
    NOT_FOUND = "not_found"

    @property
    def sentence(self) -> str:
        """Explanation."""
        return _SENTENCES[self]


_SENTENCES = {
    RejectionReason.UNKNOWN_FORMAT: "The file's name does not say which format it has.",
    RejectionReason.UNREADABLE: "The file or record is damaged, truncated or not what its name says.",
    RejectionReason.MISSING_FIELD: "Something that a crystal needs is not in the record.",
    RejectionReason.DISORDERED: "A site is partly occupied or shared by several elements.",
    RejectionReason.UNKNOWN_ELEMENT: "An element does not exist, or the backbone was never trained on it.",
    RejectionReason.NOT_FINITE: "A lattice vector or coordinate is not a finite number.",
    RejectionReason.ZERO_VOLUME: "The three lattice vectors span no volume.",
    RejectionReason.OVERLAPPING_ATOMS: "Two atoms are closer than any bond.",
    RejectionReason.IMPLAUSIBLE_DENSITY: "The mass density is not that of a solid.",
    RejectionReason.TOO_MANY_SITES: "The cell has more sites than allowed.",
    RejectionReason.CONTRADICTION: "The record contradicts its own atoms, e.g. by its formula.",
    RejectionReason.ID_CONFLICT: "The id already belongs to another structure.",
    RejectionReason.NOT_FOUND: "The database has no entry under this id.",
}


@dataclass(frozen=True)
class Rejection:
    """A record that was refused, and how to correct it."""

    source: str
    """File, and place in it (archive member, line, block or frame)."""
    record_id: str
    """The record's id, or the file's stem where it has none."""
    reason: RejectionReason
    message: str
    """Problem, with the value received."""
    remedy: str
    """Remedy."""


def check(crystal: Crystal, allowed_elements: Collection[str] | None = None, max_sites: int | None = None) -> None:
    """Raise :class:`CrystalError` at the first check that ``crystal`` fails; fast checks come first.

    Parameters
    ----------
    crystal
        The crystal in any cell, standardised or not.
    allowed_elements
        Symbols that are allowed, e.g. those of the backbone; None: Z = 1 to 103.
    max_sites
        Largest number of sites in the cell as given; None: any.
    """
    _check_sites(crystal, max_sites)
    _check_numbers_finite(crystal)
    _check_elements(crystal, allowed_elements)
    _check_volume(crystal)
    _check_density(crystal)
    _check_distances(crystal)


def _check_sites(crystal: Crystal, max_sites: int | None) -> None:
    if len(crystal) == 0:
        raise CrystalError(RejectionReason.MISSING_FIELD, "the crystal has no sites", "give at least one atom")
    if max_sites is not None and len(crystal) > max_sites:
        raise CrystalError(
            RejectionReason.TOO_MANY_SITES,
            f"{len(crystal)} sites in the cell, at most {max_sites} are allowed",
            "give the primitive cell or raise the limit",
        )


def _check_numbers_finite(crystal: Crystal) -> None:
    if not (np.isfinite(crystal.lattice).all() and np.isfinite(crystal.frac_coords).all()):
        raise CrystalError(
            RejectionReason.NOT_FINITE,
            "a lattice vector or coordinate is NaN or infinite",
            "write the structure again from its source",
        )


def _check_elements(crystal: Crystal, allowed_elements: Collection[str] | None) -> None:
    outside = crystal.numbers[(crystal.numbers < 1) | (crystal.numbers > MAX_Z)]
    if outside.size:
        raise CrystalError(
            RejectionReason.UNKNOWN_ELEMENT,
            f"atomic number {outside[0]} is not between 1 and {MAX_Z}",
            "replace the site by a real element or leave the record out",
        )
    if allowed_elements is None:
        return
    unknown = sorted(set(crystal.composition) - set(allowed_elements))
    if unknown:
        raise CrystalError(
            RejectionReason.UNKNOWN_ELEMENT,
            f"the backbone does not know {', '.join(unknown)}",
            "use a backbone that was trained on these elements or leave the record out",
        )


def _check_volume(crystal: Crystal) -> None:
    lengths = np.linalg.norm(crystal.lattice, axis=1)
    if crystal.volume <= MIN_CELL_SHAPE * float(np.prod(lengths)):
        raise CrystalError(
            RejectionReason.ZERO_VOLUME,
            f"the cell of lengths {', '.join(f'{x:.4g}' for x in lengths)} A has volume {crystal.volume:.3g} A3",
            "check the lattice: three vectors in Angstrom that do not lie in one plane",
        )


def _check_density(crystal: Crystal) -> None:
    low, high = DENSITY_RANGE
    if not low <= crystal.density <= high:
        raise CrystalError(
            RejectionReason.IMPLAUSIBLE_DENSITY,
            f"density {crystal.density:.4g} g/cm3 is outside {low:g} to {high:g}",
            "check that lengths are in Angstrom and that no atoms are missing",
        )


def _check_distances(crystal: Crystal) -> None:
    cutoff = _longest_forbidden_distance(crystal)
    is_far = cutoff <= REACH * crystal.spacing
    first, second, distances = surroundings(crystal) if is_far else neighbour_pairs(crystal, cutoff)
    radii = COVALENT_RADIUS[crystal.numbers]
    forbidden = np.maximum(MIN_DISTANCE, MIN_BOND_FRACTION * (radii[first] + radii[second]))
    too_close = np.flatnonzero(distances < forbidden)
    if too_close.size:
        worst = too_close[np.argmin(distances[too_close])]
        a, b = first[worst], second[worst]
        raise CrystalError(
            RejectionReason.OVERLAPPING_ATOMS,
            f"sites {a} ({SYMBOLS[crystal.numbers[a]]}) and {b} ({SYMBOLS[crystal.numbers[b]]}) are "
            f"{distances[worst]:.3f} A apart, at least {forbidden[worst]:.2f} A is plausible",
            "remove the duplicated atom, or check the lattice's unit and whether coordinates are fractional",
        )


def _longest_forbidden_distance(crystal: Crystal) -> float:
    return max(MIN_DISTANCE, 2 * MIN_BOND_FRACTION * float(COVALENT_RADIUS[crystal.numbers].max()))


@lru_cache(maxsize=1)
def surroundings(crystal: Crystal) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The :func:`neighbour_pairs` within :data:`REACH`, cached for the check and the hash of a crystal."""
    return neighbour_pairs(crystal, REACH * crystal.spacing)


def neighbour_pairs(
    crystal: Crystal, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Ordered pairs of sites within ``cutoff`` (Angstrom), periodic images included, without self-pairs.

    Returns
    -------
    first, second, distances
        Three arrays of length n_pairs: site indices and distances in Angstrom.
    """
    first, second, _, distances = neighbours(crystal, cutoff)
    return first, second, distances


def neighbours(
    crystal: Crystal, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """As :func:`neighbour_pairs`, with the cell of the second site.

    Returns
    -------
    first, second, images, distances
        Site indices, lattice translations (n_pairs x 3) and distances in Angstrom; sites are wrapped into the cell.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    cart = np.ascontiguousarray((crystal.frac_coords % 1.0) @ crystal.lattice)
    lattice = np.ascontiguousarray(crystal.lattice)
    first, second, images, distances = find_points_in_spheres(
        cart, cart, r=float(cutoff), pbc=_PERIODIC, lattice=lattice, tol=1e-8
    )
    other = (first != second) | images.any(axis=1)
    return first[other], second[other], images[other], distances[other]


_PERIODIC = np.ones(3, dtype=np.int64)
