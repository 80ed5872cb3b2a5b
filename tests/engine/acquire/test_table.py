"""The lookup model runs BoTorch's Monte Carlo acquisition functions, every member once."""

from __future__ import annotations

import pytest
import torch
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.monte_carlo import qSimpleRegret

from engine.acquire.table import EnsembleTable


@pytest.fixture
def table() -> EnsembleTable:
    return EnsembleTable(torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def test_forward_gathers_members_of_each_row(table):
    X = torch.tensor([[[3.0], [39.0]], [[0.0], [3.0]]], dtype=torch.float64)
    values = table(X)
    assert values.shape == (2, 6, 2, 1)
    torch.testing.assert_close(values[0, :, 1, 0], table.table[:, 39])
    torch.testing.assert_close(values[1, :, 1, 0], table.table[:, 3])


def test_the_sampler_takes_every_member_once(table):
    samples = table.sampler()(table.posterior(table.rows()))
    torch.testing.assert_close(samples.squeeze(-1).squeeze(-1), table.table)


def test_single_precision_indices_are_refused(table):
    with pytest.raises(ValueError, match="float64"):
        table(table.rows().float())


def test_indices_above_2_to_24_stay_apart():
    row = 2.0**24 + 1
    assert torch.tensor(row, dtype=torch.float64).long() == 2**24 + 1
    assert torch.tensor(row, dtype=torch.float32).long() != 2**24 + 1


def test_monte_carlo_acquisition_functions_run_on_the_table(table):
    X = table.rows()
    torch.testing.assert_close(qSimpleRegret(table, sampler=table.sampler())(X), table.table.mean(dim=0))
    gain = qLogExpectedImprovement(table, best_f=0.5, sampler=table.sampler())(X)
    torch.testing.assert_close(gain.exp(), (table.table - 0.5).clamp(min=0).mean(dim=0), atol=1e-5, rtol=0)
    noisy = qLogNoisyExpectedImprovement(
        table, X_baseline=X[:3, 0], sampler=table.sampler(), cache_root=False, prune_baseline=False
    )(X)
    floor = table.table[:, :3].amax(dim=1, keepdim=True)
    torch.testing.assert_close(noisy.exp(), (table.table - floor).clamp(min=0).mean(dim=0), atol=1e-5, rtol=0)
