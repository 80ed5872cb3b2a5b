"""Each study on a few real crystals: every cell there, nothing made twice, no answer known before."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from campaigns.exceptions import CampaignError
from campaigns.studies import fidelity, paraisite, properties, starting_models
from campaigns.studies.data import SOURCES, check_unseen, read_sources
from tests.campaigns.helpers import done, kappascout, refused
from tests.campaigns.studies.conftest import SMALL
from tests.engine.learning.bodies import small_backbone


def silent(_: str) -> None:
    pass


def test_paraisite(studies_data, tmp_path):
    settings = paraisite.Settings(1, ("L96", "AFLOW"), 1, 1, 1, 1, 30, None, SMALL, starts=None)
    said: list[str] = []
    first = paraisite.run(studies_data, tmp_path / "w", said.append, settings)
    assert {row["method"] for row in first.rows if row["set"] == "L96"} == set(paraisite.METHODS)
    assert {row["method"] for row in first.rows if row["set"] == "AFLOW"} == {
        "constant", "random forest", "extra-trees", "extra-trees, transfer", "I", "II", "process", "ours",
        "mean of ours, process and III",
    }  # fmt: skip
    assert all(np.isfinite(row["mae"]) for row in first.rows)
    assert "2026: .28" in first.tables
    assert "all of the body" in first.facts["loaded"]["AGL from formation energy"]

    said.clear()
    again = paraisite.run(studies_data, tmp_path / "w", said.append, settings)
    assert again.rows == first.rows
    assert not any("epoch" in line or line.startswith("paraisite-") for line in said)


TINY = {
    "MEGNet": SMALL,
    "M3GNet": {"units": 8, "dim_node_embedding": 8, "dim_edge_embedding": 8, "nblocks": 1, "cutoff": 4.0},
    "TensorNet": {"units": 8, "num_rbf": 8, "nblocks": 1, "cutoff": 4.0},
    "composition network": {"units": 8, "nblocks": 1, "heads": 2},
}


def compared(data, work, said, **changes):
    settings = starting_models.StartSettings(
        sets=("L96",), seeds=2, max_rows=40, training_sites=12, pretraining_epochs=1, scratch_epochs=1,
        transfer_epochs=1, bodies=TINY,
    )  # fmt: skip
    starts = replace(settings, **changes)
    return paraisite.run(data, work, said.append, paraisite.Settings(1, (), 1, 1, 1, 1, 30, 50, SMALL, starts))


def test_starting_models(studies_data, tmp_path):
    first = compared(studies_data, tmp_path / "w", said := [])
    scratch, trained = starting_models.FROM_SCRATCH, starting_models.SHIPPED
    expected = {*starting_models.TREES, *(f"{m}, {step}" for m in scratch for step in starting_models.STEPS)}
    expected |= {f"{trained}, II", f"{trained}, III"}
    assert {row["method"] for row in first.rows} == expected
    assert len(first.rows) == 2 * len(expected)
    assert all(np.isfinite(row["mae"]) for row in first.rows)
    networks = {(r["method"], r["draw"]): r["mae"] for r in first.rows}
    assert all(networks[f"{m}, III", 0] != networks[f"{m}, III", 1] for m in scratch)
    facts = first.facts["starting_models"]
    assert facts["agl_crystals"] <= 40
    assert facts["pretraining"]["M3GNet"]["seed 1"]["agl"]["loaded"]["matched"] > 0
    assert all(f"| {method} |" in first.tables for method in expected)
    json.dumps(first.facts, allow_nan=False)

    said.clear()
    again = compared(studies_data, tmp_path / "w", said, models=("composition network", "MEGNet"))
    assert all(row in first.rows for row in again.rows)
    assert len(again.rows) == 2 * (2 + 6)
    assert not any("epoch" in line or line.startswith("paraisite-") for line in said)


def test_starting_models_do_not_change_the_cells_of_the_steps(studies_data, tmp_path):
    both = [
        paraisite._Study(paraisite.Settings(starts=starts), studies_data, tmp_path, silent, "")._for_cells
        for starts in (None, starting_models.StartSettings())
    ]
    assert both[0] == both[1]
    assert "starts" not in both[0]


def test_without_formation_energies_a_given_start_is_not_compared(studies_data, tmp_path):
    (studies_data / f"{SOURCES['formation_energy'].file}.jsonl").unlink()
    start = small_backbone("MEGNet").save(tmp_path / "small")
    study = paraisite._Study(paraisite.Settings(), studies_data, tmp_path, (said := []).append, str(start))
    assert study.starting_models is None
    assert any(line.startswith("warning: ") and SOURCES["formation_energy"].file in line for line in said)


def test_agl_of_the_same_compounds_is_left_out(studies_data, tmp_path):
    agl, l96 = (studies_data / f"{SOURCES[role].file}.jsonl" for role in ("agl", "L96"))
    copies = [json.loads(line) for line in l96.read_text().splitlines()[:5]]
    renamed = [{**r, "properties": {"kappa_agl_300K_W_mK": 1.0 + k}} for k, r in enumerate(copies)]
    agl.write_text(agl.read_text() + "".join(json.dumps(r) + "\n" for r in renamed))
    found = read_sources(studies_data, ("agl", "L96", "HH143"), silent)
    known = {m.formula for m in (*found["L96"], *found["HH143"])}
    overlapping = sum(m.formula in known for m in found["agl"])
    assert overlapping >= 5
    study = fidelity._Study(
        fidelity.FidelitySettings((8,), (0, 10), 1, 1, 1, 1, 1, 30, SMALL), studies_data, tmp_path, silent, ""
    )
    assert study.left_out == overlapping
    assert not known & {m.formula for m in study.agl}


def test_fidelity(studies_data, tmp_path):
    settings = fidelity.FidelitySettings((8, 20, 30), (0, 20, 40), 2, 1, 1, 1, 1, 30, SMALL)
    result = fidelity.run(studies_data, tmp_path / "w", silent, settings)
    with_agl = [r for r in result.rows if r["m"]]
    assert {r["method"] for r in with_agl} == set(fidelity.METHODS) - set(fidelity.WITHOUT_AGL)
    assert len(result.rows) == 2 * 3 * (5 + 2 * 5)
    fit = result.facts["fits_against_target_labels"]["gp, m = 0"]
    assert fit["interval"][0] <= fit["slope"] <= fit["interval"][1]
    assert {row["m"] for row in result.facts["exchange"]["gp"]} == {20, 40}
    json.dumps(result.facts, allow_nan=False)
    with pytest.raises(CampaignError, match="asks for 900 training rows"):
        fidelity.run(studies_data, tmp_path / "w", silent, fidelity.FidelitySettings(target_labels=(900,)))


def test_properties(studies_data, tmp_path):
    settings = properties.PropertiesSettings((8, 20), (1, 1), 1, 10, 1, 60, ("phonon_peak",), SMALL)
    pairwise = properties.run("pairwise", studies_data, tmp_path / "w", silent, settings)
    said: list[str] = []
    multi = properties.run("multiproperty", studies_data, tmp_path / "w", said.append, settings)
    assert {row["method"] for row in multi.rows} == set(properties.METHODS)
    shared = [row for row in multi.rows if row["method"] in properties.STUDIES["pairwise"]]
    assert sorted(map(str, shared)) == sorted(map(str, pairwise.rows))
    assert not any("scratch-" in line and line.startswith("properties-") for line in said)
    assert set(multi.facts["pretraining"]["all-but-phonon_peak"]) == {
        SOURCES[role].property for role in ("formation_energy", "agl", "shear_modulus", "band_gap")
    }


def test_no_property_of_the_target_is_seen(studies_data, tmp_path):
    settings = properties.PropertiesSettings((8,), (1,), 1, 10, 1, 60, ("phonon_peak",), SMALL)
    study = properties._Study("multiproperty", settings, studies_data, tmp_path, silent)
    backbone = study._all_but("phonon_peak")
    assert SOURCES["phonon_peak"].property not in backbone.card["seen"]
    with pytest.raises(CampaignError, match="told its answers"):
        check_unseen(backbone, study.sets["band_gap"], SOURCES["band_gap"])
    training, test = study._split("phonon_peak", 0)
    materials = study.sets["phonon_peak"]
    assert not {materials[i].formula for i in training} & {materials[i].formula for i in test}


@pytest.mark.parametrize("split", ["space_group", "tail"])
def test_properties_on_another_split(split, studies_data, tmp_path):
    settings = properties.PropertiesSettings((8,), (1,), 1, 10, 1, 60, ("phonon_peak",), SMALL, split)
    study = properties._Study("pairwise", settings, studies_data, tmp_path, silent)
    training, test = study._split("phonon_peak", 0)
    materials = study.sets["phonon_peak"]
    known, new = ([materials[i] for i in rows] for rows in (training, test))
    assert len(test) == 10
    if split == "space_group":
        assert not {m.spacegroup for m in known} & {m.spacegroup for m in new}
    else:
        name = SOURCES["phonon_peak"].property
        assert max(m.properties[name] for m in new) < min(m.properties[name] for m in known)


def test_the_command(studies_data, tmp_path, monkeypatch):
    small = properties.PropertiesSettings((8,), (1,), 1, 10, 1, 60, ("phonon_peak",), SMALL)
    monkeypatch.setattr(properties, "QUICK", small)
    out = tmp_path / "out"
    made = done("study", "pairwise", "--data", studies_data, "--out", out, "--quick", "--format", "json", "--quiet")
    assert {row["method"] for row in made.json} == set(properties.STUDIES["pairwise"])
    assert "--quick`" in (out / "pairwise.md").read_text()
    assert json.loads((out / "pairwise.json").read_text())["study"] == "pairwise"
    assert "lacks" in refused("study", "fidelity", "--data", tmp_path, "--out", out)
    assert "leave out --from" in refused("study", "pairwise", "--data", studies_data, "--out", out, "--from", "x")
    assert "leave out --split" in refused("study", "fidelity", "--data", studies_data, "--out", out, "--split", "tail")
    assert kappascout("study", "other", "--data", studies_data).code == 2
