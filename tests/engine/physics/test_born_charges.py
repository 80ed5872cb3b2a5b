"""Born charges: files as phonopy reads them, other cells of a crystal, what is refused, and the splitting they make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phonopy import Phonopy

from engine.exceptions import BornChargesError
from engine.materials.crystal import Crystal
from engine.materials.elements import ATOMIC_MASS
from engine.materials.identity import standardise
from engine.materials.poscar import parse_poscar
from engine.physics.born_charges import PolarCrystal, carried_over, polar_crystal, read_born
from engine.physics.force_constants import fitted_phonons
from engine.physics.outcome import Calculated, Failed
from engine.physics.phonon_settings import PhononSettings
from engine.physics.phonons import METHOD, WITH_CHARGES, calculate_kappa
from engine.physics.potentials import RigidIonPotential
from engine.physics.relaxation import relax
from engine.physics.second_attempts import along_imaginary_mode, with_larger_supercell
from engine.physics.supercells import to_phonopy
from tests.engine.physics.polar import AL2O3, ALN, MGO, NACL, Charged, rotated, some_rotation
from tests.engine.physics.salts import fcc_pair, rocksalt

QUICK = PhononSettings(min_length=7.0, first_mesh=12, last_mesh=12, wigner=False)
ISOTROPIC = {"NaCl": NACL, "MgO": MGO}


def write(directory: Path, text: str, poscar: str = "") -> tuple[Path, Path | None]:
    (born := directory / "BORN").write_text(text)
    if not poscar:
        return born, None
    (cell := directory / "POSCAR").write_text(poscar)
    return born, cell


def read(directory: Path, charged: Charged, crystal: Crystal) -> PolarCrystal:
    born, cell = write(directory, *charged)
    return read_born(born, crystal, cell)


def cell_of(charged: Charged) -> Crystal:
    return parse_poscar(charged.poscar.encode()).crystal


@pytest.mark.parametrize("formula", ISOTROPIC)
def test_a_file_of_a_simple_salt_needs_no_cell(formula: str, tmp_path: Path) -> None:
    """Whichever ion comes first in the crystal, the correction is the same."""
    born, _ = write(tmp_path, ISOTROPIC[formula])
    rows = np.loadtxt(ISOTROPIC[formula].splitlines()[1:])
    salt = rocksalt(formula)
    for crystal in (salt, Crystal(salt.lattice, salt.numbers[::-1], salt.frac_coords)):
        polar = read_born(born, crystal)
        np.testing.assert_allclose(np.abs(polar.born), abs(rows[1, 0]) * np.array([np.eye(3)] * 2), atol=1e-3)
        np.testing.assert_allclose(polar.born.sum(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(polar.dielectric, rows[0].reshape(3, 3), atol=1e-12)
        assert polar.charges_change == pytest.approx(abs(rows[1, 0] + rows[2, 0]) / 2, abs=1e-9)
        assert json.loads(json.dumps(polar.describe()))["source"].startswith("BORN, SHA-256 ")


@pytest.mark.parametrize("charged", [ALN, AL2O3], ids=["AlN", "Al2O3"])
def test_charges_turn_with_the_crystal_and_follow_their_atoms(charged: Charged, tmp_path: Path) -> None:
    crystal = standardise(cell_of(charged))[0]
    polar = read(tmp_path, charged, crystal)
    rotation, order = some_rotation(1), np.random.default_rng(0).permutation(len(crystal))
    turned = rotated(crystal, rotation)
    there = carried_over(polar, Crystal(turned.lattice, turned.numbers[order], (turned.frac_coords[order] + 0.3) % 1))
    np.testing.assert_allclose(there.born, rotation @ polar.born[order] @ rotation.T, atol=1e-8)
    np.testing.assert_allclose(there.dielectric, rotation @ polar.dielectric @ rotation.T, atol=1e-8)
    again = read(tmp_path, charged, Crystal(turned.lattice, turned.numbers[order], turned.frac_coords[order]))
    np.testing.assert_allclose(again.born, there.born, atol=1e-8)


def test_the_file_of_a_conventional_cell_is_that_of_its_atoms(tmp_path: Path) -> None:
    """Phonopy's file has atoms 1 and 13 of 30; their tensors are in it to all digits."""
    conventional = cell_of(AL2O3)
    polar = read(tmp_path, AL2O3, standardise(conventional)[0])
    rows = np.loadtxt(AL2O3.born.splitlines()[1:]).reshape(3, 3, 3)
    lists = [np.linalg.eigvals(tensor) for tensor in polar.born]
    for row, site in ((rows[1], 13), (rows[2], 8)):
        alike = [np.sort_complex(values) for values, z in zip(lists, polar.numbers, strict=True) if z == site]
        assert len(alike) == {13: 4, 8: 6}[site]
        for values in alike:
            np.testing.assert_allclose(values, np.sort_complex(np.linalg.eigvals(row)), atol=1e-6)


