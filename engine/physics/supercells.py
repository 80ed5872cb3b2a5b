"""Supercells for force constants, and the number of displaced ones of a calculation in advance.

The count is phono3py's own (A. Togo, L. Chaput, I. Tanaka, Phys. Rev. B 91, 094306 (2015)): pairs of displacements
that no symmetry of the supercell relates.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import SupercellError
from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.symmetry import Symmetry

SYMPREC = 1e-5
"""Angstrom; phono3py's default. Coordinates must be standardised first."""
SYMPREC_CONVENTIONAL = 0.01
"""Angstrom; that of :func:`engine.materials.identity.standardise`, for finding the conventional cell."""
ENUMERATED = 5_000
"""Largest number that is counted; larger ones are estimated, since enumeration takes minutes."""
_SYMFC_RECURSION = 100_000
SNAPSHOTS = {2: 2, 3: 4}
"""Supercells with random displacements for force constants of an order, in units of the fewest that determine them."""


@dataclass(frozen=True)
class DisplacementCount:
    """Number and size of the force calculations for third-order force constants."""

    fc2: int
    """Number of supercells with one displaced atom; part of ``fc3`` where both share a supercell."""
    fc3: int
    """Number of supercells for third order, with one or two displaced atoms."""
    n_atoms: int
    """Atoms in one supercell."""
    exact: bool = True
    """False for an estimate of a count too large to enumerate; the true one is rarely below."""

    def require_at_most(self, limit: int, core_hours_each: float | None = None) -> None:
        """Refuse a calculation above the limit, before a file is written.

        Parameters
        ----------
        limit
            Largest number of supercells that is acceptable.
        core_hours_each
            Expected core-hours of one supercell, for the message.

        Raises
        ------
        SupercellError
            If ``fc3`` is above the limit.
        """
        if self.fc3 <= limit:
            return
        cost = f", about {self.fc3 * core_hours_each:,.0f} core-hours" if core_hours_each is not None else ""
        raise SupercellError(
            f"third-order force constants take {'' if self.exact else 'about '}{self.fc3:,} displaced supercells of "
            f"{self.n_atoms} atoms each{cost}, above the limit of {limit:,}; use random displacements, "
            "a pair cutoff or a shorter supercell, or raise the limit"
        )


def supercell_matrix(crystal: Crystal | Atoms, min_length: float) -> NDArray[np.int64]:
    """Repeat the conventional cell until periodic images are far enough apart.

    Parameters
    ----------
    crystal
        The crystal in any cell; if its vectors are not lattice vectors of the conventional cell, e.g. of a
        supercell, its own axes are repeated instead.
    min_length
        Smallest distance in Angstrom between opposite faces of the supercell; 0.1 % less is accepted.

    Returns
    -------
    matrix
        3 x 3 integers, columns are the supercell's vectors in the basis of the given cell, phonopy's convention:
        ``supercell = matrix.T @ lattice``.

    Raises
    ------
    SupercellError
        If the length is not positive.
    """
    if not 0 < min_length < np.inf:
        raise SupercellError(f"the length of a supercell must be positive, received {min_length}; give it in Angstrom")
    cell = _as_crystal(crystal)
    axes = _conventional_axes(cell)
    repeats = np.maximum(np.ceil(0.999 * min_length / heights(axes.T @ cell.lattice)), 1).astype(np.int64)
    return axes @ np.diag(repeats)


def count_displacements(
    unit_cell: PhonopyAtoms | Crystal | Atoms, matrix: NDArray[np.int64], pair_cutoff: float | None = None
) -> DisplacementCount:
    """Count the symmetry-reduced displaced supercells that phono3py makes.

    Parameters
    ----------
    unit_cell
        Cell that ``matrix`` refers to, standardised.
    matrix
        3 x 3 integers as from :func:`supercell_matrix`.
    pair_cutoff
        Pairs of displaced atoms farther apart, in Angstrom, are left out.

    Notes
    -----
    Takes 0.1 to 0.5 s up to a hundred atoms. A count above :data:`ENUMERATED` is estimated: each first displacement
    leaves a group of order g, and a second atom moves in six directions, 6 n / g of them different.
    """
    from phono3py.phonon3.displacement_fc3 import get_third_order_displacements
    from phonopy.structure.cells import get_supercell
    from phonopy.structure.symmetry import Symmetry

    supercell = get_supercell(to_phonopy(unit_cell), matrix, symprec=SYMPREC)
    symmetry = Symmetry(supercell, SYMPREC)
    estimate = _estimate(supercell, symmetry, pair_cutoff)
    if estimate.fc3 > ENUMERATED:
        return estimate
    dataset = get_third_order_displacements(
        supercell, symmetry, 0.03, is_diagonal=True, cutoff_pair_distance=pair_cutoff
    )
    first = dataset["first_atoms"]
    pairs = sum(second.get("included", True) for atom in first for second in atom["second_atoms"])
    return DisplacementCount(fc2=len(first), fc3=len(first) + pairs, n_atoms=len(supercell))


