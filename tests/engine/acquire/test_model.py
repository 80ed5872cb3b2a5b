"""The lookup model runs BoTorch's acquisition functions, every draw once, and is the Gaussian of its draws."""

from __future__ import annotations

import pytest
import torch
from botorch.acquisition.active_learning import qNegIntegratedPosteriorVariance
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy, qMaxValueEntropy
from botorch.acquisition.monte_carlo import qSimpleRegret
from botorch.posteriors.gpytorch import GPyTorchPosterior

from engine.acquire.model import PoolModel, cholesky
from engine.exceptions import AcquisitionError
from tests.engine.acquire.fantasies import FantasyPoolModel


def _draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def model() -> PoolModel:
    return PoolModel(_draws(6, 40), torch.full((40,), 0.2))


def test_values_are_the_draws_of_each_row(model):
    X = torch.tensor([[[3.0], [39.0]], [[0.0], [3.0]]], dtype=torch.float64)
    values = model.values(X)
    assert values.shape == (2, 6, 2, 1)
    torch.testing.assert_close(values[0, :, 1], model.table[:, 39])
    torch.testing.assert_close(values[1, :, 1], model.table[:, 3])


def test_the_sampler_takes_every_draw_once(model):
    samples = model.sampler()(model.posterior(model.rows()))
    torch.testing.assert_close(samples.squeeze(-2), model.table)
    with pytest.raises(TypeError, match="posterior of a PoolModel"):
        model.sampler()(GPyTorchPosterior(model.posterior(model.rows()).distribution))


def test_single_precision_indices_are_refused(model):
    with pytest.raises(ValueError, match="float64"):
        model.posterior(model.rows().float())


def test_indices_above_2_to_24_stay_apart():
    row = 2.0**24 + 1
    assert torch.tensor(row, dtype=torch.float64).long() == 2**24 + 1
    assert torch.tensor(row, dtype=torch.float32).long() != 2**24 + 1


def test_the_gaussian_has_the_moments_of_the_draws_and_noise_where_asked_for(model):
    X = torch.tensor([[3.0], [5.0], [7.0]], dtype=torch.float64)
    covariance = torch.cov(model.table[:, [3, 5, 7], 0].T, correction=0)
    posterior, noisy = model.posterior(X), model.posterior(X, observation_noise=True)
    torch.testing.assert_close(posterior.distribution.covariance_matrix, covariance)
    torch.testing.assert_close(posterior.variance[:, 0], covariance.diagonal())
    torch.testing.assert_close(noisy.distribution.covariance_matrix, covariance + 0.2 * torch.eye(3).double())
    torch.testing.assert_close(noisy.variance[:, 0], covariance.diagonal() + 0.2)
    torch.testing.assert_close(posterior.mean[:, 0], model.table[:, [3, 5, 7], 0].mean(dim=0))


def test_several_properties():
    model = PoolModel(_draws(8, 5, 2))
    posterior = model.posterior(model.rows()[:, 0])
    assert (model.num_outputs, posterior.mean.shape, posterior.variance.shape) == (2, (5, 2), (5, 2))
    assert posterior.rsample(torch.Size([3])).shape == (3, 5, 2)
    second = model.posterior(model.rows()[:, 0], output_indices=[1])
    torch.testing.assert_close(second.mean, posterior.mean[:, 1:])


def test_monte_carlo_acquisition_functions_run_on_the_model(model):
    X, table = model.rows(), model.table[..., 0]
    torch.testing.assert_close(qSimpleRegret(model, sampler=model.sampler())(X), table.mean(dim=0))
    gain = qLogExpectedImprovement(model, best_f=0.5, sampler=model.sampler())(X)
    torch.testing.assert_close(gain.exp(), (table - 0.5).clamp(min=0).mean(dim=0), atol=1e-5, rtol=0)
    noisy = qLogNoisyExpectedImprovement(
        model, X_baseline=X[:3, 0], sampler=model.sampler(), cache_root=False, prune_baseline=False
    )(X)
    floor = table[:, :3].amax(dim=1, keepdim=True)
    torch.testing.assert_close(noisy.exp(), (table - floor).clamp(min=0).mean(dim=0), atol=1e-5, rtol=0)


def test_functions_that_need_a_gaussian_run_on_the_model():
    """Hazard 9: on BoTorch's EnsembleModel these fail."""
    model = FantasyPoolModel(_draws(64, 12), torch.full((12,), 0.1))
    X = model.rows()
    with torch.no_grad():
        values = [
            qNegIntegratedPosteriorVariance(model, mc_points=X[:, 0])(X),
            qLowerBoundMaxValueEntropy(model, X[:, 0])(X),
            qLowerBoundMaxValueEntropy(model, X[:, 0], X_pending=X[:2, 0])(X),
            qMaxValueEntropy(model, X[:, 0], num_fantasies=2, X_pending=X[:2, 0])(X),
        ]
    assert all(torch.isfinite(value).all() and value.shape == (12,) for value in values)


def test_a_singular_covariance_gets_jitter_and_an_impossible_one_is_refused():
    factor = cholesky(torch.ones(4, 4, dtype=torch.float64))
    torch.testing.assert_close(factor @ factor.T, torch.ones(4, 4, dtype=torch.float64), atol=2e-3, rtol=0)
    with pytest.raises(AcquisitionError, match="4 rows"):
        cholesky(-torch.eye(4, dtype=torch.float64))
