"""Second attempts for a crystal with imaginary modes: a larger supercell, and the structure that a mode leads to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.materials.crystal import Crystal
from engine.physics.force_constants import forces_of
from engine.physics.outcome import CalculationError
from engine.physics.relaxation import Guarded, Relaxed, relax
from engine.physics.supercells import SYMPREC, heights, supercell_matrix, to_phonopy

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from phono3py import Phono3py

    from engine.physics.phonon_settings import PhononSettings

AMPLITUDES = (0.05, 0.1, 0.2, 0.4)
"""Largest displacement of an atom along an imaginary mode, Angstrom; the one of lowest energy is relaxed."""
LOWEST_GAIN = 1e-3
"""eV per atom by which the new structure must lie below the old one. Thermal motion at room temperature (k_B T is 0.026
eV) undoes shallower distortions, so that the conductivity of the distorted crystal would not be that of the real one:
PbTe by TensorNet-r2SCAN gains 0.0001 eV and would have a sixth of its conductivity."""
Attempt = dict[str, object]
"""A second attempt for the record, JSON-ready: ``kind``, what was done, and ``outcome`` in words where it failed."""


def with_larger_supercell(
    phonons: Phono3py, crystal: Crystal, calculator: Calculator, settings: PhononSettings
) -> tuple[Phono3py | None, Attempt]:
    """The same third-order force constants beside second-order ones of a larger supercell, and the record.

    Range of the force constants is a common cause of imaginary modes; second order takes one displacement a supercell,
    so that a larger one is cheap. None if it would have more than ``largest_supercell`` atoms.
    """
    from phono3py import Phono3py

    shortest = float(heights(phonons.supercell.cell).min())
    matrix = supercell_matrix(crystal, settings.supercell_growth * shortest)
    n_atoms = round(abs(np.linalg.det(matrix))) * len(crystal)
    attempt: Attempt = {"kind": "larger_supercell", "supercell_matrix": matrix.tolist(), "n_atoms": n_atoms}
    if n_atoms > settings.largest_supercell:
        return None, attempt | {"outcome": f"not tried, more than {settings.largest_supercell} atoms"}
    larger = Phono3py(
        to_phonopy(crystal),
        supercell_matrix=phonons.supercell_matrix,
        phonon_supercell_matrix=matrix,
        primitive_matrix="P",
        symprec=SYMPREC,
    )
    larger.fc3 = phonons.fc3
    larger.generate_fc2_displacements(distance=settings.distance)
    cells = larger.phonon_supercells_with_displacements
    larger.phonon_forces = forces_of(cells, n_atoms, calculator).forces
    larger.produce_fc2()
    larger.symmetrize_fc2()
    larger.nac_params = phonons.nac_params
    return larger, attempt | {"n_supercells": len(cells)}


def along_imaginary_mode(
    phonons: Phono3py, relaxed: Relaxed, calculator: Calculator, settings: PhononSettings
) -> tuple[Relaxed | None, Attempt]:
    """Displace the atoms along the lowest mode at a q-point of the supercell and relax what has the lowest energy.

    None if no such mode is imaginary, if the structure that it leads to is not lower in energy, or if the phonons have
    Born charges, which the new structure does not.
    """
    mode = _lowest_mode(phonons, relaxed.crystal)
    attempt: Attempt = {"kind": "lower_symmetry", "q": mode.q, "mode_frequency_THz": mode.frequency}
    if mode.frequency > -settings.imaginary_tolerance:
        return None, attempt | {"outcome": "not tried, no mode at a q-point of the supercell is imaginary"}
    if phonons.nac_params is not None:
        return None, attempt | {"outcome": "not tried, Born charges are known of the undistorted crystal only"}
    energies = []
    for amplitude in (0.0, *AMPLITUDES):
        atoms = mode.displaced(amplitude).to_atoms()
        atoms.calc = Guarded(calculator)
        energies.append(float(atoms.get_potential_energy()) / len(atoms))
    best = int(np.argmin(energies))
    attempt |= {"n_atoms": len(mode.cell), "amplitude_A": (0.0, *AMPLITUDES)[best]}
    if best == 0:
        return None, attempt | {"outcome": "displacements along the mode do not lower the energy"}
    try:
        lower = relax(mode.displaced(AMPLITUDES[best - 1]), calculator, settings.relaxation, may_gain_symmetry=True)
    except CalculationError as error:
        return None, attempt | {"outcome": f"{error.reason}: {error.message}"}
    gain = relaxed.energy - lower.energy
    attempt |= {"spacegroup": lower.spacegroup, "energy_gain_eV_per_atom": gain}
    if gain < LOWEST_GAIN:
        return None, attempt | {
            "outcome": f"space group {lower.spacegroup} is lower by {1000 * gain:.2f} meV an atom, less than "
            f"{1000 * LOWEST_GAIN:g}: thermal motion may undo it"
        }
    return lower, attempt


def in_words(attempt: Mapping[str, object]) -> str:
    """A second attempt as part of a message."""
    if attempt["kind"] == "larger_supercell":
        what = f"in a supercell of {attempt['n_atoms']} atoms"
        found = f"the lowest frequency was {attempt.get('min_frequency_THz', 0.0):.2f} THz"
    else:
        q = ", ".join(f"{float(x):.3g}" for x in _numbers(attempt["q"]))
        what = f"along the mode at q = ({q})"
        found = f"space group {attempt.get('spacegroup')} has imaginary modes too"
    return f"{what}: {attempt.get('outcome', found)}"


class _Mode(NamedTuple):
    """A mode at a q-point that the supercell holds."""

    q: list[float]
    """In the basis of the reciprocal primitive cell."""
    frequency: float
    """THz, negative if imaginary."""
    cell: Crystal
    """Smallest supercell of the primitive cell in which the mode is periodic."""
    pattern: NDArray[np.float64]
    """Displacements of its atoms (n x 3), the largest of length 1."""

    def displaced(self, amplitude: float) -> Crystal:
        """The cell with its atoms displaced by up to ``amplitude`` Angstrom."""
        moved = self.cell.frac_coords + amplitude * self.pattern @ np.linalg.inv(self.cell.lattice)
        return Crystal(self.cell.lattice, self.cell.numbers, moved)


def _lowest_mode(phonons: Phono3py, crystal: Crystal) -> _Mode:
    from phonopy import Phonopy
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    own = phonons.phonon_supercell_matrix
    matrix = phonons.supercell_matrix if own is None else own
    harmonic = Phonopy(to_phonopy(crystal), matrix, primitive_matrix="P", symprec=SYMPREC)
    harmonic.force_constants = phonons.fc2
    points = get_commensurate_points(matrix)
    harmonic.run_qpoints(points)
    point, band = np.unravel_index(np.argmin(harmonic.qpoints.frequencies), harmonic.qpoints.frequencies.shape)
    q = points[point]
    repeats = [next(n for n in range(1, 1000) if abs(n * x - round(n * x)) < 1e-6) for x in q]
    harmonic.run_modulations(repeats, [[q, int(band), 1.0, 0.0]])
    modulations, cell = harmonic.modulation.modulations, harmonic.modulation.supercell
    pattern = np.real(modulations[0])
    pattern = pattern / np.linalg.norm(pattern, axis=1).max()
    frequency = float(harmonic.qpoints.frequencies[point, band])
    return _Mode(q.tolist(), frequency, Crystal(cell.cell, cell.numbers, cell.scaled_positions), pattern)


def _numbers(value: object) -> list[float]:
    return list(value) if isinstance(value, list) else []
