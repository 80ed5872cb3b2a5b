"""ASE calculators by the name of a Python callable: what passes, and what is refused by name and number."""

from __future__ import annotations

import ase
import numpy as np
import pytest
from ase.calculators import emt as ase_emt
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from engine.exceptions import PotentialError, UnknownElementError
from engine.physics.ase_potentials import AsePotential, check_derivatives, load_ase_potential
from engine.physics.calculator_specs import with_options
from engine.physics.debye import calculate_kappa
from engine.physics.outcome import Calculated, Failed
from engine.physics.potentials import load_potential
from tests.engine.physics.salts import fcc, rocksalt

EMT = "ase.calculators.emt:EMT"
OPTIONS = '?{"epsilon": 0.0104, "rc": 10.0, "sigma": 3.4, "smooth": true}'
ARGON = f"ase.calculators.lj:LennardJones[Ar]{OPTIONS}"
HERE = "tests.engine.physics.test_ase_potentials"


class DirectForces(LennardJones):
    """Forces that are not the gradient of the energy."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = self.results["forces"] + 0.1 * np.sin(7 * self.atoms.positions)


class OtherStress(LennardJones):
    """A stress in GPa."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["stress"] = 160.2 * self.results["stress"]


class NoStress(Calculator):
    """Energies alone."""

    implemented_properties = ("energy",)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = 0.0


@pytest.fixture(scope="module")
def emt():
    return load_potential(EMT)


def test_a_calculator_is_what_its_name_options_and_version_say(emt):
    expected = {"name": EMT, "sha256": emt.sha256, "package": "ase", "version": ase.__version__}
    assert AsePotential(EMT).describe() == emt.describe() == expected
    assert AsePotential(with_options(EMT, {"asap_cutoff": True})).sha256 != emt.sha256
    assert emt.calculator() is not emt.calculator()


def test_metals_get_a_conductivity_and_others_a_reason(emt):
    copper = calculate_kappa(fcc("Cu", 3.61), emt)
    assert isinstance(copper, Calculated)
    assert 1 < copper.kappa < 200
    salt = calculate_kappa(rocksalt("NaCl"), emt)
    assert isinstance(salt, Failed)
    assert "Na" in salt.message


def test_elements_in_brackets_are_all_it_covers():
    argon = load_ase_potential(ARGON)
    assert argon.elements == {"Ar"}
    with pytest.raises(UnknownElementError, match="Cu"):
        argon.check_elements(fcc("Cu", 3.61))
    with pytest.raises(PotentialError, match="MgO"):
        load_ase_potential(ARGON.replace("[Ar]", ""))


@pytest.mark.parametrize(
    ("name", "words"), [("DirectForces", "derivative of the energy"), ("OtherStress", "unit and sign")]
)
def test_what_is_no_derivative_is_refused_with_the_number(name, words):
    with pytest.raises(PotentialError, match=words):
        load_ase_potential(f"{HERE}:{name}[Ar]{OPTIONS}")


@pytest.mark.parametrize(("spec", "crystal"), [("rigid-ion:NaCl", rocksalt("NaCl")), ("tersoff:Si", None)])
def test_classical_potentials_pass(spec, crystal):
    from tests.engine.physics.salts import diamond

    check_derivatives(load_potential(spec), crystal or diamond("Si", 5.43))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere.at_all:Calculator", "nowhere"),
        ("ase.calculators.emt:EMTT", "EMTT"),
        ("ase.atoms:Atoms", "Atoms"),
        (f"{EMT}?{{wrong}}", "JSON"),
        (f"{EMT}[Xx]", "Xx"),
        (f"{HERE}:NoStress", "covers"),
    ],
)
def test_what_cannot_be_used_is_named(spec, words):
    with pytest.raises(PotentialError, match=words):
        load_potential(spec)


def test_a_calculator_or_its_maker_may_be_given_itself(emt):
    for given in (ase_emt.EMT(), ase_emt.EMT):
        potential = load_potential(given)
        assert potential.describe()["package"] == "ase"
        assert potential.describe()["version"] == ase.__version__
        assert calculate_kappa(fcc("Cu", 3.61), potential).kappa == calculate_kappa(fcc("Cu", 3.61), emt).kappa
    named, changed = load_potential(ase_emt.EMT, name="mine"), load_potential(ase_emt.EMT(asap_cutoff=True))
    assert named.name == "mine"
    assert len({one.sha256 for one in (potential, named, changed)}) == 3


@pytest.mark.parametrize("given", [3, lambda: 3, ase.Atoms])
def test_what_is_given_must_be_a_calculator(given):
    with pytest.raises(PotentialError, match="not an ASE calculator"):
        load_potential(given)


def test_options_are_for_callables():
    assert with_options("rigid-ion", {}) == "rigid-ion"
    with pytest.raises(PotentialError, match="rigid-ion"):
        with_options("rigid-ion", {"a": 1})


def test_a_mistyped_module_of_a_package_that_is_there_is_no_missing_package():
    with pytest.raises(PotentialError, match=r"no module ase.calculators.emtt; did you mean ase.calculators.emt\?"):
        load_potential("ase.calculators.emtt:EMT")
    with pytest.raises(PotentialError, match="install") as missing:
        load_potential("nowhere.at_all:EMT")
    assert "did you mean" not in str(missing.value)
