"""One crystal in two cells: rotations and orders of sites are found, other crystals are refused."""

from __future__ import annotations

import numpy as np
import pytest

from engine.exceptions import CellMatchError
from engine.materials.crystal import Crystal
from engine.materials.identity import standardise
from engine.materials.poscar import parse_poscar
from engine.physics.cell_matching import matches
from tests.engine.physics.polar import AL2O3, ALN, rotated, some_rotation
from tests.engine.physics.salts import rocksalt

CELLS = {name: parse_poscar(c.poscar.encode()).crystal for name, c in (("AlN", ALN), ("Al2O3", AL2O3))}
OTHER_BASIS = np.array([[1, 1, 0], [0, 1, 0], [1, 0, -1]])


def disguised(crystal: Crystal, seed: int) -> Crystal:
    """Rotate, reorder, strain, shift, and choose another basis."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(crystal))
    turned = rotated(crystal, some_rotation(seed))
    strain = np.diag([1.02, 1.02, 1.01])
    frac = crystal.frac_coords[order] @ np.linalg.inv(OTHER_BASIS) + rng.random(3)
    moved = frac + rng.normal(scale=1e-3, size=frac.shape)
    return Crystal(OTHER_BASIS @ crystal.lattice @ strain @ some_rotation(seed).T, turned.numbers[order], moved % 1)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sites_lie_where_the_match_says(name: str, seed: int) -> None:
    conventional = CELLS[name]
    primitive = disguised(standardise(conventional)[0], seed)
    for match in matches(conventional, primitive):
        np.testing.assert_allclose(match.rotation @ match.rotation.T, np.eye(3), atol=1e-12)
        assert (conventional.numbers[match.sites] == primitive.numbers).all()
        # differences of positions, rotated, are those of the other cell but for lattice vectors and the strain
        there = (conventional.frac_coords[match.sites] @ conventional.lattice) @ match.rotation.T
        apart = (there - there[0]) @ np.linalg.inv(primitive.lattice)
        apart -= primitive.frac_coords - primitive.frac_coords[0]
        assert np.abs(apart - np.rint(apart)).max() < 0.1


def test_every_symmetry_of_the_crystal_is_a_match() -> None:
    salt = rocksalt("NaCl")
    assert len(matches(salt, salt)) == 48
    assert len({match.sites.tobytes() for match in matches(salt, salt)}) == 1


def test_axes_of_a_pseudocubic_lattice_are_told_by_their_lengths() -> None:
    """In CuAu the sites fit in every orientation of the cell; only its lengths tell which axis is which."""
    sites = ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    tall = Crystal.from_symbols(np.diag([2.85, 2.85, 3.05]), *sites)
    aside = Crystal.from_symbols(np.diag([3.05, 2.85, 2.85]), *sites)
    for match in matches(tall, aside):
        np.testing.assert_allclose(abs(match.rotation @ [0, 0, 1]), [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (rocksalt("NaCl"), rocksalt("KCl"), "NaCl is not KCl"),
        (CELLS["AlN"], Crystal.from_symbols(4.38 / 2 * (1 - np.eye(3)), ["Al", "N"], [[0] * 3, [0.25] * 3]), "4 sites"),
        (
            Crystal.from_symbols(5.64 / 2 * (1 - np.eye(3)), ["Na", "Cl"], [[0] * 3, [0.25] * 3]),
            rocksalt("NaCl"),
            "no rotation",
        ),
        (rocksalt("NaCl"), Crystal.from_symbols(3.5 * np.eye(3), ["Na", "Cl"], [[0] * 3, [0.5] * 3]), "no rotation"),
    ],
    ids=["elements", "sites", "zincblende", "caesium chloride"],
)
def test_other_crystals_are_refused(first: Crystal, second: Crystal, message: str) -> None:
    with pytest.raises(CellMatchError, match=message):
        matches(first, second)
