"""The expected excess equals BoTorch's expected improvement, and finds the best share of a pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import _log_ei_helper
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from engine.acquire.marginal import ExpectedExcess, log_expected_excess
from engine.acquire.objectives import Objective
from engine.acquire.pool import CandidatePool, Criterion
from engine.exceptions import AcquisitionError
from tests.engine.acquire.choosing import choose
from tests.engine.posteriors.table import TablePosterior


def _posterior(mean: np.ndarray, std: float = 0.2, seed: int = 0) -> TablePosterior:
    covariance = std**2 * np.eye(len(mean))
    noise = np.full(len(mean), 0.01)
    return TablePosterior.from_gaussian(mean, covariance, noise, n_draws=64, rng=np.random.default_rng(seed))


@given(st.floats(-6, 6))
def test_the_expected_excess_is_its_integral(z):
    integral = quad(lambda u: (u + z) * norm.pdf(u), -z, np.inf)[0]
    assert log_expected_excess(np.array([z]))[0] == pytest.approx(np.log(integral), abs=1e-6)


@given(st.floats(-1e6, 30))
def test_it_is_botorchs_and_never_lost(z):
    ours = log_expected_excess(np.array([z]))[0]
    assert np.isfinite(ours)
    assert ours == pytest.approx(float(_log_ei_helper(torch.tensor(z, dtype=torch.float64))), rel=1e-6, abs=1e-9)


def test_without_a_spread_the_excess_itself_counts():
    rule = ExpectedExcess(1.0)
    values = rule(np.array([3.0, 1.0, 0.0]), np.zeros(3))
    np.testing.assert_array_equal(values, [np.log(2.0), -np.inf, -np.inf])


def test_the_threshold_is_the_bound_of_the_best_share_labelled_rows_among_them():
    mean = np.linspace(0, 1, 101)
    posterior = _posterior(mean)
    objective = Objective.of("min")
    free = np.arange(20, 101)
    pool = CandidatePool((Criterion(posterior, objective),), free, free, 1000)
    found = ExpectedExcess.of_best(0.1, pool, np.arange(20))
    assert -found.threshold == pytest.approx(np.quantile(posterior.mean_std(np.arange(101))[0], 0.1))


def test_top_share_prefers_more_that_pass_over_one_that_may_pass_far():
    mean = np.concatenate([np.full(10, 0.1), np.full(90, 1.0)])
    posterior = _posterior(mean)
    options = {"goal": "min", "q": 10, "candidates": np.arange(100), "rng": np.random.default_rng(1)}
    batch = choose(posterior, acquisition="top_share", share=0.1, **options)
    assert set(batch.rows.tolist()) == set(range(10))
    assert set(batch.rules) == {"top_share"}


def test_pending_rows_take_their_neighbours_spread():
    covariance = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 1.0]])
    rng = np.random.default_rng(0)
    posterior = TablePosterior.from_gaussian(np.zeros(3), covariance, np.full(3, 0.1), n_draws=512, rng=rng)
    options = {"goal": "max", "acquisition": "top_share", "share": 0.3, "q": 1, "rng": rng}
    batch = choose(posterior, candidates=np.arange(1, 3), pending=np.array([0]), **options)
    assert batch.rows.tolist() == [2]


def test_a_share_is_a_part():
    posterior = _posterior(np.zeros(5))
    with pytest.raises(AcquisitionError, match="share is 1"):
        choose(posterior, goal="min", acquisition="top_share", share=1.5, q=1, candidates=np.arange(5),
                     rng=np.random.default_rng(0))  # fmt: skip
