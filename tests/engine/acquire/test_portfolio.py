"""Hedging by past success, with plain numbers in and out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.acquire.functions import check_portfolio
from engine.acquire.portfolio import ETA, probabilities, updated_gains
from engine.exceptions import AcquisitionError


def test_probabilities_are_exponential_in_the_gains():
    assert probabilities({"ucb": 0.0, "greedy": 0.0}) == {"ucb": 0.5, "greedy": 0.5}
    chances = probabilities({"ucb": 1.0, "greedy": 0.5})
    assert chances["ucb"] / chances["greedy"] == pytest.approx(np.exp(0.5 * ETA))
    assert probabilities({"ucb": 1e6, "greedy": 0.0}) == {"ucb": 1.0, "greedy": 0.0}


def test_a_function_is_rewarded_by_the_place_of_its_labels():
    gains = updated_gains(
        {"ucb": 1.0, "greedy": 0.0, "thompson": 0.0},
        ("ucb", "greedy", "ucb", "greedy"),
        np.array([3.0, -1e9, 2.0, -5.0]),
        np.array([0.0, 1.0]),
    )
    assert gains == pytest.approx({"ucb": 1 + (5.5 + 4.5) / 12, "greedy": (0.5 + 1.5) / 12, "thompson": 0.5})
    assert json.loads(json.dumps(gains)) == gains


def test_success_is_followed():
    rng = np.random.default_rng(0)
    gains = {"ucb": 0.0, "random": 0.0}
    for _ in range(3):
        rules = ("ucb", "random") * 5
        gains = updated_gains(gains, rules, np.where(np.arange(10) % 2, 0.0, 1.0), rng.uniform(size=20))
    assert probabilities(gains)["ucb"] > 0.95


def test_without_labels_nothing_changes_and_nonsense_is_refused():
    assert updated_gains({"ucb": 1.0}, (), np.empty(0), np.zeros(3)) == {"ucb": 1.0}
    for gains, message in (
        ({}, "without functions"),
        ({"ucb": float("nan")}, "all have to be finite"),
    ):
        with pytest.raises(AcquisitionError, match=message):
            probabilities(gains)
    for name, message in (("portfolio", "cannot be part"), ("ubc", "did you mean 'ucb'")):
        with pytest.raises(AcquisitionError, match=message):
            check_portfolio([name])
