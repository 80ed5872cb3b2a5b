"""Lowest frequencies at the zone centre and the zone boundary."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from phonopy import Phonopy

from engine.physics.harmonic import HarmonicSettings, harmonic_modes
from engine.physics.outcome import CalculationError
from engine.physics.potentials import RigidIonPotential
from engine.physics.relaxation import relax
from engine.physics.supercells import to_phonopy
from tests.engine.physics.alloys import bcc, fcc, l12
from tests.engine.physics.salts import rocksalt


def test_the_face_centred_metal_is_stable_and_the_body_centred_one_is_not() -> None:
    stable = harmonic_modes(relax(fcc("Cu", 3.61), EMT()).crystal, EMT())
    unstable = harmonic_modes(relax(bcc("Cu", 2.88), EMT()).crystal, EMT())
    assert stable.lowest > 2
    assert stable.highest > stable.lowest
    assert unstable.lowest < -0.5
    assert stable.n_supercells == unstable.n_supercells == 1
    # the instability of Zener: a transverse mode at the point N of the zone boundary
    assert sorted(map(abs, unstable.wave_vector)) in ([0, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5])


def test_frequencies_are_those_of_phonopy_with_all_displacements() -> None:
    crystal = relax(l12("Au", "Cu", 3.75), EMT()).crystal
    phonons = Phonopy(to_phonopy(crystal), supercell_matrix=np.diag([2, 2, 2]), primitive_matrix="P", is_symmetry=False)
    phonons.generate_displacements(distance=0.01, is_plusminus=True)
    forces = []
    for cell in phonons.supercells_with_displacements:
        atoms = Atoms(numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
        atoms.calc = EMT()
        forces.append(atoms.get_forces())
    phonons.forces = np.array(forces)
    phonons.produce_force_constants()
    halves = [[x, y, z] for x in (0, 0.5) for y in (0, 0.5) for z in (0, 0.5)]
    phonons.run_qpoints(halves)
    optical = np.sort(np.abs(phonons.qpoints.frequencies[0]))[3:]
    lowest = min(float(optical.min()), float(np.min(phonons.qpoints.frequencies[1:])))
    found = harmonic_modes(crystal, EMT())
    assert found.lowest == pytest.approx(lowest, abs=0.01)
    assert found.highest == pytest.approx(float(phonons.qpoints.frequencies.max()), abs=0.01)
    assert found.n_supercells < len(phonons.supercells_with_displacements) / 10


def test_a_salt_is_stable() -> None:
    calculator = RigidIonPotential("NaCl").calculator()
    modes = harmonic_modes(relax(rocksalt("NaCl"), calculator).crystal, calculator)
    assert 1 < modes.lowest < modes.highest < 10
    assert modes.n_supercells == 2


def test_too_many_force_calculations_are_refused_before_the_first() -> None:
    with pytest.raises(CalculationError, match="2 force calculations of 16 atoms") as caught:
        harmonic_modes(rocksalt("NaCl"), RigidIonPotential("NaCl").calculator(), HarmonicSettings(max_supercells=1))
    assert caught.value.reason == "rejected"
