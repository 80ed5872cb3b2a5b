"""Reasons read as sentences and carry true units."""

from __future__ import annotations

import numpy as np
import pytest

from engine.acquire.reasons import probability_to_improve, reason


def test_a_reason_gives_prediction_interval_best_and_probability():
    words = reason(goal="min", rule="qLogEI", mean=np.log10(0.8), std=0.166, best=np.log10(1.3))
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
    assert reason(goal=goal, rule=rule, mean=2.0, std=1.0, best=None).endswith(words)


def test_without_labels_no_probability_is_claimed():
    assert "no value known yet" in reason(goal="min", rule="random", mean=0.0, std=0.1, best=None)


def test_three_significant_digits_in_any_size():
    assert reason(goal="max", rule="greedy", mean=np.log10(1234.5), std=0, best=None).startswith("predicted 1230 (")
    assert reason(goal="max", rule="greedy", mean=-6.0, std=0, best=None).startswith("predicted 1.00e-06 (")
    linear = reason(goal="min", rule="greedy", mean=0.01234, std=0.0, best=0.5, scale="linear", unit="eV")
    assert linear.startswith("predicted 0.0123 (0.0123-0.0123) eV, best known 0.5; probability to improve 1.00")


def test_a_small_chance_is_not_none():
    assert "to improve < 0.01;" in reason(goal="min", rule="ucb", mean=0.0, std=0.1, best=-2.0)


def test_probability_to_improve():
    assert probability_to_improve(1.0, 0.5, best=1.0, goal="min") == pytest.approx(0.5)
    assert probability_to_improve(0.5, 0.5, best=1.0, goal="min") == pytest.approx(0.8413447)
    assert probability_to_improve(0.5, 0.5, best=1.0, goal="max") == pytest.approx(0.1586553)
    assert probability_to_improve([0.5, 1.0, 2.0], 0.0, best=1.0, goal="max").tolist() == [0, 0, 1]
