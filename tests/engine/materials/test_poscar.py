"""POSCAR: every way to write one crystal, and what VASP would not read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal
from engine.materials.formats import Format, RawRecord, Record, parse

CELL = [[4.1, 0, 0], [0, 5.2, 0], [0, 0, 6.3]]
VOLUME = 4.1 * 5.2 * 6.3


def text(scale="1.0", cell=CELL, species="Ga Sr", counts="1 1", mode="Direct", rows=("0 0 0", ".5 .45 .6"), more=""):
    vectors = [" ".join(map(str, vector)) for vector in cell]
    return "\n".join(["a title", scale, *vectors, species, counts, *mode.split("|"), *rows]) + "\n" + more


def read(content: str) -> Record | Rejection:
    return parse(RawRecord("x", Format.POSCAR, content.encode(), "POSCAR"))


def crystal(content: str) -> Crystal:
    record = read(content)
    assert isinstance(record, Record), record
    return record.crystal


CARTESIAN = ("0 0 0", "2.05 2.34 3.78")
WAYS = {
    # text, volume of the cell
    "direct": (text(), VOLUME),
    "cartesian": (text(mode="Cartesian", rows=CARTESIAN), VOLUME),
    "k for cartesian": (text(mode="kartesisch", rows=CARTESIAN), VOLUME),
    "scaled": (text(scale="2.0"), 8 * VOLUME),
    "scaled cartesian": (text(scale="2.0", mode="cart", rows=CARTESIAN), 8 * VOLUME),
    "volume": (text(scale="-200"), 200),
    "volume, cartesian": (text(scale="-200", mode="Cartesian", rows=CARTESIAN), 200),
    "three scales": (text(scale="1.0 1.1 0.9"), 0.99 * VOLUME),
    "three scales, cartesian": (text(scale="1.0 1.1 0.9", mode="Cartesian", rows=CARTESIAN), 0.99 * VOLUME),
    "comment behind the scale": (text(scale="1.0 ! of the universe"), VOLUME),
    "comments everywhere": (text(scale="1.0 # a", species="Ga Sr ! two", counts="1 1 ! each"), VOLUME),
    "Fortran exponents": (text(scale="1.0D0", rows=("0 0 0", "5d-1 4.5E-1 .6")), VOLUME),
    "selective dynamics": (text(mode="Selective dynamics|Direct", rows=("0 0 0 T T F", ".5 .45 .6 F F F")), VOLUME),
    "POTCAR names": (text(species="Ga_d Sr_sv/1a2b3c4d"), VOLUME),
    "labels of rows": (text(rows=("0 0 0 Ga", ".5 .45 .6 Sr2")), VOLUME),
    "velocities": (text(more="\n 0 0 0\n .1 .1 .1\n"), VOLUME),
    "lattice velocities": (text(more="Lattice velocities and vectors\n 1\n 0 0 0\n"), VOLUME),
    "charge density": (text(more="\n 2 2 2\n 1. 2. 3. 4.\n"), VOLUME),
    "species twice": (text(species="Ga Sr Ga", counts="1 1 1", rows=("0 0 0", ".5 .45 .6", ".1 .2 .3")), VOLUME),
}


@pytest.mark.parametrize("name", WAYS)
def test_ways_to_write_one_crystal(name: str) -> None:
    content, volume = WAYS[name]
    found = crystal(content)
    assert found.volume == pytest.approx(volume, rel=1e-9)
    assert found.symbols[:2] == ["Ga", "Sr"]
    assert found.frac_coords[1] == pytest.approx([0.5, 0.45, 0.6])


def test_a_left_handed_cell_keeps_its_atoms_where_they_are() -> None:
    found = crystal(text(scale="-200", cell=[CELL[1], CELL[0], CELL[2]], mode="Cartesian", rows=CARTESIAN))
    assert found.frac_coords[1] == pytest.approx([0.45, 0.5, 0.6])


def test_isotopes_are_told() -> None:
    record = read(text(species="Li D"))
    assert isinstance(record, Record)
    assert (record.crystal.symbols, record.isotopes) == (["Li", "H"], "2H")


REFUSED = {
    "more species than counts": (text(species="Ga Sr O"), "Ga Sr O"),
    "more counts than species": (text(counts="1 1 2"), "1 1 2"),
    "count of zero": (text(counts="2 0"), "2 0"),
    "one row too many": (text(rows=("0 0 0", ".5 .45 .6", ".1 .1 .1")), "2 atoms"),
    "one row too few": (text(rows=("0 0 0",)), "atom 2"),
    "a row of two numbers": (text(rows=("0 0 0", ".5 .45")), "atom 2"),
    "no element names": (text(species="1 1", counts="Direct", mode="0 0 0"), "elements"),
    "XDATCAR": (
        text(mode="Direct configuration=     1", more="Direct configuration=     2\n0 0 0\n.5 .4 .6\n"),
        "XDATCAR",
    ),
    "label and place differ": (text(rows=("0 0 0 Sr", ".5 .45 .6 Ga")), "Sr"),
    "two scales": (text(scale="1.0 1.1"), "1.0 1.1"),
    "scale of zero": (text(scale="0"), "scale"),
    "negative among three": (text(scale="1 -1 1"), "-1"),
    "no number": (text(cell=[[4.1, 0, "x"], *CELL[1:]]), "lattice vector 1"),
    "flat cell": (text(scale="-10", cell=[CELL[0], CELL[0], CELL[2]]), "plane"),
    "no element": (text(species="Va Sr"), "Va"),
    "tetrahedral site": (text(species="T1 Sr"), "T1"),
    "hydroxide": (text(species="OH Sr"), "OH"),
    "cut in the cell": ("t\n1\n4 0 0\n", "ends"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str) -> None:
    content, word = REFUSED[name]
    found = read(content)
    assert isinstance(found, Rejection), found
    assert word in found.message
    assert found.reason in set(RejectionReason)


@given(
    st.one_of(st.floats(0.1, 10), st.floats(-500, -1), st.tuples(*[st.floats(0.5, 2)] * 3)),
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(*[st.floats(0, 0.999)] * 3), min_size=1, max_size=4),
)
def test_any_header_gives_the_positions_it_was_written_with(scale, cartesian, selective, fractions) -> None:
    cell = np.array(CELL)
    words = " ".join(map(repr, scale)) if isinstance(scale, tuple) else repr(scale)
    positions = np.array(fractions)
    rows = [
        " ".join(map(repr, map(float, row))) + " T F T" * selective
        for row in (positions @ cell if cartesian else positions)
    ]
    mode = "Selective|" * selective + ("Cartesian" if cartesian else "Direct")
    found = crystal(text(words, species="Fe", counts=str(len(rows)), mode=mode, rows=rows))
    assert np.allclose(found.frac_coords, positions, atol=1e-9)
    volume = VOLUME * np.prod(scale) if isinstance(scale, tuple) else -scale if scale < 0 else VOLUME * scale**3
    assert found.volume == pytest.approx(volume, rel=1e-9)
