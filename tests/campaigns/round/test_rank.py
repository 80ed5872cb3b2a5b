"""What ``campaign.toml`` asks of a batch, on real crystals: goals, functions, objectives, limits, costs, failures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.campaign import Campaign
from campaigns.configuration import check_configuration
from campaigns.goals import Goal, Scale
from campaigns.round.context import RoundContext, RoundProgress
from campaigns.round.intervals import UNTRIED
from campaigns.round.manifest import RoundFigures
from campaigns.round.opening import open_round
from campaigns.round.rank import rank
from campaigns.round.steps import run_steps
from campaigns.workspace import Workspace
from db.records import FailureRecord, LabelRecord, QueueEntryRecord
from db.states import FailureReason, RoundState
from engine.acquire.functions import FUNCTIONS
from engine.acquire.objectives import Objective
from engine.exceptions import AcquisitionError
from engine.learning.ensemble.ensemble import Ensemble
from engine.metrics.calibration import Z90
from engine.metrics.conformal import adaptive_factor
from tests.campaigns.helpers import configure, done, kappascout, label_rows, queue, refused, write_lines

PROPERTY = "kappa_300K"


@pytest.fixture(scope="module")
def scored(_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoundContext]:
    """Give a round whose pool has predictions, to be ranked in many ways."""
    directory = Path(shutil.copytree(_campaign, tmp_path_factory.mktemp("scored") / "c"))
    with Campaign.open(directory) as campaign:
        work = RoundContext.of(campaign.workspace, open_round(campaign.workspace, 4), lambda text: None)
        work = run_steps(work, RoundState.SCORED)
        yield work


def ranked(
    work: RoundContext,
    manifest: dict[str, Any] | None = None,
    workspace: Workspace | None = None,
    **sections: Any,
) -> tuple[list[QueueEntryRecord], RoundFigures, list[str]]:
    """Rank with other settings; the entries, what is kept, and what was said."""
    said: list[str] = []
    settings = work.settings.model_dump(mode="json")
    for name, section in sections.items():
        settings[name] = settings[name] | section if isinstance(section, dict) else section
    other = replace(
        work,
        workspace=workspace or work.workspace,
        settings=check_configuration(settings, "test"),
        manifest=work.manifest.model_copy(update=manifest or {}),
        progress=RoundProgress(work.record.number, lambda text: said.append(text.removeprefix("round 1: "))),
    )
    shared = ("backbone", "pool", "labels", "featuriser", "ensemble")
    vars(other).update({name: getattr(work, name) for name in shared})
    return *rank(other), said


SITES = {"property": "n_sites", "goal": "min"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_ranks(scored: RoundContext, name: str) -> None:
    more = {"objectives": [SITES]} if name in ("qLogNEHVI", "qLogNParEGO") else {}
    acquisition = {"function": name, "draws": 64, "threshold": 5.0, "beta": "schedule"}
    entries, kept, _ = ranked(scored, acquisition=acquisition, **more)
    assert len({e.material_id for e in entries}) == 4
    assert not {e.material_id for e in entries} & scored.labels.keys()
    assert 0 <= kept.best_found <= 1
    for e in entries:
        assert e.details["rule"] in FUNCTIONS
        assert "to be a hit" in e.reason
        parts = np.hypot(e.details["between_std"], e.details["within_std"])
        assert parts == pytest.approx(e.details["learned_std"])
        assert 0 <= e.details["distance_percentile"] <= 100
        assert e.expected_cost is not None
        assert "core-hours" in e.reason
        assert ("n_sites" in e.details) == bool(more)


@pytest.mark.parametrize("diversity", ["hallucinate", "penalise", "determinant"])
def test_diversity_keeps_the_first_pick(scored: RoundContext, diversity: str) -> None:
    plain, *_ = ranked(scored)
    apart, *_ = ranked(scored, acquisition={"diversity": diversity, "draws": 64})
    assert apart[0].material_id == plain[0].material_id


def test_the_nearest_to_a_target_and_the_inside_of_a_window(scored: RoundContext) -> None:
    """Greedy takes the smallest expected distance; what is wanted is in the reason in the property's unit."""
    entries, *_ = ranked(scored, campaign={"goal": "target", "target": 9.0}, acquisition={"function": "greedy"})
    mean, std = scored.predicted()
    rows = scored.candidates
    off, _ = Objective.target(np.log10(9.0)).moments(mean[rows], std[rows])
    nearest = {scored.pool.rows[row].material_id for row in rows[np.argsort(-off)[:4]]}
    assert {e.material_id for e in entries} == nearest
    assert all("wanted 9" in e.reason for e in entries)
    inside, *_ = ranked(scored, campaign={"goal": "window", "window": [4.0, 6.0]}, acquisition={"function": "qLogEI"})
    assert all("wanted 4 to 6" in e.reason for e in inside)


