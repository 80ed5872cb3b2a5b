"""Reasons read as sentences and carry true units."""

from __future__ import annotations

import numpy as np
import pytest

from engine.acquire.functions import FUNCTIONS
from engine.acquire.objectives import Objective
from engine.acquire.reasons import probability_to_improve
from tests.engine.acquire.choosing import explain


def test_a_reason_gives_prediction_interval_best_and_probability():
    words = explain(goal="min", rule="qLogEI", mean=np.log10(0.8), std=0.166, best=np.log10(1.3))
    assert words == (
        "predicted 0.8 (0.427-1.5) W/(m K), best known 1.3; probability to improve 0.90; "
        "chosen jointly with the rest of the batch (qLogEI)"
    )


@pytest.mark.parametrize(
    ("rule", "goal", "words"),
    [
        ("ucb", "min", "may be as low as 10 (ucb)"),
        ("ucb", "max", "may be as high as 1000 (ucb)"),
        ("greedy", "min", "lowest predicted value (greedy)"),
        ("greedy", "max", "highest predicted value (greedy)"),
        ("thompson", "max", "best of a draw from the posterior (thompson)"),
        ("random", "max", "drawn at random"),
    ],
)
def test_each_rule_has_its_words(rule, goal, words):
    assert explain(goal=goal, rule=rule, mean=2.0, std=1.0, best=None).endswith(words)


def test_a_hit_the_feasibility_and_the_cost_are_told_where_known():
    words = explain(
        goal="min", rule="ucb", mean=0.0, std=0.2, best=-2.0, hit=0.2, feasibility=0.7, cost=1234.5, beta=1.0
    )
    assert words.startswith("predicted 1 (0.469-2.13) W/(m K), best known 0.01; probability to improve < 0.01, ")
    assert words.endswith(
        "to be a hit (below 1.58) 0.84, to be of use 0.70; may be as low as 0.631 (ucb); about 1230 core-hours"
    )
    assert "to be a hit (above 1.58) 0.16" in explain(goal="max", rule="ucb", mean=0.0, std=0.2, best=None, hit=0.2)


def test_targets_and_windows():
    window = Objective.window(0.0, 1.0)
    words = explain(goal=window, rule="greedy", mean=0.0, std=0.5, best=2.0)
    assert "probability to improve 0.98, wanted 1 to 10 (0.48 likely); best predicted value (greedy)" in words
    assert "wanted 10; the best it may be (ucb)" in explain(
        goal=Objective.target(1.0), rule="ucb", mean=0.0, std=0.5, best=None
    )
    assert probability_to_improve(0.5, 0.5, best=0.5, goal=window) == 0
    assert probability_to_improve(0.5, 0.5, best=2.0, goal=window) == pytest.approx(0.9973002)


@pytest.mark.parametrize("rule", list(FUNCTIONS))
def test_every_function_gives_a_reason(rule):
    words = explain(goal="min", rule=rule, mean=0.0, std=0.5, best=0.2, threshold=0.3)
    assert words.endswith(f"({rule})") or rule == "random"


def test_without_labels_no_probability_is_claimed():
    assert "no value known yet" in explain(goal="min", rule="random", mean=0.0, std=0.1, best=None)


def test_three_significant_digits_in_any_size():
    assert explain(goal="max", rule="greedy", mean=np.log10(1234.5), std=0, best=None).startswith("predicted 1230 (")
    assert explain(goal="max", rule="greedy", mean=-6.0, std=0, best=None).startswith("predicted 1.00e-06 (")
    linear = explain(goal="min", rule="greedy", mean=0.01234, std=0.0, best=0.5, scale="linear", unit="eV")
    assert linear.startswith("predicted 0.0123 (0.0123-0.0123) eV, best known 0.5; probability to improve 1.00")
    below = explain(goal="min", rule="greedy", mean=0.5, std=1.0, best=None, scale="linear", unit="eV")
    assert below.startswith("predicted 0.5 (-1.14 to 2.14) eV")


def test_a_small_chance_is_not_none():
    assert "to improve < 0.01;" in explain(goal="min", rule="ucb", mean=0.0, std=0.1, best=-2.0)


def test_probability_to_improve():
    assert probability_to_improve(1.0, 0.5, best=1.0, goal="min") == pytest.approx(0.5)
    assert probability_to_improve(0.5, 0.5, best=1.0, goal="min") == pytest.approx(0.8413447)
    assert probability_to_improve(0.5, 0.5, best=1.0, goal="max") == pytest.approx(0.1586553)
    assert probability_to_improve([0.5, 1.0, 2.0], 0.0, best=1.0, goal="max").tolist() == [0, 0, 1]
