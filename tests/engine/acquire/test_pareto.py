"""Batches for several objectives equal BoTorch's own values with every row tried at every pick."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.parego import qLogNParEGO

from engine.acquire.model import PoolModel
from engine.acquire.objectives import Objective
from engine.acquire.pool import Criterion
from engine.exceptions import AcquisitionError
from engine.posteriors.posterior import KnownValues
from tests.engine.acquire.choosing import choose
from tests.engine.posteriors.table import TablePosterior

N = 40
OBSERVED = np.array([0, 1, 2, 3, 4, 5])


def _criteria(n: int = N, known: bool = True) -> tuple[Criterion, Criterion]:
    rng = np.random.default_rng(0)
    members = rng.normal(0.8, 0.4, n) + rng.normal(0, 0.2, (5, n))
    kappa = TablePosterior.from_members(members, n_draws=32, rng=rng)
    gap = np.abs(0.8 - kappa.mean) + rng.uniform(0, 0.5, n)
    other = (
        KnownValues(gap, 32) if known else TablePosterior(gap, np.full(n, 0.1), gap + 0.1 * rng.normal(size=(32, n)))
    )
    return Criterion(kappa, Objective.of("min")), Criterion(other, Objective.of("max"))


def _choose(criteria, acquisition: str = "qLogNEHVI", q: int = 4, **settings):
    settings = {"candidates": np.arange(6, criteria[0].posterior.n_rows), "observed": OBSERVED} | settings
    return choose(criteria, acquisition=acquisition, q=q, rng=np.random.default_rng(1), **settings)


def _model(criteria) -> PoolModel:
    rows = np.arange(criteria[0].posterior.n_rows)
    tables = [c.objective.utility(c.posterior.draws(rows)) for c in criteria]
    return PoolModel(torch.from_numpy(np.stack(tables, axis=-1)))


@pytest.mark.parametrize("known", [True, False])
def test_hypervolume_improvement_is_botorchs(known):
    criteria = _criteria(known=known)
    reference = np.array([-1.6, 0.1])
    batch = _choose(criteria, reference=reference)
    model, pending = _model(criteria), []
    X = model.rows()
    for row, value in zip(batch.rows.tolist(), batch.values.tolist(), strict=True):
        with torch.no_grad():
            function = qLogNoisyExpectedHypervolumeImprovement(
                model, reference.tolist(), X[[*OBSERVED, *pending], 0], sampler=model.sampler(), cache_root=False
            )
            values = function(X)
        values[[*OBSERVED, *pending]] = -torch.inf
        assert int(values.argmax()) == row
        assert value == pytest.approx(float(values.max()), abs=1e-4)
        pending.append(row)
    assert set(batch.rules) == {"qLogNEHVI"}


def test_random_scalarisations_are_botorchs():
    criteria = _criteria()
    batch = _choose(criteria, "qLogNParEGO", q=3)
    rng = np.random.default_rng(1)
    rng.integers(2**63, size=N - 6)
    model, taken = _model(criteria), OBSERVED.tolist()
    for row in batch.rows.tolist():
        values = torch.tensor([-torch.inf])
        while values.max() < np.log(1e-6):
            weights = torch.from_numpy(rng.dirichlet(np.ones(2)))
            with torch.no_grad():
                function = qLogNParEGO(
                    model, model.rows()[taken, 0], weights, sampler=model.sampler(), cache_root=False
                )
                values = function(model.rows())
            values[taken] = -torch.inf
        assert int(values.argmax()) == row
        taken.append(row)


def test_the_front_is_found():
    """Known objectives: every pick is on the front of what is left."""
    rng = np.random.default_rng(3)
    a, b = rng.uniform(size=(2, 60))
    criteria = tuple(Criterion(KnownValues(v, 32), Objective.of("max")) for v in (a, b))
    batch = _choose(criteria, q=3, reference=np.zeros(2))
    left = np.arange(60)
    for row in batch.rows:
        assert not ((a[left] > a[row]) & (b[left] > b[row])).any()
        left = left[left != row]


def test_large_pools_are_screened_and_pending_rows_count():
    criteria = _criteria(5000)
    first = _choose(criteria, q=2)
    assert len(set(first.rows.tolist())) == 2
    later = _choose(criteria, q=1, pending=first.rows[:1])
    assert later.rows.tolist() == first.rows[1:].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observed": np.array([], dtype=int)}, "observed"),
        ({"acquisition": "qLogEI"}, "has one objective"),
        ({"q": 100}, "pool smaller than the batch"),
    ],
)
def test_requests_that_cannot_be_met(change, message):
    with pytest.raises(AcquisitionError, match=message):
        _choose(_criteria(), **change)


def test_one_objective_or_posteriors_that_do_not_agree_are_refused():
    criteria = _criteria()
    with pytest.raises(AcquisitionError, match=r"objectives .* 1;"):
        _choose(criteria[:1])
    with pytest.raises(AcquisitionError, match="rows and draws"):
        _choose((criteria[0], Criterion(KnownValues(np.zeros(N), 8), Objective.of("max"))))
    with pytest.raises(AcquisitionError, match=r"objectives .* 1;"):
        choose(
            criteria[0].posterior, goal="min", acquisition="qLogNEHVI", q=1, candidates=np.arange(N),
            rng=np.random.default_rng(0),
        )  # fmt: skip
