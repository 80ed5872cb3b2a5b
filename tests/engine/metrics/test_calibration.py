"""Calibration against closed forms and simulation; the scale makes intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from engine.metrics.calibration import (
    calibration,
    coverage,
    error_against_spread,
    pit_counts,
    shrunk_scale,
)


def test_likelihood_and_crps_of_one_prediction():
    result = calibration([1.2], [0.9], [0.25])
    assert result.nll == pytest.approx(-norm.logpdf(1.2, 0.9, 0.25))
    below, _ = quad(lambda x: norm.cdf(x, 0.9, 0.25) ** 2, -2, 1.2)
    above, _ = quad(lambda x: (1 - norm.cdf(x, 0.9, 0.25)) ** 2, 1.2, 4)
    assert result.crps == pytest.approx(below + above, abs=1e-7)
    assert result.sharpness == pytest.approx(0.25)


def test_honest_spreads_are_calibrated_and_small_ones_are_not():
    rng = np.random.default_rng(0)
    std = rng.uniform(0.1, 0.3, 20_000)
    true = std * rng.standard_normal(20_000)
    honest, proud = calibration(true, 0 * std, std), calibration(true, 0 * std, std / 2)
    for level, observed in honest.coverage.items():
        assert observed == pytest.approx(level, abs=0.01)
    assert honest.calibration_error < 0.01
    assert proud.calibration_error > 0.2
    assert honest.nll < proud.nll
    assert honest.crps < proud.crps
    assert proud.sharpness == pytest.approx(honest.sharpness / 2)


def test_coverage_counts_residuals_inside():
    assert coverage([0.0, -1.0, 1.0, 5.0], [0.5, 0.9]).tolist() == [0.25, 0.75]


def test_error_follows_an_honest_spread_and_not_a_shuffled_one():
    rng = np.random.default_rng(4)
    std = rng.uniform(0.1, 0.9, 40_000)
    error = std * rng.standard_normal(40_000)
    honest, shuffled = error_against_spread(error, std), error_against_spread(error, rng.permutation(std))
    assert honest.rows == (4000,) * 10
    assert honest.rmse == pytest.approx(honest.spread, rel=0.05)
    assert honest.normalised_error < 0.03
    assert np.ptp(shuffled.rmse) < 0.1 * np.ptp(shuffled.spread)
    assert shuffled.normalised_error > 0.3


def test_error_against_spread_of_a_few_rows():
    curve = error_against_spread([3.0, -4.0], [5.0, 12.0])
    assert curve.rows == (2,)
    assert curve.spread == pytest.approx((np.sqrt(84.5),))
    assert curve.rmse == pytest.approx((np.sqrt(12.5),))
    assert curve.normalised_error == pytest.approx(1 - np.sqrt(12.5 / 84.5))
    assert error_against_spread(np.ones(17), np.arange(1.0, 18.0)).rows == (9, 8)


def test_probability_integral_transform():
    """Every bin's share is the chance of its probabilities; a spread too small empties the middle."""
    z = np.random.default_rng(5).standard_normal(20_000)
    assert pit_counts(z) / 20_000 == pytest.approx(np.full(10, 0.1), abs=0.01)
    proud = pit_counts(2 * z) / 20_000
    assert proud[0] == pytest.approx(norm.cdf(norm.ppf(0.1) / 2), abs=0.01)
    assert pit_counts([-9.0, 0.01, 9.0]).tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_predictions_without_spread_are_refused():
    with pytest.raises(ValueError, match="1 of 2 predicted standard deviations"):
        calibration([1.0, 2.0], [1.0, 2.0], [0.1, 0.0])
    with pytest.raises(ValueError, match="three arrays"):
        calibration([1.0], [1.0, 2.0], [0.1, 0.2])


class TestShrunkScale:
    def test_without_data_spreads_stay_as_they_are(self):
        assert shrunk_scale([]) == pytest.approx(1.0, abs=0.05)
        assert shrunk_scale([], level=0.5) == pytest.approx(1.0, abs=0.05)

    def test_many_rows_have_their_way(self):
        z = np.random.default_rng(0).standard_normal(20_000)
        for truth in (0.5, 1.0, 3.0):
            assert shrunk_scale(truth * z) == pytest.approx(truth, rel=0.03)

    def test_a_handful_moves_it_only_part_of_the_way(self):
        few, more = (np.full(n, 5.0) for n in (1, 8))
        assert 1.0 < shrunk_scale(few) < shrunk_scale(more) <= 5.0 / norm.ppf(0.95) + 1e-9
        assert 0.5 < shrunk_scale(np.zeros(8)) < 1.0

    def test_early_intervals_cover(self):
        rng = np.random.default_rng(1)
        covered = [
            abs(rng.standard_normal() * 1.5) <= norm.ppf(0.95) * shrunk_scale(1.5 * rng.standard_normal(40))
            for _ in range(4000)
        ]
        assert np.mean(covered) == pytest.approx(0.88, abs=0.03)
