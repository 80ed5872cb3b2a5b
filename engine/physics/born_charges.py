"""Born charges and the dielectric tensor of a crystal, for the non-analytical correction of its phonons.

Longitudinal optical modes of a polar crystal carry a macroscopic field that no supercell holds; Born charges Z* and the
high-frequency dielectric tensor add it (X. Gonze, C. Lee, Phys. Rev. B 55, 10355 (1997), as phonopy does it). They come
from a first-principles calculation, usually as a phonopy ``BORN`` file, whose rows stand in the order and in the axes
of the cell that was calculated.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import BornChargesError, CellMatchError, CrystalError
from engine.materials.crystal import Crystal
from engine.physics.cell_matching import matches
from engine.physics.supercells import SYMPREC, to_phonopy

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 0.1
"""Elementary charges an atom; charges that break symmetry or the sum rule by more are refused. Phonopy's limit too."""
_ISOTROPIC, _SAME_CHARGE, _ROUNDING = 1e-3, 1e-2, 1e-6
_MOST_ORDERS = 6
"""Kinds of sites up to which the orders of charges without a cell are tried."""


@dataclass(frozen=True, eq=False)
class PolarCrystal(Crystal):
    """A crystal with Born charges."""

    born: NDArray[np.float64]
    """n x 3 x 3, elementary charges, for each site in its order: first index the polarisation, second the displacement,
    in the Cartesian axes of the lattice."""
    dielectric: NDArray[np.float64]
    """3 x 3, high-frequency dielectric tensor in units of the vacuum's."""
    charges_source: str = ""
    """Where the charges are from, for the record."""
    charges_change: float = 0.0
    """Elementary charges: the largest change that made the charges obey symmetry and add up to zero."""

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises
        ------
        BornChargesError
            If a shape is wrong, a number not finite, or the dielectric tensor not that of an insulator.
        """
        super().__post_init__()
        for name, shape in (("born", (len(self), 3, 3)), ("dielectric", (3, 3))):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != shape:
                raise BornChargesError(f"{name} must have the shape {shape}, received {values.shape}")
            if not np.all(np.isfinite(values)):
                raise BornChargesError(f"{name} has numbers that are not finite")
            object.__setattr__(self, name, values)
        lowest = float(np.linalg.eigvalsh((self.dielectric + self.dielectric.T) / 2).min())
        if lowest < 1 - _ROUNDING or np.abs(self.dielectric - self.dielectric.T).max() > TOLERANCE:
            raise BornChargesError(
                "the dielectric tensor must be symmetric with eigenvalues of at least 1, received "
                f"{_rows(self.dielectric)}"
            )

    @property
    def nac_params(self) -> dict[str, Any]:
        """The same as phonopy takes them, for forces in eV/Angstrom."""
        from phonopy.physical_units import get_physical_units

        units = get_physical_units()
        return {"born": self.born, "dielectric": self.dielectric, "factor": units.Hartree * units.Bohr}

    def describe(self) -> dict[str, object]:
        """The charges for a record, JSON-ready."""
        return {
            "source": self.charges_source,
            "born": self.born.tolist(),
            "dielectric": self.dielectric.tolist(),
            "largest_correction_e": self.charges_change,
        }


def polar_crystal(
    crystal: Crystal, born: NDArray[np.float64], dielectric: NDArray[np.float64], source: str = ""
) -> PolarCrystal:
    """A crystal with its charges, made to obey its symmetry and the acoustic sum rule.

    Parameters
    ----------
    crystal
        A cell of n sites, symmetric within 1e-5 Angstrom.
    born
        n x 3 x 3, as of :class:`PolarCrystal`.
    dielectric
        3 x 3.
    source
        Where they are from, for the record.

    Raises
    ------
    BornChargesError
        As of :class:`PolarCrystal`, and if symmetry and sum rule change a charge by more than :data:`TOLERANCE`.
    """
    from phonopy.structure.symmetry import symmetrize_borns_and_epsilon

    given = PolarCrystal(crystal.lattice, crystal.numbers, crystal.frac_coords, born, dielectric, source)
    short = np.abs(given.born.sum(axis=0)).max() / len(given)
    if short > TOLERANCE:
        raise BornChargesError(
            f"the charges add up to {_rows(given.born.sum(axis=0))} for {len(given)} atoms instead of zero; they may "
            "be of other atoms, or not converged"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # phonopy warns of charges that break the symmetry by 0.1
        try:
            charges, symmetric = symmetrize_borns_and_epsilon(
                given.born, given.dielectric, to_phonopy(crystal), symprec=SYMPREC
            )
        except UserWarning as error:
            raise BornChargesError(
                f"the charges break the symmetry of the crystal by more than {TOLERANCE} elementary charges; they may "
                "be of another crystal or other axes, or not converged"
            ) from error
    change = float(np.abs(charges - given.born).max())
    return PolarCrystal(crystal.lattice, crystal.numbers, crystal.frac_coords, charges, symmetric, source, change)


def carried_over(polar: PolarCrystal, crystal: Crystal) -> PolarCrystal:
    """The charges of one cell at the sites and in the axes of another cell of the same crystal.

    Parameters
    ----------
    polar
        Any cell with its charges.
    crystal
        A primitive cell, e.g. relaxed and standardised.

    Raises
    ------
    BornChargesError
        If the cells are not one crystal, or the charges could be carried over in several ways that differ by more than
        :data:`TOLERANCE`.
    """
    try:
        found = matches(polar, crystal)
    except CellMatchError as error:
        raise BornChargesError(f"its Born charges are of another crystal: {error}") from error
    best = found[0].tensors(polar.born)
    # matches that symmetry makes equal differ by what the charges lack in symmetry
    if any(np.abs(match.tensors(polar.born) - best).max() > TOLERANCE for match in found[1:]):
        raise BornChargesError(
            "its Born charges cannot be carried over to the relaxed cell: the two cells match in several ways, and the "
            "charges of an atom depend on which is meant"
        )
    dielectric = found[0].rotation @ polar.dielectric @ found[0].rotation.T
    carried = polar_crystal(crystal, best, dielectric, polar.charges_source)
    change = max(polar.charges_change, carried.charges_change)
    return PolarCrystal(
        carried.lattice, carried.numbers, carried.frac_coords, carried.born, carried.dielectric, polar.charges_source,
        change,
    )  # fmt: skip


def read_born(path: Path, crystal: Crystal, cell: Path | None = None) -> PolarCrystal:
    """A crystal with the charges of a phonopy ``BORN`` file.

    Parameters
    ----------
    path
        The file: a comment or factor, the dielectric tensor, and the charges of the atoms that symmetry leaves. Its
        factor is not used, since forces are in eV/Angstrom here.
    crystal
        A primitive cell in any axes.
    cell
        POSCAR of the cell that the file is of, primitive or conventional. Without it, the tensors must be multiples of
        the unit tensor, and only one order of the atoms may make the charges add up to zero (all signs reversed make no
        difference), as in salts AB of cubic symmetry.

    Raises
    ------
    BornChargesError
        If a file cannot be read, has charges of another number of atoms, is of another crystal, or does not tell which
        charge is of which atom.
    """
    try:
        return _with_charges_of(path, crystal, cell)
    except BornChargesError as error:
        raise BornChargesError(f"{path}: {error}") from error


def _with_charges_of(path: Path, crystal: Crystal, cell: Path | None) -> PolarCrystal:
    about = f"{path.name}, SHA-256 {hashlib.sha256(_content(path)).hexdigest()[:16]}"
    if cell is None:
        return polar_crystal(crystal, *_of_any_order(path, crystal), about)
    theirs = _read_cell(cell)
    return carried_over(polar_crystal(theirs, *_parsed(path, theirs), f"{about}, of {cell.name}"), crystal)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BornChargesError(f"{path.name} cannot be read: {error.strerror}") from error


def _read_cell(path: Path) -> Crystal:
    from engine.materials.poscar import parse_poscar

    try:
        return parse_poscar(_content(path)).crystal
    except CrystalError as error:
        raise BornChargesError(f"{path.name} beside it cannot be read: {error}") from error


def _parsed(path: Path, crystal: Crystal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Charges of all sites, and the dielectric tensor, by phonopy's parser."""
    from phonopy.exception import BORNFileParseError
    from phonopy.file_IO import parse_BORN
    from phonopy.structure.symmetry import Symmetry

    cell = to_phonopy(crystal)
    try:
        parameters = parse_BORN(cell, symprec=SYMPREC, filename=str(path))
    except (BORNFileParseError, ValueError) as error:
        kinds = len(Symmetry(cell, SYMPREC).get_independent_atoms())
        raise BornChargesError(
            f"not a BORN file of {crystal.formula} ({len(crystal)} atoms, {kinds} different by symmetry): {error}"
        ) from error
    born, dielectric = np.asarray(parameters["born"]), np.asarray(parameters["dielectric"])
    if not np.isfinite([born.sum(), dielectric.sum()]).all():
        raise BornChargesError("it has numbers that are not finite")
    return born, dielectric