def test_a_target_outside_all_predictions_is_said(scored: RoundContext) -> None:
    _, _, said = ranked(scored, campaign={"goal": "target", "target": 1e9})
    assert any("the target 1.00e+09 lies outside all predictions, which end at" in text for text in said)
    _, _, said = ranked(scored, campaign={"goal": "window", "window": [1e5, 1e6]})
    assert any("the window 100000 to 1000000 lies outside all predictions" in text for text in said)


def test_a_reason_names_the_other_objectives(scored: RoundContext) -> None:
    entries, *_ = ranked(scored, acquisition={"function": "qLogNEHVI", "draws": 64}, objectives=[SITES])
    assert all(
        re.search(r"\(qLogNEHVI\); about \d+ core-hours; n_sites [234] \(wanted low\)$", e.reason) for e in entries
    )


def test_costs_that_are_known_beforehand(scored: RoundContext) -> None:
    entries, _, said = ranked(scored, {"core_hours_left": 120.0}, costs={"dft": 50.0})
    assert [e.expected_cost for e in entries] == [50.0, 50.0]
    assert "every calculation takes 50 core-hours" in said
    assert "2 of 4 rows fit the 120 core-hours that are left" in said


def test_limits_for_each_kind(scored: RoundContext) -> None:
    entries, _, said = ranked(scored, {"batch": 40}, constraints={"max_per_prototype": 2})
    families = scored.pool.families("prototype")
    rows = scored.pool.rows_of({e.material_id for e in entries})
    assert np.unique(families[rows], return_counts=True)[1].max() <= 2
    assert any("leave" in text for text in said)


def test_costs_come_from_finished_calculations(scored: RoundContext) -> None:
    """By their own count of supercells; a budget leaves out what it does not pay for."""
    small = {"dft": scored.manifest.dft | {"min_length": 5.0}}
    entries, _, said = ranked(scored, small, acquisition={"per_core_hour": True})
    assert any("10 core-hours for a supercell of 100 atoms, as stated" in text for text in said)
    assert all(e.expected_cost for e in entries)
    entries, _, said = ranked(scored, {"dft": None}, acquisition={"per_core_hour": True})
    assert any("costs are atoms" in text for text in said)
    assert {e.expected_cost for e in entries} == {None}
    ids = list(scored.labels)[:5]
    before = dict(scored.labels)
    try:
        for k, id_ in enumerate(ids):
            scored.labels[id_] = LabelRecord(id_, PROPERTY, 5.0, "W/(m K)", "dft", cost=100.0 + k)
        entries, *_ = ranked(scored, small)
        costs = [e.expected_cost or 0.0 for e in entries]
        assert all(10 < cost < 1000 for cost in costs)
        assert all("core-hours" in e.reason for e in entries)
        left = 2.5 * min(costs)
        fewer, _, said = ranked(scored, small | {"core_hours_left": left})
        assert 0 < sum(e.expected_cost or 0.0 for e in fewer) <= left
        assert any("core-hours that are left" in text for text in said)
        with pytest.raises(AcquisitionError, match=r" 1 core-hours .*\[campaign\] budget_core_hours"):
            ranked(scored, small | {"core_hours_left": 1.0})
        cheap, *_ = ranked(scored, small, acquisition={"per_core_hour": True})
        assert len(cheap) == 4
    finally:
        scored.labels.clear()
        scored.labels.update(before)


