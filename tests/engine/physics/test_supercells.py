"""Supercells by length, and the number of displaced ones before any is made."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from phono3py import Phono3py

from engine.exceptions import SupercellError
from engine.materials.crystal import Crystal
from engine.materials.prototypes import build
from engine.physics import supercells
from engine.physics.supercells import DisplacementCount, count_displacements, supercell_matrix, to_phonopy

SALT = build("rocksalt", ("Na", "Cl"), 5.64)


def lengths(crystal: Crystal, matrix: np.ndarray) -> np.ndarray:
    return 1 / np.linalg.norm(np.linalg.inv(matrix.T @ crystal.lattice), axis=0)


@pytest.mark.parametrize(
    ("crystal", "min_length", "n_atoms"),
    [
        (SALT, 11.0, 64),
        (SALT, 11.28, 64),
        (SALT, 11.4, 216),
        (SALT, 0.5, 8),
        (build("rocksalt", ("Na", "Cl"), 5.64, primitive=False), 11.0, 64),
        (build("wurtzite", ("Zn", "O"), 3.25), 8.0, 4 * 3 * 3 * 2),
        (build("CsCl", ("Cs", "Cl"), 4.1), 8.0, 16),
    ],
)
def test_the_conventional_cell_is_repeated_until_long_enough(crystal: Crystal, min_length: float, n_atoms: int) -> None:
    matrix = supercell_matrix(crystal, min_length)
    assert matrix.dtype.kind == "i"
    assert round(np.linalg.det(matrix)) * len(crystal) == n_atoms
    assert lengths(crystal, matrix).min() >= 0.999 * min_length


def test_a_cubic_crystal_gets_a_cube() -> None:
    matrix = supercell_matrix(SALT, 11.0)
    np.testing.assert_allclose(matrix.T @ SALT.lattice, 11.28 * np.eye(3), atol=1e-9)


def test_atoms_and_crystals_give_the_same() -> None:
    np.testing.assert_array_equal(supercell_matrix(SALT.to_atoms(), 9), supercell_matrix(SALT, 9))


def test_a_supercell_given_as_the_cell_is_repeated_along_its_own_axes() -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat((2, 1, 1))
    np.testing.assert_array_equal(supercell_matrix(atoms, 10.0), np.diag([1, 2, 2]))


@pytest.mark.parametrize("length", [0.0, -1.0, np.nan, np.inf])
def test_a_length_must_be_positive(length: float) -> None:
    with pytest.raises(SupercellError, match="must be positive"):
        supercell_matrix(SALT, length)


@pytest.mark.parametrize("cutoff", [None, 5.0])
def test_the_count_is_phono3pys(cutoff: float | None) -> None:
    matrix = supercell_matrix(SALT, 11.0)
    phonons = Phono3py(to_phonopy(SALT), supercell_matrix=matrix, primitive_matrix="auto")
    phonons.generate_displacements(cutoff_pair_distance=cutoff)
    made = sum(cell is not None for cell in phonons.supercells_with_displacements)
    assert count_displacements(SALT, matrix, cutoff) == DisplacementCount(fc2=2, fc3=made, n_atoms=64)
    assert made == {None: 146, 5.0: 62}[cutoff]


def test_an_enormous_count_is_estimated_and_refused() -> None:
    rng = np.random.default_rng(0)
    crystal = Crystal(np.diag([5.0, 6.0, 7.0]), np.full(10, 14), rng.random((10, 3)))
    count = count_displacements(crystal, np.diag([2, 2, 2]))
    assert count == DisplacementCount(fc2=60, fc3=60 + 60 * 6 * 80, n_atoms=80, exact=False)
    assert count_displacements(crystal, np.diag([2, 2, 2]), pair_cutoff=4.0).fc3 < count.fc3
    with pytest.raises(SupercellError, match=r"28,860 .*80 atoms .*57,720 core-hours"):
        count.require_at_most(2_000, core_hours_each=2.0)
    count.require_at_most(30_000)


def test_the_estimate_is_near_where_both_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    crystal = build("wurtzite", ("Zn", "O"), 3.25)
    matrix = supercell_matrix(crystal, 6.0)
    exact = count_displacements(crystal, matrix)
    monkeypatch.setattr(supercells, "ENUMERATED", 0)
    estimate = count_displacements(crystal, matrix)
    assert exact.exact
    assert not estimate.exact
    assert 0.5 < estimate.fc3 / exact.fc3 < 1.2


def test_symfc_leaves_pythons_recursion_limit_alone() -> None:
    """Its import raises the limit to a depth at which nested JSON overflows the stack."""
    program = (
        "import json, sys\n"
        "from ase.build import bulk\n"
        "from engine.physics.supercells import count_snapshots, supercell_matrix\n"
        "silicon = bulk('Si')\n"
        "before = sys.getrecursionlimit()\n"
        "count_snapshots(silicon, supercell_matrix(silicon, 5.0), 3)\n"
        "assert 'symfc.eig_solvers.matrix' in sys.modules\n"
        "assert sys.getrecursionlimit() == before\n"
        "try:\n    json.loads('[' * 100_000)\nexcept RecursionError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
