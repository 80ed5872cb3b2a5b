"""An arrangement is analysed once, whatever its elements and its size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.materials.arrangements import Arrangement
from engine.materials.crystal import Crystal
from engine.materials.identity import SYMPREC, _analysed, content_hash, isometry_invariants, standardise
from engine.materials.prototypes import PROTOTYPES, build
from tests.engine.materials.cases import another_setting, rocksalt, zincblende

ELEMENTS = ("Mg", "Si", "O", "Sr", "Ti", "Te")


@pytest.fixture(autouse=True)
def _spglib_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 otherwise announces at every call that version 3 will raise."""
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", False)


def prototype(name: str, a: float, start: int = 0) -> Crystal:
    """Any elements in a prototype whose coordinates are simple fractions."""
    roles = len(PROTOTYPES[name].roles)
    return build(name, [ELEMENTS[(start + k) % len(ELEMENTS)] for k in range(roles)], a)


ON_GRID = [name for name, kind in PROTOTYPES.items() if kind.is_cubic or name == "chalcopyrite"]


@pytest.mark.parametrize("name", ON_GRID)
def test_elements_and_size_do_not_matter(name: str) -> None:
    first, second = prototype(name, 5.1), prototype(name, 6.3, start=1)
    assert Arrangement.of(first) == Arrangement.of(second) is not None


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(ON_GRID), a=st.floats(3.4, 9.0), start=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_the_same_as_analysing_each(name: str, a: float, start: int, seed: int) -> None:
    crystal = another_setting(prototype(name, a, start), np.random.default_rng(seed), max_cells=2)
    found, spacegroup = standardise(crystal)
    expected, number = _analysed(crystal, SYMPREC)
    assert (spacegroup, len(found)) == (number, len(expected))
    assert found.composition == expected.composition
    np.testing.assert_allclose(isometry_invariants(found), isometry_invariants(expected), atol=1e-5)
    digests = {content_hash(crystal, primitive_sites=len(c)) for c in (found, expected)}
    assert len(digests) == 1


def test_spglib_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    standardise(prototype("half-Heusler", 5.0))
    monkeypatch.setattr(spglib, "get_symmetry_dataset", _refuse)
    crystal, spacegroup = standardise(prototype("half-Heusler", 6.0, start=2))
    assert (spacegroup, sorted(crystal.composition)) == (216, ["O", "Sr", "Ti"])
    assert crystal.volume == pytest.approx(6.0**3 / 4)


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("spglib was asked again")


def test_off_the_grid_each_is_analysed() -> None:
    crystal = rocksalt()
    moved = Crystal(crystal.lattice, crystal.numbers, crystal.frac_coords + np.array([[0, 0, 0], [1e-5, 0, 0]]))
    strained = Crystal(crystal.lattice * np.array([[1.0], [1.0], [1.00001]]), crystal.numbers, crystal.frac_coords)
    assert Arrangement.of(moved) is None
    assert Arrangement.of(strained) is None


def test_a_small_cell_is_analysed_itself() -> None:
    """Points of its grid are nearer to each other than the tolerance allows."""
    tiny = rocksalt(1.0)
    assert Arrangement.of(tiny) == Arrangement.of(rocksalt())
    found, spacegroup = standardise(tiny)
    expected, number = _analysed(tiny, SYMPREC)
    assert spacegroup == number
    np.testing.assert_array_equal(found.lattice, expected.lattice)


def test_order_of_kinds_and_handedness_tell_apart() -> None:
    assert Arrangement.of(rocksalt()) != Arrangement.of(zincblende())
    crystal = zincblende()
    mirrored = Crystal(crystal.lattice * np.array([1.0, 1.0, -1.0]), crystal.numbers, crystal.frac_coords)
    assert Arrangement.of(mirrored) != Arrangement.of(crystal)


def test_mirror_images_stay_mirror_images() -> None:
    """P4_332, of Hall number 508, has the other hand P4_132, that of beta-manganese."""
    symmetry = spglib.get_symmetry_from_database(508)
    orbit = (symmetry["rotations"] @ np.array([1 / 24, 5 / 24, 11 / 24]) + symmetry["translations"]) % 1.0
    crystal = Crystal(12.0 * np.eye(3), np.full(len(orbit), 25), orbit)
    mirrored = Crystal(12.0 * np.diag([1.0, 1.0, -1.0]), crystal.numbers, crystal.frac_coords)
    assert Arrangement.of(crystal) is not None
    numbers = [standardise(c)[1] for c in (crystal, mirrored)]
    assert numbers == [_analysed(c, SYMPREC)[1] for c in (crystal, mirrored)]
    assert sorted(numbers) == [212, 213]


def test_vectors_in_one_plane_are_no_crystal() -> None:
    flat = Crystal([[4.0, 0, 0], [0, 4.0, 0], [2.0, 2.0, 0]], [14], [[0, 0, 0]])
    arrangement = Arrangement.of(flat)
    assert arrangement is not None
    assert arrangement.crystal(step=0.05) is None
