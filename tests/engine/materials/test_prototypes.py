"""Prototypes against spglib and geometry worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import spglib
import spglib.error

from engine.materials.prototypes import PROTOTYPES, build, find

# name: elements, a, c, x, nearest-neighbour distance in Angstrom
CASES = {
    "diamond": (("Si",), 5.431, None, None, math.sqrt(3) / 4 * 5.431),
    "rocksalt": (("Na", "Cl"), 5.640, None, None, 2.820),
    "zincblende": (("Ga", "As"), 5.653, None, None, math.sqrt(3) / 4 * 5.653),
    "wurtzite": (("Al", "N"), 3.112, 4.982, 0.382, 0.382 * 4.982),
    "fluorite": (("Ca", "F"), 5.463, None, None, math.sqrt(3) / 4 * 5.463),
    "antifluorite": (("Mg", "Si"), 6.351, None, None, math.sqrt(3) / 4 * 6.351),
    "CsCl": (("Cs", "I"), 4.567, None, None, math.sqrt(3) / 2 * 4.567),
    "half-Heusler": (("Ti", "Ni", "Sn"), 5.921, None, None, math.sqrt(3) / 4 * 5.921),
    "full-Heusler": (("Fe", "V", "Al"), 5.76, None, None, math.sqrt(3) / 4 * 5.76),
    "perovskite": (("Sr", "Ti", "O"), 3.905, None, None, 3.905 / 2),
    "chalcopyrite": (("Cu", "Ga", "S"), 5.351, 10.484, 0.259, 2.3),
}
DENSITY = {"diamond": 2.33, "rocksalt": 2.165, "zincblende": 5.32, "fluorite": 3.18, "antifluorite": 1.99, "CsCl": 4.51}


@pytest.fixture(autouse=True)
def _errors_of_spglib_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this spglib 2.8 returns None on failure and warns on every call."""
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", False)


def test_every_prototype_has_a_case() -> None:
    assert set(CASES) == set(PROTOTYPES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("primitive", [True, False])
def test_space_group_and_nearest_neighbour(name: str, primitive: bool) -> None:
    elements, a, c, x, expected = CASES[name]
    crystal = build(name, elements, a, c, x, primitive=primitive)
    cell = (crystal.lattice, crystal.frac_coords, crystal.numbers)
    assert spglib.get_symmetry_dataset(cell, symprec=1e-4).number == find(name).spacegroup
    distances = crystal.to_structure().distance_matrix
    np.fill_diagonal(distances, np.inf)
    assert distances.min() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", CASES)
def test_primitive_and_conventional_cells_are_one_crystal(name: str) -> None:
    elements, a, c, x, _ = CASES[name]
    small, large = (build(name, elements, a, c, x, primitive=p) for p in (True, False))
    assert small.volume / len(small) == pytest.approx(large.volume / len(large))
    assert small.formula == large.formula
    cell = spglib.find_primitive((large.lattice, large.frac_coords, large.numbers))
    assert len(cell[2]) == len(small)


@pytest.mark.parametrize("name", DENSITY)
def test_density(name: str) -> None:
    elements, a, c, x, _ = CASES[name]
    assert build(name, elements, a, c, x).density == pytest.approx(DENSITY[name], rel=0.02)


@pytest.mark.parametrize("name", CASES)
def test_shortest_distances(name: str) -> None:
    prototype = find(name)
    elements, a, *_ = CASES[name]
    structure = build(name, elements, a).to_structure()
    nearest = min(n.nn_distance for site in structure for n in structure.get_neighbors(site, a))
    assert prototype.shortest_distances.min() * a == pytest.approx(nearest)
    assert np.allclose(prototype.shortest_distances, prototype.shortest_distances.T)


def test_half_heusler_middle_site_has_eight_neighbours() -> None:
    structure = build("half-Heusler", ("Ti", "Ni", "Sn"), 5.921).to_structure()
    reach = 1.02 * math.sqrt(3) / 4 * 5.921
    assert [len(structure.get_neighbors(site, reach)) for site in structure] == [4, 8, 4]


@pytest.mark.parametrize(
    ("name", "elements", "formula"),
    [
        ("rocksalt", ("Na", "Cl"), "NaCl"),
        ("antifluorite", ("Mg", "Si"), "Mg2Si"),
        ("perovskite", ("Sr", "Ti", "O"), "SrTiO3"),
    ],
)
def test_formula_round_trip(name: str, elements: tuple[str, ...], formula: str) -> None:
    assert find(name).formula(elements) == formula
    assert find(name).elements(formula) == elements


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spinel", ("Mg", "Al", "O"), 8.08), "unknown prototype 'spinel'"),
        (("rocksalt", ("Na",), 5.64), "needs 2 elements"),
        (("rocksalt", ("Na", "Cl"), -1.0), "must be positive"),
        (("rocksalt", ("Na", "Cl"), 5.64, 6.0), "is cubic"),
        (("rocksalt", ("Na", "Cl"), 5.64, None, 0.3), "no free coordinate"),
    ],
)
def test_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*arguments)


def test_formula_of_another_prototype_is_refused() -> None:
    with pytest.raises(ValueError, match="fluorite"):
        find("fluorite").elements("NaCl")
