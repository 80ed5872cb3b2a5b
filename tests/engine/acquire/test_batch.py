"""Batches equal brute force, do not depend on chunks or pool order, and say when information has run out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.acquire import sequential
from engine.acquire.batch import Batch
from engine.acquire.functions import FUNCTIONS, Needs, acquisition_function
from engine.exceptions import AcquisitionError
from engine.posteriors.posterior import MemberPosterior
from tests.engine.acquire.choosing import choose
from tests.engine.posteriors.table import TablePosterior

EVERY = [name for name, function in FUNCTIONS.items() if function.needs is not Needs.PARETO]


def _posterior(n_rows: int = 200, n_draws: int = 64, seed: int = 0) -> TablePosterior:
    rng = np.random.default_rng(seed)
    members = rng.normal(0.8, 0.4, n_rows) + rng.normal(0, 0.15, (5, n_rows))
    return TablePosterior.from_members(members, np.full((5, n_rows), 0.1), n_draws=n_draws, rng=rng)


def _choose(posterior, acquisition: str, q: int = 6, seed: int = 1, **settings) -> Batch:
    settings = {
        "goal": "min",
        "best": 0.1,
        "candidates": np.arange(posterior.n_rows),
        "observed": np.arange(3),
        "threshold": 0.7,
    } | settings
    return choose(posterior, acquisition=acquisition, q=q, rng=np.random.default_rng(seed), **settings)


def _brute_force(posterior, acquisition: str, q: int, goal: str, best: float, pending=(), beta: float = 1.0):
    """Greedy maximisation of the joint utility, every row tried at every pick, in plain numpy."""
    draws = posterior.table.astype(np.float64) * (-1 if goal == "min" else 1)
    utility, floor = draws, np.full(len(draws), -best if goal == "min" else best)
    if acquisition == "qUCB":
        mean = draws.mean(axis=0)
        utility, floor = mean + np.sqrt(beta * np.pi / 2) * np.abs(draws - mean), np.full(len(draws), -np.inf)
    for row in pending:
        floor = np.maximum(floor, utility[:, row])
    chosen: list[int] = []
    for _ in range(q):
        joint = np.maximum(utility, floor[:, None]).mean(axis=0)
        joint[[*chosen, *pending]] = -np.inf
        chosen.append(int(joint.argmax()))
        floor = np.maximum(floor, utility[:, chosen[-1]])
    return chosen


@pytest.mark.parametrize("goal", ["min", "max"])
@pytest.mark.parametrize("acquisition", ["qLogEI", "qUCB"])
@pytest.mark.parametrize("pending", [[], [3, 50, 111]])
def test_joint_batches_equal_brute_force(acquisition, goal, pending):
    for seed in range(5):
        posterior = _posterior(seed=seed)
        best = 0.1 if goal == "min" else 1.4
        batch = _choose(posterior, acquisition, goal=goal, best=best, pending=np.array(pending, dtype=int))
        n = sum(rule == acquisition for rule in batch.rules)
        assert n >= 3
        assert batch.rows[:n].tolist() == _brute_force(posterior, acquisition, n, goal, best, pending)


@pytest.mark.parametrize("acquisition", ["qLogEI", "qUCB"])
def test_the_batch_equals_botorch_with_pending_points(acquisition):
    """BoTorch's own functions, the chosen rows as X_pending, every row tried at every pick."""
    import torch
    from botorch.acquisition.logei import qLogExpectedImprovement
    from botorch.acquisition.monte_carlo import qUpperConfidenceBound

    from engine.acquire.model import PoolModel

    posterior = _posterior(60)
    table = PoolModel(-torch.from_numpy(posterior.table))
    pending = [5]
    for row in _choose(posterior, acquisition, q=4, pending=np.array(pending)).rows:
        common = {"sampler": table.sampler(), "X_pending": table.rows()[pending, 0]}
        if acquisition == "qLogEI":
            joint = qLogExpectedImprovement(table, best_f=-0.1, tau_max=1e-5, **common)(table.rows())
        else:
            joint = qUpperConfidenceBound(table, 1.0, **common)(table.rows())
        joint[pending] = -torch.inf
        assert int(joint.argmax()) == row
        pending.append(int(row))


