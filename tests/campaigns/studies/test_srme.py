"""The study of a potential against first principles: real phonons of salts, failures counted, nothing made twice."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from campaigns.exceptions import CampaignError
from campaigns.studies import srme
from engine.materials.crystal import Crystal
from engine.physics.phonon_settings import PhononSettings
from engine.physics.supercells import supercell_matrix
from tests.campaigns.helpers import done, refused

SMALL = srme.SrmeSettings(phonons=PhononSettings(isotopes=True, first_mesh=8.0, last_mesh=8.0, distance=0.02))
NAMES = ("KCl-sg225", "KF-sg225", "ZnS-sg186")


@pytest.fixture
def records(shared):
    with gzip.open(shared("data/ltc_ksrme103.jsonl.gz"), "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
def data(records, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    wanted = [json.dumps(record) for record in records if record["id"].partition("-")[2].partition("-")[2] in NAMES]
    (folder / "ltc_ksrme103.jsonl").write_text("\n".join(wanted))
    return folder


def test_scores_of_a_potential_and_what_it_cannot_calculate(data, tmp_path):
    said: list[str] = []
    work = tmp_path / "w"
    late = srme.run(data, work, said.append, "rigid-ion", replace(SMALL, time_limit=1e-3))
    assert [row["failed"] for row in late.rows] == [1.0, 1.0, 1.0]  # two by time, tried again now
    assert {row["sre"] for row in late.rows} == {2.0}
    assert late.summary()[0]["mae_ln"] is None

    found = srme.run(data, work, said.append, "rigid-ion", SMALL)
    by_name = {row["compound"].split("-")[2]: row for row in found.rows}
    assert {name: row["structure"] for name, row in by_name.items()} == {
        "KCl": "rock salt",
        "KF": "rock salt",
        "ZnS": "wurtzite",
    }
    cells = {key.split("-")[2]: cell for key, cell in found.facts["compounds"].items()}
    assert cells["ZnS"]["kappa"] is None
    assert cells["ZnS"]["failure"].startswith("rejected")
    references = {r["id"].split("-")[2]: r["properties"] for r in map(json.loads, _lines(data))}
    for name in ("KCl", "KF"):
        kappa, row = cells[name]["kappa"], by_name[name]
        reference = references[name][srme.WITHOUT_POLAR]
        polar = references[name]["kappa_300K_W_mK"]
        assert row["sre"] == pytest.approx(2 * abs(kappa - reference) / (kappa + reference))
        assert row["sre_polar"] == pytest.approx(2 * abs(kappa - polar) / (kappa + polar))
        assert row["bias_ln"] == pytest.approx(np.log(kappa / reference))
        assert row["failed"] == 0
    assert by_name["ZnS"]["sre"] == 2
    assert by_name["ZnS"]["mae_ln"] == max(by_name["KCl"]["mae_ln"], by_name["KF"]["mae_ln"])
    (mean,) = found.summary()
    assert mean["failed"] == pytest.approx(1 / 3)
    assert mean["sre"] == pytest.approx(np.mean([row["sre"] for row in found.rows]))
    assert mean["bias_ln"] == pytest.approx(np.mean([by_name[n]["bias_ln"] for n in ("KCl", "KF")]))

    said.clear()
    again = srme.run(data, work, said.append, "rigid-ion", SMALL)
    assert again.rows == found.rows
    assert [line for line in said if "of" in line and "kappa" in line] == []


def test_the_command(data, tmp_path, monkeypatch):
    monkeypatch.setattr(srme, "QUICK", replace(SMALL, compounds=1))
    out = tmp_path / "out"
    options = ("study", "srme", "--data", data, "--out", out, "--quick")
    made = done(*options, "--potential", "rigid-ion", "--format", "json", "--quiet")
    (row,) = made.json
    assert row["potential"] == "rigid-ion"
    assert row["failed"] == 0.5  # one rock salt, one wurtzite
    facts = json.loads((out / "srme.json").read_text())["facts"]
    assert facts["potential"]["name"] == "rigid-ion"
    assert "--potential" in refused(*options)
    assert "--potential" in refused("study", "phonix", "--data", data, "--potential", "rigid-ion")
    assert "--potential" in refused("study", "phonix", "--data", data, "--potential-python", "python3")
    assert "--from" in refused(*options, "--potential", "rigid-ion", "--from", "megnet-taught")


def test_a_file_without_references_of_the_right_kind_is_refused(data, tmp_path):
    path = data / "ltc_ksrme103.jsonl"
    path.write_text(path.read_text().replace(srme.WITHOUT_POLAR, "kappa"))
    with pytest.raises(CampaignError, match=srme.WITHOUT_POLAR):
        srme.run(data, tmp_path / "w", lambda _: None, "rigid-ion", SMALL)


def test_supercells_are_those_of_the_source(records):
    sizes = {}
    for record in records:
        crystal = Crystal.from_symbols(record["lattice"], record["species"], record["frac_coords"])
        length = srme.SUPERCELL * (crystal.volume / len(crystal)) ** (1 / 3)
        n_atoms = round(abs(np.linalg.det(supercell_matrix(crystal, length)))) * len(crystal)
        sizes.setdefault(record["properties"]["space_group"], set()).add(n_atoms)
    assert sizes == {225: {64}, 216: {64}, 186: {72}}


def _lines(data):
    return (data / "ltc_ksrme103.jsonl").read_text().splitlines()
