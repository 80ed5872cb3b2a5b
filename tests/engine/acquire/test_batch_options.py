"""Feasibility, cost, budgets, limits, diversity, mixtures and pending rows, with every way to choose."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.acquire import sequential
from engine.acquire.functions import FUNCTIONS, Needs
from engine.acquire.request import scheduled_beta
from engine.exceptions import AcquisitionError
from engine.posteriors.posterior import Fidelities, MemberPosterior
from tests.engine.acquire.choosing import choose
from tests.engine.posteriors.table import TablePosterior

N = 120
FAST = ["qLogEI", "qLogNEI", "qUCB", "qPI", "qKG", "GIBBON", "variance", "level_set", "ucb", "greedy", "thompson"]


def _posterior(n: int = N, seed: int = 0) -> TablePosterior:
    rng = np.random.default_rng(seed)
    members = rng.normal(0.8, 0.4, n) + rng.normal(0, 0.15, (5, n))
    return TablePosterior.from_members(members, np.full((5, n), 0.05), n_draws=64, rng=rng)


def _choose(acquisition: str, posterior=None, q: int | None = 6, seed: int = 1, **options):
    posterior = _posterior() if posterior is None else posterior
    options = {
        "goal": "min",
        "best": 0.1,
        "candidates": np.arange(posterior.n_rows),
        "observed": np.arange(3),
    } | options
    return choose(posterior, acquisition=acquisition, q=q, threshold=0.7, rng=np.random.default_rng(seed), **options)


def test_a_large_pool_is_looked_at_in_every_fidelity(monkeypatch):
    """Where a part of the pool is looked at only, labels that cost nothing and tell nothing do not fill it."""
    monkeypatch.setattr(sequential, "SCREENED_ROWS", 40)
    wanted, other = _posterior(seed=0), _posterior(seed=1)
    cost = np.repeat([1.0, 0.2], N)
    batch = _choose(
        "GIBBON", Fidelities((wanted, other)), goal="max", best=1.2, q=3, cost=cost, target_of=np.tile(np.arange(N), 2)
    )
    assert (batch.rows < N).any()


@pytest.mark.parametrize("acquisition", [*FAST, "random", "epsilon_greedy", "portfolio"])
def test_rows_without_a_chance_are_never_chosen(acquisition):
    feasibility = np.where(np.arange(N) % 2, 0.0, 0.8)
    batch = _choose(acquisition, feasibility=feasibility, q=12)
    assert (batch.rows % 2 == 0).all()
    few = _choose(acquisition, feasibility=np.where(np.arange(N) < 4, 0.5, 0.0), q=12)
    assert sorted(few.rows.tolist()) == [0, 1, 2, 3]
    assert "leave 4 of 12 rows" in few.notes[-1]


@pytest.mark.parametrize("acquisition", sorted({*FAST} - {"qUCB"}))
def test_equal_costs_change_nothing(acquisition):
    """For qUCB they do: its reference is another one."""
    even = _choose(acquisition, q=5, cost=np.full(N, 7.0))
    assert even.rows.tolist() == _choose(acquisition, q=5).rows.tolist()


@pytest.mark.parametrize("acquisition", sorted({*FAST} - {"thompson"}))
def test_cheap_rows_come_first(acquisition):
    first = _choose(acquisition, q=5).rows[0]
    cost = np.full(N, 1.0)
    cost[first] = 1e4
    assert _choose(acquisition, q=1, cost=cost).rows[0] != first


def test_log_acquisition_per_cost_subtracts_the_log_and_positive_ones_are_divided():
    posterior = _posterior()
    cost = np.random.default_rng(0).uniform(1, 50, N)
    values = np.full(N, -np.inf)
    for row in range(N):
        batch = _choose("qLogEI", candidates=np.array([row]), q=1)
        if batch.rules[0] == "qLogEI":
            values[row] = batch.values[0]
    assert _choose("qLogEI", q=1, cost=cost).rows[0] == np.argmax(values - np.log(cost))
    gains = np.array([_choose("level_set", candidates=np.array([row]), q=1).values[0] for row in range(N)])
    above = gains - np.median(gains)
    assert _choose("level_set", q=1, cost=cost).rows[0] == np.argmax(np.where(above > 0, above / cost, -np.inf))
    bound = -posterior.mean + posterior.std
    above = bound - np.median(bound)
    expected = np.argsort(-np.where(above > 0, above / cost, above * cost))[:6]
    assert _choose("ucb", cost=cost).rows.tolist() == expected.tolist()


@pytest.mark.parametrize("acquisition", [*FAST, "random"])
def test_a_budget_is_spent_and_not_exceeded(acquisition):
    cost = np.random.default_rng(0).uniform(1, 9, N)
    batch = _choose(acquisition, q=None, cost=cost, budget=40.0)
    spent = cost[batch.rows].sum()
    left = np.setdiff1d(np.arange(N), batch.rows)
    assert 40.0 - cost[left].min() < spent <= 40.0
    assert f"{spent:.4g} of 40 core-hours" in batch.notes[-1]


@pytest.mark.parametrize("acquisition", [*FAST, "random", "portfolio"])
def test_limits_hold(acquisition):
    family = np.array(["rocksalt", "zincblende", "wurtzite", "Heusler"])[np.arange(N) % 4]
    system = np.arange(N) // 10
    batch = _choose(acquisition, q=8, limits={"prototype": (family, 2), "chemical system": (system, 1)})
    assert len(batch.rows) == len(set(batch.rows.tolist())) == 8
    assert np.unique(family[batch.rows], return_counts=True)[1].tolist() == [2, 2, 2, 2]
    assert len(set(system[batch.rows])) == 8


def _pairs(row: int) -> np.ndarray:
    """Give the row of the same compound: 0 and 60, 1 and 61, ..."""
    return np.array([(row + N // 2) % N])


@pytest.mark.parametrize("acquisition", [*FAST, "random", "portfolio", "epsilon_greedy"])
@pytest.mark.parametrize("diverse", ["none", "determinant"])
def test_a_batch_holds_one_of_two_relatives(acquisition, diverse):
    """Nor one beside a pending one."""
    if diverse != "none" and acquisition in ("thompson", "random", "portfolio", "epsilon_greedy"):
        pytest.skip("not made for it")
    pending = np.array([3, 70])
    options = {"diverse": diverse, "embeddings": lambda rows: np.stack([rows, rows % 7], axis=1).astype(np.float32)}
    batch = _choose(acquisition, q=56, relatives=_pairs, pending=pending, **options)
    compounds = np.concatenate([batch.rows, pending]) % (N // 2)
    assert len(batch.rows) == 56
    assert len(set(compounds.tolist())) == 58


@pytest.mark.parametrize("acquisition", [*FAST, "random"])
def test_without_relatives_nothing_changes(acquisition):
    plain = _choose(acquisition, q=12)
    asked = _choose(acquisition, q=12, relatives=lambda row: np.array([], dtype=np.int64))
    assert asked.rows.tolist() == plain.rows.tolist()
    assert asked.values.tolist() == plain.values.tolist()


def test_limits_that_leave_too_few_say_so():
    batch = _choose("ucb", q=9, limits={"prototype": (np.arange(N) % 3, 2)})
    assert len(batch.rows) == 6
    assert "6 of 9 rows" in batch.notes[-1]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(FAST), st.integers(1, 3), st.integers(1, 20), st.sampled_from(["none", "determinant"]))
def test_any_mixture_of_options_gives_distinct_allowed_rows(acquisition, most, q, diverse):
    posterior = _posterior(40)
    group = np.arange(40) % 5
    batch = _choose(
        acquisition, posterior, q=q, limits={"group": (group, most)}, cost=np.linspace(1, 5, 40), budget=30.0,
        feasibility=np.linspace(0, 1, 40), pending=np.array([3, 4]), diverse=diverse,
        embeddings=lambda rows: posterior.table[:3, rows].T,
    )  # fmt: skip
    assert len(set(batch.rows.tolist())) == len(batch.rows) <= q
    assert not set(batch.rows.tolist()) & {0, 3, 4}
    assert np.bincount(group[batch.rows]).max() <= most
    assert np.linspace(1, 5, 40)[batch.rows].sum() <= 30.0


@pytest.mark.parametrize("acquisition", ["ucb", "greedy", "qLogEI", "GIBBON", "level_set"])
@pytest.mark.parametrize("diverse", ["penalise", "determinant"])
def test_copies_are_not_chosen_together(acquisition, diverse):
    """Every crystal three times: a diverse batch has each once, and none beside a pending copy."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=(40, 4)).astype(np.float32)
    value = base[:, 0] * 0.3 + 0.8
    members = np.tile(value, 3) + np.repeat(rng.normal(0, 0.05, (5, 1)), 120, axis=1)
    posterior = TablePosterior.from_members(members, np.full((5, 120), 0.02), n_draws=64, rng=rng)
    batch = _choose(
        acquisition, posterior, q=6, pending=np.array([int(value.argmin())]), diverse=diverse,
        embeddings=lambda rows: base[rows % 40],
    )  # fmt: skip
    if diverse == "determinant" or acquisition in ("ucb", "greedy"):
        crystals = (batch.rows % 40).tolist()
        assert len(set(crystals)) == 6
        if diverse == "determinant":
            assert int(value.argmin()) not in crystals


