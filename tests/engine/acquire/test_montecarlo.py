"""Gains over what is taken equal closed forms for many draws, and BoTorch's own functions with X_pending."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.monte_carlo import qProbabilityOfImprovement, qUpperConfidenceBound
from scipy.special import ndtri
from scipy.stats import norm

from engine.acquire.model import PoolModel
from engine.acquire.montecarlo import SHARPNESS, ExpectedImprovement, ProbabilityOfImprovement, UpperConfidenceBound
from engine.acquire.objectives import Objective
from engine.acquire.pool import CandidatePool, Criterion, Rows
from tests.engine.posteriors.table import TablePosterior

N_DRAWS = 64


def _rows(draws: np.ndarray, keep=None) -> Rows:
    draws = draws.astype(np.float32) if keep is None else draws[:, keep].astype(np.float32)
    n = draws.shape[1]
    return Rows(np.arange(n), draws.mean(axis=0), draws.std(axis=0), draws, draws)


def _gaussian(mean: float, std: float, n_draws: int = 200_000) -> Rows:
    return _rows((mean + std * ndtri((np.arange(n_draws) + 0.5) / n_draws))[:, None])


def _draws(n_rows: int = 30, n_draws: int = N_DRAWS) -> np.ndarray:
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(n_draws, 3)) @ rng.normal(size=(3, n_rows))
    return (shared + rng.normal(size=(n_draws, n_rows))).astype(np.float32)


def _functions() -> list:
    return [
        ExpectedImprovement(1.0, N_DRAWS),
        UpperConfidenceBound(0.5, -9.0, N_DRAWS),
        ProbabilityOfImprovement(1.0, N_DRAWS),
    ]


@pytest.mark.parametrize(("mean", "std", "best"), [(0.0, 1.0, 0.5), (0.3, 0.2, 0.2), (-1.0, 0.5, 0.0)])
def test_expected_improvement_of_a_gaussian(mean, std, best):
    z = (mean - best) / std
    gain = ExpectedImprovement(best, 200_000).gain(_gaussian(mean, std))
    assert math.exp(gain[0]) == pytest.approx(std * (norm.pdf(z) + z * norm.cdf(z)), abs=2e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_upper_confidence_bound_of_a_gaussian(beta):
    function = UpperConfidenceBound(beta, -5.0, 200_000)
    gain = function.gain(_gaussian(0.7, 0.3))
    assert function.value(gain[0]) == pytest.approx(0.7 + math.sqrt(beta) * 0.3, abs=1e-4)


@pytest.mark.parametrize("best", [0.2, 0.7, 1.1])
def test_probability_of_improvement_of_a_gaussian(best):
    function = ProbabilityOfImprovement(best, 200_000)
    assert function.gain(_gaussian(0.7, 0.3))[0] == pytest.approx(norm.sf((best - 0.7) / 0.3), abs=2e-3)


def test_log_expected_improvement_is_botorchs_increment_over_pending_rows():
    draws, pending = _draws(), [4, 7]
    function, model = ExpectedImprovement(1.0, N_DRAWS), PoolModel(torch.from_numpy(draws))
    function.take(_rows(draws, pending))
    settings = {"best_f": 1.0, "sampler": model.sampler(), "tau_max": 1e-5}
    alone = qLogExpectedImprovement(model, **settings)(model.rows()[pending].movedim(0, 1)).exp()
    joint = qLogExpectedImprovement(model, **settings, X_pending=model.rows()[pending, 0])(model.rows()).exp()
    gain = torch.from_numpy(function.gain(_rows(draws))).exp()
    torch.testing.assert_close(gain, joint - alone, atol=1e-4, rtol=0)
    assert gain.argmax() == joint.argmax()


def test_without_pending_rows_it_is_botorchs_value():
    draws = _draws()
    model = PoolModel(torch.from_numpy(draws))
    expected = qLogExpectedImprovement(model, best_f=0.0, sampler=model.sampler())(model.rows())
    torch.testing.assert_close(
        torch.from_numpy(ExpectedImprovement(0.0, N_DRAWS).gain(_rows(draws))), expected, atol=1e-6, rtol=1e-6
    )


def test_with_the_labelled_rows_taken_it_is_botorchs_noisy_expected_improvement():
    draws, observed = _draws(), [0, 3, 9]
    function, model = ExpectedImprovement(-np.inf, N_DRAWS), PoolModel(torch.from_numpy(draws))
    function.take(_rows(draws, observed))
    expected = qLogNoisyExpectedImprovement(
        model, model.rows()[observed, 0], sampler=model.sampler(), cache_root=False, prune_baseline=False
    )(model.rows())
    np.testing.assert_allclose(np.exp(function.gain(_rows(draws))), expected.detach().exp(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "botorch"),
    [
        (UpperConfidenceBound(0.5, -9.0, N_DRAWS), lambda m, **k: qUpperConfidenceBound(m, 0.5, **k)),
        (
            ProbabilityOfImprovement(1.0, N_DRAWS),
            lambda m, **k: qProbabilityOfImprovement(m, 1.0, tau=SHARPNESS, **k),
        ),
    ],
)
def test_the_value_of_a_batch_is_botorchs_with_pending_rows(function, botorch):
    draws, pending = _draws(), [4, 7]
    model = PoolModel(torch.from_numpy(draws))
    expected = botorch(model, sampler=model.sampler(), X_pending=model.rows()[pending, 0])(model.rows())
    function.take(_rows(draws, pending))
    values = [function.value(gain) for gain in function.gain(_rows(draws))]
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("function", _functions())
def test_gains_fall_as_rows_are_taken(function):
    draws = _draws(50)
    before = function.gain(_rows(draws))
    function.take(_rows(draws, [0, 1, 2, 3]))
    assert (function.gain(_rows(draws)) <= before + 1e-12).all()


@pytest.mark.parametrize("function", _functions())
def test_a_row_that_rises_in_no_draw_gains_nothing(function):
    low = np.full((N_DRAWS, 3), -20.0)
    function.take(_rows(np.full((N_DRAWS, 1), 30.0)))
    assert (function.gain(_rows(low)) <= 0).all()


@pytest.mark.parametrize("function", _functions())
@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_marginals_bound_the_gains(function, goal):
    rng = np.random.default_rng(2)
    members = rng.normal(0.5, 0.6, 400) + rng.normal(0, 0.3, (5, 400))
    posterior = TablePosterior.from_members(members, n_draws=N_DRAWS, rng=rng)
    rows = np.arange(400)
    pool = CandidatePool((Criterion(posterior, Objective.of(goal)),), rows, rows, 400)
    gain = function.gain(pool.read(rows, drawn=True))
    bound = function.bound(pool)
    resolved = gain > max(function.nil(), np.log(1e-3) if isinstance(function, ExpectedImprovement) else 0)
    assert (bound >= gain)[resolved].mean() > 0.98
    assert function.bound(CandidatePool((Criterion(posterior, Objective.target(0.5)),), rows, rows, 400)) is None