def test_a_file_of_another_order_than_the_crystal_is_read_by_its_cell(tmp_path: Path) -> None:
    """The crystal's order is Cl, Na: rows are those of the POSCAR."""
    poscar = "NaCl\n5.69\n0 .5 .5\n.5 0 .5\n.5 .5 0\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
    salt = rocksalt("NaCl")
    other = Crystal(salt.lattice, salt.numbers[::-1], salt.frac_coords)
    polar = read(tmp_path, Charged(NACL, poscar), other)
    assert [round(float(z), 3) for z in polar.born[:, 0, 0]] == [-1.09, 1.09]


THREE = """KMgF3
4.0
1 0 0
0 1 0
0 0 1
K Mg F
1 1 3
Direct
0 0 0
.5 .5 .5
0 .5 .5
.5 0 .5
.5 .5 0
"""


@pytest.mark.parametrize(
    ("born", "poscar", "formula", "message"),
    [
        (NACL.replace("-1.09", "1.09"), "", "NaCl", "add up to"),
        ("\n".join(NACL.splitlines()[:3]), "", "NaCl", "2 atoms, 2 different by symmetry"),
        (NACL + NACL.splitlines()[-1] + "\n", "", "NaCl", "2 atoms, 2 different by symmetry"),
        (NACL.replace("2.56345522", "nan"), "", "NaCl", "numbers that are not finite"),
        (NACL.replace("1.09044426", "1.09x"), "", "NaCl", "not a BORN file of NaCl"),
        (NACL.replace("2.563", "0.563"), "", "NaCl", "eigenvalues of at least 1"),
        ("", "", "NaCl", "not a BORN file of NaCl"),
        (ALN.born, "", "NaCl", "does not say which charge is of which atom"),
        (ALN.born, ALN.poscar, "NaCl", "of another crystal: AlN is not NaCl"),
        (NACL, "nonsense\n", "NaCl", "POSCAR beside it cannot be read"),
        (NACL, ALN.poscar, "AlN", "add up to|break the symmetry|Born charges"),
    ],
    ids=[
        "sum", "too few", "too many", "nan", "text", "metal", "empty", "axes", "other crystal", "poscar", "wrong rows",
    ],
)  # fmt: skip
def test_bad_files_are_refused(born: str, poscar: str, formula: str, message: str, tmp_path: Path) -> None:
    crystal = rocksalt("NaCl") if formula == "NaCl" else standardise(cell_of(ALN))[0]
    if formula == "AlN":  # charges that do not belong to the sites by symmetry
        born = ALN.born.replace("2.5126475 0 0 0 2.5126475", "2.9126475 0 0 0 2.1126475")
    path, cell = write(tmp_path, born, poscar)
    with pytest.raises(BornChargesError, match=message):
        read_born(path, crystal, cell)


def test_three_kinds_of_atoms_need_their_cell(tmp_path: Path) -> None:
    """K, Mg and F of isotropic charges add up to zero in more than one order."""
    perovskite = parse_poscar(THREE.encode()).crystal
    rows = [1.0, 2.0, -1.0]
    text = "isotropic\n" + "\n".join(f"{x} 0 0 0 {x} 0 0 0 {x}" for x in [2.1, *rows]) + "\n"
    born, cell = write(tmp_path, text, THREE)
    with pytest.raises(BornChargesError, match="which charge is of which atom"):
        read_born(born, perovskite)
    polar = read_born(born, perovskite, cell)
    np.testing.assert_allclose(polar.born[:, 0, 0], [1, 2, -1, -1, -1])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BornChargesError, match="none: none cannot be read"):
        read_born(tmp_path / "none", rocksalt("NaCl"))


@pytest.mark.parametrize(
    ("born", "dielectric", "message"),
    [
        (np.zeros((3, 3, 3)), np.eye(3), "shape"),
        (np.zeros((2, 3, 3)), np.eye(2), "shape"),
        (np.full((2, 3, 3), np.inf), np.eye(3), "not finite"),
        (np.zeros((2, 3, 3)), np.eye(3) + np.diag([1.0, 1.0], 1), "symmetric"),
    ],
)
def test_arrays_are_checked(born: np.ndarray, dielectric: np.ndarray, message: str) -> None:
    salt = rocksalt("NaCl")
    with pytest.raises(BornChargesError, match=message):
        polar_crystal(salt, born, dielectric)


def with_ions(formula: str, charge: float, dielectric: float) -> PolarCrystal:
    salt = rocksalt(formula)
    return polar_crystal(salt, charge * np.array([np.eye(3), -np.eye(3)]), dielectric * np.eye(3))