def test_local_penalisation_is_its_formula():
    from scipy.stats import norm

    from engine.acquire.diversity import LocalPenalisation
    from engine.acquire.objectives import Objective
    from engine.acquire.pool import CandidatePool, Criterion

    posterior, rows = _posterior(30), np.arange(30)
    x = np.random.default_rng(0).normal(size=(30, 2))
    pool = CandidatePool((Criterion(posterior, Objective.of("max")),), rows, rows, 100)
    penalty = LocalPenalisation(pool, lambda r: x[r].astype(np.float32), None, np.random.default_rng(0))
    penalty.take(np.array([4, 7]))
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    distance = np.linalg.norm(standard[:, None] - standard, axis=2)
    apart = distance > 1e-6
    slopes = np.abs(posterior.mean[:, None] - posterior.mean)[apart] / distance[apart]
    steepest, best = np.quantile(slopes, 0.99), posterior.mean.max()
    expected = sum(
        norm.logcdf((steepest * distance[:, j] - best + posterior.mean[j]) / posterior.std[j]) for j in (4, 7)
    )
    np.testing.assert_allclose(penalty.log_factor(rows), expected, rtol=1e-4, atol=1e-6)


def test_a_determinantal_batch_is_greedy_maximum_a_posteriori():
    """Each pick multiplies the determinant of the kernel by what its factor says."""
    from engine.acquire.diversity import Determinant
    from engine.acquire.objectives import Objective
    from engine.acquire.pool import CandidatePool, Criterion

    rows = np.arange(30)
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    pool = CandidatePool((Criterion(_posterior(30), Objective.of("max")),), rows, rows, 100)
    diversity = Determinant(pool, lambda r: x[r], np.random.default_rng(0))
    total, chosen = 0.0, [3, 11, 12, 25]
    for row in chosen:
        total += diversity.log_factor(np.array([row]))[0]
        diversity.take(np.array([row]))
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    distance = np.linalg.norm(standard[:, None] - standard, axis=2)
    length = 0.5 * np.median(distance[distance > 1e-6])
    kernel = np.exp(-0.5 * np.square(distance[np.ix_(chosen, chosen)] / length))
    assert total == pytest.approx(np.linalg.slogdet(kernel)[1], abs=1e-3)


