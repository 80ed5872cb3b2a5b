"""The reference table: facts, their crystals, and their agreement with the development data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import spglib
import spglib.error

from engine.materials.prototypes import find
from engine.materials.reference import reference_crystals, reference_labels, reference_table

DATA = Path(__file__).parents[4] / "shared" / "data"
LATTICE = {
    "LTC-NaCl-rocksalt": 5.64,
    "LTC-MgO-rocksalt": 4.212,
    "LTC-PbTe-rocksalt": 6.462,
    "LTC-GaAs-zincblende": 5.653,
    "LTC-Si-diamond": 5.431,
    "LTC-TiNiSn-half-Heusler": 5.92,
    "LTC-CaF2-fluorite": 5.463,
    "LTC-SrTiO3-perovskite": 3.905,
}


@pytest.fixture(autouse=True)
def _errors_of_spglib_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this spglib 2.8 returns None on failure and warns on every call."""
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", False)


def test_size() -> None:
    assert len(reference_table()) >= 290
    assert len(reference_crystals()) >= 220
    assert len({crystal.formula for crystal in reference_crystals().values()}) >= 220


def test_each_value_is_a_cited_fact() -> None:
    for entry in reference_table():
        assert 0.1 < entry.value < 5000, entry.id
        assert entry.unit == "W/(m K)"
        assert entry.temperature == 300
        assert entry.fidelity in {"dft", "experiment"}
        assert entry.method
        assert len(entry.citation) > 15, entry.id
        assert entry.id == f"LTC-{entry.formula}-{entry.prototype}"


def test_one_value_a_crystal_and_fidelity_and_one_crystal_an_id() -> None:
    table = reference_table()
    assert len({(e.id, e.fidelity) for e in table}) == len(table)
    assert len({e.id for e in table}) == len({(e.id, e.a, e.b, e.c, e.x) for e in table})


def test_every_crystal_has_its_prototypes_symmetry_and_formula() -> None:
    crystals = reference_crystals()
    for entry in reference_table():
        crystal = crystals[entry.id]
        cell = (crystal.lattice, crystal.frac_coords, crystal.numbers)
        assert spglib.get_symmetry_dataset(cell, symprec=1e-4).number == find(entry.prototype).spacegroup, entry.id
        assert set(crystal.symbols) == set(entry.elements)


@pytest.mark.parametrize("id_", LATTICE)
def test_lattice_constants(id_: str) -> None:
    entry = next(e for e in reference_table() if e.id == id_)
    assert entry.a == pytest.approx(LATTICE[id_], rel=0.04)


def test_labels_are_plain_records_of_known_crystals() -> None:
    labels = reference_labels()
    keys = {"id", "property", "value", "unit", "fidelity", "temperature", "method", "source"}
    assert all(set(label) == keys and label["property"] == "kappa_300K" for label in labels)
    assert {label["id"] for label in labels} == set(reference_crystals())
    assert json.loads(json.dumps(labels)) == labels
    parts = [reference_labels("dft"), reference_labels("experiment")]
    assert sum(map(len, parts)) == len(labels)
    assert min(map(len, parts)) > 50


@pytest.mark.parametrize(("name", "count"), [("ltc_l96", 95), ("ltc_hh143", 143)])
def test_agrees_with_the_development_data(name: str, count: int) -> None:
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"development data {path.name} is not beside this checkout")
    crystals = reference_crystals()
    known = [
        (crystals[e.id].formula, crystals[e.id].volume / len(crystals[e.id]), e.value)
        for e in reference_table()
        if e.fidelity == "dft"
    ]
    from pymatgen.core import Structure

    with gzip.open(path, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    assert len(rows) == count
    for row in rows:
        structure = Structure(row["lattice"], row["species"], row["frac_coords"])
        formula, volume = structure.composition.reduced_formula, structure.volume / len(structure)
        kappa = row["properties"]["kappa_300K_W_mK"]
        assert any(
            f == formula and v == pytest.approx(volume, rel=1e-3) and k == pytest.approx(kappa, rel=1e-3)
            for f, v, k in known
        ), row["id"]