@pytest.mark.parametrize("acquisition", EVERY)
def test_the_same_seed_gives_the_same_batch_whatever_the_chunk(acquisition, monkeypatch):
    posterior = _posterior(1000)
    expected = _choose(posterior, acquisition, q=30)
    monkeypatch.setattr(sequential, "SHORTLIST_ROWS", 8)
    monkeypatch.setattr(sequential, "LAZY_BLOCK", 3)
    for chunk in (1000, 37):
        batch = _choose(posterior, acquisition, q=30, chunk=chunk)
        assert batch.rows.tolist() == expected.rows.tolist()
        np.testing.assert_allclose(batch.values, expected.values, atol=1e-9)
        assert (batch.rules, batch.notes) == (expected.rules, expected.notes)


@pytest.mark.parametrize("acquisition", EVERY)
def test_lazily_made_draws_give_the_batch_of_the_table(acquisition):
    rng = np.random.default_rng(5)
    members = rng.normal(0.8, 0.4, (5, 300))
    made = [
        kind.from_members(members, np.full((5, 300), 0.1), rng=np.random.default_rng(2))
        for kind in (TablePosterior, MemberPosterior)
    ]
    first, second = (_choose(posterior, acquisition, q=20) for posterior in made)
    assert first.rows.tolist() == second.rows.tolist()


@settings(max_examples=40, deadline=None)
@given(data=st.data(), acquisition=st.sampled_from(EVERY), goal=st.sampled_from(["min", "max"]))
def test_chosen_rows_are_distinct_candidates_that_are_not_pending(data, acquisition, goal):
    posterior = _posterior(40, n_draws=32)
    rows = st.lists(st.integers(0, 39), max_size=25)
    candidates, pending = np.array(data.draw(rows), dtype=int), np.array(data.draw(rows), dtype=int)
    free = set(candidates.tolist()) - set(pending.tolist())
    best = data.draw(st.sampled_from([None, 0.1, 5.0, -5.0]))
    if not free:
        return
    q = data.draw(st.integers(1, len(free)))
    batch = _choose(posterior, acquisition, q=q, goal=goal, best=best, candidates=candidates, pending=pending, chunk=7)
    assert len(set(batch.rows.tolist())) == q == len(batch.values) == len(batch.rules)
    assert set(batch.rows.tolist()) <= free


def test_marginal_rules_rank_by_mean_and_by_mean_minus_deviation():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=50), rng.uniform(0.1, 1, 50)
    posterior = TablePosterior(mean, std, np.zeros((2, 50), dtype=np.float32))
    assert _choose(posterior, "greedy").rows.tolist() == np.argsort(mean)[:6].tolist()
    assert _choose(posterior, "ucb").rows.tolist() == np.argsort(mean - std)[:6].tolist()
    assert _choose(posterior, "ucb", goal="max", beta=4.0).rows.tolist() == np.argsort(-mean - 2 * std)[:6].tolist()
    np.testing.assert_allclose(_choose(posterior, "ucb").values, np.sort(mean - std)[:6] * -1)


def test_thompson_takes_the_best_rows_of_different_draws():
    posterior = _posterior(500)
    batch = _choose(posterior, "thompson", q=4)
    assert set(batch.rows.tolist()) <= set(posterior.table.argmin(axis=1).tolist())
    assert batch.notes == ()


def test_thompson_goes_on_to_lower_ranks_when_the_draws_are_used_up():
    posterior = _posterior(100, n_draws=8)
    batch = _choose(posterior, "thompson", q=20)
    assert "8 draws have fewer than 20" in batch.notes[0]
    best = set(posterior.table.argmin(axis=1).tolist())
    assert set(batch.rows[: len(best)].tolist()) == best


