"""``kappascout estimate``: a label for every crystal of a file; what is there is not done again."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from campaigns.standalone.estimates import FAILURE, KAPPA, METHOD
from engine.physics.debye import calculate_kappa
from engine.physics.potentials import load_potential
from tests.campaigns.helpers import done, refused, write_lines
from tests.engine.physics.salts import diamond, fcc, rocksalt

FORMULAS = ("NaCl", "KCl", "MgO", "LiF")


def row(id_: str, crystal: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "lattice": crystal.lattice.tolist(),
        "species": crystal.symbols,
        "frac_coords": crystal.frac_coords.tolist(),
        "properties": {"band_gap_eV": 5.0},
    }


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Give four salts, one crystal the potential does not know, and a broken record."""
    rows = [row(formula, rocksalt(formula)) for formula in FORMULAS]
    return write_lines(tmp_path / "pool.jsonl", [*rows, row("Si", diamond("Si", 5.43)), {"id": "broken"}])


def estimate(pool: Path, out: Path, potential: str = "rigid-ion") -> str:
    return done("estimate", pool, "--potential", potential, "--out", out, "--workers", 1, "--quiet").err


def read(path: Path) -> dict[str, dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    assert len({r["id"] for r in rows}) == len(rows)
    return {r["id"]: r["properties"] for r in rows}


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_every_crystal_gets_a_value_or_a_reason(pool: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "made" / name
    said = estimate(pool, out)
    assert "4 crystals estimated, 1 failed, 1 refused, 0 in" in said
    found = read(out)
    for formula in FORMULAS:
        outcome: Any = calculate_kappa(rocksalt(formula), load_potential("rigid-ion"))
        result, record = outcome.provenance["result"], found[formula]
        assert record["band_gap_eV"] == 5.0
        assert record[KAPPA] == record["mlip_kappa_agl_300K_W_mK"] == pytest.approx(outcome.kappa, rel=1e-6)
        assert record["mlip_bulk_modulus_GPa"] == pytest.approx(result["bulk_modulus"], rel=1e-6)
        assert record["mlip_gruneisen"] == pytest.approx(result["gruneisen"], rel=1e-6)
        assert record["mlip_debye_temperature_K"] == pytest.approx(result["debye_temperature"], rel=1e-6)
    assert found["Si"][FAILURE].startswith("rejected: ")
    assert KAPPA not in found["Si"]
    before = out.read_bytes()
    assert "0 crystals estimated, 0 failed, 1 refused, 5 in" in estimate(pool, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_what_a_kill_left_half_written_is_done_again(pool: Path, tmp_path: Path, name: str) -> None:
    whole, out = tmp_path / f"whole-{name}", tmp_path / name
    estimate(pool, whole)
    few = write_lines(tmp_path / "few.jsonl", [row(formula, rocksalt(formula)) for formula in FORMULAS[:2]])
    estimate(few, out)
    with out.open("ab") as handle:
        handle.write(whole.read_bytes()[:200])
    assert "2 crystals estimated, 1 failed, 1 refused, 2 in" in estimate(pool, out)
    assert read(out) == read(whole)


def test_metals_by_an_ase_calculator_here_and_in_another_environment(tmp_path: Path) -> None:
    """The same potential, so that a file that one began is continued by the other."""
    metals = [row(symbol, fcc(symbol, length)) for symbol, length in (("Cu", 3.61), ("Al", 4.05), ("Au", 4.08))]
    pool, emt = write_lines(tmp_path / "metals.jsonl", metals), "ase.calculators.emt:EMT"
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert "3 crystals estimated" in estimate(pool, here, emt)
    other = ("--potential", emt, "--potential-python", sys.executable, "--quiet")
    assert "3 crystals estimated" in done("estimate", pool, *other, "--out", there, "--workers", 1).err
    mine, theirs = read(here), read(there)
    for symbol, properties in mine.items():
        assert theirs[symbol][METHOD] == properties[METHOD]
        assert theirs[symbol][KAPPA] == pytest.approx(properties[KAPPA], rel=1e-9)
    assert (
        "0 crystals estimated, 0 failed, 0 refused, 3 in"
        in done("estimate", pool, *other, "--out", here, "--workers", 1).err
    )


def test_another_python_is_for_calculators(pool: Path, tmp_path: Path) -> None:
    other = ("--potential-python", sys.executable, "--out", tmp_path / "out.jsonl")
    assert "leave it out" in refused("estimate", pool, "--potential", "rigid-ion", *other)
    missing = ("--potential-python", tmp_path / "python", "--out", tmp_path / "out.jsonl")
    assert "there is no program" in refused("estimate", pool, "--potential", "sevennet:7net-0", *missing)
    assert not (tmp_path / "out.jsonl").exists()


def test_another_potential_needs_another_file(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    estimate(pool, out)
    message = refused("estimate", pool, "--potential", "rigid-ion:NaCl", "--out", out)
    assert "holds estimates by 'quasi-harmonic Debye model 1, rigid-ion " in message
    assert "choose another file" in message


@pytest.mark.parametrize(
    ("out", "content", "message"),
    [
        ("out.csv", "", "neither .jsonl nor .jsonl.gz"),
        ("out.jsonl", '{"id": "a"}\n', "holds other lines than"),
        ("out.jsonl", "no JSON\n", "holds other lines than"),
        ("out.jsonl", '{"id": "a", "properties": {}}\n', "holds estimates by None"),
    ],
)
def test_other_files_are_not_touched(pool: Path, tmp_path: Path, out: str, content: str, message: str) -> None:
    path = tmp_path / out
    path.write_text(content)
    assert message in refused("estimate", pool, "--potential", "rigid-ion", "--out", path)
    assert path.read_text() == content


def test_estimates_become_labels(pool: Path, tmp_path: Path) -> None:
    directory, out = tmp_path / "c", tmp_path / "out.jsonl.gz"
    estimate(pool, out)
    done("init", directory, "--cold")
    done("ingest", directory, out, "--label", f"{KAPPA}=kappa_300K@agl:W/(m K)")
    labels = done("label", "list", directory, "--format", "json").json
    found = read(out)
    assert {label["material_id"]: label["value"] for label in labels} == {f: found[f][KAPPA] for f in FORMULAS}
    assert METHOD in found["NaCl"]
