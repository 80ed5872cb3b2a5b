"""Stopping criteria against closed forms, and the words that they are reported in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from engine.acquire.objectives import probability_inside
from engine.metrics.stopping import (
    Outlook,
    StoppingAdvice,
    StoppingRule,
    advise,
    best_found_probability,
    contenders,
    idle_rounds,
)
from tests.engine.posteriors.table import TablePosterior


@pytest.mark.parametrize("goal", ["min", "max"])
def test_best_found_is_the_closed_form_for_independent_rows(goal: str):
    """Rows that do not hang together: the product of their chances not to beat the best."""
    rng = np.random.default_rng(0)
    mean, std, best = np.array([0.3, 0.5, 0.9]), np.array([0.2, 0.4, 0.3]), 0.1 if goal == "min" else 1.1
    draws = mean + std * rng.standard_normal((200_000, 3))
    low, high = (None, best) if goal == "min" else (best, None)
    expected = np.prod(1 - probability_inside(mean, std, low, high))
    assert best_found_probability(draws, best, goal) == pytest.approx(expected, abs=0.005)
    assert best_found_probability(draws, best, goal, tolerance=0.2) > expected + 0.05


def test_rows_that_hang_together_are_better_news_than_a_sum_says():
    """Members that disagree about all rows alike: one chance, not a thousand."""
    rng = np.random.default_rng(1)
    mean = np.full(1000, 1.0) + rng.normal(size=(64, 1))
    table = TablePosterior.from_members(mean, n_draws=2048, rng=rng)
    draws = table.draws(np.arange(1000))
    found = best_found_probability(draws, -0.5, "min")
    assert found == pytest.approx(norm.sf(-0.5, mean[:, 0].mean(), mean[:, 0].std(ddof=1)), abs=0.03)
    assert probability_inside(table.mean, table.std, high=-0.5).sum() > 20


def test_nothing_left_to_beat_the_best():
    assert best_found_probability(np.empty((8, 0)), 0.0, "min") == 1.0


def test_contenders_are_those_that_could_win():
    chance = [0.8, 1e-9, 0.2, 0.0, 0.5]
    assert contenders(chance).tolist() == [0, 2, 4]
    assert contenders(chance, at_most=2).tolist() == [0, 4]


@pytest.mark.parametrize(
    ("bests", "idle"),
    [
        ([3.0], None),
        ([None, None], None),
        ([None, 3.0], 0),
        ([3.0, 3.0], 1),
        ([3.0, 2.0, 2.0, 2.0], 2),
        ([3.0, 3.0, 1.0], 0),
        ([1.0, None], None),
    ],
)
def test_rounds_without_improvement(bests: list[float | None], idle: int | None):
    assert idle_rounds(bests, "min") == idle
    assert idle_rounds([None if b is None else -b for b in bests], "max") == idle


def test_every_criterion_says_its_reason():
    advice = advise(Outlook(40, 40, 1234.0, 0.2, 0.97, 3), StoppingRule(budget_core_hours=1000))
    assert advice.stop
    assert [check.met for check in advice.checks] == [True] * 5
    assert advice.words == (
        "stop: 40 of 40 labels of the budget are queried; 1,234 of 1,000 core-hours are spent; "
        "0.2 undiscovered hits are expected (the limit is 0.5); the best is found with a probability of 97%; "
        "no improvement for 3 rounds"
    )
    onward = advise(Outlook(10, 40, 0.0, 7.0, 0.4, 0))
    assert not onward.stop
    assert onward.words.startswith("go on: 10 of 40 labels")
    assert "the last round improved the best" in onward.words
    assert "core-hours" not in onward.words


def test_what_is_not_known_does_not_stop():
    advice = advise(Outlook(0, 40))
    assert [check.met for check in advice.checks] == [False, None, None, None, None]
    silent = StoppingRule(undiscovered_hits=None, best_found=None, idle_rounds=None)
    assert not advise(Outlook(10, 40, 0.0, 0.0, 1.0, 99), silent).stop


@given(
    st.builds(
        Outlook,
        st.integers(0, 500),
        st.integers(1, 500),
        st.floats(0, 1e9),
        st.none() | st.floats(0, 1e6),
        st.none() | st.floats(0, 1),
        st.none() | st.integers(0, 50),
    )
)
def test_advice_survives_as_json(outlook: Outlook):
    advice = advise(outlook)
    assert StoppingAdvice.from_dict(json.loads(json.dumps(advice.to_dict()))) == advice


def test_rules_that_make_no_sense():
    with pytest.raises(ValueError, match="best_found is 95"):
        StoppingRule(best_found=95)
    with pytest.raises(ValueError, match="idle_rounds is 0"):
        StoppingRule(idle_rounds=0)
