"""Copies are linked, polymorphs and other orderings are not."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from engine.materials.crystal import Crystal, Material
from engine.materials.duplicates import (
    MAX_LENGTH_STRAIN,
    MAX_SITE_DISTANCE,
    link_duplicates,
    same_compound,
    same_crystal,
)
from engine.materials.identity import identify
from engine.materials.reference import reference_crystals
from tests.engine.materials.cases import (
    another_setting,
    material,
    rocksalt,
    rutile,
    shared,
    silicon_carbide,
    zincblende,
)


def named(file: str, *names: str) -> list[Material]:
    with gzip.open(shared(file)) as lines:
        rows = {r["id"]: r for r in map(json.loads, lines) if r["id"] in names}
    return [
        material(Crystal.from_symbols(r["lattice"], r["species"], r["frac_coords"]), n)
        for n, r in ((n, rows[n]) for n in names)
    ]


def relaxed(crystal: Crystal, strain: float, shift: float = 0.0) -> Crystal:
    """Give the crystal as another functional relaxes it: cell scaled, sites moved by ``shift`` Angstrom."""
    moves = np.random.default_rng(0).normal(size=(len(crystal), 3)) * shift @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.lattice * (1 + strain), crystal.numbers, crystal.frac_coords + moves)


@pytest.mark.parametrize("crystal", [rocksalt(), rutile(), silicon_carbide("ABCB")])
@pytest.mark.parametrize("strain", [0.01, -0.015, 0.03])
def test_another_functional_gives_the_same_crystal(crystal: Crystal, strain: float) -> None:
    other = another_setting(relaxed(crystal, strain, shift=0.0005), np.random.default_rng(1))
    a, b = material(crystal, "a"), material(other, "b")
    assert a.content_hash != b.content_hash
    assert same_crystal(a, b)


def test_another_volume_is_another_crystal() -> None:
    assert not same_crystal(material(rocksalt(4.2)), material(rocksalt(4.4)))


def stretched(crystal: Crystal, *factors: float) -> Crystal:
    """Give the crystal with its three lattice vectors that much longer."""
    return Crystal(crystal.lattice * np.array(factors)[:, None], crystal.numbers, crystal.frac_coords)


RELAXATIONS = [
    (rocksalt(), rocksalt(4.212 * 1.05), True),
    (rocksalt(), rocksalt(4.212 * 1.10), True),
    (rocksalt(), rocksalt(4.212 * 1.11), False),
    (rocksalt(), rocksalt(5.0, "Na", "O"), False),
    (rutile(), stretched(rutile(), 1.02, 1.02, 1.12), True),
    (rutile(), stretched(rutile(), 1.0, 1.0, 1.3), False),
    (silicon_carbide("ABCB"), stretched(silicon_carbide("ABCB"), 1.0, 1.0, 1.15), True),
    (silicon_carbide("ABCACB"), stretched(silicon_carbide("ABABABC"), 1.05, 1.05, 1.05), False),
    (silicon_carbide("ABABABC"), stretched(silicon_carbide("ABABCBC"), 1.05, 1.05, 1.05), False),
    (rocksalt(4.35, "Si", "C"), zincblende(4.7), False),
]


@pytest.mark.parametrize(("one", "two", "same"), RELAXATIONS)
def test_one_compound_relaxed_twice(one: Crystal, two: Crystal, same: bool) -> None:
    """Told in either order, and no copy."""
    a, b = material(one, "a"), material(another_setting(two, np.random.default_rng(4)), "b")
    assert not same_crystal(a, b)
    assert same_compound(a, b) is same_compound(b, a) is same
    (placed,) = link_duplicates([b], {a.bucket: [a]})
    assert placed.copy_of is None
    assert placed.relaxation_of is (a if same else None)


def test_a_copy_is_rather_that_of_its_own_id() -> None:
    a, b = material(rocksalt(4.20), "a"), material(rocksalt(4.40), "b")
    for name in ("a", "b"):
        (placed,) = link_duplicates([material(rocksalt(4.30), name)], {a.bucket: [a, b]})
        assert placed.copy_of is not None
        assert placed.copy_of.id == name


def test_a_deuteride_is_neither_copy_nor_relaxation_of_the_hydride() -> None:
    light = identify("light", rocksalt(4.08, "Li", "H"))
    heavy = [identify("heavy", rocksalt(a, "Li", "H"), isotopes="2H") for a in (4.08, 4.07, 4.2)]
    for crystals in ([light, *heavy], [*heavy, light]):
        placed = {p.material: (p.copy_of, p.relaxation_of) for p in link_duplicates(crystals, {})}
        assert placed[light] == (None, None)
        assert all(found is not light for pair in placed.values() for found in pair)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (("ltc_phonix.jsonl.gz", "mp-22906"), ("tl_phonon_peak.jsonl.gz", "ph-288")),  # CsBr, no free position
        (("ltc_phonix.jsonl.gz", "mp-27734"), ("tl_moduli_binary.jsonl.gz", "mp-27734")),  # CrBr3, layers, 1.21
        (("tl_kappa_min.jsonl.gz", "mp-22880"), ("tl_moduli_binary.jsonl.gz", "mp-22880")),  # FeBr2, 1.26
        (("ltc_phonix.jsonl.gz", "mp-909"), ("tl_moduli_binary.jsonl.gz", "mp-909")),  # As2Se3, strained, 1.25
    ],
)
def test_one_compound_in_two_data_sets(mine: tuple[str, str], theirs: tuple[str, str]) -> None:
    (a,), (b,) = named(*mine), named(*theirs)
    assert not same_crystal(a, b)
    assert same_compound(a, b)


@pytest.mark.parametrize("names", [("mp-2168", "mp-628773"), ("mp-9173", "mp-2420244"), ("mp-1933", "mp-13480")])
def test_polymorphs_of_one_bucket(names: tuple[str, str]) -> None:
    """SnSe, TiO2 and Cu3N, each twice in one data set."""
    a, b = named("tl_moduli_binary.jsonl.gz", *names)
    assert a.bucket == b.bucket
    assert not same_compound(a, b)


def test_polymorphs_are_kept_apart() -> None:
    stackings = [material(silicon_carbide(s), s) for s in ("AB", "ABC", "ABCB", "ABCACB", "ABABABC", "ABABCBC")]
    assert [placed[1:] for placed in link_duplicates(stackings, {})] == [(None, None)] * 6
    assert not same_crystal(material(rocksalt(4.35, "Si", "C")), material(zincblende()))


def test_orderings_of_one_bucket_are_kept_apart() -> None:
    a, b = named("ltc_hh143.jsonl.gz", "HH143-119", "HH143-138")
    assert a.bucket == b.bucket
    assert not same_crystal(a, b)


def test_copies_from_another_database_are_linked() -> None:
    (mine,) = named("aflow_agl.jsonl.gz", "Ca1S1_ICSD_186785")
    (theirs,) = named("tl_shear_modulus.jsonl.gz", "gv-6037")
    assert same_crystal(mine, theirs)


def test_a_chunk_is_linked_to_what_is_known_and_to_itself() -> None:
    rng = np.random.default_rng(2)
    known = material(rocksalt(), "known")
    exact, near = material(another_setting(rocksalt(), rng), "exact"), material(rocksalt(4.25), "near")
    first, again = material(rutile(), "first"), material(another_setting(rutile(), rng), "again")
    pairs = link_duplicates([exact, first, near, again], {known.bucket: [known]})
    assert [(m.id, o.id if o else None) for m, o, _ in pairs] == [
        ("exact", "known"),
        ("first", None),
        ("near", "known"),
        ("again", "first"),
    ]


def test_invariants_never_hide_a_copy() -> None:
    """What the matcher takes for one crystal is found in a bucket, up to the limits of strain and displacement."""
    generator = np.random.default_rng(3)
    found = 0
    for crystal in list(reference_crystals().values())[::5]:
        length = (crystal.volume / len(crystal)) ** (1 / 3)
        moves = generator.normal(0, 0.9 * MAX_SITE_DISTANCE / 3**0.5 * length, (len(crystal), 3))
        strain = np.eye(3) + generator.uniform(-0.6, 0.6) * MAX_LENGTH_STRAIN * np.diag([1, 1, -1])
        moved = Crystal(
            crystal.lattice @ strain, crystal.numbers, crystal.frac_coords + moves @ np.linalg.inv(crystal.lattice)
        )
        one = Material("one", crystal, "1", 1)
        two = Material("two", moved, "2", 1)
        ((_, original, _),) = link_duplicates([two], {one.bucket: [one]})
        assert (original is one) == same_crystal(two, one)  # near the limits the order matters
        found += original is one
    assert found > 10