def test_failures_that_tell_crystals_apart_weigh(scored: RoundContext) -> None:
    """Everything with bismuth fails, nothing else does: what is queued holds none, or is known to be unlikely."""
    store = scored.store
    bismuth = [key.material_id for key in scored.pool.rows if "Bi" in key.chemical_system.split("-")]
    failed = [id_ for id_ in bismuth if id_ not in scored.labels]
    store.add_failures(FailureRecord(id_, PROPERTY, "dft", FailureReason.IMAGINARY_MODES) for id_ in failed)
    up_to = max(f.id or 0 for f in store.failures(PROPERTY))
    entries, kept, said = ranked(scored, {"failures_up_to": up_to}, acquisition={"function": "qLogEI", "draws": 64})
    assert kept.feasibility["failures"] == len(failed)
    assert any("calculations failed" in text for text in said)
    assert kept.feasibility["classifier"]["log_loss"] < kept.feasibility["constant"]["log_loss"]
    chances = {e.material_id: e.details["feasibility"] for e in entries}
    assert np.mean([id_ in bismuth for id_ in chances]) < 0.5
    assert all("to be of use" in e.reason for e in entries)
    _, kept, _ = ranked(scored, {"failures_up_to": up_to}, acquisition={"feasibility": False})
    assert "feasibility" not in kept
    others = [key.material_id for key in scored.pool.rows if key.material_id not in {*bismuth, *scored.labels}]
    store.add_failures(FailureRecord(id_, PROPERTY, "dft", FailureReason.TIMED_OUT) for id_ in others)
    first, *rest = store.failures(PROPERTY)
    store.void_failures([first.id or 0], "test")
    fixed = {"failures_up_to": max(f.id or 0 for f in rest)}
    qlogei = {"function": "qLogEI", "draws": 64}
    _, kept, _ = ranked(scored, fixed, acquisition=qlogei)
    assert kept.feasibility["failures"] == len(failed), "it was voided after the round began; machines teach nothing"
    _, kept, _ = ranked(scored, fixed | {"voidings_up_to": 1}, acquisition=qlogei)
    assert kept.feasibility["failures"] == len(failed) - 1


