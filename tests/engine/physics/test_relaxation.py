"""Relaxation with the symmetry kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from engine.materials.crystal import Crystal
from engine.materials.prototypes import build
from engine.physics.outcome import CalculationError
from engine.physics.potentials import LennardJonesPotential, RigidIonPotential
from engine.physics.relaxation import Guarded, RelaxationSettings, relax


def argon(a: float, c: float | None = None) -> Crystal:
    half = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    return Crystal.from_symbols(half @ np.diag([a, a, c or a]), ["Ar"], [[0, 0, 0]])


def calculator() -> Calculator:
    return LennardJonesPotential("Ar").calculator()


@pytest.mark.parametrize("a", [5.0, 5.3, 5.6])
def test_argon_finds_its_lattice_constant(a: float) -> None:
    relaxed = relax(argon(a), calculator())
    # 1.5418 sigma and -8.610 epsilon for the infinite sum
    assert (4 * relaxed.crystal.volume) ** (1 / 3) == pytest.approx(1.5418 * 3.40, rel=2e-3)
    assert relaxed.energy == pytest.approx(-8.610 * 0.0104, rel=1e-2)
    assert relaxed.spacegroup == 225
    assert relaxed.volume_change == pytest.approx((1.5418 * 3.40 / a) ** 3 - 1, abs=0.01)


def test_positions_relax_too() -> None:
    salt = build("rocksalt", ("Na", "Cl"), 5.7)
    relaxed = relax(salt, RigidIonPotential("NaCl").calculator())
    atoms = relaxed.crystal.to_atoms()
    atoms.calc = RigidIonPotential("NaCl").calculator()
    assert np.abs(atoms.get_forces()).max() < 1e-3
    assert np.abs(atoms.get_stress()).max() * atoms.get_volume() < 5e-3
    assert len(relaxed.crystal) == 2
    assert relaxed.displacement == pytest.approx(0, abs=1e-9)


def test_the_largest_displacement_is_that_of_the_atoms_within_the_cell() -> None:
    """Five layers between copper, squeezed: the strain of the cell does not count, the common shift neither."""
    lattice = np.diag([2.55, 2.55, 10.2])
    heights = [0.0, 0.2, 0.4, 0.6, 0.82]
    places = [[0.5 * (n % 2), 0.5 * (n % 2), z] for n, z in enumerate(heights)]
    crystal = Crystal.from_symbols(lattice, ["Au", "Cu", "Cu", "Cu", "Cu"], places)
    relaxed = relax(crystal, EMT(), RelaxationSettings(max_steps=500))
    before, after = (np.sort(c.frac_coords[:, 2] - c.frac_coords[0, 2]) for c in (crystal, relaxed.crystal))
    assert 0.01 < relaxed.displacement < 2
    assert len(before) == len(after)


def test_symmetry_that_changes_is_told() -> None:
    with pytest.raises(CalculationError, match=r"139 .* 225") as caught:
        relax(argon(5.2, 5.3), calculator(), RelaxationSettings(force_tolerance=1e-5))
    assert caught.value.reason == "symmetry_broken"


@pytest.mark.parametrize(
    ("a", "settings", "message"),
    [
        (5.0, RelaxationSettings(force_tolerance=1e-8, max_steps=2), "after 2 relaxation steps"),
        (5.6, RelaxationSettings(max_volume_change=0.05), "the volume changed by"),
    ],
)
def test_what_does_not_converge_is_told(a: float, settings: RelaxationSettings, message: str) -> None:
    with pytest.raises(CalculationError, match=message) as caught:
        relax(argon(a), calculator(), settings)
    assert caught.value.reason == "not_converged"


def test_a_crystal_that_falls_apart_is_told() -> None:
    with pytest.raises(CalculationError) as caught:
        relax(argon(3.0), calculator())
    assert caught.value.reason == "not_converged"


def test_a_guarded_calculator_gives_what_the_inner_one_gives() -> None:
    atoms = argon(5.2).to_atoms().repeat(2)
    atoms.rattle(0.05, seed=0)
    values: dict[str, Any] = {}
    for name, calc in (("inner", calculator()), ("guarded", Guarded(calculator()))):
        atoms.calc = calc
        values[name] = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
    for inner, guarded in zip(values["inner"], values["guarded"], strict=True):
        np.testing.assert_array_equal(inner, guarded)