@pytest.mark.parametrize("acquisition", ["qLogEI", "qUCB"])
def test_running_out_of_information_falls_back_and_says_so(acquisition):
    rng = np.random.default_rng(4)
    members = rng.normal(0.8, 0.3, (5, 2000)).astype(np.float32)
    posterior = TablePosterior(members.mean(axis=0, dtype=float), members.std(axis=0, dtype=float), members)
    batch = _choose(posterior, acquisition, q=12)
    n = sum(rule == acquisition for rule in batch.rules)
    assert n <= 5
    assert batch.rules == (acquisition,) * n + ("ucb",) * (12 - n)
    assert f"from pick {n + 1} on" in batch.notes[0]
    ranks = np.argsort(np.argsort(posterior.mean - posterior.std))
    assert ranks[batch.rows[n:]].tolist() == sorted(ranks[batch.rows[n:]].tolist())
    assert ranks[batch.rows[n:]].max() < 12


@pytest.mark.parametrize("acquisition", ["qLogEI", "qUCB", "ucb", "greedy", "thompson"])
def test_exact_ties_are_noted_and_broken_by_the_seed_not_by_pool_order(acquisition):
    table = np.repeat(np.random.default_rng(0).normal(size=(8, 1)), 100, axis=1).astype(np.float32)
    posterior = TablePosterior(np.zeros(100), np.ones(100), table)
    batches = [_choose(posterior, acquisition, q=3, seed=seed, chunk=11) for seed in (0, 0, 1)]
    assert any("seeded permutation" in note for note in batches[0].notes)
    assert batches[0].rows.tolist() == batches[1].rows.tolist() != batches[2].rows.tolist()
    assert batches[0].rows.tolist() != [0, 1, 2]


def test_without_a_known_value_the_best_predicted_mean_stands_in():
    posterior = _posterior()
    batch = _choose(posterior, "qLogEI", best=None)
    assert "no value is known yet" in batch.notes[0]
    stand_in = _choose(posterior, "qLogEI", best=float(posterior.mean.min()))
    assert batch.rows.tolist() == stand_in.rows.tolist()


def test_pending_rows_change_what_is_chosen():
    posterior = _posterior()
    first = _choose(posterior, "qLogEI", q=4)
    later = _choose(posterior, "qLogEI", q=3, pending=first.rows[:1])
    assert later.rows.tolist() == first.rows[1:].tolist()


def test_all_of_a_small_pool_can_be_chosen():
    for acquisition in EVERY:
        assert sorted(_choose(_posterior(7), acquisition, q=7).rows.tolist()) == list(range(7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": 201}, "201 requested, 200 "),
        ({"q": 5, "candidates": np.arange(6), "pending": np.arange(2)}, "6 candidates, 2 of them pending"),
        ({"q": 0}, "at least 1"),
        ({"goal": "low"}, "use 'min' or 'max'"),
        ({"best": float("nan")}, "finite"),
        ({"beta": -1.0}, "beta is -1"),
        ({"candidates": np.array([0, 200])}, "0 to 200 .* 200 rows"),
        ({"pending": np.array([-1])}, "-1 to -1 .* 200 rows"),
    ],
)
def test_requests_that_cannot_be_met(change, message):
    with pytest.raises(AcquisitionError, match=message):
        _choose(_posterior(), "qLogEI", **change)


@pytest.mark.parametrize("acquisition", ["qLogEI", "thompson", "ucb"])
def test_predictions_that_are_not_finite_are_refused(acquisition):
    posterior = _posterior()
    posterior.table[3, 17] = np.nan
    posterior.mean[17] = np.nan
    with pytest.raises(AcquisitionError, match="first row 17"):
        _choose(posterior, acquisition)


def test_unknown_names_get_the_nearest():
    with pytest.raises(AcquisitionError, match="'qLogEI'"):
        acquisition_function("qlogie")
    assert all(function.source for function in FUNCTIONS.values())
