"""Backtests: the production code on labelled data, comparable with other programs, never from a model that knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.backtest import Protocol, join, parse_against, parse_seeds, parse_strategies
from campaigns.backtest.protocol import initial_ids, read_pool
from campaigns.backtest.strategies import BacktestStrategy, campaign_text
from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from engine.metrics.splits import SplitSettings
from tests.campaigns.helpers import FIELD, configure, done, kappascout, label_rows, queue, refused, write_lines

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
        figures = [(j["labels"], j["mae"] is not None, j["cv_mae"] is not None) for j in judged[1:] if j]
        assert figures == ([(12, True, True), (16, True, True)] if run["strategy"] == "gp-ucb" else [])
    rows = results["printed"].json
    assert rows == results["summary"]
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
    done("init", directory, "--cold")
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


@pytest.mark.parametrize("goal", ["min", "max"])
def test_a_split_keeps_initial_labels_and_candidates_apart(
    goal: str, pool_file: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Initial labels are of the training side, what is acquired later of the test side, where the best count."""
    out = tmp_path / "r.json"
    sizes = ("--initial", 12, "--batch", 3, "--rounds", 2, "--members", 2)
    command = ("backtest", pool_file, "--property", FIELD, "--goal", goal, *sizes, "--seeds", "0,1", "--workers", 1)
    page = ("--report", tmp_path / "r.html")
    done(*command, "--strategy", "gp-ucb,extra-trees", "--split", "tail", "--out", out, *page)
    values = {r["id"]: r["properties"][FIELD] for r in records}
    best = sorted(values, key=lambda id_: values[id_], reverse=goal == "max")
    size = sum(values[id_] in {values[b] for b in best[:12]} for id_ in best)  # equal values stay together
    written = json.loads(out.read_text())
    assert written["protocol"]["split"]["tail"] == ("low" if goal == "min" else "high")
    for run in written["runs"]:
        initial, later = run["acquired"][:12], run["acquired"][12:]
        assert set(initial) <= set(best[size:])
        assert len(set(later)) == 6
        assert set(later) <= set(best[:size])
        assert [point["pool_share"] for point in run["rounds"]] == [0, 3 / size, 6 / size]
        found = [len(set(best[:10]) & set(later[:n])) / 10 for n in (0, 3, 6)]
        assert [point["recall_top1"] for point in run["rounds"]] == pytest.approx(found)
        assert [point["labels"] for point in run["rounds"]] == [12, 15, 18]
    initial = {(run["strategy"], run["seed"]): set(run["acquired"][:12]) for run in written["runs"]}
    assert initial["gp-ucb", 0] == initial["extra-trees", 0] != initial["extra-trees", 1]
    assert "training side" in page[1].read_text()
    assert "was run with other inputs (split" in refused(*command, "--strategy", "extra-trees", "--out", out)


@pytest.mark.parametrize("kind", ["formula", "space_group"])
def test_no_candidate_shares_a_group_with_an_initial_label(kind: str, shared: Callable[[str], Path]) -> None:
    protocol = Protocol(
        (str(shared("data/ltc_l96.jsonl.gz")),), "kappa_300K_W_mK", "min", 10, 3, 2, (0,), "log10",
        split=SplitSettings(kind),
    )  # fmt: skip
    pool = read_pool(protocol)
    drawn = initial_ids(protocol, pool.initial_side, 0)
    own = pool.of_run(drawn)
    assert sorted(own.ids[row] for row in own.split.training) == sorted(drawn)
    assert own.n_candidates == len(own) - 10 == len(pool.split.test)
    groups = [m.formula if kind == "formula" else m.spacegroup for m in own.materials]
    assert not {groups[row] for row in own.split.training} & {groups[row] for row in own.split.test}
    assert [pool.values[pool.position[id_]] for id_ in own.ids] == own.values.tolist()


def test_a_split_that_is_asked_too_much(pool_file: Path) -> None:
    command = ("backtest", pool_file, *PROTOCOL, "--split", "tail", "--workers", 1)
    message = refused(*command, "--batch", 10)
    assert "2 x 10 = 20 more are asked for, the split has 47 rows on its training side and 13 on its test" in message
    for wrong in (("--warm",), ("--cold-start",), ("--tail-below", 3), ("--goal", "max", "--tail-above", 3)):
        assert kappascout(*command, *wrong).code == 2


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
    assert "50 + 2 x 10 = 70" in message(pool_file, *more)
    assert "no record has the property 'kapa' (there are: kappa_300K)" in message(pool_file, "--property", "kapa")
    assert "unknown strategy 'svm'; give default, random or extra-trees, a campa" in message(
        pool_file, "--strategy", "svm"
    )
    assert "unknown peer 'svm'; --against takes random, extra-trees" in message(pool_file, "--against", "svm")
    assert "--seeds '0,-1'" in message(pool_file, "--seeds", "0,-1")
    assert "is a folder; name a JSON file" in message(pool_file, "--out", tmp_path)
    assert "HTML file" in message(pool_file, "--report", tmp_path)
    assert "60 of 60 records cannot be used, the first" in message(pool_file, "--cost", "hours")
    negative = write_lines(tmp_path / "n.jsonl", [*records, dict(records[0], id="n", properties={FIELD: -1.0})])
    assert "the first n (kappa_300K is not above zero" in message(negative)
    broken = write_lines(tmp_path / "b.jsonl", [*records, {"id": "b"}])
    assert "1 of 61 records cannot be used" in message(broken)
    twice = write_lines(tmp_path / "t.jsonl", [*records, records[3]])
    assert f"the id {records[3]['id']!r}" in message(twice)