@pytest.mark.parametrize(("formula", "charge", "dielectric"), [("NaCl", 1.09, 2.56), ("MgO", 1.97, 3.38), ("KF", 1, 1)])
def test_modes_split_as_the_charges_say(formula: str, charge: float, dielectric: float) -> None:
    """w_LO^2 - w_TO^2 = e^2 Z*^2 / (eps_0 eps V mu), of the phonons that kappa is calculated with."""
    polar = with_ions(formula, charge, dielectric)
    calculator = RigidIonPotential(formula).calculator()
    relaxed = relax(polar, calculator).crystal
    phonons = fitted_phonons(relaxed, calculator, QUICK, {})
    phonons.nac_params = carried_over(polar, relaxed).nac_params
    phonons.mesh_numbers = 3 * [3]
    frequencies = []
    for direction in (None, [1, 0, 0], [0.3, 0.2, 0.7]):
        phonons.init_phph_interaction(nac_q_direction=direction)
        phonons.run_phonon_solver()
        frequencies.append(np.sort(phonons.get_phonon_data()[0][phonons.grid.gp_Gamma])[3:])
    without, *split = frequencies
    np.testing.assert_allclose(without, without[0], rtol=1e-6)
    first, second = ATOMIC_MASS[relaxed.numbers] * 1.66053906660e-27
    reduced = first * second / (first + second)
    field = (1.602176634e-19 * charge) ** 2 / (8.8541878128e-12 * dielectric * relaxed.volume * 1e-30 * reduced)
    expected = np.sqrt((2 * np.pi * without[0] * 1e12) ** 2 + field) / (2 * np.pi * 1e12)
    for found in split:
        assert found[:2] == pytest.approx(without[:2], rel=1e-4), "transverse modes stay"
        assert found[2] == pytest.approx(expected, rel=1e-3)
        assert expected > 1.2 * without[0]


def calculated(crystal: Crystal) -> Calculated:
    outcome = calculate_kappa(crystal, RigidIonPotential("NaCl"), QUICK)
    assert isinstance(outcome, Calculated), outcome
    return outcome


def test_kappa_says_whether_charges_were_used() -> None:
    """The same in rotated axes; without charges the method is another one."""
    polar = with_ions("NaCl", 1.0, 1.0)
    turned = rotated(polar, some_rotation(2))
    rotation = some_rotation(2)
    turned = polar_crystal(turned, rotation @ polar.born @ rotation.T, polar.dielectric, "by hand")
    without, one, other = calculated(rocksalt("NaCl")), calculated(polar), calculated(turned)
    assert one.method == other.method == METHOD + WITH_CHARGES
    assert without.method == METHOD
    assert [o.provenance["non_analytical_correction"] for o in (without, one, other)] == [False, True, True]
    assert "born_charges" not in without.provenance
    kept = json.loads(json.dumps(other.provenance, allow_nan=False))["born_charges"]
    assert kept["source"] == "by hand"
    np.testing.assert_allclose(np.abs(kept["born"]), [np.eye(3)] * 2, atol=1e-9)
    assert one.kappa == pytest.approx(other.kappa, rel=5e-3), "degenerate modes are a matter of chance"
    assert 0.01 < abs(one.kappa / without.kappa - 1) < 0.5
    assert one.provenance["max_frequency_THz"] > 1.1 * without.provenance["max_frequency_THz"]


def test_charges_of_another_crystal_are_a_refusal() -> None:
    zincblende = fcc_pair("NaCl", 5.64, 0.25)
    polar = polar_crystal(zincblende, np.array([np.eye(3), -np.eye(3)]), np.eye(3))
    # as if a relaxation had led to another structure
    with pytest.raises(BornChargesError, match="of another crystal"):
        carried_over(polar, rocksalt("NaCl"))
    outcome = calculate_kappa(with_ions("KF", 1, 1), RigidIonPotential("NaCl"), QUICK)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "rejected"


def test_a_larger_supercell_keeps_the_charges_and_a_distortion_is_not_followed() -> None:
    polar = with_ions("NaCl", 1.0, 1.0)
    calculator = RigidIonPotential("NaCl").calculator()
    relaxed = relax(polar, calculator)
    small = {"min_length": 5.0, "displacements": "systematic", "supercell_growth": 1.01}
    settings = replace(QUICK, imaginary_tolerance=-100.0, **small)
    phonons = fitted_phonons(relaxed.crystal, calculator, settings, {})
    phonons.nac_params = polar.nac_params
    larger, _ = with_larger_supercell(phonons, relaxed.crystal, calculator, settings)
    assert larger is not None
    assert larger.nac_params == polar.nac_params
    harmonic = Phonopy(to_phonopy(relaxed.crystal), larger.phonon_supercell_matrix, primitive_matrix="P")
    harmonic.force_constants, harmonic.nac_params = larger.fc2, larger.nac_params
    harmonic.run_qpoints([[0, 0, 0]], nac_q_direction=[1, 0, 0])
    larger.mesh_numbers = 3 * [3]
    larger.init_phph_interaction(nac_q_direction=[1, 0, 0])
    larger.run_phonon_solver()
    own = np.sort(larger.get_phonon_data()[0][larger.grid.gp_Gamma])
    assert own[-1] == pytest.approx(float(harmonic.qpoints.frequencies.max()), rel=1e-3)
    lower, attempt = along_imaginary_mode(phonons, relaxed, calculator, settings)
    assert lower is None
    assert "Born charges" in str(attempt["outcome"])
