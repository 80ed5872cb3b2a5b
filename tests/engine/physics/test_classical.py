"""Classical potentials give what was published of them, and forces and stress are derivatives of the energy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import CalculatorSetupError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import BFGS
from ase.units import GPa

from engine.physics.classical import COULOMB, LENNARD_JONES, RIGID_IONS, PairPotential
from engine.physics.energy_volume import EquationOfState, equation_of_state
from engine.physics.potentials import load_potential
from tests.engine.physics.salts import BULK_MODULI, LATTICE_CONSTANTS, diamond, fcc, rocksalt


def curve(spec: str, crystal) -> EquationOfState:
    return equation_of_state(crystal, load_potential(spec).energies, strain=0.03)


@pytest.mark.parametrize("symbol", LENNARD_JONES)
def test_lennard_jones_gives_the_lattice_sums_of_textbooks(symbol):
    """Ashcroft and Mermin, chapter 20: nearest distance 1.09 sigma, -8.61 epsilon an atom, 75 epsilon / sigma^3."""
    term = LENNARD_JONES[symbol]
    found = curve(f"lennard-jones:{symbol}", fcc(symbol, 1.54 * term.sigma))
    nearest = (4 * found.minimum) ** (1 / 3) / 2**0.5
    assert nearest / term.sigma == pytest.approx(1.090, abs=0.002)
    assert found.energy(found.minimum) / term.epsilon == pytest.approx(-8.61, rel=0.01)
    assert found.bulk_modulus(found.minimum) == pytest.approx(75 * term.epsilon / term.sigma**3 / GPa, rel=0.01)


def test_tersoff_silicon_is_as_published():
    """Lattice constant 5.432 Angstrom, 4.63 eV an atom; C11, C12, C44 of 142.5, 75.4 and 69.0 GPa (Tersoff, 1988)."""
    found = curve("tersoff:Si", diamond("Si", 5.43))
    length = (4 * found.minimum) ** (1 / 3)
    assert length == pytest.approx(5.432, abs=0.001)
    assert found.energy(found.minimum) / 2 == pytest.approx(-4.63, abs=0.005)
    atoms = diamond("Si", length).to_atoms()
    c11, c12 = stress(atoms, "tersoff:Si", [0, 0])[:2]
    c44 = stress(atoms, "tersoff:Si", [1, 2])[3]
    assert (c11, c12, c44) == pytest.approx((142.5, 75.4, 69.0), rel=0.01)


def stress(atoms, spec: str, axes: list[int], strain: float = 1e-3) -> np.ndarray:
    """Elastic constants C_i from the stress at a small strain, atoms relaxed, in GPa."""
    i, j = axes
    found = []
    for sign in (1, -1):
        deformation = np.eye(3)
        deformation[i, j] += sign * strain
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        strained.calc = load_potential(spec).calculator()
        BFGS(strained, logfile=None).run(fmax=1e-5)
        found.append(strained.get_stress())
    return (found[0] - found[1]) / (2 * strain) / GPa


@pytest.mark.parametrize("formula", RIGID_IONS)
def test_rigid_ions_give_the_crystals_they_were_fitted_to(formula):
    """Fitted to lattice constants at room temperature and used without vibrations: within 2 %."""
    found = curve(f"rigid-ion:{formula}", rocksalt(formula))
    assert (4 * found.minimum) ** (1 / 3) == pytest.approx(LATTICE_CONSTANTS[formula], rel=0.02)
    if formula in BULK_MODULI:
        assert found.bulk_modulus(found.minimum) == pytest.approx(BULK_MODULI[formula], rel=0.2)


def test_sodium_chloride_is_bound_as_measured():
    """7.9 to 8.0 eV a pair of ions (Born-Haber cycle; Kittel, chapter 3)."""
    found = curve("rigid-ion:NaCl", rocksalt("NaCl"))
    assert float(found.energy(found.minimum)) == pytest.approx(-7.95, rel=0.02)


@pytest.mark.parametrize(("structure", "constant"), [("rocksalt", 1.747565), ("cesiumchloride", 1.762675)])
def test_ewald_gives_madelung_constants(structure, constant):
    length = {"rocksalt": 2.0, "cesiumchloride": 2 / 3**0.5}[structure]
    atoms = bulk("NaCl", structure, a=length)
    atoms.calc = PairPotential({}, cutoff=9.0, charges={"Na": 1.0, "Cl": -1.0})
    assert -atoms.get_potential_energy() / COULOMB == pytest.approx(constant, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "crystal"),
    [
        ("lennard-jones:Ar", fcc("Ar", 5.2)),
        ("rigid-ion:NaCl", rocksalt("NaCl", 5.5)),
        ("rigid-ion:MgO", rocksalt("MgO", 4.3)),
        ("tersoff:Si", diamond("Si", 5.5)),
    ],
)
def test_forces_and_stress_are_derivatives(spec, crystal):
    atoms = crystal.to_atoms() * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    atoms.calc = load_potential(spec).calculator()
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, 1e-4), atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-7)


def test_what_is_none_of_the_salts_is_refused():
    atoms = bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)
    del atoms[0]
    atoms.calc = load_potential("rigid-ion").calculator()
    with pytest.raises(CalculatorSetupError, match="ClNa"):
        atoms.get_potential_energy()
