"""One crystal, one hash; another crystal, another hash."""

from __future__ import annotations

import gzip
import json
from functools import cache

import numpy as np
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure

from engine.materials.arrangements import Arrangement
from engine.materials.crystal import Crystal, isotopes_of
from engine.materials.identity import identify, isometry_invariants, standardise
from tests.engine.materials.cases import (
    another_setting,
    material,
    rocksalt,
    rutile,
    shared,
    silicon_carbide,
    zincblende,
)


@pytest.fixture(autouse=True)
def _spglib_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 otherwise announces at every call that version 3 will raise."""
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", False)


@cache
def agl_crystals() -> list[Crystal]:
    with gzip.open(shared("aflow_agl.jsonl.gz")) as lines:
        rows = [json.loads(line) for line in lines]
    return [Crystal.from_symbols(r["lattice"], r["species"], r["frac_coords"]) for r in rows]


def test_primitive_cell_equals_spglib_with_two_calls() -> None:
    for crystal in agl_crystals()[::12]:
        mine, spacegroup = standardise(crystal)
        cell = (crystal.lattice, crystal.frac_coords, crystal.numbers)
        lattice, positions, numbers = spglib.standardize_cell(cell, to_primitive=True, symprec=0.01)
        assert spacegroup == spglib.get_symmetry_dataset(cell, symprec=0.01).number
        np.testing.assert_allclose(mine.lattice, lattice, atol=1e-9 if Arrangement.of(crystal) is None else 1e-5)
        theirs = Crystal(lattice, numbers, positions)
        np.testing.assert_allclose(isometry_invariants(mine), isometry_invariants(theirs), atol=1e-6)
        assert Arrangement.of(crystal) is not None or _same_sites(mine, theirs)


def _same_sites(a: Crystal, b: Crystal) -> bool:
    away = a.frac_coords[:, None] - b.frac_coords[None]
    close = np.abs(away - np.round(away)).max(axis=2) < 1e-6
    return len(a) == len(b) and bool((close & (a.numbers[:, None] == b.numbers[None])).any(axis=1).all())


@pytest.mark.parametrize(
    ("spacegroup", "centring"), [(225, "F"), (229, "I"), (166, "R"), (12, "C"), (38, "A"), (221, "P")]
)
def test_every_centring_has_its_primitive_cell(spacegroup: int, centring: str) -> None:
    crystal = _any_crystal_of(spacegroup)
    dataset = spglib.get_symmetry_dataset((crystal.lattice, crystal.frac_coords, crystal.numbers), symprec=0.01)
    assert dataset.international[0] == centring
    standard, number = standardise(crystal)
    assert number == spacegroup
    lattice, _, numbers = spglib.standardize_cell(
        (crystal.lattice, crystal.frac_coords, crystal.numbers), to_primitive=True, symprec=0.01
    )
    np.testing.assert_allclose(standard.lattice, lattice, atol=1e-9)
    assert len(standard) == len(numbers)


def _any_crystal_of(spacegroup: int) -> Crystal:
    """Carbon and silicon on general positions of the group's first Hall setting."""
    hall = next(h for h in range(1, 531) if spglib.get_spacegroup_type(h).number == spacegroup)
    symmetry = spglib.get_symmetry_from_database(hall)
    lattices = {
        166: [[9.0, 0, 0], [-4.5, 4.5 * 3**0.5, 0], [0, 0, 20.0]],
        12: [[9.0, 0, 0], [0, 7.0, 0], [-1.0, 0, 8.0]],
        38: np.diag([9.0, 7.0, 8.0]),
    }
    orbits = [
        (symmetry["rotations"] @ point + symmetry["translations"]) % 1.0
        for point in (np.array([0.11, 0.23, 0.31]), np.array([0.17, 0.05, 0.42]))
    ]
    numbers = np.repeat([6, 14], [len(orbit) for orbit in orbits])
    return Crystal(lattices.get(spacegroup, 9.0 * np.eye(3)), numbers, np.concatenate(orbits))


@pytest.mark.parametrize("symprec", [1e-2, 1e-3, 1e-5])
def test_symmetry_is_found_within_any_tolerance(symprec: float) -> None:
    structures = {225: ("rocksalt", ["Na", "Cl"]), 216: ("zincblende", ["Zn", "S"])}
    for number, (prototype, species) in structures.items():
        structure = Structure.from_prototype(prototype, species, a=5.5)
        assert standardise(Crystal.from_structure(structure), symprec)[1] == number


def test_standardising_twice_changes_nothing() -> None:
    for crystal in (rocksalt(), rutile(), silicon_carbide("ABCB")):
        once = material(crystal)
        twice = material(once.crystal)
        assert once.content_hash == twice.content_hash
        assert once.bucket == twice.bucket
        np.testing.assert_allclose(once.crystal.lattice, twice.crystal.lattice, atol=1e-9)


