"""Unit cells of phonopy's and phono3py's files, in Angstrom whatever they were written in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from engine.materials.checks import Rejection
from engine.materials.formats import Record, parse
from engine.materials.readers import read
from tests.engine.materials.cases import rocksalt

phono3py = pytest.importorskip("phono3py", reason="phono3py is not installed (extra `phonons`)")
BOHR = 0.529177210903


@pytest.mark.parametrize(("calculator", "unit"), [(None, 1.0), ("vasp", 1.0), ("qe", BOHR)])
@pytest.mark.parametrize("name", ["phonopy.yaml", "phonopy_disp.yaml", "phono3py.yaml", "phono3py_disp.yaml"])
def test_the_unit_cell(tmp_path: Path, name: str, calculator: str | None, unit: float) -> None:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    crystal = rocksalt()
    cell = PhonopyAtoms(symbols=crystal.symbols, cell=crystal.lattice / unit, scaled_positions=crystal.frac_coords)
    kind = phono3py.Phono3py if name.startswith("phono3py") else Phonopy
    calculation = kind(cell, supercell_matrix=np.diag([2, 2, 2]), calculator=calculator)
    calculation.generate_displacements()
    (tmp_path / "mp-1265").mkdir()
    calculation.save(tmp_path / "mp-1265" / name)
    (record,) = (parse(r) for r in read(tmp_path) if not isinstance(r, Rejection))
    assert isinstance(record, Record)
    assert record.id == "mp-1265"
    assert record.crystal.formula == "MgO"
    assert len(record.crystal) == 2
    assert record.crystal.volume == pytest.approx(crystal.volume, rel=1e-6)


def refused(path: Path, text: str) -> Rejection:
    path.write_text(text)
    (found,) = (r if isinstance(r, Rejection) else parse(r) for r in read(path))
    assert isinstance(found, Rejection)
    return found


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a unit cell, one that is none, and any where phonopy is missing."""
    assert "unit_cell" in refused(tmp_path / "phonopy.yaml", "phonopy:\n  version: 2.20.0\n").message
    assert refused(tmp_path / "phonopy.yaml", "words").remedy
    assert refused(tmp_path / "phonopy.yaml", "").message
    monkeypatch.setitem(sys.modules, "phono3py.interface.phono3py_yaml", None)
    found = refused(tmp_path / "phonopy.yaml", "phonopy:\n  version: 2.20.0\n")
    assert "not installed" in found.message
    assert "kappascout[phonons]" in found.remedy
