"""Utilities, their moments, and chances against samples and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from engine.acquire.objectives import ChanceConstraint, Objective, probability_inside
from engine.exceptions import AcquisitionError
from tests.engine.acquire.choosing import choose
from tests.engine.posteriors.table import TablePosterior


def _posterior(n: int = 80) -> TablePosterior:
    rng = np.random.default_rng(0)
    members = rng.normal(0.8, 0.4, n) + rng.normal(0, 0.1, (5, n))
    return TablePosterior.from_members(members, n_draws=128, rng=rng)


def test_utilities():
    values = np.array([-1.0, 0.2, 0.5, 2.0])
    assert Objective.of("max").utility(values).tolist() == [-1.0, 0.2, 0.5, 2.0]
    assert Objective.of("min").utility(values).tolist() == [1.0, -0.2, -0.5, -2.0]
    np.testing.assert_allclose(Objective.target(0.5).utility(values), [-1.5, -0.3, 0.0, -1.5])
    np.testing.assert_allclose(Objective.window(0.2, 1.0).utility(values), [-1.2, 0.0, 0.0, -1.0])


@pytest.mark.parametrize("objective", [Objective.target(0.3), Objective.window(-0.2, 0.7), Objective("min")])
@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (2.0, 0.4), (-1.0, 0.1), (0.0, 3.0)])
def test_moments_of_a_gaussian(objective, mean, std):
    values = objective.utility(mean + std * norm.ppf((np.arange(400_000) + 0.5) / 400_000))
    m, s = objective.moments(np.array([mean]), np.array([std]))
    assert (m[0], s[0]) == (pytest.approx(values.mean(), abs=1e-4), pytest.approx(values.std(), abs=1e-3))


def test_moments_without_spread_are_the_utility():
    m, s = Objective.window(0.0, 1.0).moments(np.array([0.5, 3.0]), np.zeros(2))
    assert (m.tolist(), s.tolist()) == ([0.0, -2.0], [0.0, 0.0])


@pytest.mark.parametrize("acquisition", ["ucb", "greedy", "qLogEI", "qUCB", "qPI", "thompson"])
def test_a_target_is_approached(acquisition):
    posterior = _posterior()
    batch = choose(
        posterior, goal=Objective.target(0.8), acquisition=acquisition, q=5, candidates=np.arange(80), best=0.5,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert np.abs(posterior.mean[batch.rows] - 0.8).mean() < 0.5 * np.abs(posterior.mean - 0.8).mean()


def test_a_target_outside_all_predictions_takes_the_nearest():
    posterior = _posterior()
    batch = choose(
        posterior, goal=Objective.target(9.0), acquisition="greedy", q=3, candidates=np.arange(80),
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert batch.rows.tolist() == np.argsort(-posterior.mean)[:3].tolist()
    assert "outside all predictions" in batch.notes[0]


def test_probability_inside():
    assert probability_inside(0.5, 1.0, 0.0, 1.0) == pytest.approx(norm.cdf(0.5) - norm.cdf(-0.5))
    assert probability_inside(0.5, 1.0, low=0.0) == pytest.approx(norm.cdf(0.5))
    assert probability_inside([0.5, 2.0], 0.0, 0.0, 1.0).tolist() == [1.0, 0.0]


def test_a_chance_constraint_is_a_factor_and_a_floor():
    posterior, rows = _posterior(), np.arange(80)
    chance = ChanceConstraint("band gap", low=0.9).probability(posterior, rows, chunk=7)
    np.testing.assert_allclose(chance, norm.sf((0.9 - posterior.mean) / posterior.std), atol=1e-12)
    floored = ChanceConstraint("band gap", low=0.9, at_least=0.5).probability(posterior, rows)
    assert (floored[posterior.mean < 0.9] == 0).all()
    batch = choose(
        posterior, goal="min", acquisition="ucb", q=3, candidates=rows, feasibility=floored,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert (posterior.mean[batch.rows] >= 0.9).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective.of("low"), "use 'min' or 'max'"),
        (lambda: Objective.window(2.0, 1.0), "from 2 to 1"),
        (lambda: Objective.window(0.0, np.inf), "0 to inf"),
        (lambda: Objective.target(np.nan), "nan to nan"),
        (lambda: ChanceConstraint("gap"), "no limit"),
        (lambda: ChanceConstraint("gap", 2.0, 1.0), "swap or widen"),
        (lambda: ChanceConstraint("gap", 2.0, at_least=2.0), "2 is not a probability"),
        (
            lambda: ChanceConstraint("gap", low=50.0, at_least=0.1).probability(_posterior(), np.arange(80)),
            "gap: .*probability 0",
        ),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(AcquisitionError, match=message):
        make()
