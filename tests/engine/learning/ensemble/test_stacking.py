"""Shares of the mean follow held-out errors, all the more the more labels there are, and never a fold's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.learning.ensemble.stacking import PRIOR_LABELS, SMALLEST_WEIGHT, Stacking, held_out_weights
from engine.learning.networks.graph_data import Crystals


def case(n: int, errors: tuple[float, ...], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Values, members' mean, model' estimates with normal errors of these sizes (the members' first), folds."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n)
    mean, *estimates = (values + size * rng.normal(size=n) for size in errors)
    return values, mean, np.stack(estimates), np.arange(n) % 5


class Constant:
    def __init__(self, value: float):
        self.value = value

    def estimate(self, crystals):
        return np.full(len(crystals), self.value)


def test_the_mean_is_convex():
    stacking = Stacking({"networks": Constant(1.0), "trees": Constant(2.0)}, {"networks": 0.25, "trees": 0.5})
    found = stacking(np.array([[0.0, 8.0], [4.0, 0.0]]), Crystals(None, ["a", "b"]))
    np.testing.assert_allclose(found, 0.25 * np.array([[0.0, 8.0], [4.0, 0.0]]) + 0.25 + 1.0)


@given(st.integers(10, 200), st.integers(1, 2), st.integers(0, 20))
def test_shares_are_shares(n, n_models, seed):
    stacked, weights = held_out_weights(*case(n, (0.3,) * (n_models + 1), seed))
    assert weights.shape == (n_models,)
    assert ((weights == 0) | (weights >= SMALLEST_WEIGHT)).all()
    assert weights.sum() < 1
    assert stacked.shape == (n,)


def test_a_useless_model_gets_no_share():
    stacked, weights = held_out_weights(*case(400, (0.1, 2.0)))
    np.testing.assert_array_equal(weights, [0])
    np.testing.assert_array_equal(stacked, case(400, (0.1, 2.0))[1])


def test_useless_members_leave_the_mean_to_a_model():
    _, weights = held_out_weights(*case(400, (2.0, 0.1)))
    assert weights[0] > 0.9
    _, weights = held_out_weights(*case(400, (2.0, 2.0, 0.1)))
    assert weights[1] > 0.9


def test_independent_errors_are_averaged():
    values, mean, estimates, folds = case(300, (0.3, 0.3))
    stacked, weights = held_out_weights(values, mean, estimates, folds)
    assert weights[0] == pytest.approx(0.5, abs=0.1)
    assert np.abs(stacked - values).mean() < 0.8 * np.abs(mean - values).mean()


@pytest.mark.parametrize("best", [0, 1])
def test_few_labels_stay_near_equal_shares(best):
    values = np.arange(10.0)
    mean, estimate = (values, values + 1) if best == 0 else (values + 1, values)
    _, weights = held_out_weights(values, mean, estimate[None], np.arange(10) % 5)
    assert weights[0] == pytest.approx((10 * best + PRIOR_LABELS / 2) / (10 + PRIOR_LABELS))


def test_a_fold_does_not_choose_its_own_share():
    values, mean, estimates, folds = case(100, (0.3, 0.3))
    before, _ = held_out_weights(values, mean, estimates, folds)
    spoilt = values + np.where(folds == 2, 50.0 * np.sign(mean - estimates[0]), 0.0)
    after, _ = held_out_weights(spoilt, mean, estimates, folds)
    np.testing.assert_array_equal(after[folds == 2], before[folds == 2])
    assert np.abs(after - before)[folds != 2].max() > 0.01
