"""Advice from real campaigns: what is expected among the unlabelled, what was spent, what improved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy.stats import norm

from campaigns.budget import core_hours
from campaigns.campaign import Campaign
from campaigns.exceptions import CampaignError
from campaigns.pool.labels import training_labels
from campaigns.round.stopping import best_found, outlook, stopping_advice, undiscovered_hits
from db.records import FailureRecord
from db.states import FailureReason, QueueState
from engine.acquire.objectives import Objective
from engine.metrics.stopping import StoppingAdvice, StoppingRule, advise
from tests.engine.posteriors.table import TablePosterior


def test_a_new_campaign_knows_little(dft: Path):
    with Campaign.open(dft) as campaign:
        found = outlook(campaign.workspace)
        advice = stopping_advice(campaign.workspace)
    assert (found.labels, found.budget_labels, found.core_hours) == (0, 8, 0.0)
    assert (found.undiscovered_hits, found.best_found, found.idle_rounds) == (None, None, None)
    assert not advice.stop


def test_a_finished_campaign_says_why_to_stop(replay: Path):
    with Campaign.open(replay) as campaign:
        campaign.run()
        rounds = campaign.store.rounds()
        advice = stopping_advice(campaign.workspace)
        found = outlook(campaign.workspace)
        labels = training_labels(campaign.store, campaign.configuration)
        table = parquet.read_table(campaign.directory / rounds[-1].predictions.path).to_pandas()
    assert advice.stop
    assert "8 of 8 labels of the budget" in advice.words
    left = table[~table.id.isin(list(labels))]
    hit = np.log10(rounds[-1].manifest["hit"])
    expected = norm.cdf((hit - left.learned_mean) / left.learned_std).sum()
    assert found.undiscovered_hits == pytest.approx(expected)
    best = [r.metrics_after["best"] for r in rounds]
    initial = min(label.value for label in labels.values() if label.source == "initial")
    assert found.idle_rounds == (0 if best[1] < best[0] else 1 if best[0] < initial else 2)
    stored = [StoppingAdvice.from_dict(json.loads(json.dumps(r.metrics_after["stopping"]))) for r in rounds]
    assert not stored[0].checks[0].met
    assert stored[1] == advice, "kept with the last round"


def test_rounds_keep_their_curves_and_costs(dft: Path):
    with Campaign.open(dft) as campaign:
        campaign.run(1)
        entries = campaign.queue_entries()
        failed = entries[0]
        campaign.move([e.material_id for e in entries], QueueState.APPROVED)
        for entry in entries[1:]:
            campaign.record(entry.material_id, 1.0 + entry.rank, cost=100.0)
        campaign.store.add_failures(
            [FailureRecord(failed.material_id, "kappa_300K", "dft", FailureReason.TIMED_OUT, cost=40.0)]
        )
        campaign.store.move([failed.id], QueueState.FAILED, "test")
        campaign.run(1)
        after = campaign.store.rounds()[0].metrics_after
        assert after["cost"] == core_hours(campaign.workspace) == 340.0
        assert after["expected_cost"] == pytest.approx(sum(e.expected_cost for e in entries))
        assert sum(after["curves"]["pit"]) == 3
        assert after["curves"]["reliability"]["levels"][-1] == 0.95
        advice = advise(outlook(campaign.workspace), StoppingRule(budget_core_hours=340))
        assert advice.stop
        assert "340 of 340 core-hours are spent" in advice.words


def test_missing_predictions_are_named(replay: Path):
    with Campaign.open(replay) as campaign:
        campaign.run(1)
        record = campaign.store.rounds()[-1]
        (campaign.directory / record.predictions.path).unlink()
        with pytest.raises(CampaignError, match="round 1;"):
            undiscovered_hits(campaign.workspace, record, {})


def test_the_best_is_found_among_rows_that_could_beat_it():
    rng = np.random.default_rng(0)
    mean = np.array([[0.0, 1.0, 9.0]]) + 0.5 * rng.standard_normal((32, 3))
    posterior = TablePosterior.from_members(mean, n_draws=4096, rng=rng)
    rows = np.arange(3)
    expected = 1 - norm.cdf((-0.5 - posterior.mean[0]) / posterior.std[0])
    low = Objective.of("min")
    assert best_found(posterior, rows, -0.5, low) == pytest.approx(expected, abs=0.03)
    assert best_found(posterior, rows[2:], -0.5, low) == 1.0
    assert best_found(posterior, rows, None, low) is None
    assert best_found(posterior, rows, 0.1, Objective.window(0.0, 0.2)) == 1.0, "nothing beats what is inside"
    near = best_found(posterior, rows, -0.2, Objective.target(0.0))
    assert near == pytest.approx(1 - np.diff(norm.cdf([-0.2, 0.2], posterior.mean[0], posterior.std[0]))[0], abs=0.05)
