"""Functions on the joint Gaussian equal closed forms, BoTorch's own values, and conditioning done in full."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from botorch.acquisition.active_learning import qNegIntegratedPosteriorVariance
from botorch.acquisition.max_value_entropy_search import (
    qLowerBoundMaxValueEntropy,
    qMultiFidelityLowerBoundMaxValueEntropy,
)
from scipy.stats import norm

from engine.acquire.gaussian import (
    BelieverRule,
    ExcessByFidelity,
    IntegratedVariance,
    KnowledgeGradient,
    LevelSet,
    MaxValueEntropy,
)
from engine.acquire.marginal import ConfidenceBound, ExpectedExcess
from engine.acquire.objectives import Objective
from engine.acquire.pool import CandidatePool, Criterion, Rows
from engine.exceptions import AcquisitionError
from tests.engine.acquire.choosing import choose
from tests.engine.acquire.fantasies import FantasyPoolModel
from tests.engine.posteriors.table import TablePosterior

N, D, NOISE = 12, 64, 0.3


def _posterior(n: int = N, seed: int = 0, noise: float = NOISE) -> tuple[TablePosterior, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 3, (n, 2))
    covariance = np.exp(-0.5 * np.square(x[:, None] - x).sum(axis=2)) + 1e-6 * np.eye(n)
    mean = rng.normal(0, 0.5, n)
    posterior = TablePosterior.from_gaussian(mean, covariance, np.full(n, noise), n_draws=D, rng=rng)
    return posterior, mean, covariance


def _read(posterior: TablePosterior, rows=None, target_of=None) -> Rows:
    everything = np.arange(posterior.n_rows)
    pool = CandidatePool((Criterion(posterior, Objective.of("max")),), everything, everything, 1000, target_of)
    return pool.read(everything if rows is None else np.array(rows), drawn=True)


def _conditioned(covariance: np.ndarray, taken: list[int], noise: float = NOISE) -> np.ndarray:
    seen = covariance[np.ix_(taken, taken)] + noise**2 * np.eye(len(taken))
    return covariance - covariance[:, taken] @ np.linalg.solve(seen, covariance[taken])


def _functions(n_draws: int = D) -> list:
    return [
        BelieverRule(ConfidenceBound(1.0), Objective("max"), n_draws),
        BelieverRule(ExpectedExcess(0.5), Objective("max"), n_draws),
        LevelSet(0.2, n_draws),
        KnowledgeGradient(1.0, n_draws),
        MaxValueEntropy("GIBBON", 1.0, None, n_draws),
        MaxValueEntropy("qMES", 1.0, None, n_draws),
    ]


def test_conditioning_on_taken_rows_is_that_of_the_gaussian():
    posterior, mean, covariance = _posterior()
    function = BelieverRule(ConfidenceBound(4.0), Objective("max"), D)
    for taken in ([3], [3, 8, 8], [3, 8, 8, 1, 2]):
        function = BelieverRule(ConfidenceBound(4.0), Objective("max"), D)
        function.take(_read(posterior, taken))
        left = np.sqrt(np.diag(_conditioned(covariance, taken)) + NOISE**2)
        np.testing.assert_allclose(function.gain(_read(posterior)), mean + 2 * left, atol=1e-4)


def test_the_straddle_is_its_formula():
    posterior, mean, covariance = _posterior()
    function = LevelSet(0.2, D)
    function.take(_read(posterior, [5]))
    std = np.sqrt(np.diag(_conditioned(covariance, [5])) + NOISE**2)
    np.testing.assert_allclose(function.gain(_read(posterior)), 1.96 * std - np.abs(mean - 0.2), atol=1e-4)


@pytest.mark.parametrize("taken", [[], [4], [4, 9]])
def test_the_fall_in_variance_is_that_of_the_gaussian_and_of_botorch(taken):
    posterior, _, covariance = _posterior()
    function = IntegratedVariance(_read(posterior))
    if taken:
        function.take(_read(posterior, taken))
    gain = function.gain(_read(posterior))
    before = _conditioned(covariance, taken) if taken else covariance
    expected = [np.diag(before - _conditioned(covariance, [*taken, row])).mean() for row in range(N)]
    np.testing.assert_allclose(gain, expected, atol=1e-4)

    model = FantasyPoolModel(torch.from_numpy(posterior.table), torch.full((N,), NOISE**2))
    X = model.rows()
    pending = X[taken, 0] if taken else None
    with torch.no_grad():
        negative = qNegIntegratedPosteriorVariance(model, mc_points=X[:, 0], X_pending=pending)(X).numpy()
    np.testing.assert_allclose(gain - gain[0], negative - negative[0], atol=3e-4)


def test_the_knowledge_gradient_of_two_rows():
    """E max(a, b) of two correlated Gaussians: Clark, Oper. Res. 9, 145 (1961)."""
    posterior, mean, covariance = _posterior(2)
    gain = KnowledgeGradient(1.0, D).gain(_read(posterior))
    for row in range(2):
        move = covariance[:, row] / math.sqrt(covariance[row, row] + NOISE**2)
        spread = abs(move[0] - move[1])
        z = (mean[0] - mean[1]) / spread
        expected = mean[0] * norm.cdf(z) + mean[1] * norm.cdf(-z) + spread * norm.pdf(z) - mean.max()
        assert gain[row] == pytest.approx(expected, abs=2e-3)


def test_the_knowledge_gradient_is_that_of_fantasies():
    posterior, mean, _ = _posterior()
    gain = KnowledgeGradient(-1.0, D).gain(_read(posterior))
    model = FantasyPoolModel(torch.from_numpy(posterior.table), torch.full((N,), NOISE**2))
    z = torch.from_numpy(norm.ppf((np.arange(2000) + 0.5) / 2000)).view(-1, 1, 1)
    for row in (0, 7):
        X = torch.tensor([[float(row)]], dtype=torch.float64)
        label = model.posterior(X, observation_noise=True)
        fantasies = model.condition_on_observations(X, label.mean + label.variance.sqrt() * z)
        best = fantasies.posterior(model.rows()[:, 0]).mean.squeeze(-1).amin(dim=1).mean()
        assert gain[row] == pytest.approx(mean.min() - float(best), abs=2e-3)


def test_gibbon_is_botorchs_with_the_maxima_of_the_draws():
    posterior, _, _ = _posterior()
    rows = _read(posterior)
    gain = MaxValueEntropy("GIBBON", 1.0, None, D).gain(rows)
    model = FantasyPoolModel(torch.from_numpy(posterior.table), torch.full((N,), NOISE**2))
    function = qLowerBoundMaxValueEntropy(model, model.rows()[:, 0])
    maxima = np.quantile(posterior.table.max(axis=1), (np.arange(64) + 0.5) / 64)
    function.posterior_max_values = torch.from_numpy(maxima).unsqueeze(-1)
    with torch.no_grad():
        np.testing.assert_allclose(gain, function(model.rows()), rtol=1e-2)
    assert (gain > 0).all()


def test_entropy_search_and_its_bound_agree_on_what_tells_most():
    posterior, _, _ = _posterior(40, seed=3)
    bound, value = (MaxValueEntropy(name, 1.0, None, D).gain(_read(posterior)) for name in ("GIBBON", "qMES"))
    assert np.corrcoef(bound, value)[0, 1] > 0.9


@pytest.mark.parametrize("name", ["GIBBON", "qMES"])
def test_a_cheaper_fidelity_tells_less_about_the_target(name):
    """Rows 0-11 are the target, 12-23 the same materials, correlated by half."""
    _, mean, covariance = _posterior()
    both = np.block([[covariance, 0.5 * covariance], [0.5 * covariance, covariance]])
    rng = np.random.default_rng(0)
    posterior = TablePosterior.from_gaussian(np.tile(mean, 2), both, np.full(2 * N, NOISE), n_draws=D, rng=rng)
    target_of = np.tile(np.arange(N), 2)
    gain = MaxValueEntropy(name, 1.0, None, D).gain(_read(posterior, target_of=target_of))
    assert (gain[:N] > gain[N:]).mean() > 0.9
    alone = MaxValueEntropy(name, 1.0, None, D).gain(_read(posterior, rows=np.arange(N)))
    np.testing.assert_allclose(gain[:N], alone, rtol=0.25, atol=0.02)
    settings = {"goal": "max", "acquisition": name, "q": 4, "candidates": np.arange(2 * N), "target_of": target_of}
    dear = np.where(np.arange(2 * N) < N, 100.0, 1.0)
    cheap = choose(posterior, cost=dear, rng=np.random.default_rng(0), **settings)
    assert (cheap.rows >= N).all()
    assert (choose(posterior, rng=np.random.default_rng(0), **settings).rows < N).any()


def test_multi_fidelity_gibbon_is_botorchs():
    _, mean, covariance = _posterior()
    both = np.block([[covariance, 0.5 * covariance], [0.5 * covariance, covariance]])
    rng = np.random.default_rng(0)
    posterior = TablePosterior.from_gaussian(np.tile(mean, 2), both, np.full(2 * N, NOISE), n_draws=D, rng=rng)
    gain = MaxValueEntropy("GIBBON", 1.0, None, D).gain(_read(posterior, target_of=np.tile(np.arange(N), 2)))
    model = FantasyPoolModel(torch.from_numpy(posterior.table), torch.full((2 * N,), NOISE**2))
    function = qMultiFidelityLowerBoundMaxValueEntropy(model, model.rows()[:N, 0], project=lambda X: X % N)
    maxima = np.quantile(posterior.table[:, :N].max(axis=1), (np.arange(64) + 0.5) / 64)
    function.posterior_max_values = torch.from_numpy(maxima).unsqueeze(-1)
    with torch.no_grad():  # its default cost grows with the last column of X, which here is the row
        np.testing.assert_allclose(gain, function(model.rows()).numpy() * (0.01 + np.arange(2 * N)), rtol=1e-2)


@pytest.mark.parametrize("function", _functions())
def test_a_taken_row_is_worth_less_than_before(function):
    posterior, _, _ = _posterior()
    before = function.gain(_read(posterior))
    best = int(before.argmax())
    function.take(_read(posterior, [best]))
    assert function.gain(_read(posterior))[best] < before[best]


@pytest.mark.parametrize("acquisition", ["GIBBON", "qMES", "qKG", "variance", "level_set"])
def test_batches_equal_brute_force(acquisition):
    posterior, _, _ = _posterior(30, seed=2)
    batch = choose(
        posterior, goal="max", acquisition=acquisition, q=4, candidates=np.arange(30), pending=np.array([7]),
        threshold=0.2, rng=np.random.default_rng(0),
    )  # fmt: skip
    names = ["ucb", "top_share", "level_set", "qKG", "GIBBON", "qMES"]
    taken = [7]
    for row in batch.rows.tolist():
        if acquisition == "variance":
            function = IntegratedVariance(_read(posterior, [r for r in range(30) if r != 7]))
        else:
            function = _functions()[names.index(acquisition)]
        function.take(_read(posterior, taken))
        free = np.setdiff1d(np.arange(30), taken)
        assert free[function.gain(_read(posterior, free)).argmax()] == row
        taken.append(row)
    assert set(batch.rules) == {acquisition}


@pytest.mark.parametrize("acquisition", ["GIBBON", "qMES", "qKG"])
def test_too_few_draws_and_windows_are_refused(acquisition):
    rng = np.random.default_rng(0)
    few = TablePosterior(np.zeros(9), np.ones(9), rng.normal(size=(5, 9)).astype(np.float32))
    settings = {"acquisition": acquisition, "q": 2, "candidates": np.arange(9), "rng": rng}
    with pytest.raises(AcquisitionError, match="5 joint draws"):
        choose(few, goal="max", **settings)
    posterior, _, _ = _posterior()
    with pytest.raises(AcquisitionError, match="'min' or 'max'"):
        choose(posterior, goal=Objective.target(0.3), **settings)


def test_excess_of_a_lower_fidelity_is_that_of_the_target_times_what_it_tells():
    """Closed form of two fidelities that correlate by half: a label tells the share of the variance that it takes."""
    _, mean, covariance = _posterior()
    both = np.block([[covariance, 0.5 * covariance], [0.5 * covariance, covariance]])
    rng = np.random.default_rng(0)
    posterior = TablePosterior.from_gaussian(np.tile(mean, 2), both, np.full(2 * N, NOISE), n_draws=4096, rng=rng)
    rows, rule = _read(posterior, target_of=np.tile(np.arange(N), 2)), ExpectedExcess(0.5)
    function = ExcessByFidelity(rule, Objective("max"), 4096)
    gain = function.gain(rows)
    alone = np.exp(rule(mean, np.sqrt(np.diag(covariance) + NOISE**2)))
    np.testing.assert_allclose(gain[:N], alone, rtol=0.1)
    np.testing.assert_allclose(gain[N:] / gain[:N], 0.25, rtol=0.15)
    function.take(rows[np.array([N])])
    after = ExcessByFidelity(rule, Objective("max"), 4096).gain(rows)
    assert function.gain(rows)[0] < after[0], "the target is surer then"


def test_top_share_takes_the_cheap_label_of_a_material_first_and_then_that_of_the_target():
    """A lower fidelity that is the target itself for a hundredth of the cost; noise is never worth its cost."""
    _, mean, covariance = _posterior()
    same = np.block([[covariance, 0.99 * covariance], [0.99 * covariance, covariance]])
    other = np.block([[covariance, 0 * covariance], [0 * covariance, covariance]])
    target_of, cost = np.tile(np.arange(N), 2), np.repeat([100.0, 1.0], N)
    settings = {"goal": "max", "acquisition": "top_share", "candidates": np.arange(2 * N), "target_of": target_of}
    for both, is_cheap in ((same, True), (other, False)):
        rng = np.random.default_rng(0)
        posterior = TablePosterior.from_gaussian(np.tile(mean, 2), both, np.full(2 * N, 0.1), n_draws=2048, rng=rng)
        rows = choose(posterior, cost=cost, q=3, rng=np.random.default_rng(0), **settings).rows
        assert ((rows >= N) == is_cheap).all()