def test_hallucination_spreads_ucb_and_pending_rows_are_conditioned_on():
    """Two families move together: once one of a family is taken its spread is known, and the other is looked at."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(128, 2))
    shared -= shared.mean(axis=0)
    draws = np.repeat(shared, 10, axis=1).astype(np.float32) * np.repeat([1.0, 0.95], 10).astype(np.float32)
    posterior = TablePosterior(np.zeros(20), np.sqrt(draws.var(axis=0, dtype=float) + 0.01), draws)
    plain = _choose("ucb", posterior, q=4, goal="max")
    assert len(set(plain.rows // 10)) == 1
    spread = _choose("ucb", posterior, q=4, goal="max", diverse="hallucinate")
    assert len(set(spread.rows[:2] // 10)) == 2
    pending = _choose("ucb", posterior, q=4, goal="max", pending=plain.rows[:1])
    assert pending.rows[0] // 10 != plain.rows[0] // 10
    assert pending.rules == ("ucb",) * 4


def test_thompson_passes_over_draws_that_have_their_best_at_a_pending_row():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(8, 50)).astype(np.float32)
    posterior = TablePosterior(np.zeros(50), np.ones(50), table)
    table[:4, 9] = 10.0
    batch = _choose("thompson", posterior, q=4, goal="max", pending=np.array([9]))
    assert set(batch.rows.tolist()) == set(table[4:].argmax(axis=1).tolist())


def test_epsilon_greedy_mixes_and_portfolios_follow_their_gains():
    greedy = _choose("epsilon_greedy", q=20, epsilon=0.0)
    assert greedy.rows.tolist() == _choose("greedy", q=20).rows.tolist()
    assert set(_choose("epsilon_greedy", q=20, epsilon=1.0).rules) == {"random"}
    assert set(_choose("epsilon_greedy", q=40, epsilon=0.5).rules) == {"greedy", "random"}
    sure = _choose("portfolio", q=10, portfolio={"greedy": 0.0, "thompson": 50.0})
    assert set(sure.rules) == {"thompson"}
    mixed = [_choose("portfolio", q=30, seed=seed) for seed in (1, 1, 2)]
    assert mixed[0].rows.tolist() == mixed[1].rows.tolist() != mixed[2].rows.tolist()
    assert len(set(mixed[0].rules)) > 2


def test_beta_grows_with_the_rounds():
    assert scheduled_beta(1000, 3, 0.1) == pytest.approx(0.4 * math.log(1000 * 9 * math.pi**2 / 0.6))
    posterior = _posterior()
    batch = _choose("ucb", posterior, beta="schedule", round_number=3)
    bound = -posterior.mean + np.sqrt(scheduled_beta(N, 3)) * posterior.std
    assert batch.rows.tolist() == np.argsort(-bound)[:6].tolist()


@pytest.mark.parametrize("acquisition", ["qLogEI", "qPI", "qUCB", "qLogNEI"])
def test_screening_by_the_marginals_gives_the_batch_of_all_rows(acquisition, monkeypatch):
    rng = np.random.default_rng(0)
    members = rng.normal(0.8, 0.4, 6000) + rng.normal(0, 0.15, (5, 6000))
    posterior = MemberPosterior.from_members(members, np.full((5, 6000), 0.05), n_draws=256, rng=rng)
    screened = _choose(acquisition, posterior, q=10, best=-0.2)
    monkeypatch.setattr(sequential, "SCREENED_ROWS", 10_000)
    everything = _choose(acquisition, posterior, q=10, best=-0.2)
    assert screened.rows.tolist() == everything.rows.tolist()


def test_without_any_spread_the_best_means_are_taken():
    mean = np.random.default_rng(0).normal(size=30)
    posterior = TablePosterior(mean, np.zeros(30), np.repeat(mean[None].astype(np.float32), 64, axis=0))
    for acquisition in ("ucb", "greedy", "qLogEI", "qUCB", "thompson", "qKG", "GIBBON"):
        batch = _choose(acquisition, posterior, q=4, best=0.0)
        assert batch.rows[0] == mean.argmin(), acquisition
        assert np.isfinite(batch.values).all()
    assert (mean[_choose("qPI", posterior, q=1, best=0.0).rows] < 0).all()
    assert len(_choose("variance", posterior, q=4).rows) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": {"prototype": (np.zeros(N), 0)}}, "0 rows for each prototype"),
        ({"budget": 5.0}, "needs the cost of each row"),
        (
            {"budget": 5.0, "cost": np.full(N, 9.0)},
            "5 core-hours, .* 9;",
        ),
        ({"budget": -5.0, "cost": np.full(N, 9.0)}, "-5 core-hours"),
        ({"q": None}, "neither a number of rows nor a budget"),
        ({"cost": np.zeros(N)}, "cost of row 0 is 0"),
        ({"cost": np.ones(3)}, "cost has shape"),
        ({"feasibility": np.full(N, 1.5)}, "a probability lies between 0 and 1"),
        ({"feasibility": np.zeros(N)}, "120 candidates"),
        ({"diverse": "hallucinate", "acquisition": "qLogEI"}, "'hallucinate' is for ucb"),
        ({"diverse": "penalise"}, "pass embeddings"),
        ({"diverse": "far"}, "unknown diversity 'far'"),
        ({"acquisition": "portfolio", "q": None, "budget": 5.0, "cost": np.ones(N)}, "portfolio .* q "),
        ({"acquisition": "portfolio", "portfolio": {}}, "without functions"),
        ({"acquisition": "qLogNEI", "observed": None}, "observed"),
        ({"acquisition": "epsilon_greedy", "epsilon": 2.0}, "use 0 to 1"),
        ({"target_of": np.arange(3)}, "target_of has to name a row"),
        ({"beta": "schedule", "round_number": 0}, "no schedule of beta"),
        ({"candidates": np.array([], dtype=int)}, "6 requested, 0 "),
    ],
)
def test_requests_that_cannot_be_met(options, message):
    with pytest.raises(AcquisitionError, match=message):
        _choose(**({"acquisition": "ucb"} | options))


def test_level_set_needs_a_threshold_and_every_function_has_words_and_a_source():
    with pytest.raises(AcquisitionError, match="threshold"):
        choose(
            _posterior(), goal="min", acquisition="level_set", q=1, candidates=np.arange(N),
            rng=np.random.default_rng(0),
        )  # fmt: skip
    assert all(function.source and function.description for function in FUNCTIONS.values())
    assert {function.needs for function in FUNCTIONS.values()} == set(Needs)
