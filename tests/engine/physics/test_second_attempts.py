"""Second attempts against what is known: body-centred copper becomes hexagonal, larger supercells are phonopy's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from phonopy import Phonopy

from engine.materials.crystal import Crystal
from engine.physics.force_constants import fitted_phonons
from engine.physics.outcome import Calculated, Failed
from engine.physics.phonon_settings import PhononSettings
from engine.physics.phonons import METHOD_WIGNER, calculate_kappa
from engine.physics.potentials import LennardJonesPotential, RigidIonPotential, load_potential
from engine.physics.relaxation import relax
from engine.physics.second_attempts import along_imaginary_mode, with_larger_supercell
from engine.physics.supercells import to_phonopy
from tests.engine.physics.salts import fcc

BCC_COPPER = Crystal.from_symbols(2.87 / 2 * (np.ones((3, 3)) - 2 * np.eye(3)), ["Cu"], [[0, 0, 0]])
HCP_COPPER = Crystal.from_symbols(
    2.55 * np.array([[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1.633]]),
    ["Cu", "Cu"],
    [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]],
)
SMALL = PhononSettings(min_length=5.0, first_mesh=9, last_mesh=9, second_attempts=("lower_symmetry",))


@pytest.fixture(scope="module")
def copper():
    return load_potential("ase.calculators.emt:EMT[Cu]")


def test_an_imaginary_mode_leads_to_the_stable_structure(copper):
    outcome = calculate_kappa(BCC_COPPER, copper, SMALL)
    assert isinstance(outcome, Calculated), outcome
    found = json.loads(json.dumps(outcome.provenance, allow_nan=False))
    (attempt,) = found["second_attempts"]
    # Burgers (Physica 1, 561, 1934): a mode at N, half a reciprocal vector, takes bcc to hcp
    assert sorted(abs(x) for x in attempt["q"]) == [0, 0, 0.5]
    assert attempt["mode_frequency_THz"] < -1
    assert found["spacegroup"] == attempt["spacegroup"] == 194
    assert outcome.method == f"{METHOD_WIGNER}, relaxed along an imaginary mode to space group 194"
    hexagonal = relax(HCP_COPPER, copper.calculator())
    cubic = relax(BCC_COPPER, copper.calculator())
    assert found["energy_per_atom_eV"] == pytest.approx(hexagonal.energy, abs=1e-4)
    assert attempt["energy_gain_eV_per_atom"] == pytest.approx(cubic.energy - hexagonal.energy, abs=1e-4)
    assert found["min_frequency_THz"] > -0.1


def test_a_stable_crystal_has_no_mode_to_follow():
    potential, argon = LennardJonesPotential("Ar"), fcc("Ar", 5.3)
    relaxed = relax(argon, potential.calculator())
    phonons = fitted_phonons(relaxed.crystal, potential.calculator(), PhononSettings(), {})
    lower, attempt = along_imaginary_mode(phonons, relaxed, potential.calculator(), PhononSettings())
    assert lower is None
    assert attempt["mode_frequency_THz"] == pytest.approx(0, abs=0.05)
    assert "amplitude_A" not in attempt


def test_a_larger_supercell_has_the_force_constants_of_phonopy():
    potential, settings = LennardJonesPotential("Ar"), PhononSettings()
    crystal = relax(fcc("Ar", 5.3), potential.calculator()).crystal
    phonons = fitted_phonons(crystal, potential.calculator(), settings, {})
    larger, attempt = with_larger_supercell(phonons, crystal, potential.calculator(), settings)
    assert larger is not None
    assert (len(phonons.supercell), attempt["n_atoms"]) == (32, 108)
    np.testing.assert_array_equal(larger.fc3, phonons.fc3)

    own = Phonopy(to_phonopy(crystal), attempt["supercell_matrix"], primitive_matrix="P")
    own.generate_displacements(distance=settings.distance)
    forces = []
    for cell in own.supercells_with_displacements:
        atoms = Crystal(cell.cell, cell.numbers, cell.scaled_positions).to_atoms()
        atoms.calc = potential.calculator()
        forces.append(atoms.get_forces())
    own.forces = forces
    own.produce_force_constants()
    own.symmetrize_force_constants()
    other = Phonopy(to_phonopy(crystal), attempt["supercell_matrix"], primitive_matrix="P")
    other.force_constants = larger.fc2
    for each in (own, other):
        each.run_qpoints([[0.5, 0.5, 0], [1 / 3, 0, 0]])
    np.testing.assert_allclose(own.qpoints.frequencies, other.qpoints.frequencies, atol=1e-6)

    none, refused = with_larger_supercell(
        phonons, crystal, potential.calculator(), PhononSettings(largest_supercell=100)
    )
    assert none is None
    assert refused["n_atoms"] == 108


def test_what_was_tried_is_said_where_it_was_in_vain():
    settings = PhononSettings(
        first_mesh=9, last_mesh=9, max_memory=0.5, second_attempts=("larger_supercell", "lower_symmetry")
    )
    crystal = Crystal.from_symbols(3.3 * np.eye(3), ["K", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])  # that of CsCl
    outcome = calculate_kappa(crystal, RigidIonPotential("KF"), settings)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "imaginary_modes"
    larger, lower = outcome.provenance["second_attempts"]
    assert larger["n_atoms"] == 128
    assert larger["min_frequency_THz"] < -1
    assert str(larger["n_atoms"]) in outcome.message
    assert lower["outcome"] in outcome.message


def test_unknown_attempts_are_refused():
    with pytest.raises(ValueError, match="second_attempts has wider; there are larger_supercell and lower_symmetry"):
        PhononSettings(second_attempts=("wider",))
