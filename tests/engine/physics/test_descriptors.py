"""Descriptors of atoms: the same here and in another environment, of no setting, and of nothing that has none."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from engine.exceptions import PotentialError
from engine.materials.elements import ATOMIC_NUMBERS
from engine.physics.ase_potentials import AsePotential
from engine.physics.calculator_specs import families, read_spec, with_python
from engine.physics.descriptors import known_elements, load_described, mean_and_spread, require_descriptors
from engine.physics.other_environment import OtherEnvironmentError
from tests.engine.physics.described import HOME, SHELLS, Shells
from tests.engine.physics.environments import borrowing_environment
from tests.engine.physics.salts import fcc, rocksalt


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the Python of an environment that has our packages."""
    return borrowing_environment(tmp_path_factory.mktemp("other"))


def rattled(seed=0):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_they_are_those_of_the_calculator_here_and_elsewhere(other):
    for spec in (SHELLS, with_python(SHELLS, other)):
        potential = AsePotential(spec)
        for atoms in (rattled(), rattled(1), bulk("Si", "diamond", a=5.43)):
            found, elements = potential.descriptors(atoms)
            np.testing.assert_allclose(found, Shells().get_descriptors(atoms), rtol=0, atol=1e-12)
            assert elements == []


def test_forces_and_descriptors_of_one_potential_do_not_disturb_each_other(other):
    potential = AsePotential(with_python(f"{HOME}:Shells[Ar]", other))
    atoms = fcc("Ar", 5.31).to_atoms() * (2, 1, 1)
    atoms.rattle(0.1, seed=0)
    atoms.calc = potential.calculator()
    before = atoms.get_forces()
    first = potential.descriptors(rattled())[0]
    atoms.calc = potential.calculator()
    np.testing.assert_array_equal(atoms.get_forces(), before)
    np.testing.assert_array_equal(potential.descriptors(rattled())[0], first)


def test_what_goes_into_a_layer_of_a_network_is_found_and_the_network_is_left_as_it_was(tmp_path, other):
    """A MatGL potential through its family: the atoms' features are those that its own backbone averages."""
    import torch
    from matgl.apps.pes import Potential

    from engine.graphs.crystal_graph import build_graph, collate
    from engine.learning.backbones.bodies import node_types
    from engine.learning.backbones.network import body_readout
    from tests.engine.learning.bodies import small_backbone

    body = small_backbone("TensorNet", is_intensive=False, element_types=("Na", "Cl", "Si")).body
    Potential(model=body).save(str(tmp_path / "potential"))
    crystal = rocksalt("NaCl")
    with torch.no_grad():
        expected = body_readout(body, collate([build_graph(crystal, body.cutoff)], node_types(body)))[0].numpy()
    for spec in (f"matgl:{tmp_path}/potential", with_python(f"matgl:{tmp_path}/potential", other)):
        potential = AsePotential(spec)
        atoms = crystal.to_atoms()
        atoms.calc = potential.calculator()
        energy = atoms.get_potential_energy()
        found, elements = potential.descriptors(crystal.to_atoms())
        np.testing.assert_allclose(found.mean(axis=0), expected, rtol=1e-4, atol=1e-5)
        assert known_elements(potential, elements) == {"Na", "Cl", "Si"}
        other_crystal = rocksalt("NaCl", 6.0).to_atoms()
        potential.descriptors(other_crystal)
        other_crystal.calc = potential.calculator()
        assert other_crystal.get_potential_energy() != pytest.approx(energy)
        atoms.calc = potential.calculator()
        assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-6)


def test_mean_and_spread_are_those_of_any_cell():
    atoms = rattled()
    one = mean_and_spread(Shells().get_descriptors(atoms))
    many = mean_and_spread(Shells().get_descriptors(atoms * (2, 1, 3)))
    assert one.shape == (16,)
    np.testing.assert_allclose(many, one, rtol=1e-9)
    with pytest.raises(ValueError, match="finite"):
        mean_and_spread(np.array([[1.0, np.inf]]))


def test_a_tested_potential_tells_its_elements_and_examples():
    described = load_described(SHELLS)
    assert described.elements == frozenset(ATOMIC_NUMBERS)
    assert list(described.examples) == ["MgO", "NaCl", "Si"]
    named = load_described(f"{SHELLS}[Ar, Kr]")
    assert named.elements == {"Ar", "Kr"}
    assert set(named.examples) == {"Ar", "Kr"}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (f"{HOME}:Turning", "differ"),
        (f"{HOME}:OfTheCrystal", "shape"),
        (f"{HOME}:NoNumbers", "finite"),
        (f"{SHELLS}[Po]", "covers"),
        ("ase.calculators.emt:EMT", "get_descriptors"),
    ],
)
def test_what_is_no_descriptor_is_refused(spec, words):
    with pytest.raises(PotentialError, match=words):
        load_described(spec)


def test_a_family_without_a_known_place_is_refused_with_those_that_have_one():
    """Before anything is started or installed."""
    with pytest.raises(PotentialError) as raised:
        require_descriptors("deepmd:model.pb")
    having = {name for name, family in families().items() if family.descriptors}
    assert {"sevennet", "mace", "chgnet"} <= having
    assert all(name in str(raised.value) for name in (*having, "get_descriptors"))
    for name in having:
        place = read_spec(f"{name}:model").recipe["descriptors"]
        assert ("method" in place) != ("module" in place), name


def test_a_crystal_that_kills_is_named_and_the_next_goes_on(other):
    potential = AsePotential(with_python(f"{HOME}:Fragile", other))
    with pytest.raises(OtherEnvironmentError, match="SIGKILL"):
        potential.descriptors(fcc("Ar", 16.0).to_atoms())
    assert potential.descriptors(fcc("Ar", 5.31).to_atoms())[0].shape == (1, 8)
