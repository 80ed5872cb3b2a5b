"""Extended XYZ: counts, species and frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.materials.checks import Rejection
from engine.materials.formats import RawRecord, Record, parse
from engine.materials.readers import read

HEADER = 'Lattice="4.1 0 0 0 5.2 0 0 0 6.3" Properties=species:S:1:pos:R:3'


def outcomes(tmp_path: Path, text: str) -> list[Record | Rejection]:
    (tmp_path / "x.extxyz").write_text(text)
    return [parse(r) if isinstance(r, RawRecord) else r for r in read(tmp_path / "x.extxyz")]


@pytest.mark.parametrize(
    ("species", "isotopes"), [(("Li", "H"), ""), (("Li", "D"), "2H"), (("Li", "T"), "3H"), (("D", "H"), "2H:0.5")]
)
def test_isotopes_are_told(tmp_path: Path, species: tuple[str, str], isotopes: str) -> None:
    (found,) = outcomes(tmp_path, f"2\n{HEADER}\n{species[0]} 0 0 0\n{species[1]} 2.05 2.6 3.15\n")
    assert isinstance(found, Record)
    assert found.isotopes == isotopes
    assert found.crystal.symbols == [{"D": "H", "T": "H"}.get(s, s) for s in species]
    assert found.crystal.frac_coords[1] == pytest.approx([0.5, 0.5, 0.5])


def test_species_need_not_come_first(tmp_path: Path) -> None:
    header = HEADER.replace("species:S:1:pos:R:3", "pos:R:3:species:S:1")
    (found,) = outcomes(tmp_path, f"2\n{header}\n0 0 0 Li\n2.05 2.6 3.15 D\n")
    assert isinstance(found, Record)
    assert (found.crystal.symbols, found.isotopes) == (["Li", "H"], "2H")


@pytest.mark.parametrize("frames", [1, 2])
def test_a_row_more_than_the_count_refuses_the_frame(tmp_path: Path, frames: int) -> None:
    frame = f"1\n{HEADER}\nGa 0 0 0\nSr 2.05 2.34 3.78\n"
    found = outcomes(tmp_path, frame * frames)
    assert len(found) == 1
    assert isinstance(found[0], Rejection)
    assert "Sr" in found[0].message


def test_frames_before_a_wrong_one_are_kept(tmp_path: Path) -> None:
    whole = f"2\n{HEADER}\nGa 0 0 0\nSr 2.05 2.34 3.78\n"
    wrong = whole.replace("2\n", "1\n", 1)
    first, second = outcomes(tmp_path, whole + wrong)
    assert isinstance(first, Record)
    assert isinstance(second, Rejection)
    assert second.record_id == "x-2"


@pytest.mark.parametrize("kind", ["OH", "H2O", "Va", "?", "T1", "M1", "X"])
def test_what_is_no_element_is_refused(tmp_path: Path, kind: str) -> None:
    (found,) = outcomes(tmp_path, f"2\n{HEADER}\nGa 0 0 0\n{kind} 2.05 2.34 3.78\n")
    assert isinstance(found, Rejection)
    assert kind in found.message


def test_a_row_less_than_the_count_refuses_the_frame(tmp_path: Path) -> None:
    found = outcomes(tmp_path, f"3\n{HEADER}\nGa 0 0 0\nSr 2.05 2.34 3.78\n")
    assert [type(f) for f in found] == [Rejection]
