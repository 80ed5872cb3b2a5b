"""The perceptron head learns, repeats itself and keeps its units."""

from __future__ import annotations

import numpy as np
import torch

from engine.learning.heads.mlp import PerceptronHead


def data(n: int, seed: int):
    x = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32) * 50 + 200
    return x, x @ [0.4, -0.2, 0.1, 0.0, 0.3, 0.05] + 400


def test_it_fits_a_linear_function_in_its_own_units():
    head = PerceptronHead.fit(*data(300, 0), seed=0)
    x, y = data(100, 1)
    assert np.abs(head.predict(x) - y).mean() < 0.12 * np.abs(y - y.mean()).mean()


def test_the_same_seed_gives_the_same_head():
    before = torch.get_rng_state()
    heads = [PerceptronHead.fit(*data(30, 0), seed=seed) for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (head.predict(data(5, 1)[0]) for head in heads)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_so_few_rows_that_none_is_left_to_choose_the_epoch():
    assert np.isfinite(PerceptronHead.fit(*data(6, 0), seed=0).predict(data(3, 1)[0])).all()
