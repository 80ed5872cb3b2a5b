"""Second- and third-order force constants of a relaxed crystal from forces of displaced supercells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.exceptions import SupercellError
from engine.physics.batches import forces_of_all
from engine.physics.outcome import CalculationError
from engine.physics.supercells import (
    SYMPREC,
    count_displacements,
    supercell_matrix,
    symfc_recursion,
    to_phonopy,
)

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from phono3py import Phono3py
    from phonopy.structure.atoms import PhonopyAtoms

    from engine.materials.crystal import Crystal
    from engine.physics.phonon_settings import PhononSettings


def fitted_phonons(
    crystal: Crystal, calculator: Calculator, settings: PhononSettings, found: dict[str, object]
) -> Phono3py:
    """phono3py's object with force constants of second and third order.

    Parameters
    ----------
    crystal
        Relaxed primitive cell.
    calculator
        Calculator of the forces, eV/Angstrom.
    settings
        Supercell, displacements and limits.
    found
        Takes the supercell, numbers of atoms and supercells, the largest drift of the forces, and, where a device was
        out of memory, how many supercells it took at once in the end.

    Raises
    ------
    CalculationError
        ``rejected`` above the limits, before any force is calculated.
    """
    phonons = _displaced(crystal, settings)
    cells = phonons.supercells_with_displacements
    found["supercell_matrix"] = phonons.supercell_matrix.tolist()
    found["n_atoms_supercell"] = len(phonons.supercell)
    found["n_supercells"] = sum(cell is not None for cell in cells)
    calculated = forces_of(cells, len(phonons.supercell), calculator)
    phonons.forces, found["force_drift_eV_A"] = calculated.forces, calculated.drift
    if calculated.halved_to is not None:
        found["force_batch_halved_to"] = calculated.halved_to
    _fit(phonons, settings)
    return phonons


class SupercellForces(NamedTuple):
    """Forces of M displaced supercells of n atoms."""

    forces: NDArray[np.float64]
    """M x n x 3, eV/Angstrom, without their drift."""
    drift: float
    """The largest drift, eV/Angstrom."""
    halved_to: int | None
    """As of :class:`~engine.physics.batches.Forces`."""


def forces_of(cells: Sequence[PhonopyAtoms | None], n_atoms: int, calculator: Calculator) -> SupercellForces:
    """Forces of M displaced supercells of ``n_atoms`` atoms; those beyond a pair cutoff, None, have no forces."""
    from ase import Atoms

    displaced = [
        Atoms(numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
        for cell in cells
        if cell is not None
    ]
    calculated = forces_of_all(displaced, calculator)
    own, forces, drifts = iter(calculated.forces), [], [0.0]
    for cell in cells:
        if cell is None:
            forces.append(np.zeros((n_atoms, 3)))
            continue
        raw = next(own)
        drift = raw.mean(axis=0)
        forces.append(raw - drift)
        drifts.append(float(np.abs(drift).max()))
    return SupercellForces(np.array(forces), max(drifts), calculated.halved_to)


def _displaced(crystal: Crystal, settings: PhononSettings) -> Phono3py:
    """Choose the supercell and its displacements; refuse too large calculations before anything is computed."""
    from phono3py import Phono3py

    matrix = supercell_matrix(crystal, settings.min_length)
    unit_cell = to_phonopy(crystal)
    phonons = Phono3py(unit_cell, supercell_matrix=matrix, primitive_matrix="P", symprec=SYMPREC)
    if settings.displacements == "systematic":
        try:
            count_displacements(unit_cell, matrix, settings.pair_cutoff).require_at_most(settings.max_supercells)
        except SupercellError as error:
            raise CalculationError("rejected", str(error)) from error
        phonons.generate_displacements(distance=settings.distance, cutoff_pair_distance=settings.pair_cutoff)
        return phonons
    _refuse_large_fit(phonons, settings)
    phonons.generate_displacements(
        distance=settings.distance,
        cutoff_pair_distance=settings.pair_cutoff,
        number_of_snapshots="auto",
        random_seed=settings.seed,
    )
    if len(phonons.displacements) > settings.max_supercells:
        raise CalculationError(
            "rejected",
            f"{len(phonons.displacements):,} random supercells of {len(phonons.supercell)} atoms are above the limit "
            f"of {settings.max_supercells:,}; set a pair cutoff or a shorter supercell",
        )
    return phonons


def _refuse_large_fit(phonons: Phono3py, settings: PhononSettings) -> None:
    with symfc_recursion():
        from phonopy.interface.symfc import estimate_symfc_memory_usage

        memory = sum(estimate_symfc_memory_usage(phonons.supercell, phonons.symmetry, 3, settings.pair_cutoff))
    if memory > settings.max_memory:
        raise CalculationError(
            "rejected",
            f"fitting third-order force constants of {len(phonons.supercell)} atoms takes {memory:.1f} GB, above the "
            f"limit of {settings.max_memory:g} GB; set a pair cutoff or a shorter supercell",
        )


def _fit(phonons: Phono3py, settings: PhononSettings) -> None:
    if settings.displacements == "random":
        cutoff = None if settings.pair_cutoff is None else f"|cutoff = {settings.pair_cutoff}"
        with symfc_recursion():
            phonons.produce_fc3(fc_calculator="symfc", fc_calculator_options=cutoff)
    else:
        phonons.produce_fc3()
        phonons.symmetrize_fc3()
        phonons.symmetrize_fc2()
