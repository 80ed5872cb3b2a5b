"""``kappascout relax``: figures of every candidate, resumable, for ``[constraints]``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from ase.calculators.emt import EMT
from filelock import FileLock
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from campaigns.campaign import Campaign
from campaigns.configuration.constraints import ConstraintsSection
from campaigns.pool.pool import Pool
from campaigns.stability.relaxing import FOLDER, LOCK
from campaigns.stability.table import MOST_ROWS, stability_rows
from engine.materials.crystal import Crystal
from engine.materials.elements import SYMBOLS
from engine.physics.relaxation import relax
from tests.campaigns.helpers import configure, done, refused, write_lines
from tests.engine.physics.alloys import SPEC, bcc, fcc, l12
from tests.engine.physics.salts import rocksalt


def relaxed(directory: Path, *options: object) -> dict[str, Any]:
    arguments = ("relax", directory, "--potential", SPEC, "--workers", 1, "--quiet", "--format", "json")
    return dict(done(*arguments, *options).json)


def properties(directory: Path) -> dict[str, dict[str, Any]]:
    with Campaign.open(directory) as campaign:
        return {m.material_id: m.properties for m in campaign.store.materials()}


def energy(crystal: Any) -> float:
    return relax(crystal, EMT()).energy


def lines(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / "artifacts" / FOLDER).rglob("*.gz"))


def test_every_candidate_gets_figures_or_a_reason(relaxed_once: tuple[Path, dict[str, Any]]) -> None:
    campaign, report = relaxed_once
    assert (report["materials"], report["before"], report["relaxed"]) == (5, 0, 4)
    assert report["failures"] == {"calculator_error": 1}
    assert report["core_seconds"] > 0
    found = properties(campaign)
    assert found["Cu3Au"]["relaxed_energy_eV_per_atom"] == pytest.approx(energy(l12("Au", "Cu", 3.75)), abs=1e-9)
    assert found["Cu3Au"]["relaxed_volume_change"] == pytest.approx(-0.033, abs=1e-3)
    assert found["Cu3Au"]["relaxed_displacement_A"] == pytest.approx(0, abs=1e-9)
    assert found["Cu3Au"]["relaxed_with"].startswith(f"{SPEC} ")
    assert found["NaCl"]["relaxation_failure"].startswith("calculator_error: ")
    assert "relaxed_energy_eV_per_atom" not in found["NaCl"]
    # without references nothing is said of the hull
    assert found["CuAu3"]["energy_above_hull_eV"] == 0.004
    assert "energy_above_hull_eV" not in found["Cu3Au"]
    with Campaign.open(campaign) as opened:
        assert opened.store.labels() == []
        hashes = {key.content_hash for key in opened.store.material_index()}
    (home,) = (campaign / "artifacts" / FOLDER).iterdir()
    assert json.loads((home / "method.json").read_text())["potential"]["name"] == SPEC
    with gzip.open(home / "relaxed.jsonl.gz", "rt") as handle:
        kept = [json.loads(line) for line in handle]
    assert {record["content_hash"] for record in kept} == hashes
    crystals = [Crystal.from_dict(r["figures"]["crystal"]) for r in kept if "figures" in r]
    assert {c.formula for c in crystals} == {"Cu3Au", "CuAu3", "Cu", "NiAu"}


def test_a_table_shows_each_material_and_why_one_failed(campaign: Path) -> None:
    ran = done("relax", campaign, "--potential", SPEC, "--workers", 1, "--quiet")
    found = properties(campaign)
    after = ran.out[ran.out.index("lowest frequency") :]
    for id_, values in found.items():
        assert id_ in after
        if "relaxed_energy_eV_per_atom" in values:
            assert f"{values['relaxed_energy_eV_per_atom']:.4f}" in after
            assert f"{values['lowest_frequency_THz']:.2f}" in after
    assert "calculator_error" in after
    assert after.index("NaCl") < after.index("Cu3Au")
    with Campaign.open(campaign) as opened:
        rows = stability_rows(opened.store, opened.store.material_index() * 5)
    assert len(rows) == MOST_ROWS
    assert [row["id"] for row in rows[:6]] == ["NaCl"] * 5 + ["Cu3Au"]


@pytest.mark.parametrize(
    ("name", "option"), [("relaxed_energy_eV_per_atom", ""), ("lowest_frequency_THz", " --phonons")]
)
def test_a_limit_on_what_was_not_calculated_names_the_command(tmp_path: Path, name: str, option: str) -> None:
    directory = tmp_path / "c"
    done("init", directory, "--cold")
    done("ingest", directory, write_lines(tmp_path / "pool.jsonl", [rocksalt("NaCl").to_dict() | {"id": "NaCl"}]))
    configure(directory, {"constraints": {"properties": {name: {"max": 0.1}}}})
    assert f"`kappascout relax DIR --potential P{option}` calculates it" in refused("run", directory)


def test_what_is_done_is_not_done_again(campaign: Path) -> None:
    size, found = lines(campaign), properties(campaign)
    again = relaxed(campaign)
    assert (again["before"], again["relaxed"], again["core_seconds"]) == (5, 4, 0)
    assert (lines(campaign), properties(campaign)) == (size, found)
    # a failure is calculated again when that is wanted
    retried = relaxed(campaign, "--retry")
    assert retried["before"] == 4
    assert retried["failures"] == {"calculator_error": 1}
    assert lines(campaign) > size
    assert properties(campaign) == found


def test_a_killed_run_goes_on(campaign: Path) -> None:
    """Results on the disk that never reached the store, and a line that was cut off."""
    whole = properties(campaign)
    with Campaign.open(campaign) as opened:
        lost = dict.fromkeys(["relaxed_energy_eV_per_atom", "relaxed_with", "relaxed_volume_change"])
        opened.store.set_properties({"Cu3Au": lost})
    (path,) = (campaign / "artifacts" / FOLDER).rglob("relaxed.jsonl.gz")
    with path.open("ab") as handle:
        handle.write(path.read_bytes()[:100])
    assert "relaxed_with" not in properties(campaign)["Cu3Au"]
    assert relaxed(campaign)["core_seconds"] == 0
    assert properties(campaign) == whole


def test_a_calculation_over_its_time_is_done_again_with_more(tmp_path: Path, campaign: Path) -> None:
    from campaigns.stability.calculations import Calculations, Effort, Method
    from engine.physics.stability import relaxation_figures

    method = Method("p", {"name": "p", "sha256": "0" * 64}, {})
    path = tmp_path / "results.jsonl"
    failure = {"reason": "timed_out", "message": "took longer"}
    row = {"content_hash": "h", "formula": "Cu", "failure": failure, "core_seconds": 5.0, "time_limit": 5.0}
    path.write_text(json.dumps(row) + "\n")
    for limit, is_done in ((5.0, True), (6.0, False)):
        kept = Calculations(path, method, relaxation_figures, Effort(1, limit))  # type: ignore[arg-type]
        assert kept.is_done("h") is is_done
        assert not kept.is_done("other")


def test_energies_above_the_hull_are_those_of_pymatgen(campaign: Path, references: Path) -> None:
    report = relaxed(campaign, "--references", references)
    assert (report["references"], report["above_hull"], report["kept"]) == (3, 2, 1)
    assert report["without_reference"] == {"Au-Ni": ["Ni"]}
    found = properties(campaign)
    energies = {"Cu": energy(fcc("Cu", 3.61)), "Au": energy(fcc("Au", 4.08)), "Cu3Au": energy(l12("Au", "Cu", 3.75))}
    entries = [PDEntry(f, e * Composition(f).num_atoms) for f, e in energies.items()]
    diagram = PhaseDiagram([PDEntry(Composition(e.name), e.energy) for e in entries])
    assert found["Cu3Au"]["energy_above_hull_eV"] == pytest.approx(0, abs=1e-9)
    assert found["bcc-Cu"]["energy_above_hull_eV"] == pytest.approx(energy(bcc("Cu", 2.88)) - energies["Cu"], abs=1e-6)
    assert "energy_above_hull_eV" not in found["NiAu"]
    assert found["CuAu3"]["energy_above_hull_eV"] == 0.004
    # the value that came with the crystal gives way when that is wanted
    replaced = relaxed(campaign, "--references", references, "--replace")
    assert (replaced["above_hull"], replaced["kept"], replaced["core_seconds"]) == (3, 0, 0)
    entry = PDEntry(Composition("CuAu3"), 4 * energy(l12("Cu", "Au", 3.98)))
    expected = diagram.get_e_above_hull(entry, allow_negative=True)
    assert properties(campaign)["CuAu3"]["energy_above_hull_eV"] == pytest.approx(expected, abs=1e-6)
    assert relaxed(campaign, "--references", references)["kept"] == 0


def test_an_energy_above_a_hull_that_is_no_longer_covered_goes(campaign: Path, references: Path) -> None:
    relaxed(campaign, "--references", references, "--replace")
    copper = references.with_name("copper.jsonl")
    copper.write_text(references.read_text().splitlines()[0] + "\n")
    report = relaxed(campaign, "--references", copper)
    assert (report["above_hull"], report["removed"]) == (1, 2)
    having = {name for name, found in properties(campaign).items() if "energy_above_hull_eV" in found}
    assert having == {"bcc-Cu"}


def test_figures_of_another_potential_are_named(campaign: Path, references: Path) -> None:
    assert relaxed(campaign, "--references", references)["notes"] == []
    other = ("relax", campaign, "--potential", "rigid-ion", "--workers", 1, "--quiet", "--format", "json")
    (note,) = done(*other).json["notes"]
    assert "4 relaxed energies, 2 energies above the hull, 4 lowest frequencies" in note


def dumped(path: Path, entries: list[ComputedEntry]) -> Path:
    path.write_text(json.dumps([entry.as_dict() for entry in entries]))
    return path


def test_entries_of_pymatgen_are_relaxed_or_taken_as_they_are(tmp_path: Path, campaign: Path) -> None:
    crystals = {"mp-30": fcc("Cu", 3.61), "mp-81": fcc("Au", 4.08)}
    first_principles = [
        ComputedStructureEntry(crystal.to_structure(), -3.0 - n, correction=-0.1, entry_id=id_)
        for n, (id_, crystal) in enumerate(crystals.items())
    ]
    report = relaxed(campaign, "--references", dumped(tmp_path / "a.json", list(first_principles)))
    assert any("2 references came with" in note for note in report["notes"])
    relaxed_here = properties(campaign)["Cu3Au"]["energy_above_hull_eV"]
    assert -0.02 < relaxed_here < 0
    bare = [ComputedEntry(c.formula, energy(c), correction=-0.1, entry_id=i) for i, c in crystals.items()]
    path = dumped(tmp_path / "b.json", bare)
    message = refused("relax", campaign, "--potential", SPEC, "--references", path)
    assert "mp-30, mp-81" in message
    assert "--given-energies" in message
    report = relaxed(campaign, "--references", path, "--given-energies")
    assert any("corrections of 2 references" in note for note in report["notes"])
    assert properties(campaign)["Cu3Au"]["energy_above_hull_eV"] == pytest.approx(relaxed_here, abs=1e-6)


def test_a_salt_against_energies_in_a_table(tmp_path: Path) -> None:
    directory, pool, table = tmp_path / "s", tmp_path / "pool.jsonl", tmp_path / "table.csv"
    salts = {"NaCl": rocksalt("NaCl"), "KCl": rocksalt("KCl")}
    rows = [
        {"id": f, "lattice": c.lattice.tolist(), "species": c.symbols, "frac_coords": c.frac_coords.tolist()}
        for f, c in salts.items()
    ]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table.write_text("formula,energy_per_atom_eV\nNa,-1.0\nCl2,-2.0\nNaCl3,-2.5\n")
    done("init", directory, "--cold")
    done("ingest", directory, pool)
    arguments = ("relax", directory, "--potential", "rigid-ion", "--workers", 1, "--references", table)
    report = done(*arguments, "--given-energies", "--format", "json").json
    assert report["without_reference"] == {"Cl-K": ["K"]}
    found = properties(directory)["NaCl"]
    assert found["energy_above_hull_eV"] == pytest.approx(
        found["relaxed_energy_eV_per_atom"] - (-1.0 / 3 + 2 / 3 * -2.5), abs=1e-9
    )


def test_lowest_frequencies(campaign: Path, relaxed_once: tuple[Path, dict[str, Any]]) -> None:
    report = relaxed_once[1]
    assert (report["phonons"], report["imaginary"], report["phonon_failures"]) == (4, 2, {})
    found = properties(campaign)
    assert found["bcc-Cu"]["lowest_frequency_THz"] < -0.5
    assert found["Cu3Au"]["lowest_frequency_THz"] > 1
    assert "lowest_frequency_THz" not in found["NaCl"]
    again = relaxed(campaign, "--phonons")
    assert (again["phonons"], again["core_seconds"]) == (4, 0)


def test_constraints_read_the_figures(campaign: Path, references: Path) -> None:
    relaxed(campaign, "--references", references)
    limits = {"energy_above_hull_eV": {"max": 0.003}, "lowest_frequency_THz": {"min": -0.1}}
    with Campaign.open(campaign) as opened:
        pool = Pool.of(opened.store, SYMBOLS)

        def left(**settings: object) -> list[str]:
            section = ConstraintsSection.model_validate({"properties": limits} | settings)
            return pool.rows.take(pool.candidates(opened.store, section, ())).texts("material_id")

        # a material without a value stays unless [constraints] missing = "drop"
        assert left() == ["Cu3Au", "NaCl"]
        assert left(missing="drop") == ["Cu3Au"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("formula,energy_per_atom_eV\nXx2,-1\n", "'Xx2' is no formula"),
        ("formula,energy_per_atom_eV\nCu,nan\n", "Cu has no energy"),
        ("formula,energy_per_atom_eV\n", "holds no reference"),
        ("formula,energy_per_atom_eV\nAg,-1\n", "none of the 1 references is made of the elements"),
    ],
)
def test_bad_references_are_refused_before_anything_is_calculated(
    tmp_path: Path, campaign: Path, content: str, words: str
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(content)
    options = ("--potential", SPEC, "--references", table, "--given-energies")
    size = lines(campaign)
    assert words in refused("relax", campaign, *options)
    assert lines(campaign) == size


def test_what_cannot_be_asked_for(tmp_path: Path, campaign: Path) -> None:
    assert "there is no file" in refused("relax", campaign, "--potential", SPEC, "--references", tmp_path / "no.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"energy": ')
    assert "cannot be read as JSON" in refused("relax", campaign, "--potential", SPEC, "--references", broken)
    assert "no queue entry is unfinished" in refused("relax", campaign, "--potential", SPEC, "--queued")
    assert "no callable EMTX" in refused("relax", campaign, "--potential", f"{SPEC}X")
    done("init", tmp_path / "empty", "--cold")
    assert "holds no materials" in refused("relax", tmp_path / "empty", "--potential", SPEC)
    with FileLock(campaign / LOCK):
        assert "another process relaxes" in refused("relax", campaign, "--potential", SPEC)
