"""Sparse Gaussian processes against exact ones, which they are when every row is an inducing point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.learning.heads.gp import GaussianProcessHead
from engine.learning.heads.inducing import greedy_rows
from engine.learning.heads.multifidelity import MultiFidelityHead
from engine.learning.heads.sparse import Evidence, LabelTensors, SparseHead, SparsePrior, label_keys, predict_together
from engine.learning.heads.sparse_multifidelity import SparseLowerFidelity
from tests.engine.learning.heads.test_gp import GROUPS, data

SINGLE = 2e-3
"""Relative error of a variance in single precision; means are ten times as exact."""
LABELS = LabelTensors(*torch.zeros(3, 0))
FOLDS = np.random.default_rng(3).permutation(40) % 4


@pytest.fixture(scope="module")
def exact() -> GaussianProcessHead:
    head = GaussianProcessHead.fit(*data(noise=0.2), GROUPS, seed=1)
    t = head.tensors
    return GaussianProcessHead(replace(t, row_noise=t.noise.expand(len(t.x)).clone()))


def prior(exact: GaussianProcessHead, rows: torch.Tensor | None = None) -> SparsePrior:
    """With the hyperparameters of an exact head, and some of its rows (all if none are named) as inducing points."""
    return SparsePrior.of(exact, exact.tensors.x if rows is None else exact.tensors.x[rows])


def given(own: SparsePrior, total: Evidence) -> SparseHead:
    """A member that no label is missing from."""
    return next(own.members(own.given(total, LABELS), total, [total - total]))


def fitted(exact: GaussianProcessHead, rows: torch.Tensor | None = None) -> SparseHead:
    own = prior(exact, rows)
    return given(own, own.evidence(*data(noise=0.2)))


def test_with_every_row_as_inducing_point_it_is_exact(exact):
    new, _ = data(30, seed=5)
    (mean, std), (expected, spread) = fitted(exact).predict(new), exact.predict(new)
    scale = float(exact.tensors.std)
    np.testing.assert_allclose(mean, expected, atol=SINGLE / 10 * scale)
    np.testing.assert_allclose(std**2, spread**2, rtol=SINGLE)


def test_with_fewer_it_is_the_textbook_s_approximation(exact):
    """Rasmussen and Williams 2006, eq. 8.25 to 8.27: low-rank covariance of the labels, all of a row's own variance."""
    chosen = torch.arange(0, 40, 3)
    kernel, t = exact.kernel, exact.tensors
    new, _ = data(30, seed=5)
    x, at = t.x, exact.standardise(new)
    inverse = torch.linalg.inv(kernel(x[chosen], x[chosen]))

    def through(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return kernel(a, x[chosen]) @ inverse @ kernel(x[chosen], b)

    covariance = through(x, x)
    covariance.diagonal().add_(t.noise)
    solved = torch.linalg.solve(covariance, through(x, at))
    expected = solved.T @ t.target * t.std + t.mean
    variance = (kernel.diagonal(at) - (through(at, x) * solved.T).sum(1) + t.noise) * t.std.square()
    mean, std = fitted(exact, chosen).predict(new)
    np.testing.assert_allclose(mean, expected, atol=SINGLE / 10 * float(t.std))
    np.testing.assert_allclose(std**2, variance, rtol=SINGLE)


def test_a_fold_taken_away_was_never_there(exact):
    x, y = data(noise=0.2)
    new, _ = data(600, seed=5)
    own = prior(exact, torch.arange(0, 40, 2))
    parts = [own.evidence(x[k == FOLDS], y[k == FOLDS]) for k in range(4)]
    total = sum(parts[1:], parts[0])
    heads = list(own.members(own.given(total, LABELS), total, parts))
    together = predict_together(heads, new)
    for k, head in enumerate(heads):
        rest = given(own, own.evidence(x[k != FOLDS], y[k != FOLDS]))
        for found, alone, joint in zip(rest.predict(new), head.predict(new), together, strict=True):
            np.testing.assert_allclose(alone, found, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(joint[k], found, rtol=1e-4, atol=1e-4)


def test_rows_are_read_in_blocks(exact, monkeypatch):
    own = prior(exact, torch.arange(0, 40, 2))
    whole = own.evidence(*data(noise=0.2))
    monkeypatch.setattr("engine.learning.heads.sparse.ROWS", 7)
    parts = own.evidence(*data(noise=0.2))
    torch.testing.assert_close(parts.precision, whole.precision)
    torch.testing.assert_close(parts.shift, whole.shift)


def test_draws_have_the_posterior_s_mean_and_variance(exact):
    """Up to the Fourier features' error in the prior, which shows most where the posterior is narrowest."""
    x, y = data(noise=0.2)
    own = prior(exact, torch.arange(0, 40, 2))
    parts = [own.evidence(x[rows], y[rows]) for rows in (slice(0, 25), slice(25, None))]
    total = parts[0] + parts[1]
    head = list(own.members(own.given(total, LABELS), total, parts))[1]
    new, _ = data(30, seed=5)
    mean, std = head.predict(new)
    scatter = np.sqrt(std**2 - float(exact.tensors.noise * exact.tensors.std.square()))
    means, drawn = head.functions(4000, seed=3)(new)
    np.testing.assert_allclose(means, mean, atol=SINGLE)
    assert (np.abs(drawn.mean(0) - mean) < 0.2 * scatter).all()
    ratio = drawn.var(0) / scatter**2
    assert 0.85 < ratio.mean() < 1.15
    assert ratio.min() > 0.7
    _, again = head.functions(4000, seed=3)(new[:7])
    np.testing.assert_allclose(again, drawn[:, :7], atol=1e-9)


def test_a_label_that_the_others_contradict_counts_less(exact):
    x, y = data(noise=0.2)
    own = prior(exact)
    known, wrong = own.evidence(x[1:], y[1:]), y[:1] + 10
    change, noise = own.correction(x[:1], wrong, known)
    assert noise > 10 * own.tensors.noise
    false = known + own.evidence(x[:1], wrong)
    at_it = [float(given(own, e).predict(x[:1])[0][0]) for e in (known, false + change, false)]
    assert at_it[0] < at_it[1] < at_it[2]
    assert at_it[1] - at_it[0] < 0.3 * (at_it[2] - at_it[0])
    change, noise = own.correction(x[:1], y[:1], known)
    assert noise == own.tensors.noise
    assert not change.precision.any()


def test_inducing_points_are_those_that_the_others_say_least_of(exact):
    x = torch.cat([exact.tensors.x, exact.tensors.x])
    chosen = greedy_rows(exact.kernel, x, 60)
    assert len(set(chosen.tolist())) == len(chosen) <= 40, "the second of two equal rows adds nothing"
    few = greedy_rows(exact.kernel, x, 10)
    assert few.tolist() == chosen[:10].tolist()
    variance = exact.kernel.diagonal(x) - torch.linalg.solve_triangular(
        torch.linalg.cholesky(exact.kernel(x[few], x[few])), exact.kernel(x[few], x), upper=False
    ).square().sum(0)
    assert int(chosen[10]) % 40 == int(variance.argmax()) % 40


def test_a_higher_fidelity_stands_on_it_as_on_an_exact_one(exact):
    lower = SparseLowerFidelity.of_sparse(fitted(exact).process, "cheap")
    x, y = data(12, seed=7)
    sparse, expected = (
        below.above("dear", x, 1.2 * y + 1, seed=2) for below in (lower, MultiFidelityHead.of(exact, "cheap"))
    )
    new, _ = data(30, seed=5)
    for fidelity in ("cheap", "dear"):
        (mean, std), (mean_, std_) = (p.predict(new, fidelity) for p in (sparse, expected))
        np.testing.assert_allclose(mean, mean_, atol=0.01 * float(exact.tensors.std))
        np.testing.assert_allclose(std, std_, rtol=0.01)
        (means, drawn), (_, same) = (p.functions(4000, seed=3)(new, fidelity) for p in (sparse, expected))
        np.testing.assert_allclose(means, mean, atol=SINGLE)
        np.testing.assert_allclose(drawn.mean(0), same.mean(0), atol=0.1 * same.std(0).max())
        assert 0.95 < (drawn.var(0) / same.var(0)).mean() < 1.05
    again = lower.with_upper(sparse.upper(lower), "dear")
    np.testing.assert_array_equal(again.predict(new)[0], sparse.predict(new)[0])


def test_labels_that_are_taken_away_were_never_there(exact):
    x, y = data(noise=0.2)
    own = prior(exact, torch.arange(0, 40, 2))
    keys = [f"crystal {k}" for k in range(40)]
    labels = LabelTensors(label_keys(keys), own.standardised_target(y), own.tensors.noise.repeat(40))
    whole = own.given(own.evidence(x, y), labels)
    gone = np.array([3, 17, 20, 36])
    left = whole.without(label_keys([*(keys[k] for k in gone), "another"]), np.append(x[gone], x[:1] + 1, axis=0))
    rest = np.delete(np.arange(40), gone)
    expected = own.given(own.evidence(x[rest], y[rest]), LABELS)
    cross = own.kernel(own.head.standardise(data(30, seed=5)[0]), own.tensors.x)
    assert (cross @ (whole.weights - expected.weights)).abs().max() > 0.05
    np.testing.assert_allclose(cross @ left.weights, cross @ expected.weights, atol=2e-4)
    explained = [(cross @ process.posterior.whitening.double()).square().sum(1) for process in (left, expected)]
    np.testing.assert_allclose(*explained, atol=2e-4)
    assert left.labels.label_key.tolist() == label_keys([keys[k] for k in rest]).tolist()
    same = whole.without(label_keys(["another"]), x[:1])
    np.testing.assert_allclose(cross @ same.weights, cross @ whole.weights, atol=2e-4)
