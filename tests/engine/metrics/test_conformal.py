"""Coverage by simulation, against the definitions, and in what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.exceptions import TooFewLabelsError
from engine.metrics.conformal import adaptive_factor, minimum_count, split_quantile


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_split_covers_whatever_the_noise_and_however_wrong_the_spread(level: float):
    rng = np.random.default_rng(0)
    n, trials = 39, 6000
    residuals, spread = rng.standard_t(2, (trials, n + 1)), rng.uniform(0.1, 3, (trials, n + 1))
    plain = [abs(r[-1]) <= split_quantile(r[:-1], level) for r in residuals]
    normalised = [
        abs(r[-1]) <= s[-1] * split_quantile(r[:-1], level, s[:-1]) for r, s in zip(residuals, spread, strict=True)
    ]
    expected = np.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert level <= expected < level + 1 / n
    for covered in (plain, normalised):
        assert np.mean(covered) == pytest.approx(expected, abs=0.02)


@given(st.lists(st.floats(-1e3, 1e3), min_size=9, max_size=60), st.sampled_from([0.5, 0.8, 0.9]))
def test_of_n_rows_and_a_new_one_enough_lie_inside(residuals: list[float], level: float):
    """Leave each row out in turn: the share inside its interval is the guarantee, whatever the numbers."""
    n = len(residuals) - 1
    if n < level / (1 - level):
        return
    rows = np.array(residuals)
    inside = [abs(rows[i]) <= split_quantile(np.delete(rows, i), level) for i in range(len(rows))]
    assert np.mean(inside) >= level - 1e-9


def test_the_quantile_is_the_finite_sample_one():
    assert split_quantile(np.arange(1.0, 20.0), 0.9) == 18, "of 19 residuals the 18th of 20"
    assert split_quantile(-np.arange(1.0, 10.0), 0.9) == 9
    assert [minimum_count(level) for level in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]
    with pytest.raises(ValueError, match="between 0 and 1"):
        minimum_count(1.0)


def test_what_cannot_be_guaranteed_is_refused():
    with pytest.raises(TooFewLabelsError, match=r"^8 .* 90% .* 9;"):
        split_quantile(np.ones(8), 0.9)
    with pytest.raises(ValueError, match="1 of 9 residuals"):
        split_quantile([np.nan, *[1.0] * 8], 0.5)
    with pytest.raises(ValueError, match="positive standard deviations"):
        split_quantile(np.ones(9), 0.5, np.zeros(9))


@given(st.floats(0.3, 3.0), st.sampled_from([0.5, 0.8, 0.9]))
def test_before_any_round_the_factor_is_the_prior(prior: float, level: float):
    assert adaptive_factor([], level, prior=prior) == pytest.approx(prior, rel=0.01)


def test_the_factor_comes_to_what_the_chosen_rows_need():
    """With many errors of one size the imagined rows no longer matter."""
    rng = np.random.default_rng(0)
    for size in (0.5, 1.0, 2.0):
        rounds = [size * rng.normal(size=4000) for _ in range(3)]
        assert adaptive_factor(rounds, 0.9, prior=1.3) == pytest.approx(size, rel=0.03)


def test_recent_rounds_count_more():
    rng = np.random.default_rng(1)
    narrow, wide = rng.normal(size=200), 3 * rng.normal(size=200)
    assert adaptive_factor([narrow, wide], 0.9) > adaptive_factor([wide, narrow], 0.9)
    assert adaptive_factor([wide, *[narrow] * 8], 0.9) == pytest.approx(adaptive_factor([narrow] * 9, 0.9), rel=0.1)


@given(st.lists(st.lists(st.floats(-50, 50), max_size=8), max_size=4), st.floats(1.1, 4))
def test_larger_errors_never_narrow(rounds: list[list[float]], times: float):
    arrays = [np.array(errors) for errors in rounds]
    assert adaptive_factor([times * a for a in arrays], 0.9) >= adaptive_factor(arrays, 0.9) - 1e-12


def test_errors_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 2 residuals"):
        adaptive_factor([np.array([1.0, np.inf])], 0.9)
