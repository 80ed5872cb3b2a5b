"""Backtests with several fidelities and a budget of core-hours: closed forms, sums of costs, resuming, bad input."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.backtest import parse_cost, parse_levels
from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from tests.campaigns.helpers import FIELD, done, kappascout, refused, write_lines

HOURS, CHEAP = 100.0, 1.0
SIZES = ("--initial", 8, "--batch", 3, "--rounds", 3, "--members", 2, "--workers", 1)
PROTOCOL = ("--property", FIELD, "--goal", "min", *SIZES)
LEVELS = ("--lower-fidelity", f"cheap=cheap:{CHEAP}", "--label-cost", HOURS)


@pytest.fixture(scope="module")
def file(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give crystals with a cheap value that is the wanted one times a constant, missing in three, and one of noise."""
    rng = np.random.default_rng(0)
    rows = []
    for place, record in enumerate(records):
        value = record["properties"][FIELD]
        more = {"noise": float(np.exp(rng.normal())), "hours": HOURS + place, "negative": -1.0, FIELD: value}
        rows.append(record | {"properties": more | ({} if place < 3 else {"cheap": value / 3})})
    return write_lines(tmp_path_factory.mktemp("ladder") / "pool.jsonl", rows)


@pytest.fixture(scope="module")
def results(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Backtest a ladder of one cheap level, from two starts."""
    folder = tmp_path_factory.mktemp("results")
    settings = write_whole(folder / "few.toml", "[acquisition]\ndraws = 128\n")
    command = ("backtest", file, *PROTOCOL, *LEVELS, "--strategy", settings, "--seeds", "0,1")
    out = folder / "r.json"
    printed = done(*command, "--out", out, "--report", folder / "r.html")
    return {**json.loads(out.read_text()), "printed": printed, "command": command, "out": out}


def test_costs_add_up_to_the_budget(results: dict[str, Any], records: list[dict[str, Any]]) -> None:
    budget = (8 + 3 * 3) * HOURS
    names = ["ladder", "single", "cheap-first", "random"]
    assert [run["strategy"] for run in results["runs"]] == [name for name in names for _ in (0, 1)]
    values = {r["id"]: np.log10(r["properties"][FIELD]) for r in records}
    best = sorted(values, key=lambda id_: values[id_])[:3]
    for run in results["runs"]:
        hours = {"dft": HOURS, "cheap": CHEAP}
        assert all(cost == hours[level] for level, _, cost in run["bought"])
        spent = sum(cost for _, _, cost in run["bought"])
        assert budget - HOURS < spent <= budget
        assert len({(level, id_) for level, id_, _ in run["bought"]}) == len(run["bought"])
        assert run["acquired"] == [id_ for level, id_, _ in run["bought"] if level == "dft"]
        assert [point["cost"] for point in run["rounds"]] == [(8 + 3 * k) * HOURS for k in range(4)]
        for point in run["rounds"]:
            assert point["spent"] <= point["cost"]
            found = len(set(best) & set(run["acquired"][: point["labels"]])) / 3
            assert point["recall_top5"] == pytest.approx(found)
            assert point["labels_by_level"]["dft"] == point["labels"]
    random, single = (next(r for r in results["runs"] if r["strategy"] == s) for s in ("random", "single"))
    assert len(random["acquired"]) == len(single["acquired"]) == 17
    assert {tuple(r["acquired"][:8]) for r in results["runs"] if r["seed"] == 0} == {tuple(random["acquired"][:8])}


def test_a_cheap_level_that_tells_all_is_bought_first_and_the_best_are_found_for_less(results: dict[str, Any]) -> None:
    runs = {(run["strategy"], run["seed"]): run for run in results["runs"]}
    for seed in (0, 1):
        ladder = runs["ladder", seed]
        later = [level for level, _, _ in ladder["bought"][8:]]
        assert later[:20] == ["cheap"] * 20
        assert ladder["rounds"][-1]["recall_top5"] == 1.0
        reached = runs["single", seed]["hours_to"]["100"]
        assert reached is None or ladder["hours_to"]["100"] <= reached
        first = runs["cheap-first", seed]
        assert Counter(level for level, _, _ in first["bought"][8:65]) == {"cheap": 57}
    rows = {row["strategy"]: row for row in results["summary"]}
    assert rows["ladder"]["labels_by_level"]["cheap"] <= 57
    assert rows["single"]["labels_by_level"] == {"dft": 17, "cheap": 0}
    assert rows["ladder"]["hours_to_100_reached"] == 2
    assert "core-hours to 100 % of these" in results["printed"].out
    assert "cost-5" in results["out"].with_suffix(".html").read_text()


def test_a_second_start_goes_on(results: dict[str, Any]) -> None:
    out = results["out"]
    (out.with_suffix(".runs") / "random-1.json").unlink()
    told = done(*results["command"], "--out", out)
    assert "7 of 8 runs are finished already" in told.err
    same = [
        [run[key] for key in ("strategy", "bought", "rounds", "hours_to")]
        for run in json.loads(out.read_text())["runs"]
    ]
    assert same == [[run[key] for key in ("strategy", "bought", "rounds", "hours_to")] for run in results["runs"]]
    message = refused(*results["command"], "--out", out, "--label-cost", 90)
    assert "was run with other inputs (" in message
    assert "label_cost 100.0 then, 90.0 now" in message


def test_noise_costs_little_and_does_not_mislead(file: Path, tmp_path: Path) -> None:
    """Three levels: of the one that tells nothing more is bought only when the one that tells all is nearly used up."""
    settings = write_whole(tmp_path / "few.toml", "[acquisition]\ndraws = 128\n")
    out = tmp_path / "r.json"
    levels = ("--lower-fidelity", "noise=noise:1", "--lower-fidelity", "cheap=cheap:2", "--label-cost", HOURS)
    done("backtest", file, *PROTOCOL, *levels, "--strategy", settings, "--out", out)
    runs = {run["strategy"]: run for run in json.loads(out.read_text())["runs"]}
    assert list(runs) == ["ladder", "single", "noise-first", "cheap-first", "random"]
    bought = [level for level, _, _ in runs["ladder"]["bought"]]
    first = bought.index("cheap")
    until = [place for place, level in enumerate(bought) if level == "cheap"][35]
    assert "noise" not in bought[first:until]
    assert bought.count("noise") < 0.05 * sum(hours for _, _, hours in runs["ladder"]["bought"])
    assert runs["ladder"]["hours_to"]["100"] is not None
    assert runs["ladder"]["rounds"][-1]["recall_top5"] >= runs["single"]["rounds"][-1]["recall_top5"]
    assert Counter(level for level, _, _ in runs["noise-first"]["bought"])["noise"] == 60


def test_costs_in_a_field(file: Path, tmp_path: Path, records: list[dict[str, Any]]) -> None:
    out = tmp_path / "r.json"
    levels = ("--lower-fidelity", "cheap=cheap:0.5", "--label-cost", "hours")
    settings = write_whole(tmp_path / "few.toml", "[acquisition]\ndraws = 128\n")
    sizes = ("--rounds", 1, "--batch", 2)
    done("backtest", file, *PROTOCOL, *sizes, *levels, "--strategy", settings, "--out", out)
    hours = {r["id"]: HOURS + place for place, r in enumerate(records)}
    for run in json.loads(out.read_text())["runs"]:
        assert all(cost == (hours[id_] if level == "dft" else 0.5) for level, id_, cost in run["bought"])
        start = sum(cost for _, _, cost in run["bought"][:8])
        assert sum(cost for _, _, cost in run["bought"]) <= start + 2 * np.mean(list(hours.values())) + 1e-6


def test_what_cannot_be_a_ladder_says_why(file: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    def message(level: str, *more: object, cost: object = HOURS) -> str:
        return refused("backtest", file, *PROTOCOL, "--lower-fidelity", level, "--label-cost", cost, *more)

    assert "0 of 60 records have a 'absent' where a model needs 8" in message("low=absent:1")
    assert "a label of low costs 100 core-hours, one of dft 100" in message("low=cheap:100")
    assert "a label of low costs 3 core-hours, one of high 2" in message(
        "low=cheap:3", "--lower-fidelity", "high=noise:2"
    )
    assert "core-hours; give a number above zero" in message("low=cheap:-1")
    assert "core-hours; give a number above zero" in message("low=cheap:1", cost=0)
    assert "negative of" in message("low=negative:1")
    assert "negative of" in message("low=cheap:negative")
    assert "nothing of" in message("low=cheap:1", cost="nothing")
    assert "cannot learn from --lower-fidelity" in message("low=cheap:1", "--strategy", "random")
    few = [r | {"properties": r["properties"] | ({"low": 1.0} if k < 7 else {})} for k, r in enumerate(records)]
    few_file = write_lines(tmp_path / "few.jsonl", few)
    levels = ("--lower-fidelity", "low=low:1", "--label-cost", 2)
    assert "7 of 60 records have a 'low' where a model needs 8" in refused("backtest", few_file, *PROTOCOL, *levels)
    level = ("--lower-fidelity", "low=cheap:1")
    for wrong in (
        level,
        ("--label-cost", 1),
        (*level, "--label-cost", 3, "--warm"),
        (*level, "--label-cost", 3, "--split", "tail"),
    ):
        assert kappascout("backtest", file, *PROTOCOL, *wrong).code == 2


def test_words_of_a_level() -> None:
    (level,) = parse_levels(["agl=kappa:agl:0.5"], "k")
    assert (level.name, level.field, level.cost) == ("agl", "kappa:agl", 0.5)
    assert parse_levels(["agl=kappa:hours"], "k")[0].cost == "hours"
    assert parse_cost("5e2", "--label-cost") == 500.0
    for text in (
        "",
        "agl",
        "agl=kappa",
        "agl=:1",
        "=kappa:1",
        "a b=kappa:1",
        "agl=kappa:",
        "agl=kappa:inf",
        "agl=kappa:0",
    ):
        with pytest.raises(CampaignError):
            parse_levels([text], "kappa")
    with pytest.raises(CampaignError, match="twice"):
        parse_levels(["agl=a:1", "agl=b:2"], "kappa")
    with pytest.raises(CampaignError, match="wanted fidelity"):
        parse_levels(["dft=a:1"], "kappa")
    with pytest.raises(CampaignError, match="--property"):
        parse_levels(["agl=kappa:0.5"], "kappa")
    with pytest.raises(CampaignError, match="trained model"):
        parse_levels(["kappa-300K=a:1"], "kappa")