def test_sites_that_are_symmetric_only_within_tolerance_may_come_in_any_order() -> None:
    """What spglib makes of such a crystal depends on the order; the hash must not."""
    lattice, coords = 3.905 * np.eye(3), np.array([[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    numbers = np.array([38, 22, 8, 8, 8])
    rough = coords + np.random.default_rng(3).uniform(-1e-3, 1e-3, coords.shape)
    hashes = {
        material(Crystal(lattice, numbers[order], rough[order])).content_hash
        for order in ([0, 1, 2, 3, 4], [0, 1, 4, 3, 2], [1, 3, 2, 0, 4])
    }
    assert len(hashes) == 1


def test_a_crystal_without_symmetry_keeps_its_niggli_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spglib, "get_symmetry_dataset", lambda *_, **__: None)
    sheared = Crystal(np.array([[1, 0, 0], [3, 1, 0], [0, 0, 1]]) @ np.diag([4.0, 4.1, 4.2]), [55], [[0.2, 0.3, 0.4]])
    standard, spacegroup = standardise(sheared)
    assert spacegroup == 1
    np.testing.assert_allclose(sorted(np.linalg.norm(standard.lattice, axis=1)), [4.0, 4.1, 4.2], atol=1e-9)
    assert standard.volume == pytest.approx(sheared.volume)


@settings(max_examples=60, deadline=None)
@given(row=st.integers(0, 3405), seed=st.integers(0, 2**32 - 1))
def test_hash_ignores_cell_origin_orientation_and_order(row: int, seed: int) -> None:
    crystal = agl_crystals()[row]
    again = another_setting(crystal, np.random.default_rng(seed), max_cells=3)
    assert material(again).content_hash == material(crystal).content_hash


def test_hash_survives_numerical_noise() -> None:
    """Of these 101 one may sit on the edge of an interval; the rate over many is one or two in a thousand."""
    rng = np.random.default_rng(0)
    split = 0
    for crystal in agl_crystals()[::34]:
        again = another_setting(crystal, rng, noise=1e-6, max_cells=2)
        split += material(again).content_hash != material(crystal).content_hash
    assert split <= 1


def test_all_agl_crystals_differ() -> None:
    crystals = agl_crystals()[::10]
    assert len({material(c).content_hash for c in crystals}) == len(crystals)


def test_polymorphs_differ() -> None:
    stackings = ["AB", "ABC", "ABCB", "ABCACB", "ABABC", "ABABABC", "ABABCBC", "ABABABAC", "ABACABCB"]
    hashes = {material(silicon_carbide(s)).content_hash for s in stackings}
    assert len(hashes) == len(stackings)
    assert material(rocksalt(4.35, "Si", "C")).content_hash != material(zincblende()).content_hash


def test_polytypes_of_the_shared_data_differ() -> None:
    """SiC with 14, 28 and 42 sites, ScCuO2 in two stackings, two orderings of Zn and Co in MgO."""
    wanted = {
        "tl_shear_modulus": ["gv-7065", "gv-6673", "gv-6674"],
        "tl_phonon_peak": ["ph-622", "ph-557"],
        "tl_band_gap": ["bg-55255", "bg-41269"],
    }
    for file, names in wanted.items():
        with gzip.open(shared(f"{file}.jsonl.gz")) as lines:
            rows = [r for r in map(json.loads, lines) if r["id"] in names]
        crystals = [Crystal.from_symbols(r["lattice"], r["species"], r["frac_coords"]) for r in rows]
        assert len({material(c).content_hash for c in crystals}) == len(names)


def test_site_exchange_differs() -> None:
    """Half-Heuslers of one formula and cell that differ in which element sits on the middle site."""
    lattice = 3.2 * (1 - np.eye(3))
    coords = [[0, 0, 0], [0.25, 0.25, 0.25], [0.5, 0.5, 0.5]]
    orders = [["Li", "Mg", "Sb"], ["Mg", "Li", "Sb"], ["Li", "Sb", "Mg"]]
    assert len({material(Crystal.from_symbols(lattice, order, coords)).content_hash for order in orders}) == 3


def test_enantiomorphs_share_a_hash() -> None:
    right = quartz()
    left = Crystal(right.lattice, right.numbers, -right.frac_coords)
    a, b = material(right), material(left)
    assert {a.spacegroup, b.spacegroup} == {152, 154}
    assert a.content_hash == b.content_hash


def quartz() -> Crystal:
    from pymatgen.core import Lattice, Structure

    structure = Structure.from_spacegroup(
        "P3_121",
        Lattice.hexagonal(4.913, 5.405),
        ["Si", "O"],
        [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.1191 + 1 / 3]],
    )
    return Crystal.from_structure(structure)


@pytest.mark.parametrize(
    ("isotopes", "words"),
    [("2H", "deuterium"), ("3H", "tritium"), ("2H:0.5", "deuterium"), ("2H:0.5,3H:0.5", "deuterium and tritium")],
)
def test_isotopes_make_another_material(isotopes: str, words: str) -> None:
    natural = identify("a", rocksalt(4.08, "Li", "H"), {"k": 1.0})
    other = identify("b", rocksalt(4.08, "Li", "H"), {"k": 2.0}, isotopes=isotopes)
    assert natural.properties == {"k": 1.0}
    assert isotopes_of(natural.bucket) == ""
    another = identify("c", rocksalt(4.08, "Li", "H"), isotopes="2H:0.25")
    assert len({m.content_hash for m in (natural, other, another)}) == 3
    assert other.properties == {"k": 2.0, "isotopes": isotopes}
    assert (other.formula, isotopes_of(other.bucket)) == (natural.formula, isotopes)
    assert other.crystal.to_dict() == natural.crystal.to_dict()
    assert words in other.notes[-1]


def test_hashes_stay_what_they_were() -> None:
    """They are in stores."""
    assert identify("a", rocksalt()).content_hash == "b8e45384eba2436e8c52409742e1eb18"
