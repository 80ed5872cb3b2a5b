"""Each study on a few real crystals: every cell there, nothing made twice, no answer known before."""

from __future__ import annotations

import json

import numpy as np
import pytest

from campaigns.exceptions import CampaignError
from campaigns.studies import fidelity, paraisite, properties
from campaigns.studies.common import SOURCES, check_unseen, read_sources
from tests.campaigns.helpers import done, kappascout, refused
from tests.campaigns.studies.conftest import SMALL


def silent(_: str) -> None:
    pass


def test_paraisite(studies_data, tmp_path):
    settings = paraisite.Settings(1, ("L96", "AFLOW"), 1, 1, 1, 1, 30, None, SMALL)
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
        fidelity.Settings((8,), (0, 10), 1, 1, 1, 1, 1, 30, SMALL), studies_data, tmp_path, silent, ""
    )
    assert study.left_out == overlapping
    assert not known & {m.formula for m in study.agl}


def test_fidelity(studies_data, tmp_path):
    settings = fidelity.Settings((8, 20, 30), (0, 20, 40), 2, 1, 1, 1, 1, 30, SMALL)
    result = fidelity.run(studies_data, tmp_path / "w", silent, settings)
    with_agl = [r for r in result.rows if r["m"]]
    assert {r["method"] for r in with_agl} == set(fidelity.METHODS) - set(fidelity.WITHOUT_AGL)
    assert len(result.rows) == 2 * 3 * (5 + 2 * 5)
    fit = result.facts["fits_against_target_labels"]["gp, m = 0"]
    assert fit["interval"][0] <= fit["slope"] <= fit["interval"][1]
    assert {row["m"] for row in result.facts["exchange"]["gp"]} == {20, 40}
    json.dumps(result.facts, allow_nan=False)
    with pytest.raises(CampaignError, match="asks for 900 training rows"):
        fidelity.run(studies_data, tmp_path / "w", silent, fidelity.Settings(target_labels=(900,)))


def test_slopes_and_worth_of_known_curves():
    noise = [0.0, 0.01, -0.01]
    rows = [
        {"method": "gp", "draw": d, "n": n, "m": m, "mae": (1 + noise[d]) * 0.8 * n**-0.4 * (m or 30) ** -0.1}
        for d in range(3)
        for n in (10, 30, 100)
        for m in (0, 100, 1000)
    ]
    fit = fidelity._power_law(rows, "gp", "n", m=100)
    assert fit["slope"] == pytest.approx(-0.4)
    assert fit["interval"] == pytest.approx([-0.4, -0.4])
    surface = fidelity._surface(rows, "gp")
    # (b / n) / (c / m) at 50 and 1,000
    assert surface["agl_labels_for_one_target_label"] == pytest.approx(0.4 / 50 / (0.1 / 1000))
    saved = {(r["n"], r["m"]): r["labels_saved"] for r in fidelity._exchange(rows, "gp")}
    # 30 labels with 1,000 of AGL do what 30 * (1000 / 30)^(1/4) do without
    assert saved[30, 1000] == pytest.approx(30 * (1000 / 30) ** 0.25 - 30)
    assert saved[100, 1000] == pytest.approx(100 * (1000 / 30) ** 0.25 - 100)


def test_properties(studies_data, tmp_path):
    settings = properties.Settings((8, 20), (1, 1), 1, 10, 1, 60, ("phonon_peak",), SMALL)
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
    settings = properties.Settings((8,), (1,), 1, 10, 1, 60, ("phonon_peak",), SMALL)
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
    settings = properties.Settings((8,), (1,), 1, 10, 1, 60, ("phonon_peak",), SMALL, split)
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
    small = properties.Settings((8,), (1,), 1, 10, 1, 60, ("phonon_peak",), SMALL)
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