def count_snapshots(
    crystal: Crystal | Atoms, matrix: NDArray[np.int64], order: int, cutoff: float | None = None
) -> int:
    """Number of supercells with random displacements for the force constants of an order (2 or 3).

    :data:`SNAPSHOTS` times the fewest whose forces are as many as symfc's independent force constants; pairs of atoms
    farther apart than ``cutoff``, in Angstrom, are left out. Takes 0.1 to 0.5 s up to a hundred atoms.
    """
    from phonopy.structure.cells import get_supercell
    from phonopy.structure.symmetry import Symmetry

    supercell = get_supercell(to_phonopy(crystal), matrix, symprec=SYMPREC)
    options = {"cutoff": {order: cutoff}} if cutoff else None
    with symfc_recursion():
        from phonopy.interface.symfc import SymfcFCSolver

        solver = SymfcFCSolver(supercell, symmetry=Symmetry(supercell, SYMPREC), options=options)
        fewest = int(solver.estimate_numbers_of_supercells(orders=[order])[order])
    return SNAPSHOTS[order] * max(1, fewest)


@contextmanager
def symfc_recursion() -> Iterator[None]:
    """Python's recursion limit as symfc wants it, for as long as symfc works.

    Its import sets the limit of the whole process to 100,000, with which deeply nested JSON overflows the stack and
    ends the process, instead of raising ``RecursionError``.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _SYMFC_RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def atoms_in(crystal: Crystal, matrix: NDArray[np.int64]) -> int:
    """Number of atoms in the supercell of a cell."""
    return round(abs(np.linalg.det(matrix))) * len(crystal)


def to_phonopy(cell: PhonopyAtoms | Crystal | Atoms) -> PhonopyAtoms:
    """The same cell as phonopy's atoms, in the same order."""
    from phonopy.structure.atoms import PhonopyAtoms

    if isinstance(cell, PhonopyAtoms):
        return cell
    crystal = _as_crystal(cell)
    return PhonopyAtoms(symbols=crystal.symbols, cell=crystal.lattice, scaled_positions=crystal.frac_coords)


def _as_crystal(cell: Crystal | Atoms) -> Crystal:
    if isinstance(cell, Crystal):
        return cell
    return Crystal(cell.cell.array, cell.numbers, cell.get_scaled_positions())


def _conventional_axes(cell: Crystal) -> NDArray[np.int64]:
    """Columns are the conventional cell's vectors in the basis of the given one."""
    from phonopy.structure.symmetry import Symmetry

    axes = np.linalg.inv(Symmetry(to_phonopy(cell), SYMPREC_CONVENTIONAL).dataset.transformation_matrix)
    rounded = np.rint(axes)
    return rounded.astype(np.int64) if np.allclose(axes, rounded, atol=1e-3) else np.eye(3, dtype=np.int64)


def heights(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances between opposite faces of a cell (rows are vectors), in its unit of length."""
    return 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)


def _estimate(supercell: PhonopyAtoms, symmetry: Symmetry, pair_cutoff: float | None) -> DisplacementCount:
    from phono3py.phonon3.displacement_fc3 import get_reduced_site_symmetry
    from phonopy.harmonic.displacement import get_least_displacements

    first = get_least_displacements(symmetry, is_plusminus="auto", is_diagonal=False)
    pairs = 0.0
    for atom, *direction in first:
        group = get_reduced_site_symmetry(symmetry.get_site_symmetry(atom), np.array(direction, dtype=float), SYMPREC)
        pairs += 6 * _count_within(supercell, atom, pair_cutoff) / len(group)
    return DisplacementCount(fc2=len(first), fc3=len(first) + round(pairs), n_atoms=len(supercell), exact=False)


def _count_within(supercell: PhonopyAtoms, atom: int, cutoff: float | None) -> int:
    """Atoms whose nearest image is within the cutoff of one atom, itself too."""
    if cutoff is None:
        return len(supercell)
    delta = supercell.scaled_positions - supercell.scaled_positions[atom]
    delta -= np.rint(delta)
    return int(np.count_nonzero(np.linalg.norm(delta @ supercell.cell, axis=1) < cutoff))
