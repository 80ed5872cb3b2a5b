"""kappa from phonons: against phono3py called directly, on known crystals, and every way to fail."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from phono3py import Phono3py

from engine.materials.crystal import Crystal
from engine.materials.prototypes import build
from engine.physics import force_constants
from engine.physics.outcome import Calculated, Failed
from engine.physics.phonon_settings import PhononSettings
from engine.physics.phonons import METHOD, calculate_kappa
from engine.physics.potential import Potential
from engine.physics.potentials import LennardJonesPotential, RigidIonPotential, TersoffPotential
from engine.physics.relaxation import RelaxationSettings, relax
from engine.physics.supercells import supercell_matrix, symfc_recursion, to_phonopy
from tests.engine.physics.salts import rocksalt

ARGON = Crystal.from_symbols(2.65 * (1 - np.eye(3)), ["Ar"], [[0, 0, 0]])
SILICON = build("diamond", ("Si",), 5.43)
QUICK = PhononSettings(temperature=40, first_mesh=18, last_mesh=25)


class Spoiled(Potential):
    """Lennard-Jones argon until something happens."""

    name = "spoiled"
    sha256 = "0" * 64
    elements = frozenset({"Ar"})

    def __init__(self, spoil: Callable[[Any, dict[str, Any]], None]):
        self.spoil = spoil

    def calculator(self) -> Calculator:
        return _SpoiledCalculator(LennardJonesPotential("Ar").calculator(), self.spoil)


class _SpoiledCalculator(Calculator):
    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, inner: Calculator, spoil: Callable[[Any, dict[str, Any]], None]):
        super().__init__()
        self.inner, self.spoil = inner, spoil

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.inner.calculate(self.atoms)
        self.results = dict(self.inner.results)
        self.spoil(self.atoms, self.results)


def calculated(*arguments: Any) -> Calculated:
    outcome = calculate_kappa(*arguments)
    assert isinstance(outcome, Calculated), outcome
    return outcome


def failed(*arguments: Any) -> Failed:
    outcome = calculate_kappa(*arguments)
    assert isinstance(outcome, Failed), outcome
    return outcome


def test_argon_conducts_as_published() -> None:
    # measured at 40 K and calculated with Lennard-Jones potentials: .7 to .8 W/(m K); ours is the stiffer lattice
    # of zero temperature, .9 in converged supercells
    outcome = calculated(ARGON, LennardJonesPotential("Ar"), replace(QUICK, last_mesh=33))
    assert 0.7 < outcome.kappa < 0.95
    assert outcome.temperature == 40
    assert outcome.core_seconds > 0
    found = json.loads(json.dumps(outcome.provenance, allow_nan=False))
    assert found["spacegroup"] == 225
    assert found["n_supercells"] == 4
    assert found["n_atoms_supercell"] == 32
    assert found["potential"] == LennardJonesPotential("Ar").describe()
    assert found["versions"]["phono3py"] == Phono3py.version.fget(None)  # type: ignore[attr-defined]
    assert found["settings"]["seed"] == 0
    assert found["mesh_converged"]
    assert abs(found["meshes"][-1]["kappa"] / found["meshes"][-2]["kappa"] - 1) <= 0.1
    tensor = np.array(found["kappa_tensor_W_mK"])
    np.testing.assert_allclose(tensor[:3], outcome.kappa, rtol=1e-9)
    np.testing.assert_allclose(tensor, np.add(found["kappa_intra_tensor_W_mK"], found["kappa_inter_tensor_W_mK"]))


def test_tersoff_silicon() -> None:
    settings = PhononSettings(first_mesh=18, last_mesh=18)
    outcome = calculated(SILICON, TersoffPotential("Si"), settings)
    assert outcome.provenance["mesh"] == [7, 7, 7]
    assert not outcome.provenance["mesh_converged"], "one mesh cannot tell"
    # 264.8 with all 111 pairs of displacements, without the coherence term
    assert outcome.provenance["n_supercells"] == 16
    assert np.mean(outcome.provenance["kappa_intra_tensor_W_mK"][:3]) == pytest.approx(264.8, rel=0.01)


@pytest.mark.parametrize("displacements", ["random", "systematic"])
def test_the_same_as_phono3py_called_directly(displacements: str) -> None:
    potential = LennardJonesPotential("Ar")
    settings = PhononSettings(
        temperature=40, displacements=displacements, first_mesh=18, last_mesh=18, wigner=False, seed=7
    )
    outcome = calculated(ARGON, potential, settings)

    crystal = relax(ARGON, potential.calculator()).crystal
    phonons = Phono3py(
        to_phonopy(crystal), supercell_matrix=supercell_matrix(crystal, settings.min_length), primitive_matrix="P"
    )
    if displacements == "random":
        phonons.generate_displacements(distance=0.01, number_of_snapshots="auto", random_seed=7)
    else:
        phonons.generate_displacements(distance=0.01)
    forces = []
    for cell in phonons.supercells_with_displacements:
        atoms = Crystal(cell.cell, cell.numbers, cell.scaled_positions).to_atoms()
        atoms.calc = potential.calculator()
        forces.append(atoms.get_forces() - atoms.get_forces().mean(axis=0))
    phonons.forces = np.array(forces)
    if displacements == "random":
        with symfc_recursion():
            phonons.produce_fc3(fc_calculator="symfc")
    else:
        phonons.produce_fc3()
        phonons.symmetrize_fc3()
        phonons.symmetrize_fc2()
    phonons.mesh_numbers = outcome.provenance["mesh"]
    phonons.init_phph_interaction()
    phonons.run_thermal_conductivity(temperatures=[40])
    assert outcome.provenance["n_supercells"] == len(forces)
    assert outcome.method == METHOD
    assert outcome.kappa == pytest.approx(phonons.thermal_conductivity.kappa[0, 0, :3].mean(), rel=1e-9)


def test_the_same_again_and_another_seed_nearly() -> None:
    potential = LennardJonesPotential("Ar")
    settings = replace(QUICK, last_mesh=18)
    first, again, other = (calculated(ARGON, potential, replace(settings, seed=s)).kappa for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert other == pytest.approx(first, rel=0.03)


def test_systematic_displacements_agree_with_random_ones() -> None:
    potential = LennardJonesPotential("Ar")
    settings = replace(QUICK, last_mesh=18)
    random = calculated(ARGON, potential, settings)
    systematic = calculated(ARGON, potential, replace(settings, displacements="systematic"))
    assert systematic.provenance["n_supercells"] > random.provenance["n_supercells"]
    assert systematic.kappa == pytest.approx(random.kappa, rel=0.02)


@pytest.mark.parametrize("displacements", ["random", "systematic"])
def test_a_pair_cutoff_beyond_the_neighbours_changes_little(displacements: str) -> None:
    potential = LennardJonesPotential("Ar")
    settings = replace(QUICK, last_mesh=18, displacements=displacements)
    whole = calculated(ARGON, potential, settings)
    cut = calculated(ARGON, potential, replace(settings, pair_cutoff=5.0))
    assert cut.provenance["n_supercells"] <= whole.provenance["n_supercells"]
    assert cut.kappa == pytest.approx(whole.kappa, rel=0.15)


def test_imaginary_modes() -> None:
    # a Lennard-Jones crystal is not stable body-centred
    crystal = build("CsCl", ("Ar", "Ar"), 4.2)
    outcome = failed(crystal, LennardJonesPotential("Ar"), replace(QUICK, second_attempts=()))
    assert outcome.reason == "imaginary_modes"
    assert outcome.provenance["second_attempts"] == []
    assert outcome.provenance["min_frequency_THz"] < -0.1
    assert "THz" in outcome.message
    assert "relaxed" in outcome.provenance


def test_a_supercell_without_third_order_is_not_a_good_conductor() -> None:
    # in one conventional cell each displacement of rock salt ions is its own inverse
    settings = PhononSettings(min_length=4.0, displacements="systematic", first_mesh=9, last_mesh=9)
    outcome = failed(rocksalt("NaCl"), RigidIonPotential("NaCl"), settings)
    assert outcome.reason == "bad_output"
    assert "supercell" in outcome.message


def test_mean_free_paths_and_gruneisen_parameters_are_kept() -> None:
    outcome = calculated(ARGON, LennardJonesPotential("Ar"), replace(QUICK, last_mesh=18))
    paths = outcome.provenance["mean_free_path_nm"]
    assert list(paths) == ["0.1", "0.25", "0.5", "0.75", "0.9"]
    assert list(paths.values()) == sorted(paths.values())
    assert 1 < paths["0.5"] < 20  # nm, a poor conductor
    # Lennard-Jones solids: 3.1 at zero pressure, from (n + m + 1) / 6 = 19 / 6
    assert outcome.provenance["gruneisen_mean"] == pytest.approx(19 / 6, rel=0.06)
    assert outcome.provenance["gruneisen_rms"] >= outcome.provenance["gruneisen_mean"]


def test_a_value_below_the_floor_is_a_failure() -> None:
    outcome = failed(ARGON, LennardJonesPotential("Ar"), replace(QUICK, last_mesh=18, floor=5.0))
    assert outcome.reason == "below_floor"
    assert outcome.provenance["meshes"][0]["kappa"] == pytest.approx(0.9, rel=0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_forces_that_are_not_finite(value: float) -> None:
    def spoil(atoms: Any, results: dict[str, Any]) -> None:
        if len(atoms) > 1:
            results["forces"] = results["forces"] * value

    outcome = failed(ARGON, Spoiled(spoil), QUICK)
    assert outcome.reason == "bad_output"
    assert "forces that are not finite" in outcome.message


def test_a_calculator_that_raises() -> None:
    def spoil(atoms: Any, results: dict[str, Any]) -> None:
        raise ValueError("out of memory")

    outcome = failed(ARGON, Spoiled(spoil), QUICK)
    assert outcome.reason == "calculator_error"
    assert outcome.message == "the potential raised ValueError: out of memory"
    assert outcome.provenance["settings"]["temperature"] == 40


def test_a_drift_of_forces_is_removed() -> None:
    def spoil(atoms: Any, results: dict[str, Any]) -> None:
        if len(atoms) > 1:
            results["forces"] = results["forces"] + 0.01

    settings = replace(QUICK, last_mesh=18)
    outcome = calculated(ARGON, Spoiled(spoil), settings)
    clean = calculated(ARGON, LennardJonesPotential("Ar"), settings)
    assert outcome.provenance["force_drift_eV_A"] == pytest.approx(0.01)
    # rounding alone moves the choice of eigenvectors among degenerate modes, and kappa by 1e-3
    assert outcome.kappa == pytest.approx(clean.kappa, rel=1e-2)


def test_relaxation_that_does_not_converge() -> None:
    settings = replace(QUICK, relaxation=RelaxationSettings(force_tolerance=1e-9, max_steps=1))
    outcome = failed(ARGON, LennardJonesPotential("Ar"), settings)
    assert outcome.reason == "not_converged"


def test_an_element_the_potential_does_not_know() -> None:
    outcome = failed(SILICON, LennardJonesPotential("Ar"), QUICK)
    assert outcome.reason == "rejected"
    assert "Si" in outcome.message


def test_too_many_supercells_are_refused_before_a_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(force_constants, "forces_of", lambda *_: pytest.fail("forces were computed"))
    for displacements in ("random", "systematic"):
        settings = replace(QUICK, displacements=displacements, max_supercells=3)
        outcome = failed(ARGON, LennardJonesPotential("Ar"), settings)
        assert outcome.reason == "rejected"
        assert "above the limit of 3" in outcome.message
    outcome = failed(ARGON, LennardJonesPotential("Ar"), replace(QUICK, max_memory=1e-6))
    assert outcome.reason == "rejected"
    assert "GB" in outcome.message


def test_standard_output_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    calculated(ARGON, LennardJonesPotential("Ar"), replace(QUICK, last_mesh=18))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"min_length": math.nan}, "min_length must be positive"),
        ({"mesh_growth": 1.0}, "mesh_growth must be above 1"),
        ({"last_mesh": 1.0}, "below first_mesh"),
        ({"displacements": "some"}, "must be 'random' or 'systematic'"),
    ],
)
def test_settings_that_no_calculation_can_have(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhononSettings(**change)
