"""The Gaussian-process head against the textbook, on the numbers it fitted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.exceptions import TooFewLabelsError
from engine.learning.heads import gp
from engine.learning.heads.folds import FoldPredictor
from engine.learning.heads.gp import GaussianProcessHead

SINGLE = 1e-3
"""Relative error of a variance in single precision; means are ten times as exact."""
GROUPS = {"composition": slice(0, 1), "bonding": slice(1, 2), "trunk": slice(2, 7)}


def data(n: int = 40, seed: int = 0, noise: float = 0.05):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 7)).astype(np.float32) * [1, 20, 1, 1, 0.1, 1, 1] + 3
    y = np.sin(x[:, 0]) + 0.05 * x[:, 1] + 0.3 * x[:, 3] + noise * rng.normal(size=n)
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def head() -> GaussianProcessHead:
    return GaussianProcessHead.fit(*data(), GROUPS, seed=1)


def textbook(head: GaussianProcessHead, x, y, new):
    """Rasmussen and Williams, eq. 2.23 to 2.26, with numpy alone."""
    mean, std = y.mean(), y.std(ddof=1)
    centre, scale = x.astype(float).mean(0), x.astype(float).std(0, ddof=1)

    def kernel(a, b):
        total = 0.0
        groups = zip(head.kernel.groups, head.tensors.lengthscale, head.tensors.outputscale, strict=True)
        for columns, length, amplitude in groups:
            width = columns.stop - columns.start
            own = head.tensors.scale.numpy() / scale / math.sqrt(width)  # 1 but for the statistics
            assert columns.start == 0 or own[columns] == pytest.approx(np.ones(width))
            u_a, u_b = (((rows - centre) / scale / own)[:, columns] for rows in (a, b))
            if math.isinf(length):
                total = total + float(amplitude) * u_a @ u_b.T / width
                continue
            u = u_a[:, None] - u_b[None]
            r = math.sqrt(5) * np.sqrt(np.square(u).sum(-1) / width) / float(length)
            total = total + float(amplitude) * (1 + r + r**2 / 3) * np.exp(-r)
        return total

    noise = float(head.tensors.noise)
    inverse = np.linalg.inv(kernel(x, x) + noise * np.eye(len(x)))
    cross = kernel(new, x)
    covariance = kernel(new, new) - cross @ inverse @ cross.T
    return cross @ inverse @ ((y - mean) / std) * std + mean, covariance * std**2, noise * std**2


def test_prediction_is_gp_algebra(head):
    x, y = data()
    new, _ = data(15, seed=5)
    mean, std = head.predict(new)
    expected, covariance, noise = textbook(head, x, y, new)
    np.testing.assert_allclose(mean, expected, atol=SINGLE / 10)
    np.testing.assert_allclose(std**2, np.diag(covariance) + noise, rtol=SINGLE)


def test_members_of_one_head_are_predicted_together_as_they_are_alone(head):
    new, _ = data(2100, seed=5)
    folds = np.random.default_rng(3).permutation(40) % 4
    members = [head.keeping(np.flatnonzero(folds != k)) for k in range(4)]
    mean, std = FoldPredictor(members)(new)
    assert mean.shape == std.shape == (4, 2100)
    for k, member in enumerate(members):
        assert len(member.tensors.x) == np.count_nonzero(folds != k)
        alone_mean, alone_std = member.predict(new)
        np.testing.assert_allclose(mean[k], alone_mean, atol=SINGLE / 10)
        np.testing.assert_allclose(std[k], alone_std, rtol=SINGLE)
    whole_mean, whole_std = head.predict(new)
    assert np.abs(mean - whole_mean).max() > 0.01
    assert (std >= whole_std * (1 - SINGLE)).all(), "a member knows less than the head it was taken from"


def test_it_learns(head):
    new, truth = data(200, seed=9)
    mean, std = head.predict(new)
    assert np.abs(mean - truth).mean() < 0.6 * np.abs(truth - truth.mean()).mean()
    assert 0.75 < np.mean(np.abs(mean - truth) < 1.645 * std) <= 1


def test_draws_have_the_posterior_s_mean_and_covariance():
    """Up to the Fourier features' error in the prior, which shows most where the posterior is narrowest."""
    x, y = data(noise=0.4)
    head = GaussianProcessHead.fit(x, y, GROUPS, seed=1)
    new, _ = data(30, seed=5)
    means, drawn = head.functions(4000, seed=3)(new)
    expected, covariance, _ = textbook(head, x, y, new)
    np.testing.assert_allclose(means, expected, atol=1e-7)
    scatter = np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(0) - expected) < 0.2 * scatter).all()
    ratio = drawn.var(0) / scatter**2
    assert 0.9 < ratio.mean() < 1.1
    assert ratio.min() > 0.7
    np.testing.assert_allclose(np.corrcoef(drawn.T), covariance / np.outer(scatter, scatter), atol=0.2)


