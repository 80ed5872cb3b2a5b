"""The first batch covers the pool, without a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.acquire.cold_start import space_filling
from engine.exceptions import AcquisitionError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clusters(n: int = 5, size: int = 40) -> np.ndarray:
    centres = rng(1).normal(size=(n, 4)) * 20
    return np.concatenate([c + rng(2).normal(size=(size, 4)) for c in centres]).astype(np.float32)


def test_each_of_five_clusters_is_visited_before_one_twice():
    rows, _ = space_filling(clusters(), 5, rng())
    assert sorted(rows // 40) == [0, 1, 2, 3, 4]


def test_the_first_is_the_most_ordinary():
    x = clusters()
    rows, values = space_filling(x, 3, rng())
    standard = (x - x.mean(0)) / x.std(0)
    assert rows[0] == np.argmin(np.linalg.norm(standard, axis=1))
    assert values[0] == 0
    assert values[1] >= values[2] > 0


def test_what_is_known_is_avoided():
    x = clusters()
    rows, values = space_filling(x, 2, rng(), known=x[[10, 50, 90]])
    assert sorted(rows // 40) == [3, 4]
    assert (values > 0).all()


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 5))
def test_every_pick_is_the_farthest_from_all_before(n, q, seed):
    x = rng(seed).normal(size=(n, 3)).astype(np.float32)
    if q > n:
        with pytest.raises(AcquisitionError, match=f"the pool has {n} candidates, the batch asks for {q}"):
            space_filling(x, q, rng())
        return
    rows, values = space_filling(x, q, rng())
    assert len(set(rows.tolist())) == len(rows) == q
    assert (np.diff(values[1:]) <= 1e-6).all()
    spread = x.std(0)
    standard = (x - x.mean(0)) / np.where(spread > 1e-8, spread, 1)
    for i in range(1, q):
        distance = np.linalg.norm(standard[:, None] - standard[rows[:i]], axis=2).min(1)
        assert values[i] == pytest.approx(distance.max(), abs=1e-4)


def test_the_same_seed_gives_the_same_batch_and_breaks_ties():
    same = np.zeros((20, 3), dtype=np.float32)
    picks = [space_filling(same, 6, rng(seed))[0].tolist() for seed in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]
    assert len(set(picks[0])) == 6


def test_scale_of_a_column_does_not_matter():
    x = clusters()
    stretched = x * np.array([1, 1000, 1, 0.001], dtype=np.float32)
    assert set(space_filling(x, 8, rng())[0]) == set(space_filling(stretched, 8, rng())[0])