def test_a_member_that_fails_is_left_out_and_said(replay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not below three: then the round queues nothing, and a model of another kind may be asked for."""
    whole = Ensemble.predict

    def predict(self: Ensemble, featuriser: Any, keys: Any) -> Any:
        table = whole(self, featuriser, keys)
        return replace(table, mean=np.where(np.arange(len(table.mean))[:, None] == 1, np.nan, table.mean))

    monkeypatch.setattr(Ensemble, "predict", predict)
    assert "2 left are fewer than 3" in refused("run", replay, "--rounds", 1)
    configure(replay, {"model": {"members": 4}})
    ran = done("run", replay, "--rounds", 1)
    assert ran.err.count("member 1 of 4 predicts values that are not finite and is left out") == 1
    assert all(e["lower"] < e["mean"] < e["upper"] for e in queue(replay))


def test_a_report_names_the_window(replay: Path) -> None:
    configure(replay, {"campaign": {"goal": "window", "window": [4.0, 6.0]}})
    (row,) = done("run", replay, "--rounds", 1, "--format", "json").json
    page = Path(done("report", replay).out.strip()).read_text()
    assert "kappa_300K from 4" in page
    assert "The best value so far is" in page
    with Campaign.open(replay) as campaign:
        (record,) = campaign.store.rounds()
        values = [label.value for label in campaign.store.labels(PROPERTY) if label.method == "replay"]
    assert record.manifest["hit"] == 4.0
    assert row["hits"] == sum(4.0 <= value <= 6.0 for value in values)


def test_hits_in_the_unit_of_the_property() -> None:
    scale = Scale("log10")
    low, near = Goal(Objective.of("min"), scale), Goal(Objective.target(1.0), scale)
    inside = Goal(Objective.window(0.0, 1.0), scale)
    assert low.is_hit([1.0, 2.0, 3.0], 2.0).tolist() == [True, True, False]
    assert near.is_hit([5.0, 10.0, 20.0, 30.0], 20.0).tolist() == [True, True, True, False]
    assert inside.is_hit([0.5, 1.0, 5.0, 10.0, 11.0], 1.0).tolist() == [False, True, True, True, False]
    assert (near.best([1.0, 9.0, 12.0]), near.best([]), inside.best_tenth([1e3, 5.0, 1e-3])) == (9.0, None, 5.0)
    mean, std = np.array([0.0, 1.0]), np.array([1.0, 1e-9])
    assert near.hit_probability(mean, std, 20.0).round(3).tolist() == [0.146, 1.0]
    assert low.hit_probability(mean, std, 1.0).tolist() == [0.5, 0.0]


def test_a_portfolio_remembers(replay: Path) -> None:
    configure(replay, {"acquisition": {"function": "portfolio", "portfolio": ["ucb", "greedy"], "draws": 64}})
    done("run", replay)
    with Campaign.open(replay) as campaign:
        first, second = ((r.metrics_before or {})["portfolio"] for r in campaign.store.rounds())
    assert first == {"ucb": 0.0, "greedy": 0.0}
    assert all(0 < gain < 1 for gain in second.values())


def test_advice_stops_a_campaign_that_is_told_to(replay: Path) -> None:
    configure(replay, {"stopping": {"action": "stop", "undiscovered_hits": 1e6}})
    ran = done("run", replay, "--format", "json")
    assert len(ran.json) == 1
    assert "undiscovered hits are expected" in ran.err
    assert "--go-on`" in ran.err
    state = done("status", replay, "--format", "json").json
    assert state["state"] == "stopped"
    assert state["advice"].startswith("stop: ")
    assert done("run", replay, "--format", "json").json == []
    assert len(done("run", replay, "--go-on", "--format", "json").json) == 1


def test_a_spent_budget_of_core_hours_stops(dft: Path, records: list[dict[str, Any]]) -> None:
    """Each batch fits what is left by the price of the settings, until costs are known."""
    configure(dft, {"campaign": {"budget_core_hours": 100.0, "batch": 1}})
    message = refused("run", dft, "--rounds", 1)
    assert "no candidate fits the 100 core-hours that are left of the budget, the cheapest takes about" in message
    configure(dft, {"dft": {"min_length": 5.0}})
    done("run", dft, "--rounds", 1)
    (entry,) = queue(dft)
    (row,) = (r for r in records if r["id"] == entry["id"])
    done("label", "import", dft, write_lines(dft / "l.jsonl", label_rows([row], cost=120.0)))
    assert "100 core-hours is spent; raise it in campaign.toml" in done("run", dft).err


def test_conformal_intervals(replay: Path) -> None:
    configure(replay, {"model": {"intervals": "conformal"}})
    (row,) = done("run", replay, "--rounds", 1, "--format", "json").json
    with Campaign.open(replay) as campaign:
        (record,) = campaign.store.rounds()
        held_out, half = record.metrics_before["held_out"], record.metrics_before["half_width"]
        learned = {label.material_id: np.log10(label.value) for label in campaign.store.labels(PROPERTY)}
    z = sorted(abs(learned[id_] - mean) / std for id_, (mean, std) in held_out.items())
    assert half == pytest.approx(z[13 - 1 if len(z) == 13 else int(np.ceil(0.9 * (len(z) + 1))) - 1])
    for e in queue(replay):
        assert np.log10(e["upper"] / e["mean"]) == pytest.approx(half * e["log10_std"])
    assert 0 <= row["conformal_coverage_90"] <= 1


def test_intervals_follow_what_earlier_choices_needed(replay: Path) -> None:
    done("run", replay, "--rounds", 2)
    with Campaign.open(replay) as campaign:
        first, second = campaign.store.rounds()
        halves = [record.metrics_before["half_width"] for record in (first, second)]
        learned = {label.material_id: np.log10(label.value) for label in campaign.store.labels(PROPERTY)}
        chosen = campaign.store.queue(round=1)
        z = np.array([(learned[e.material_id] - e.log10_mean) / e.log10_std for e in chosen])
        covered = np.abs(z) <= halves[0]
        assert first.metrics_after["coverage_90"] == pytest.approx(covered.mean())
    assert halves[0] == pytest.approx(UNTRIED * Z90, rel=0.01)
    assert halves[1] == pytest.approx(Z90 * adaptive_factor([z], 0.9, prior=UNTRIED))
    for e in queue(replay):
        half = halves[e["round"] - 1]
        assert np.log10(e["upper"] / e["mean"]) == pytest.approx(half * e["log10_std"])


def test_a_model_of_another_property_constrains(replay: Path, pool_file: Path) -> None:
    """As a chance that weighs; what nothing meets ends the round, and the next goes by the settings of its time."""
    done("train", pool_file, "--property", PROPERTY, "--members", 3, "--out", replay / "m", "--quiet")
    limits = {"min": 1e6, "at_least": 0.5, "model": "m"}
    configure(replay, {"constraints": {"predicted": {"gap": limits}}})
    assert "predicts kappa_300K, not gap" in refused("run", replay)
    configure(replay, {"constraints": {"predicted": {PROPERTY: limits | {"model": "n"}}}})
    assert "holds no ensemble.json" in refused("run", replay)
    configure(replay, {"constraints": {"predicted": {PROPERTY: limits}}})
    assert "round 1 queues nothing: no row meets the chance constraint on kappa_300K" in refused("run", replay)
    configure(replay, {"constraints": {"predicted": {PROPERTY: limits | {"min": 4.0}}}})
    done("run", replay, "--rounds", 1)
    entries = queue(replay)
    assert [e["round"] for e in entries] == [2] * 4
    assert all("to be of use" in e["reason"] for e in entries)


def test_objectives_that_nothing_has_are_named(replay: Path) -> None:
    for text, words in (
        ('property = "gap_eV"\ngoal = "min"', "[[objectives]]: no material has the property 'gap_eV'"),
        ('property = "n_sites"\ngoal = "min"\nmodel = "m"', "holds no ensemble.json"),
    ):
        kept = (replay / "campaign.toml").read_text()
        configure(replay, {"acquisition": {"function": "qLogNEHVI"}})
        with (replay / "campaign.toml").open("a") as file:
            file.write(f"\n[[objectives]]\n{text}\n")
        assert words in refused("run", replay)
        (replay / "campaign.toml").write_text(kept)
    assert done("rounds", replay, "--format", "json").json == []


def test_a_first_batch_by_an_estimate(replay: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """Labels of a cheaper fidelity rank three quarters of it; without any, the message names what there is."""
    configure(
        replay,
        {
            "campaign": {"fidelity": "experiment"},
            "acquisition": {"first_batch": "estimate", "first_batch_estimate": "agl"},
        },
    )
    assert "first_batch_estimate = 'agl' is neither a folder that `train` wrote nor a fidelity" in refused(
        "run", replay
    )
    estimates = label_rows(records, fidelity="agl")
    done("label", "import", replay, write_lines(tmp_path / "agl.jsonl", estimates))
    ran = done("run", replay, "--rounds", 1)
    assert "60 of 60 candidates have an estimate (agl)" in ran.err
    lowest = {row["id"] for row in sorted(estimates, key=lambda row: row["value"])[:3]}
    first = queue(replay)
    assert {e["id"] for e in first[:3]} == lowest
    assert "estimated" in first[0]["reason"]
    assert "space filling" in first[3]["reason"]


def test_a_first_batch_in_turns_and_within_limits(dft: Path) -> None:
    settings = {"campaign": {"fidelity": "experiment"}, "acquisition": {"families": "prototype"}}
    configure(dft, settings | {"constraints": {"max_per_prototype": 1}})
    outcome = kappascout("run", dft)
    with Campaign.open(dft) as campaign:
        work = RoundContext.of(campaign.workspace, campaign.store.rounds()[0], lambda text: None)
        families = work.pool.families("prototype")
        rows = work.pool.rows_of({e["id"] for e in queue(dft)})
    assert len(set(families[rows])) == len(rows) == min(4, len(set(families)))
    assert (len(rows) < 4) == ("limits leave" in outcome.err)
