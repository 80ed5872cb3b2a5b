"""Gains over a floor equal closed forms for many draws, and BoTorch's own functions with X_pending."""

from __future__ import annotations

import math

import pytest
import torch
from botorch.acquisition.logei import qLogExpectedImprovement
from botorch.acquisition.monte_carlo import qUpperConfidenceBound
from scipy.stats import norm

from engine.acquire.montecarlo import LogExpectedImprovement, UpperConfidenceBound
from engine.acquire.table import EnsembleTable


def _draws(n_draws: int, n_rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(n_draws, 3, generator=generator, dtype=torch.float64) @ torch.randn(
        3, n_rows, generator=generator, dtype=torch.float64
    )
    return shared + torch.randn(n_draws, n_rows, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("mean", "std", "best"), [(0.0, 1.0, 0.5), (0.3, 0.2, 0.2), (-1.0, 0.5, 0.0)])
def test_expected_improvement_of_a_gaussian(mean, std, best):
    quantiles = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    draws = (mean + std * quantiles).unsqueeze(-1)
    z = (mean - best) / std
    gain = LogExpectedImprovement().gain(draws, torch.full((200_000,), best, dtype=torch.float64))
    assert math.exp(gain.item()) == pytest.approx(std * (norm.pdf(z) + z * norm.cdf(z)), abs=2e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_upper_confidence_bound_of_a_gaussian(beta):
    quantiles = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    draws = (0.7 + 0.3 * quantiles).unsqueeze(-1)
    nothing = torch.full((200_000,), -torch.inf, dtype=torch.float64)
    gain = UpperConfidenceBound(beta).gain(draws, nothing)
    assert gain.item() == pytest.approx(0.7 + math.sqrt(beta) * 0.3, abs=1e-4)


def test_log_expected_improvement_is_botorchs_increment_over_pending_rows():
    draws, best, pending = _draws(64, 30), 1.0, [4, 7]
    acquisition = LogExpectedImprovement()
    floor = draws[:, pending].amax(dim=1).clamp(min=best)
    table = EnsembleTable(draws)
    settings = {"best_f": best, "sampler": table.sampler(), "tau_max": 1e-5}
    alone = qLogExpectedImprovement(table, **settings)(table.rows()[pending].movedim(0, 1)).exp()
    joint = qLogExpectedImprovement(table, **settings, X_pending=table.rows()[pending, 0])(table.rows()).exp()
    gain = acquisition.gain(draws, floor).exp()
    torch.testing.assert_close(gain, joint - alone, atol=1e-4, rtol=0)
    assert gain.argmax() == joint.argmax()


def test_without_pending_rows_it_is_botorchs_value():
    draws = _draws(64, 30)
    table = EnsembleTable(draws)
    expected = qLogExpectedImprovement(table, best_f=0.0, sampler=table.sampler())(table.rows())
    torch.testing.assert_close(LogExpectedImprovement().gain(draws, torch.zeros(64, dtype=torch.float64)), expected)


def test_upper_confidence_bound_is_botorchs_value_with_pending_rows():
    draws, pending = _draws(64, 30), [4, 7]
    acquisition = UpperConfidenceBound(0.5)
    table = EnsembleTable(draws)
    expected = qUpperConfidenceBound(table, 0.5, sampler=table.sampler(), X_pending=table.rows()[pending, 0])(
        table.rows()
    )
    floor = acquisition.utility(draws)[:, pending].amax(dim=1)
    gain = acquisition.gain(draws, floor)
    torch.testing.assert_close(gain + floor.mean(), expected)
    assert acquisition.value(gain[0].item(), floor) == pytest.approx(expected[0].item())


@pytest.mark.parametrize("acquisition", [LogExpectedImprovement(), UpperConfidenceBound(1.0)])
def test_gains_fall_as_the_floor_rises(acquisition):
    draws = _draws(32, 50)
    floor = torch.zeros(32, dtype=torch.float64)
    before = acquisition.gain(draws, floor)
    after = acquisition.gain(draws, floor.maximum(acquisition.utility(draws[:, :4]).amax(dim=1)))
    assert (after <= before + 1e-12).all()


def test_a_row_that_rises_in_no_draw_gains_nothing():
    draws = torch.zeros(8, 3, dtype=torch.float32)
    assert torch.isneginf(LogExpectedImprovement().gain(draws, torch.ones(8, dtype=torch.float64))).all()
    assert (UpperConfidenceBound(1.0).gain(draws, torch.ones(8, dtype=torch.float64)) == 0).all()
