"""Rounds through the command line: on real crystals, replayed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaigns.helpers import configure, done, kappascout, label_rows, queue, refused, write_lines


def test_two_rounds_end_to_end(replay: Path, records: list[dict[str, Any]]) -> None:
    """The loop of the design: queue, labels, judgement, report; what was asked for is the best that can be said."""
    ran = done("run", replay, "--format", "json")
    assert [row["round"] for row in ran.json] == [1, 2]
    assert "the budget of 8 labels is spent" in ran.err
    for row in ran.json:
        assert row["state"] == "judged"
        assert row["new_labels"] == 4
        for name in ("cv_mae", "cv_mae_trees", "cv_mae_constant", "cv_spearman", "cv_r2", "cv_nll", "cv_coverage_90"):
            assert isinstance(row[name], float), name
        for name in ("mae", "spearman", "nll", "coverage_50", "coverage_90", "enhancement", "best"):
            assert isinstance(row[name], float), name
    answers = {r["id"]: r["properties"]["kappa_300K"] for r in records}
    entries = queue(replay)
    assert len({e["id"] for e in entries}) == 8
    assert {e["state"] for e in entries} == {"done"}
    assert not {e["id"] for e in entries} & {r["id"] for r in records[:14]}
    assert all("best known" in e["reason"] and "probability to improve" in e["reason"] for e in entries)
    assert all(e["lower"] < e["mean"] < e["upper"] for e in entries)
    labelled = {*(r["id"] for r in records[:14]), *(e["id"] for e in entries)}
    assert ran.json[-1]["best"] == min(answers[id_] for id_ in labelled)
    for row in ran.json:
        own = [e for e in entries if e["round"] == row["round"]]
        truth = np.log10([answers[e["id"]] for e in own])
        error = np.abs(truth - [e["log10_mean"] for e in own])
        inside = [e["lower"] <= answers[e["id"]] <= e["upper"] for e in own]
        assert row["mae"] == pytest.approx(error.mean())
        assert row["coverage_90"] == pytest.approx(np.mean(inside))
        first = sorted(answers[r["id"]] for r in records[:14])
        hit = float(np.quantile(first, 0.1, method="nearest"))
        assert row["hits"] == sum(answers[e["id"]] <= hit for e in own)
        rate = sum(value <= hit for value in answers.values()) / len(answers)
        assert row["enhancement"] == pytest.approx(row["hits"] / 4 / rate)
    labels = done("label", "list", replay, "--format", "json").json
    assert {label["material_id"]: label["value"] for label in labels} == {id_: answers[id_] for id_ in labelled}

    state = done("status", replay, "--format", "json").json
    assert (state["state"], state["labels"], state["asked"], state["rounds"]) == ("stopped", 22, 8, 2)
    assert state["queue"] == {"done": 8}
    assert done("rounds", replay, "--format", "json").json == ran.json
    models = done("models", "list", replay, "--format", "json").json
    assert [(m["kind"], m["labels"]) for m in models] == [
        ("round", 14), ("round", 18), ("start", None), ("stage", 10_852)
    ]  # fmt: skip
    shown = done("models", "show", replay, models[0]["model"], "--format", "json").json
    assert len(shown["members"]) == 3
    assert [stage["model"] for stage in shown["lineage"]] == [models[i]["model"] for i in (2, 3, 0)]
    assert shown["lineage"][1]["errors"]["shear_modulus_scaled"]["spearman"] > 0.9
    verified = done("models", "verify", replay, "--format", "json").json
    assert {row["state"] for row in verified} == {"intact"}
    assert len(verified) == 2 * (3 + 2) + 1, "members, trees, record of both, and the backbone that they share"
    assert "no approved entry to export (0 proposed)" in refused("queue", "export", replay, "--to", replay / "x")
    assert "is spent" in done("run", replay).err
    page = done("report", replay, "--out", replay / "page.html").out.strip()
    assert (page, "<html" in Path(page).read_text()) == (str(replay / "page.html"), True)


def test_a_changed_checkpoint_is_named(replay: Path) -> None:
    done("run", replay, "--rounds", 1)
    checkpoint = next((replay / "artifacts" / "models").rglob("member-1.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"x")
    next((replay / "artifacts" / "models").rglob("member-2.safetensors")).unlink()
    outcome = kappascout("models", "verify", replay, "--format", "json")
    assert outcome.code == 1
    assert checkpoint.relative_to(replay).as_posix() in outcome.err
    assert sorted(row["state"] for row in outcome.json) == ["changed", *["intact"] * 4, "missing"]


@pytest.mark.parametrize("function", ["thompson", "random"])
def test_the_same_seed_gives_the_same_queue(replay: Path, tmp_path: Path, function: str) -> None:
    """In another directory too; another seed gives another."""
    configure(replay, {"acquisition": {"function": function, "draws": 64}, "campaign": {"budget": 4}})
    same, other = (Path(shutil.copytree(replay, tmp_path / name)) for name in ("same", "other"))
    configure(other, {"campaign": {"seed": 1}})
    for directory in (replay, same, other):
        done("run", directory)
    assert queue(replay) == queue(same)
    assert {e["id"] for e in queue(replay)} != {e["id"] for e in queue(other)}


@pytest.mark.parametrize("function", ["qUCB", "qLogEI", "greedy", "thompson", "random"])
def test_every_acquisition_function_makes_a_queue(replay: Path, function: str) -> None:
    configure(replay, {"acquisition": {"function": function, "draws": 64}})
    done("run", replay, "--rounds", 1)
    assert len(queue(replay, "done")) == 4


def test_rounds_stops_after_so_many(replay: Path) -> None:
    ran = done("run", replay, "--rounds", 1, "--format", "json")
    assert [row["round"] for row in ran.json] == [1]
    assert "rounds requested and done: 1" in ran.err
    ran = done("run", replay, "--rounds", 1, "--format", "json")
    assert [row["round"] for row in ran.json] == [2]


def test_budget_cuts_the_last_batch(replay: Path) -> None:
    configure(replay, {"campaign": {"budget": 6}})
    done("run", replay)
    assert [e["round"] for e in queue(replay)] == [1, 1, 1, 1, 2, 2]


def test_batch_larger_than_what_is_left(replay: Path) -> None:
    configure(replay, {"campaign": {"batch": 100, "budget": 1000}})
    ran = done("run", replay)
    assert "only 46 candidates are left for a batch of 100: all are queued" in ran.err
    assert "none of the 60 materials can be queued" in ran.err
    assert len(queue(replay, "done")) == 46
    assert done("status", replay, "--format", "json").json["state"] == "stopped"
    assert "60 are labelled, or were queued before" in refused("run", replay)


def test_every_candidate_filtered_out(replay: Path, records: list[dict[str, Any]]) -> None:
    """The message counts what each constraint removed; relaxing them lets the same campaign go on."""
    limits = {"exclude_elements": ["Te"], "max_sites": 1}
    configure(replay, {"constraints": limits})
    message = refused("run", replay)
    with_te = sum("Te" in r["species"] for r in records)
    assert f"elements without Te removed {with_te}; n_sites <= 1 removed {60 - with_te}" in message
    assert "relax [constraints]" in message
    assert done("rounds", replay, "--format", "json").json == []
    configure(replay, {"constraints": {"max_sites": None}})
    done("run", replay)
    crystals = {r["id"]: r["species"] for r in records}
    assert not any("Te" in crystals[e["id"]] for e in queue(replay))


def test_constraints_on_known_properties(replay: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    gaps = [r | {"properties": {"band_gap_eV": float(i)}} for i, r in enumerate(records[:50])]
    done("ingest", replay, write_lines(tmp_path / "gaps.jsonl", gaps))
    configure(replay, {"constraints": {"properties": {"band_gap_ev": {"min": 30}}, "missing": "drop"}})
    assert "did you mean 'band_gap_eV'?" in refused("run", replay)
    configure(replay, {"constraints": {"properties": {"band_gap_eV": {"min": 30}}}})
    done("run", replay)
    assert {e["id"] for e in queue(replay)} <= {r["id"] for r in records[30:50]}


def test_an_empty_campaign_says_what_to_do(tmp_path: Path) -> None:
    done("init", tmp_path / "c", "--cold")
    assert "`kappascout ingest" in refused("run", tmp_path / "c")


def test_too_few_labels_give_a_space_filling_batch(tmp_path: Path, pool_file: Path) -> None:
    """Rounds without a model say so, until there are labels enough."""
    directory = tmp_path / "c"
    done("init", directory, "--cold")
    done("ingest", directory, pool_file)
    settings = {"campaign": {"batch": 5, "budget": 15}, "labeler": {"kind": "replay", "source": str(pool_file)}}
    configure(directory, settings)
    ran = done("run", directory, "--format", "json")
    assert "0 labels, a model needs 8" in ran.err
    assert "5 labels, a model needs 8" in ran.err
    assert [row["cv_mae"] is None for row in ran.json] == [True, True, False]
    entries = queue(directory)
    assert all("no model yet" in e["reason"] and e["mean"] is None for e in entries[:10])
    assert all("no model yet" not in e["reason"] for e in entries[10:])


def test_equal_labels_give_a_space_filling_batch(dft: Path, records: list[dict[str, Any]]) -> None:
    same = [row | {"value": 2.0, "source": "initial"} for row in label_rows(records[:14])]
    done("label", "import", dft, write_lines(dft / "same.jsonl", same))
    assert "no model can be trained (all 14 labels" in done("run", dft).err


def test_an_element_the_backbone_lacks_is_never_queued(dft: Path, records: list[dict[str, Any]]) -> None:
    """Radon is a real element, so the crystal enters the pool; no round may queue it."""
    radon = dict(records[0], id="radon-salt", species=["Rn", *records[0]["species"][1:]])
    done("ingest", dft, write_lines(dft / "radon.jsonl", [radon]))
    configure(dft, {"campaign": {"batch": 100, "budget": 100}})
    ran = done("run", dft)
    assert "1 materials left out, the backbone lacks an element: radon-salt (" in ran.err
    assert len(queue(dft)) == 46
    assert "radon-salt" not in {e["id"] for e in queue(dft)}


def test_labels_of_another_fidelity_do_not_train(dft: Path, records: list[dict[str, Any]]) -> None:
    rows = label_rows(records[14:40], fidelity="agl")
    imported = done("label", "import", dft, write_lines(dft / "agl.jsonl", rows))
    note = "labels of kappa_300K that train: 14 of fidelity 'dft'; that do not: 26 of fidelity 'agl'"
    assert note in imported.err
    ran = done("run", dft, "--format", "json")
    assert note in ran.err
    assert ran.json[0]["labels"] == 14


def test_a_replay_without_answers_stops_before_any_work(replay: Path, records: list[dict[str, Any]]) -> None:
    configure(replay, {"labeler": {"field": "kappa"}})
    assert "no record of" in (message := refused("run", replay))
    assert "has a usable 'kappa' (there are: kappa_300K); set [labeler] field" in message
    configure(replay, {"labeler": {"source": "nowhere.jsonl"}})
    assert "[labeler] source = 'nowhere.jsonl'" in refused("run", replay)
    configure(replay, {"labeler": {"source": "reference"}, "campaign": {"fidelity": "agl"}})
    assert "the reference table answers kappa_300K at fidelity dft or experiment" in refused("run", replay)
    assert done("rounds", replay, "--format", "json").json == []


def test_a_material_without_an_answer_fails(replay: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """A missing answer, and one that is no possible conductivity, are failures; they are not proposed again."""
    broken = [dict(r, properties={}) for r in records[14:30]]
    broken += [dict(r, properties={"kappa_300K": -1.0}) for r in records[30:]]
    source = write_lines(tmp_path / "few.jsonl", [*records[:14], *broken])
    configure(replay, {"labeler": {"source": str(source)}})
    ran = done("run", replay, "--format", "json")
    assert [(row["new_labels"], row["failed"]) for row in ran.json] == [(0, 4), (0, 4)]
    assert len({e["id"] for e in queue(replay, "failed")}) == 8


def test_values_without_logarithm_are_refused_before_the_round(dft: Path, records: list[dict[str, Any]]) -> None:
    """Otherwise the round, which keeps its settings, could never be finished."""
    rows = [
        row | {"property": "dipole", "unit": "D", "value": float(i - 7)} for i, row in enumerate(label_rows(records))
    ]
    done("label", "import", dft, write_lines(dft / "dipole.jsonl", rows))
    configure(dft, {"campaign": {"property": "dipole", "unit": "D", "scale": "log10"}})
    assert "-7 has no logarithm" in refused("run", dft)
    assert done("rounds", dft, "--format", "json").json == []


def test_reports_are_json_alone(replay: Path) -> None:
    outcome = done("run", replay, "--rounds", 1, "--format", "json")
    assert json.loads(outcome.out)
    assert "round 1: 4 materials queued" in outcome.err
