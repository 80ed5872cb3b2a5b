"""Harmonic stability of a relaxed crystal: the lowest phonon frequency at the zone centre and the zone boundary.

Force constants of a supercell of 2 x 2 x 2 primitive cells give the frequencies at half of each reciprocal vector, and
at the centre, without interpolation. A few force calculations tell a crystal that a shorter or a doubled cell would
lower in energy; a longer modulation is not seen, and long-range fields of polar crystals are left out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.physics.outcome import CalculationError
from engine.physics.relaxation import Guarded
from engine.physics.supercells import SYMPREC, to_phonopy

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from engine.materials.crystal import Crystal

_ACOUSTIC = 3
"""Modes at the zone centre that move the whole crystal; rounding leaves them a little off zero."""


@dataclass(frozen=True)
class HarmonicSettings:
    """Settings of the displaced supercells."""

    distance: float = 0.01
    """Length of a displacement, Angstrom."""
    max_supercells: int = 120
    """Largest number of force calculations; a crystal that takes more is refused before the first."""


@dataclass(frozen=True)
class HarmonicModes:
    """Extreme frequencies of one crystal, imaginary ones negative."""

    lowest: float
    """THz, the three acoustic modes of the zone centre left out."""
    highest: float
    """THz."""
    wave_vector: tuple[float, float, float]
    """Of the lowest frequency, in reciprocal vectors of the primitive cell."""
    n_supercells: int
    """Number of force calculations."""


def harmonic_modes(crystal: Crystal, calculator: Calculator, settings: HarmonicSettings | None = None) -> HarmonicModes:
    """Compute the frequencies at the zone centre and the halves of the reciprocal vectors.

    Parameters
    ----------
    crystal
        A relaxed primitive cell.
    calculator
        An ASE calculator with energy and forces.
    settings
        The defaults without.

    Raises
    ------
    CalculationError
        ``rejected`` if too many force calculations are needed; ``calculator_error`` and ``bad_output`` as of
        :class:`Guarded`.
    """
    from ase import Atoms
    from phonopy import Phonopy

    settings = settings or HarmonicSettings()
    phonons = Phonopy(
        to_phonopy(crystal), supercell_matrix=2 * np.eye(3, dtype=int), primitive_matrix="P", symprec=SYMPREC
    )
    phonons.generate_displacements(distance=settings.distance)
    cells = phonons.supercells_with_displacements
    if len(cells) > settings.max_supercells:
        raise CalculationError(
            "rejected",
            f"phonons take {len(cells)} force calculations of {len(phonons.supercell)} atoms, above the limit of "
            f"{settings.max_supercells}",
        )
    guarded = Guarded(calculator)
    forces = []
    for cell in cells:
        atoms = Atoms(numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
        atoms.calc = guarded
        raw = atoms.get_forces()
        forces.append(raw - raw.mean(axis=0))
    phonons.forces = np.array(forces)
    phonons.produce_force_constants()
    phonons.symmetrize_force_constants()
    points = np.array(list(itertools.product((0.0, 0.5), repeat=3)))
    phonons.run_qpoints(points)
    frequencies = np.array(phonons.qpoints.frequencies)
    highest = float(frequencies.max())
    frequencies[0, np.argsort(np.abs(frequencies[0]))[:_ACOUSTIC]] = np.inf
    point, _ = np.unravel_index(np.argmin(frequencies), frequencies.shape)
    x, y, z = points[point].tolist()
    return HarmonicModes(float(frequencies.min()), highest, (x, y, z), len(cells))
