"""How far bonds reach through known crystals, and which cells hold vacuum."""

from __future__ import annotations

import numpy as np
import pytest

from engine.materials.crystal import Crystal
from engine.materials.dimensionality import dimensionality, vacuum_note
from engine.materials.formats import Format, RawRecord
from engine.materials.identity import standardise
from engine.materials.loading import process
from engine.materials.reference import reference_crystals
from tests.engine.materials.cases import another_setting, rocksalt, rutile, silicon_carbide, zincblende


def hexagonal(a: float, c: float, species: list[str], coords: list[tuple[float, float, float]]) -> Crystal:
    return Crystal.from_symbols([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]], species, coords)


def cubic(a: float, species: list[str], coords: list[tuple[float, float, float]]) -> Crystal:
    return Crystal.from_symbols(a * np.eye(3), species, coords)


def sandwich(c: float, middle: tuple[float, ...]) -> Crystal:
    """Give MoS2 with a layer at each height (fraction of c), turned from layer to layer."""
    z = 1.56 / c
    sites = []
    for k, height in enumerate(middle):
        metal, anion = ((1 / 3, 2 / 3), (2 / 3, 1 / 3))[:: 1 if k % 2 == 0 else -1]
        sites += [(*metal, height), (*anion, height + z), (*anion, height - z)]
    return hexagonal(3.16, c, ["Mo", "S", "S"] * len(middle), sites)


GRAPHITE = hexagonal(2.46, 6.71, ["C"] * 4, [(0, 0, 0.25), (0, 0, 0.75), (1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)])
SELENIUM = hexagonal(4.37, 4.95, ["Se"] * 3, [(0.225, 0, 1 / 3), (0, 0.225, 2 / 3), (0.775, 0.775, 0)])
XENON = Crystal.from_symbols(6.13 / 2 * (1 - np.eye(3)), ["Xe"], [[0, 0, 0]])
CARBON_DIOXIDE = cubic(
    5.62,
    ["C"] * 4 + ["O"] * 8,
    [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    + [
        (s + x * 0.118, t + y * 0.118, u + z * 0.118)
        for (s, t, u), (x, y, z) in zip(
            [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)] * 2,
            [(1, 1, 1), (-1, 1, -1), (1, -1, -1), (-1, -1, 1), (-1, -1, -1), (1, -1, 1), (-1, 1, 1), (1, 1, -1)],
            strict=True,
        )
    ],
)
HEXACHLOROSTANNATE = cubic(
    9.98,
    ["Sn"] * 4 + ["K"] * 8 + ["Cl"] * 24,
    [(x, y, z) for x, y, z in ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))]
    + [(x, y, z) for x in (0.25, 0.75) for y in (0.25, 0.75) for z in (0.25, 0.75)]
    + [
        (s + x, t + y, u + z)
        for s, t, u in ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
        for x, y, z in (
            (0.24, 0, 0), (-0.24, 0, 0), (0, 0.24, 0), (0, -0.24, 0), (0, 0, 0.24), (0, 0, -0.24),
        )
    ],
)  # fmt: skip
CAESIUM = Crystal.from_symbols(6.14 / 2 * (np.ones((3, 3)) - 2 * np.eye(3)), ["Cs"], [[0, 0, 0]])

CASES = [
    ("rocksalt", rocksalt(), 3, None),
    ("zincblende", zincblende(), 3, None),
    ("rutile", rutile(), 3, None),
    ("a metal of large atoms", CAESIUM, 3, None),
    ("ions and polyatomic ions", HEXACHLOROSTANNATE, 3, None),
    ("graphite", GRAPHITE, 2, None),
    ("molybdenite", sandwich(12.3, (0.25, 0.75)), 2, None),
    ("a layer in vacuum", sandwich(25.0, (0.5,)), 2, ("21.9", "layers")),
    ("two layers in vacuum", sandwich(32.3, (0.4, 0.4 + 6.15 / 32.3)), 2, ("23", "layers")),
    ("selenium", SELENIUM, 1, None),
    (
        "a chain in vacuum",
        Crystal.from_symbols(np.diag([15.0, 14.0, 2.5]), ["Se"], [[0.5, 0.5, 0]]),
        1,
        ("15", "chains"),
    ),
    ("solid xenon", XENON, 0, None),
    ("xenon far apart", cubic(12.0, ["Xe"], [(0, 0, 0)]), 0, ("12", "isolated atoms")),
    ("dry ice", CARBON_DIOXIDE, 0, None),
    ("a molecule in a box", cubic(10.0, ["C", "O"], [(0.5, 0.5, 0.44), (0.5, 0.5, 0.56)]), 0, ("10", "molecules")),
]


@pytest.mark.parametrize(("crystal", "reach", "vacuum"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_known_crystals_in_any_cell(crystal: Crystal, reach: int, vacuum: tuple[str, str] | None) -> None:
    other = another_setting(crystal, np.random.default_rng(5), max_cells=2)
    for cell in (crystal, other):
        assert dimensionality(cell) == reach
        note = vacuum_note(standardise(cell)[0])
        if vacuum is None:
            assert note == ""
        else:
            assert all(word in note for word in (f"vacuum of {vacuum[0]}", vacuum[1]))


def test_known_semiconductors_are_bulk() -> None:
    for crystal in reference_crystals().values():
        assert (dimensionality(crystal), vacuum_note(crystal)) == (3, "")


@pytest.mark.parametrize("stacking", ["AB", "ABC", "ABCACB"])
def test_polytypes_are_bulk(stacking: str) -> None:
    assert dimensionality(silicon_carbide(stacking)) == 3


def test_the_note_is_the_materials() -> None:
    slab, bulk = sandwich(25.0, (0.5,)), rocksalt()
    records = [RawRecord("x", Format.JSON, c.to_dict() | {"species": c.symbols}, "x") for c in (slab, bulk)]
    first, second = process(records)
    assert "vacuum" in first.notes[-1]
    assert second.notes == ()