def test_a_start_that_knows_the_answers_is_refused(
    pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its network learned them, which peers would see too, or heads on a fixed backbone, which they do not."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})  # new processes would import torch for seconds
    train = ("train", pool_file, "--property", FIELD, "--members", 2)
    done(*train, "--strategy", "full", "--head", "network", "--epochs", 1, "--out", tmp_path / "full")
    done(*train, "--strategy", "frozen", "--out", tmp_path / "frozen")
    command = ("backtest", pool_file, *PROTOCOL, "--workers", 1)
    start = ("--strategy", "random,extra-trees", "--from", tmp_path / "full")
    message = refused(*command, *start)
    assert f"was trained on {FIELD} of 60 materials of this pool" in message
    assert "--allow-seen" in message
    told = done(*command, *start, "--allow-seen", "--out", tmp_path / "r.json", "--report", tmp_path / "r.html")
    assert "warning: " in told.err
    assert "extra-trees (seen)" in told.out
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["seen"] is True
    assert {run["strategy"]: run["seen"] for run in written["runs"]} == {"random": False, "extra-trees": True}
    assert "answers of this pool" in (tmp_path / "r.html").read_text()
    done(*command, "--strategy", "extra-trees", "--from", tmp_path / "frozen")
    assert "frozen was trained on" in refused(*command, "--from", tmp_path / "frozen")
    prior = write_whole(tmp_path / "prior.toml", '[acquisition]\nfirst_batch_estimate = "frozen"\n')
    assert "frozen was trained on" in refused(*command, "--strategy", prior)


def test_copies_in_the_pool_are_said(pool_file: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """A campaign knows the copies as one material, so they cannot be acquired twice."""
    file = write_lines(tmp_path / "x.jsonl", [*records[:30], dict(records[0], id="copy")])
    out = tmp_path / "r.json"
    told = done("backtest", file, *PROTOCOL, "--workers", 1, "--out", out)
    assert "1 of 31 records are copies of another" in told.err
    run = json.loads(out.read_text())["runs"][0]
    assert len(run["acquired"]) == 20
    more = ("--initial", 12, "--batch", 19, "--rounds", 1)
    assert "= 31 " in refused("backtest", file, *PROTOCOL, *more)


def test_a_second_start_goes_on(
    pool_file: Path, records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished runs are taken from where they were kept; other seeds and strategies join, other inputs do not."""
    out = tmp_path / "b.json"
    command = ("backtest", pool_file, *PROTOCOL, "--workers", 1, "--out", out)
    done(*command, "--strategy", "random,extra-trees", "--seeds", "0,1")
    before = json.loads(out.read_text())
    kept = sorted(path.name for path in (tmp_path / "b.runs").iterdir())
    assert kept == ["extra-trees-0.json", "extra-trees-1.json", "random-0.json", "random-1.json"]
    (tmp_path / "b.runs" / "extra-trees-1.json").unlink()  # as if killed before its end
    told = done(*command, "--strategy", "random,extra-trees", "--seeds", "0,1,2")
    assert "3 of 6 runs are finished already" in told.err
    after = json.loads(out.read_text())
    same = ("strategy", "seed", "acquired", "rounds")
    again = {(r["strategy"], r["seed"]): [r[key] for key in same] for r in after["runs"]}
    assert len(again) == 6
    assert all(again[run["strategy"], run["seed"]] == [run[key] for key in same] for run in before["runs"])
    message = refused(*command, "--strategy", "random", "--goal", "max")
    assert "b.runs/random-0.json was run with other inputs (goal min then, max now)" in message
    other = write_lines(tmp_path / "p.jsonl", [*records[1:], records[0]])
    assert "was run with other inputs (pool " in refused("backtest", other, *command[2:], "--strategy", "random")
    (tmp_path / "b.runs" / "random-0.json").write_text("{}")
    assert ".json is not the file of a finished run" in refused(*command, "--strategy", "random")


def test_costs_bands_and_the_page(records: list[dict[str, Any]], tmp_path: Path) -> None:
    """Cost-normalised figures follow from what each label cost; the page holds the curves and asks for nothing."""
    hours = np.random.default_rng(0).uniform(10, 500, len(records))
    priced = [r | {"properties": r["properties"] | {"hours": float(h)}} for r, h in zip(records, hours, strict=True)]
    file, out, page = write_lines(tmp_path / "p.jsonl", priced), tmp_path / "r.json", tmp_path / "r.html"
    options = ("--strategy", "random", "--against", "trees", "--seeds", "0,1,2", "--cost", "hours", "--workers", 1)
    told = done("backtest", file, *PROTOCOL, *options, "--out", out, "--report", page)
    assert "EF by cost (5 %)" in told.out
    content = json.loads(out.read_text())
    run = content["runs"][0]
    spent = [hours[[r["id"] for r in records].index(id_)] for id_ in run["acquired"]]
    for point in run["rounds"]:
        assert point["cost"] == pytest.approx(sum(spent[: point["labels"]]))
        assert point["cost_enhancement_top1"] == pytest.approx(point["recall_top1"] / (point["cost"] / hours.sum()))
        assert point["pool_share"] == point["labels"] / 60
    band = next(b for b in content["bands"] if b["strategy"] == "random")
    ends = [r["rounds"][-1]["recall_top1"] for r in content["runs"] if r["strategy"] == "random"]
    assert band["recall_top1"]["mean"][-1] == pytest.approx(np.mean(ends))
    assert band["recall_top1"]["upper"][-1] == pytest.approx(np.mean(ends) + 2.919986 * np.std(ends, ddof=1) / 3**0.5)
    text = page.read_text()
    assert all(f"plot-{key}" in text for key in ("recall-top5", "recall-top1", "regret", "enhancement", "cost-5"))
    assert "default-src 'none'" in text
    assert 'src="http' not in text


def test_strategies_choose_their_own_first_labels(pool_file: Path, tmp_path: Path) -> None:
    """A cold start has the batches of the production code; peers still begin with the drawn set."""
    settings = write_whole(tmp_path / "far.toml", '[acquisition]\nfunction = "greedy"\n[campaign]\nbatch = 99\n')
    out = tmp_path / "r.json"
    options = ("--cold-start", "--strategy", settings, "--against", "random", "--workers", 1, "--out", out)
    done("backtest", pool_file, *PROTOCOL, *options)
    ours, theirs = json.loads(out.read_text())["runs"]
    assert ours["strategy"] == "far"
    assert set(ours["acquired"][:12]) != set(theirs["acquired"][:12])
    for run in (ours, theirs):
        assert [point["labels"] for point in run["rounds"]] == [12, 16, 20]
        assert len(set(run["acquired"])) == 20
        assert len(run["round_seconds"]) == 2
    assert [j["judgement"].get("labels") for j in ours["rounds"]] == [None, 12, 16]


_SCALARS = st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text("a 'b\\\"ü")
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a. b"), inner))


@given(st.dictionaries(st.sampled_from(["epsilon", "first_batch_estimate", "portfolio"]), _VALUES))
def test_settings_of_a_strategy_survive(settings: dict[str, Any]) -> None:
    protocol = Protocol(("f",), FIELD, "min", 8, 8, 2, (0,), "log10")
    text = campaign_text(protocol, BacktestStrategy("s", {"acquisition": settings}), 0, 8)
    assert tomllib.loads(text)["acquisition"] == settings


def test_words_of_the_command_line(tmp_path: Path) -> None:
    named = parse_strategies("default, ucb, mlp-qLogEI,full-ucb,random,trees")
    assert [s.name for s in named] == ["default", "gp-ucb", "mlp-qLogEI", "full-ucb", "random", "extra-trees"]
    assert named[3].settings == {"model": {"networks": "full"}, "acquisition": {"function": "ucb"}}
    assert [s.is_peer for s in named] == [False] * 4 + [True] * 2
    against = parse_against("baybe,trees, gp")
    assert [s.name for s in against] == ["baybe", "extra-trees", "gp"]
    assert [s.name for s in join(named, against)][-3:] == ["extra-trees", "baybe", "gp"]
    assert parse_seeds("0, 2,2") == (0, 2)
    for text in ("", "gp", "gp-", "tree-ucb"):
        with pytest.raises(CampaignError, match="unknown strategy"):
            parse_strategies(text)
    for text in ("", "ucb"):
        with pytest.raises(CampaignError, match="unknown peer"):
            parse_against(text)
    for text in ("", "a", "1,,2"):
        with pytest.raises(CampaignError, match="whole numbers"):
            parse_seeds(text)
    with pytest.raises(CampaignError, match="cannot be read"):
        parse_strategies(str(tmp_path / "absent.toml"))
    with pytest.raises(CampaignError, match="'gp'"):
        parse_strategies(str(write_whole(tmp_path / "gp.toml", "")))