def test_draws_are_functions(head):
    """The same values at a row whatever rows are asked for with it."""
    new, _ = data(300, seed=5)
    functions = head.functions(8, seed=3)
    _, whole = functions(new)
    for rows in (np.array([7]), np.array([250, 3]), np.arange(100, 300)):
        np.testing.assert_allclose(functions(new[rows])[1], whole[:, rows], atol=1e-6)
    _, again = head.functions(8, seed=3)(new)
    np.testing.assert_array_equal(again, whole)
    assert np.abs(head.functions(8, seed=4)(new)[1] - whole).max() > 1e-3


def test_the_same_seed_gives_the_same_head(head):
    torch.rand(3)  # whatever was drawn before
    before = torch.get_rng_state()
    again = GaussianProcessHead.fit(*data(), GROUPS, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in head.tensors.to_tensors().items():
        assert torch.equal(tensor, again.tensors.to_tensors()[name]), name


def test_a_trend_goes_on_beyond_the_labels():
    """Where Matern kernels alone fall back to the mean of the labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 7)).astype(np.float32)
    y = 2.0 * x[:, 3] + x[:, 4] + 0.05 * rng.normal(size=80)
    inside = y > np.quantile(y, 0.3)
    fitted = GaussianProcessHead.fit(x[inside], y[inside], GROUPS, seed=0)
    finite = ~torch.isinf(fitted.tensors.lengthscale)
    kept = {name: getattr(fitted.tensors, name)[finite] for name in ("columns", "lengthscale", "outputscale")}
    without = GaussianProcessHead(replace(fitted.tensors, **kept))
    far = y < np.quantile(y, 0.1)
    error, other = (np.abs(h.predict(x[far])[0] - y[far]).mean() for h in (fitted, without))
    assert error < 0.5 * other
    assert fitted.predict(20 * x[far])[1].min() > fitted.predict(x[far])[1].max(), "a slope is not known exactly"


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_part_that_is_not_there_comes_near_zero(seed):
    """And not to it: the logarithm has a prior."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(30, 3)), np.repeat(rng.normal(size=(3, 4)), 10, axis=0)], axis=1)
    y = np.repeat([0.0, 5.0, 0.0], 10) + 1e-3 * rng.normal(size=30)
    fitted = GaussianProcessHead.fit(x.astype(np.float32), y, GROUPS, seed=0)
    linear = fitted.tensors.outputscale[torch.isinf(fitted.tensors.lengthscale)]
    assert (linear > 0).all()
    assert np.isfinite(fitted.predict(x.astype(np.float32))).all()


def test_hyperparameters_come_from_a_part_of_many_rows_but_all_are_conditioned_on(monkeypatch):
    monkeypatch.setattr(gp, "FIT_ROWS", 30)
    x, y = data(90)
    head = GaussianProcessHead.fit(x, y, GROUPS, seed=0)
    assert head.tensors.x.shape == (90, 7)
    mean, _, _ = textbook(head, x, y, x[:3])
    np.testing.assert_allclose(head.predict(x[:3])[0], mean, atol=SINGLE / 10)


def test_few_labels():
    x, y = data(4)
    mean, std = GaussianProcessHead.fit(x, y, GROUPS, seed=0).predict(x)
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    with pytest.raises(TooFewLabelsError, match="at least 4 labels that differ, got 3"):
        GaussianProcessHead.fit(x[:3], y[:3], GROUPS, seed=0)
    with pytest.raises(TooFewLabelsError, match="got 4 with standard deviation 0"):
        GaussianProcessHead.fit(x, np.full(4, 2.5), GROUPS, seed=0)


def test_columns_that_do_not_vary():
    x, y = data()
    x[:, 4] = 7.0
    assert np.isfinite(GaussianProcessHead.fit(x, y, GROUPS, seed=0).predict(x)).all()
