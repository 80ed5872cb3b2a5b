"""Trees as arrays predict what scikit-learn's predict, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from sklearn.ensemble import ExtraTreesRegressor

from engine.learning.heads import trees as module
from engine.learning.heads.trees import Forest, Trees
from engine.learning.networks.graph_data import Crystals


def grown(columns: np.ndarray, values: np.ndarray, n_trees: int = 7, **options) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(n_trees, max_features=0.5, random_state=3, **options).fit(columns, values)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 9),
    levels=st.integers(1, 50),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_the_same_as_scikit_learn(n, d, levels, scale, seed):
    """Columns of few levels put thresholds on the values themselves; one row or equal labels make a tree of a leaf."""
    rng = np.random.default_rng(seed)
    columns = (scale * rng.integers(0, levels, (n, d)) / 7).astype(np.float32)
    values = rng.integers(0, 5, n) / 3
    theirs = grown(columns, values)
    ours = Forest.of([tree.tree_ for tree in theirs.estimators_])
    new = np.concatenate([columns, (scale * rng.normal(3, 3, (40, d))).astype(np.float32)])
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


def test_on_embeddings_in_blocks_and_from_the_disk(labelled, monkeypatch):
    forest = Forest.fit(labelled.embeddings[:40], labelled.values[:40], seed=3, n_trees=20)
    theirs = grown(labelled.embeddings[:40], labelled.values[:40], 20)
    expected = theirs.predict(labelled.embeddings)
    np.testing.assert_array_equal(forest.predict(labelled.embeddings), expected)
    np.testing.assert_allclose(expected[:40], labelled.values[:40])
    again = Forest.from_tensors(load(save(forest.to_tensors())))
    monkeypatch.setattr(module, "BLOCK", 7)
    np.testing.assert_array_equal(again.predict(labelled.embeddings), expected)
    assert again.predict(labelled.embeddings[:0]).shape == (0,)


def test_thresholds_between_two_numbers_of_single_precision():
    columns = np.array([[1.0], [1.000001]], dtype=np.float32)
    theirs = grown(columns, np.array([0.0, 1.0]), 50)
    between = np.arange(1.0, 1.000002, 2.0**-23).astype(np.float32)[:, None]
    assert len(between) < 50, "several thresholds lie between two neighbours"
    ours = Forest.of([tree.tree_ for tree in theirs.estimators_])
    np.testing.assert_array_equal(ours.predict(between), theirs.predict(between))


class TestPartner:
    def test_held_out_estimates_have_not_seen_the_label(self, labelled):
        folds = np.arange(60) % 5
        row = 11
        values = labelled.values.copy()
        values[row] += 3.0
        before, after = (
            Trees.fit(labelled.keys, labelled.embeddings, v, folds, seed=1)[1] for v in (labelled.values, values)
        )
        assert after[row] == before[row]
        assert np.abs(after - before)[folds != folds[row]].max() > 0.01

    def test_any_order_gives_the_same(self, labelled):
        folds = np.arange(60) % 5
        trees, held_out = Trees.fit(labelled.keys, labelled.embeddings, labelled.values, folds, seed=1)
        order = np.random.default_rng(1).permutation(60)
        again, mixed = Trees.fit(
            [labelled.keys[i] for i in order], labelled.embeddings[order], labelled.values[order], folds[order], seed=1
        )
        np.testing.assert_array_equal(mixed, held_out[order])
        found, expected = (t.estimate(Crystals(labelled.featuriser, labelled.keys)) for t in (again, trees))
        np.testing.assert_array_equal(found, expected)

    def test_another_seed_grows_other_trees(self, labelled):
        folds = np.arange(60) % 5
        one, other = (Trees.fit(labelled.keys, labelled.embeddings, labelled.values, folds, s)[1] for s in (1, 2))
        assert np.abs(one - other).max() > 1e-3
        assert np.abs(one - labelled.values).mean() == pytest.approx(np.abs(other - labelled.values).mean(), rel=0.1)


def test_what_is_sent_to_another_process_stays_what_it_was(labelled):
    """Torch moves a tensor that it sends to shared memory, away from under NumPy's views of it."""
    forest = Forest.fit(labelled.embeddings[:40], labelled.values[:40], seed=3, n_trees=20)
    before = forest.predict(labelled.embeddings)
    for tensor in forest.to_tensors().values():
        tensor.share_memory_()
    scratch = [np.full(200_000, np.nan) for _ in range(50)]  # takes the room that was left
    np.testing.assert_array_equal(forest.predict(labelled.embeddings), before)
    assert len(scratch) == 50
