"""Backtests: the production code on labelled data, comparable with other programs, never from a model that knows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.backtest import parse_seeds, parse_strategies
from campaigns.exceptions import CampaignError
from tests.campaigns.helpers import FIELD, configure, done, label_rows, queue, refused, write_lines

SIZES = ("--initial", 12, "--batch", 4, "--rounds", 2)
PROTOCOL = ("--property", FIELD, "--goal", "min", *SIZES, "--members", 2)
RUN = {"strategy", "seed", "acquired", "round_seconds", "rounds"}


@pytest.fixture(scope="module")
def results(pool_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Backtest two seeds in this process; what it printed is under ``printed``."""
    out = tmp_path_factory.mktemp("backtest") / "r.json"
    command = ("backtest", pool_file, *PROTOCOL, "--seeds", "3,1", "--strategy", "gp-ucb,random,extra-trees")
    printed = done(*command, "--workers", 1, "--out", out, "--format", "json")
    return {**json.loads(out.read_text()), "printed": printed}


def test_the_results(results: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Shape, initial ids as numpy draws them, no id twice, and figures that follow from the ids."""
    ids = [r["id"] for r in records]
    values = np.log10([r["properties"][FIELD] for r in records])
    runs = results["runs"]
    expected = [(s, seed) for s in ("gp-ucb", "random", "extra-trees") for seed in (3, 1)]
    assert [(run["strategy"], run["seed"]) for run in runs] == expected
    for run in runs:
        assert set(run) >= RUN
        drawn = np.random.default_rng(run["seed"]).choice(len(ids), 12, replace=False)
        assert run["acquired"][:12] == [ids[i] for i in drawn]
        assert len(set(run["acquired"])) == len(run["acquired"]) == 20
        assert len(run["round_seconds"]) == 2
        assert [point["labels"] for point in run["rounds"]] == [12, 16, 20]
        bought = values[[ids.index(id_) for id_ in run["acquired"]]]
        assert [point["best"] for point in run["rounds"]] == [bought[:n].min() for n in (12, 16, 20)]
        judged = [point["judgement"] for point in run["rounds"]]
        assert judged[0] == {}
        if run["strategy"] == "gp-ucb":
            assert [j["labels"] for j in judged[1:]] == [12, 16]
            assert all(j["mae"] is not None and j["cv_mae"] is not None for j in judged[1:])
    rows = results["printed"].json
    assert [row["strategy"] for row in rows] == ["gp-ucb", "random", "extra-trees"]
    ends = [run["rounds"][-1]["recall_top5"] for run in runs if run["strategy"] == "gp-ucb"]
    assert rows[0]["recall_top5"] == pytest.approx(np.mean(ends))
    for run in runs:
        assert f"{run['strategy']} seed {run['seed']}: 20 labels, recall" in results["printed"].err


def test_the_queue_is_that_of_a_campaign_run_by_hand(
    results: dict[str, Any], records: list[dict[str, Any]], pool_file: Path, tmp_path: Path
) -> None:
    """Backtests run the production path: the same crystals, labels and settings give the same queue."""
    run = next(r for r in results["runs"] if (r["strategy"], r["seed"]) == ("gp-ucb", 1))
    directory = tmp_path / "c"
    done("init", directory)
    done("ingest", directory, pool_file)
    settings = {
        "campaign": {"batch": 4, "budget": 8, "seed": 1},
        "model": {"members": 2},
        "labeler": {"kind": "replay", "source": str(pool_file)},
    }
    configure(directory, settings)
    initial = [r for r in records if r["id"] in run["acquired"][:12]]
    done("label", "import", directory, write_lines(tmp_path / "initial.jsonl", label_rows(initial)))
    done("run", directory)
    assert [e["id"] for e in queue(directory)] == run["acquired"][12:]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(results: dict[str, Any], pool_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    command = ("backtest", pool_file, *PROTOCOL, "--seeds", "1,3", "--strategy", "gp-ucb,extra-trees")
    done(*command, "--workers", 2, "--out", out)
    again = {(r["strategy"], r["seed"]): r["acquired"] for r in json.loads(out.read_text())["runs"]}
    before = {(r["strategy"], r["seed"]): r["acquired"] for r in results["runs"]}
    assert len(again) == 4
    assert again == {key: before[key] for key in again}


def test_the_scorer_of_other_programs_reads_it(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Its initial sets are the protocol's, and its figures ours."""
    scorer = shared("bench/score.py")
    pool = [shared("data/ltc_l96.jsonl.gz"), shared("data/ltc_hh143.jsonl.gz")]
    out = tmp_path / "r.json"
    named = ("--property", "kappa_300K_W_mK", "--goal", "max")
    sizes = ("--initial", 8, "--batch", 8, "--rounds", 2, "--seeds", "0,1")
    done("backtest", *pool, *named, *sizes, "--strategy", "random", "--workers", 1, "--out", out)
    command = [sys.executable, scorer, "--pool", *pool, *named, "--acquired", out, "--n0", "8", "--batch", "8"]
    scored = subprocess.run(
        [*map(str, command), "--check-init", "--json"], capture_output=True, text=True, check=True
    ).stdout
    for theirs, ours in zip(json.loads(scored), json.loads(out.read_text())["runs"], strict=True):
        for row, point in zip(theirs["rows"], ours["rounds"], strict=True):
            assert row["labels"] == point["labels"]
            assert row["recall_top1"] == pytest.approx(point["recall_top1"])
            assert row["recall_top5"] == pytest.approx(point["recall_top5"])
            assert row["regret"] == pytest.approx(point["regret"])


def test_initial_ids_from_a_file(pool_file: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    ids = [r["id"] for r in records]
    path, out = tmp_path / "ids.json", tmp_path / "r.json"
    command = ("backtest", pool_file, *PROTOCOL, "--strategy", "random", "--workers", 1, "--initial-ids", path)
    path.write_text(json.dumps({"0": ids[20:32]}))
    done(*command, "--out", out)
    assert json.loads(out.read_text())["runs"][0]["acquired"][:12] == ids[20:32]
    assert "has no entry for seed 5" in refused(*command, "--seeds", "0,5")
    for content, message in (
        (json.dumps({"0": [*ids[20:31], "x"]}), "1 are not in the pool, the first 'x'"),
        (json.dumps({"0": ids[:11]}), "11 different ones given, --initial asks for 12; make them agree"),
        (json.dumps({"0": [ids[0]] * 12}), "1 different ones given, --initial asks for 12"),
        (json.dumps(ids[:12]), "one list of ids a seed"),
        (json.dumps({"0": 5}), "one list of ids a seed"),
        ("{", "cannot be read"),
    ):
        path.write_text(content)
        assert message in refused(*command), content
    path.unlink()
    assert "cannot be read" in refused(*command)


def test_what_cannot_be_replayed_says_why(pool_file: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    def message(file: Path, *more: object) -> str:
        return refused("backtest", file, *PROTOCOL, "--workers", 1, *more)

    more = ("--initial", 50, "--batch", 10)
    assert "50 + 2 x 10 = 70 labels are asked for, the pool has 60; lower" in message(pool_file, *more)
    assert "no record has the property 'kapa' (there are: kappa_300K)" in message(pool_file, "--property", "kapa")
    assert "unknown strategy 'svm'; give random or extra-trees, or HEAD-ACQ" in message(pool_file, "--strategy", "svm")
    assert "give whole numbers from zero up" in message(pool_file, "--seeds", "0,-1")
    assert "is a folder; name a JSON file" in message(pool_file, "--out", tmp_path)
    negative = write_lines(tmp_path / "n.jsonl", [*records, dict(records[0], id="n", properties={FIELD: -1.0})])
    assert "the first n (kappa_300K is not above zero" in message(negative)
    broken = write_lines(tmp_path / "b.jsonl", [*records, {"id": "b"}])
    assert "1 of 61 records cannot be used" in message(broken)
    twice = write_lines(tmp_path / "t.jsonl", [*records, records[3]])
    assert f"the id {records[3]['id']!r} stands twice in the pool" in message(twice)


def test_a_start_that_knows_the_answers_is_refused(
    pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the answers came in by fine-tuning; heads on a fixed backbone leave it as it was."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})  # new processes would import torch for seconds
    train = ("train", pool_file, "--property", FIELD, "--members", 2)
    done(*train, "--strategy", "full", "--epochs", 1, "--out", tmp_path / "full")
    done(*train, "--out", tmp_path / "frozen")
    command = ("backtest", pool_file, *PROTOCOL, "--workers", 1)
    message = refused(*command, "--strategy", "random", "--from", tmp_path / "full")
    assert f"was trained on {FIELD} of 60 materials of this pool" in message
    done(*command, "--rounds", 1, "--from", tmp_path / "frozen")


def test_copies_in_the_pool_are_said(pool_file: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """A campaign knows the copies as one material, so they cannot be acquired twice."""
    file = write_lines(tmp_path / "x.jsonl", [*records[:30], dict(records[0], id="copy")])
    out = tmp_path / "r.json"
    told = done("backtest", file, *PROTOCOL, "--workers", 1, "--out", out)
    assert "1 of 31 records are copies of another" in told.err
    run = json.loads(out.read_text())["runs"][0]
    assert len(run["acquired"]) == 20
    more = ("--initial", 12, "--batch", 19, "--rounds", 1)
    assert "31 labels are asked for, the pool has 30" in refused("backtest", file, *PROTOCOL, *more)


def test_words_of_the_command_line() -> None:
    assert parse_strategies("ucb, mlp-qLogEI,random,extra-trees") == ["gp-ucb", "mlp-qLogEI", "random", "extra-trees"]
    assert parse_seeds("0, 2,2") == (0, 2)
    for text in ("", "gp", "gp-", "tree-ucb"):
        with pytest.raises(CampaignError, match="unknown strategy"):
            parse_strategies(text)
    for text in ("", "a", "1,,2"):
        with pytest.raises(CampaignError, match="whole numbers"):
            parse_seeds(text)
