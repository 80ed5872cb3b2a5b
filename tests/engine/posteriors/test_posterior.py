"""Draws follow the members, agree with the marginals, and never depend on which rows are asked for together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.exceptions import AcquisitionError
from engine.posteriors.posterior import Fidelities, KnownValues, MemberPosterior
from tests.engine.posteriors.table import TablePosterior

N_ROWS = 300


def _members(n_rows: int = N_ROWS, n_members: int = 5):
    rng = np.random.default_rng(3)
    return rng.normal(1, 0.5, n_rows) + rng.normal(0, 0.2, (n_members, n_rows)), rng.uniform(
        0.05, 0.2, (n_members, n_rows)
    )


def _posterior(n_draws: int = 128) -> MemberPosterior:
    return MemberPosterior.from_members(*_members(), scale=1.3, n_draws=n_draws, rng=np.random.default_rng(7))


@given(rows=st.lists(st.integers(0, N_ROWS - 1), min_size=1, max_size=40))
def test_draws_of_a_row_do_not_depend_on_the_other_rows(rows):
    posterior = _posterior(16)
    everything = posterior.draws(np.arange(N_ROWS))
    np.testing.assert_array_equal(posterior.draws(np.array(rows)), everything[:, rows])


@given(rows=st.lists(st.integers(0, 2 * N_ROWS - 1), max_size=40))
def test_a_pool_at_two_fidelities_has_the_rows_of_both(rows):
    wanted = _posterior(16)
    cheaper = TablePosterior(wanted.mean + 1, 2 * wanted.std, wanted.draws(np.arange(N_ROWS)) - 1)
    both, chosen = Fidelities((wanted, cheaper)), np.array(rows, dtype=np.int64)
    assert (both.n_rows, both.n_draws) == (2 * N_ROWS, 16)
    table = np.concatenate([wanted.draws(np.arange(N_ROWS)), cheaper.table], axis=1)
    np.testing.assert_array_equal(both.draws(chosen), table[:, chosen])
    mean, std = both.mean_std(chosen)
    np.testing.assert_array_equal(mean, np.concatenate([wanted.mean, cheaper.mean])[chosen])
    np.testing.assert_array_equal(std, np.concatenate([wanted.std, cheaper.std])[chosen])


def test_marginals_are_the_scaled_total_of_spread_between_and_within_members():
    mean, std = _posterior().mean_std(np.arange(N_ROWS))
    members, within = _members()
    np.testing.assert_allclose(mean, members.mean(axis=0))
    np.testing.assert_allclose(std, 1.3 * np.sqrt(members.var(axis=0, ddof=1) + (within**2).mean(axis=0)))


def test_draws_have_the_marginals_and_the_covariance_of_the_members():
    posterior = _posterior(4096)
    draws = posterior.draws(np.arange(N_ROWS)).astype(float)
    mean, std = posterior.mean_std(np.arange(N_ROWS))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.025)
    np.testing.assert_allclose(draws.std(axis=0), std, rtol=0.08)
    members, _ = _members()
    expected = 1.3**2 * np.cov(members.T)
    off_diagonal = ~np.eye(N_ROWS, dtype=bool)
    np.testing.assert_allclose(np.cov(draws.T)[off_diagonal], expected[off_diagonal], atol=0.02)


def test_without_noise_of_their_own_the_draws_reproduce_the_members_covariance_exactly():
    members, _ = _members(n_rows=20)
    posterior = MemberPosterior.from_members(members, rng=np.random.default_rng(0), n_draws=32)
    draws = posterior.draws(np.arange(20)).astype(float)
    np.testing.assert_allclose(draws.mean(axis=0), members.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(np.cov(draws.T, ddof=0), np.cov(members.T), atol=1e-5)


def test_one_member_has_only_its_own_noise():
    posterior = MemberPosterior.from_members(np.zeros((1, 4)), np.full((1, 4), 0.2), rng=np.random.default_rng(0))
    np.testing.assert_allclose(posterior.mean_std(np.arange(4))[1], 0.2)
    assert np.ptp(posterior.draws(np.arange(4))) > 0


def test_a_failed_member_is_left_out_and_named():
    members, within = _members()
    members[2, 5] = np.nan
    posterior = MemberPosterior.from_members(members, within, rng=np.random.default_rng(0))
    others = np.delete(members, 2, axis=0)
    np.testing.assert_allclose(posterior.mean, others.mean(axis=0))
    assert posterior.notes == ("member 2 of 5 predicts values that are not finite and is left out",)
    within[0, 0], members[4, 7] = np.inf, -np.inf
    with pytest.raises(AcquisitionError, match=r"member 0, 2, 4 of 5 .* 2 left"):
        MemberPosterior.from_members(members, within, rng=np.random.default_rng(0))


def test_known_values_have_no_spread():
    known = KnownValues(np.array([0.5, 1.5]), 8)
    assert known.mean_std(np.array([1])) == (np.array([1.5]), np.array([0.0]))
    assert (known.draws(np.array([1, 0])) == np.array([1.5, 0.5])).all()
    with pytest.raises(AcquisitionError, match=r"1 rows .* row 1"):
        KnownValues(np.array([0.5, np.nan]), 8)


def test_too_few_draws_are_refused():
    with pytest.raises(AcquisitionError, match=r"5 draws .* 5 members"):
        MemberPosterior.from_members(*_members(), n_draws=5, rng=np.random.default_rng(0))