def _of_any_order(path: Path, crystal: Crystal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Charges of a file whose cell is unknown, if every order and orientation gives the same correction."""
    from phonopy.structure.symmetry import Symmetry

    born, dielectric = _parsed(path, crystal)
    kinds = np.unique(Symmetry(to_phonopy(crystal), SYMPREC).get_map_atoms(), return_inverse=True)[1]
    first = [int(np.flatnonzero(kinds == kind)[0]) for kind in range(kinds.max() + 1)]
    scalars = np.trace(born, axis1=1, axis2=2)[first] / 3
    isotropic = all(
        np.abs(tensor - np.trace(tensor) / 3 * np.eye(3)).max() < _ISOTROPIC for tensor in (*born, dielectric)
    )
    if isotropic and len(first) <= _MOST_ORDERS:
        orders = (np.array(order)[kinds] for order in itertools.permutations(scalars))
        possible = [charges for charges in orders if abs(charges.mean()) <= TOLERANCE]
        if not possible:  # refused with their sum
            return born, dielectric
        if all(_same_correction(charges, possible[0]) for charges in possible[1:]):
            return possible[0][:, None, None] * np.eye(3), dielectric
    raise BornChargesError(
        f"it does not say which charge is of which atom of {crystal.formula}, or in which axes; put the POSCAR that "
        "it was calculated for beside it"
    )


def _same_correction(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    one, other = one - one.mean(), other - other.mean()  # as the sum rule makes them
    return min(np.abs(one - other).max(), np.abs(one + other).max()) < _SAME_CHARGE


def _rows(tensor: NDArray[np.float64]) -> str:
    return "[" + "; ".join(" ".join(f"{value:.3g}" for value in row) for row in tensor) + "]"
