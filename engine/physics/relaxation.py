"""Relaxation of a crystal's cell and positions at fixed symmetry.

The cell is the exponential of a strain (ASE's ``FrechetCellFilter``); forces and stress are made symmetric at every
step (``FixSymmetry``), so that the result is symmetric to all digits, as phonons need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from engine.materials.crystal import Crystal
from engine.materials.identity import standardise
from engine.physics.outcome import CalculationError

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RelaxationSettings:
    """Convergence criteria of a relaxation."""

    force_tolerance: float = 1e-3
    """Largest remaining force on an atom in eV/Angstrom, and stress times volume per atom in eV."""
    max_steps: int = 200
    """Optimiser steps after which it counts as not converged."""
    max_volume_change: float = 0.3
    """Relative change of the volume beyond which the potential does not describe this crystal."""


@dataclass(frozen=True)
class Relaxed:
    """A relaxed crystal."""

    crystal: Crystal
    """Standardised primitive cell."""
    spacegroup: int
    """International number, the same as before unless it may gain symmetry."""
    steps: int
    energy: float
    """eV per atom."""
    volume_change: float
    """Change of the volume relative to the crystal as given."""
    displacement: float
    """Largest distance that an atom moved within the cell, in Angstrom, without the strain of the cell."""


def relax(
    crystal: Crystal,
    calculator: Calculator,
    settings: RelaxationSettings | None = None,
    *,
    may_gain_symmetry: bool = False,
) -> Relaxed:
    """Relax cell and positions.

    Parameters
    ----------
    crystal
        A cell in any setting; it is standardised to its primitive cell first.
    calculator
        An ASE calculator with energy, forces and stress.
    settings
        Tolerances; the defaults without.
    may_gain_symmetry
        Whether the result may have another space group or a smaller primitive cell, as a distorted structure that
        relaxes to a symmetric one.

    Raises
    ------
    CalculationError
        ``not_converged`` after too many steps or a large volume change; ``symmetry_broken`` if the space group or the
        number of sites of the primitive cell is another one afterwards; ``calculator_error`` and ``bad_output`` as
        of :class:`Guarded`.
    """
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    settings = settings or RelaxationSettings()
    start, spacegroup = standardise(crystal)
    atoms = start.to_atoms()
    atoms.set_constraint(FixSymmetry(atoms))
    atoms.calc = Guarded(calculator)
    # FixSymmetry cannot follow a step that strains the cell by more than .15
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None, maxstep=0.1)
    converged = optimizer.run(fmax=settings.force_tolerance, steps=settings.max_steps)
    volume_change = atoms.get_volume() / start.volume - 1
    _require_converged(converged, volume_change, settings)
    relaxed, spacegroup_after = standardise(Crystal(atoms.cell.array, atoms.numbers, atoms.get_scaled_positions()))
    if not may_gain_symmetry and (spacegroup_after, len(relaxed)) != (spacegroup, len(start)):
        raise CalculationError(
            "symmetry_broken",
            f"space group {spacegroup} with {len(start)} sites became {spacegroup_after} with {len(relaxed)} sites "
            "on relaxation",
        )
    return Relaxed(
        crystal=relaxed,
        spacegroup=spacegroup_after,
        steps=optimizer.nsteps,
        energy=float(atoms.get_potential_energy()) / len(atoms),
        volume_change=float(volume_change),
        displacement=_largest_displacement(start.frac_coords, atoms.get_scaled_positions(), atoms.cell.array),
    )


def _require_converged(converged: bool, volume_change: float, settings: RelaxationSettings) -> None:
    if abs(volume_change) > settings.max_volume_change:
        raise CalculationError(
            "not_converged",
            f"the volume changed by {volume_change:+.0%} on relaxation, more than {settings.max_volume_change:.0%}",
        )
    if not converged:
        raise CalculationError(
            "not_converged",
            f"forces above {settings.force_tolerance} eV/Angstrom after {settings.max_steps} relaxation steps",
        )


def _largest_displacement(
    before: NDArray[np.float64], after: NDArray[np.float64], lattice: NDArray[np.float64]
) -> float:
    """Largest distance between fractional coordinates (N x 3) in one cell, the common shift taken off; Angstrom."""
    moved = after - before
    moved -= np.rint(moved)
    moved -= moved.mean(axis=0)
    return float(np.linalg.norm(moved @ lattice, axis=1).max())


class Guarded(Calculator):
    """A calculator whose failures are all raised as :class:`CalculationError`.

    Exceptions become ``calculator_error``, an energy, force or stress that is not finite ``bad_output``.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def __init__(self, inner: Calculator):
        super().__init__()
        self.inner = inner

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Run the inner calculator and check its results."""
        super().calculate(atoms, properties, system_changes)
        for name in dict.fromkeys(["energy", "forces", *(properties or [])]):
            value = self._ask(name)
            if not np.all(np.isfinite(value)):
                raise CalculationError("bad_output", f"the potential gave {name} that are not finite for {self.atoms}")
            self.results[name] = value

    def _ask(self, name: str) -> Any:
        try:
            return self.inner.get_property(name, self.atoms)
        except Exception as error:
            message = f"the potential raised {type(error).__name__}: {error}"
            raise CalculationError("calculator_error", message) from error
