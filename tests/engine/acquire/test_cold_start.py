"""The first batch covers the pool, without a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.acquire.cold_start import Estimate, FirstBatch, FirstBatchRequest, first_batch
from engine.acquire.objectives import Objective
from engine.exceptions import AcquisitionError
from tests.engine.acquire.choosing import KAPPA


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clusters(n: int = 5, size: int = 40) -> np.ndarray:
    centres = rng(1).normal(size=(n, 4)) * 20
    return np.concatenate([c + rng(2).normal(size=(size, 4)) for c in centres]).astype(np.float32)


def chosen(embeddings: np.ndarray, q: int, generator: np.random.Generator, **options) -> FirstBatch:
    """Choose a first batch, the estimate among the keywords."""
    if "values" in options:
        goal = Objective.of(options.pop("goal", "min"))
        of_estimate = {name: options.pop(name) for name in ("values", "explore") if name in options}
        options["estimate"] = Estimate(objective=goal, **KAPPA, **of_estimate)
    return first_batch(FirstBatchRequest(embeddings, q, **options), generator)


def picked(*arguments, **options) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a first batch, and how far each was from all before it."""
    batch = chosen(*arguments, **options)
    return batch.rows, batch.values


def test_each_of_five_clusters_is_visited_before_one_twice():
    rows, _ = picked(clusters(), 5, rng())
    assert sorted(rows // 40) == [0, 1, 2, 3, 4]


def test_the_first_is_the_most_ordinary():
    x = clusters()
    rows, values = picked(x, 3, rng())
    standard = (x - x.mean(0)) / x.std(0)
    assert rows[0] == np.argmin(np.linalg.norm(standard, axis=1))
    assert values[0] == 0
    assert values[1] >= values[2] > 0


def test_what_is_known_is_avoided():
    x = clusters()
    rows, values = picked(x, 2, rng(), known=x[[10, 50, 90]])
    assert sorted(rows // 40) == [3, 4]
    assert (values > 0).all()


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 5))
def test_every_pick_is_the_farthest_from_all_before(n, q, seed):
    x = rng(seed).normal(size=(n, 3)).astype(np.float32)
    if q > n:
        with pytest.raises(AcquisitionError, match=f"{n} candidates.*batch of {q}"):
            picked(x, q, rng())
        return
    rows, values = picked(x, q, rng())
    assert len(set(rows.tolist())) == len(rows) == q
    assert (np.diff(values[1:]) <= 1e-6).all()
    spread = x.std(0)
    standard = (x - x.mean(0)) / np.where(spread > 1e-8, spread, 1)
    for i in range(1, q):
        distance = np.linalg.norm(standard[:, None] - standard[rows[:i]], axis=2).min(1)
        assert values[i] == pytest.approx(distance.max(), abs=1e-4)


def test_the_same_seed_gives_the_same_batch_and_breaks_ties():
    same = np.zeros((20, 3), dtype=np.float32)
    picks = [picked(same, 6, rng(seed))[0].tolist() for seed in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]
    assert len(set(picks[0])) == 6


def test_scale_of_a_column_does_not_matter():
    x = clusters()
    stretched = x * np.array([1, 1000, 1, 0.001], dtype=np.float32)
    assert set(picked(x, 8, rng())[0]) == set(picked(stretched, 8, rng())[0])


def test_families_take_turns_and_known_ones_wait():
    x = clusters(4, 30)
    families = np.repeat(["rocksalt", "wurtzite", "Heusler", "fluorite"], [90, 20, 8, 2])
    batch = chosen(x, 8, rng(), families=families)
    assert np.unique(families[batch.rows], return_counts=True)[1].tolist() == [2, 2, 2, 2]
    batch = chosen(x, 3, rng(), known=x[[0]], families=families, known_families=["rocksalt"])
    assert "rocksalt" not in families[batch.rows]
    batch = chosen(x, 20, rng(), families=families)
    assert np.count_nonzero(families[batch.rows] == "fluorite") == 2
    assert len(set(batch.rows.tolist())) == 20


def test_the_best_of_an_estimate_come_first_from_all_families():
    x = clusters(4, 30)
    families = np.repeat(["a", "b", "c", "d"], 30)
    prior = np.where(families == "a", 0.0, 1.0) + rng(3).uniform(0, 0.5, 120)
    prior[:3] = np.nan
    batch = chosen(x, 8, rng(), families=families, values=prior)
    first = batch.rows[:6]
    assert np.unique(families[first], return_counts=True)[1].max() <= 2
    assert batch.rows[0] == np.nanargmin(prior)
    assert not set(first.tolist()) & {0, 1, 2}
    assert batch.reasons[0].startswith(f"estimated {10 ** np.nanmin(prior):.3g} W/(m K)")
    assert batch.reasons[0].endswith("number 1 of 117, number 1 of a")
    assert all("space filling" in reason for reason in batch.reasons[6:])
    highest = chosen(x, 8, rng(), values=prior, goal="max", explore=0.0)
    assert highest.rows.tolist() == np.argsort(-np.nan_to_num(prior))[:8].tolist()


def test_an_estimate_of_one_family_alone_is_filled_up():
    x = clusters(2, 30)
    batch = chosen(x, 6, rng(), values=np.where(np.arange(60) < 2, 1.0, np.nan), explore=0.0)
    assert sorted(batch.rows[:2].tolist()) == [0, 1]
    assert len(set(batch.rows.tolist())) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": np.zeros(200), "explore": 2.0}, "use 0 to 1"),
        ({"values": np.zeros(3)}, "estimate has 3 rows for 200 candidates"),
        ({"families": ["a"]}, "families has 1 rows"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(AcquisitionError, match=message):
        chosen(clusters(), 3, rng(), **options)
