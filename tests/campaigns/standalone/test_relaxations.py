"""``kappascout relax FILE... --out``: relaxed crystals of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.emt import EMT

from engine.materials.crystal import Crystal
from engine.physics.relaxation import relax
from tests.campaigns.helpers import done, kappascout, refused, write_lines
from tests.campaigns.stability.conftest import row
from tests.engine.physics.alloys import SPEC, fcc, l12
from tests.engine.physics.salts import rocksalt


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Give two metals, a salt that the potential does not know, and a broken record."""
    rows = [row("Cu", fcc("Cu", 3.5), gap=0.0), row("Cu3Au", l12("Au", "Cu", 3.8)), row("NaCl", rocksalt("NaCl"))]
    return write_lines(tmp_path / "pool.jsonl", [*rows, {"id": "broken"}])


def read(path: Path) -> dict[str, dict[str, Any]]:
    return {r["id"]: r for r in map(json.loads, path.read_text().splitlines())}


def test_relaxed_crystals_are_written_once(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "relaxed.jsonl"
    arguments = ("relax", pool, "--potential", SPEC, "--out", out, "--workers", 1, "--quiet")
    assert "2 crystals relaxed, 1 failed, 1 refused, 0 in" in (told := done(*arguments).err)
    assert "NaCl: calculator_error: " in told
    found = read(out)
    expected = relax(fcc("Cu", 3.5), EMT())
    record = found["Cu"]
    crystal = Crystal.from_symbols(record["lattice"], record["species"], record["frac_coords"])
    assert crystal.volume == pytest.approx(expected.crystal.volume, rel=1e-9)
    assert record["properties"]["gap"] == 0.0
    assert record["properties"]["relaxed_energy_eV_per_atom"] == pytest.approx(expected.energy, abs=1e-9)
    assert found["NaCl"]["properties"]["relaxation_failure"].startswith("calculator_error: ")
    np.testing.assert_allclose(found["NaCl"]["lattice"], rocksalt("NaCl").lattice, atol=1e-6)
    before = out.read_bytes()
    assert "0 crystals relaxed, 0 failed, 1 refused, 3 in" in done(*arguments).err
    assert out.read_bytes() == before
    assert "choose another file" in refused("relax", pool, "--potential", "rigid-ion", "--out", out)


def test_what_cannot_be_asked_for(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert "neither .jsonl nor .jsonl.gz" in refused("relax", pool, "--potential", SPEC, "--out", out)
    assert kappascout("relax", pool, pool, "--potential", SPEC).code == 2
    assert kappascout("relax", pool, "--potential", SPEC, "--out", out, "--phonons").code == 2
    other = write_lines(tmp_path / "other.jsonl", [{"id": "a", "properties": {}}])
    assert "holds other lines" in refused("relax", pool, "--potential", SPEC, "--out", other)
