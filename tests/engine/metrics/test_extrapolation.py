"""Distances against brute force; widening that finds what is there and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics import extrapolation
from engine.metrics.extrapolation import (
    TrainingDistance,
    VarianceInflation,
    cross_variance_inflation,
    fit_variance_inflation,
    held_out_distances,
)


def test_distances_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    train, new = rng.normal(size=(40, 6)).astype(np.float32) * [1, 2, 3, 1, 1, 0], rng.normal(size=(7, 6))
    spread = np.where(train.std(0) > 0, train.std(0), 1.0) * np.sqrt(6)
    found = TrainingDistance.fit(train, neighbours=3)
    all_distances = np.linalg.norm((new[:, None] - train[None]) / spread, axis=2)
    assert found(new) == pytest.approx(np.sort(all_distances, axis=1)[:, :3].mean(axis=1), rel=1e-4)
    among = np.linalg.norm((train[:, None] - train[None]) / spread, axis=2)
    assert found.own == pytest.approx(np.sort(among, axis=1)[:, 1:4].mean(axis=1), rel=1e-4), "each without itself"


def test_a_projection_keeps_distances():
    rng = np.random.default_rng(1)
    train, new = rng.normal(size=(2, 60, 400)).astype(np.float32)
    spread = train.std(0) * np.sqrt(400)
    exact = np.sort(np.linalg.norm((new[:, None] - train[None]) / spread, axis=2), axis=1)[:, :5].mean(axis=1)
    assert TrainingDistance.fit(train)(new) == pytest.approx(exact, rel=0.25)


def test_rows_like_the_training_rows_rank_evenly_and_others_outside():
    rng = np.random.default_rng(2)
    train, like = rng.normal(size=(400, 5)), rng.normal(size=(4000, 5))
    for references in (1000, 100):
        distance = TrainingDistance.fit(train, references=references)
        rank = distance.percentile(distance(like))
        assert np.histogram(rank, 4, (0, 100))[0] / 4000 == pytest.approx(np.full(4, 0.25), abs=0.06)
        assert (distance.percentile(distance(like + 30)) == 100).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    train, new = rng.normal(size=(2, 50, 80)).astype(np.float32)
    whole = TrainingDistance.fit(train, references=20)
    monkeypatch.setattr(extrapolation, "_BLOCK", 7)
    parts = TrainingDistance.fit(train, references=20)
    assert parts.own == pytest.approx(whole.own, rel=1e-5)
    assert parts(new) == pytest.approx(whole(new), rel=1e-5)
    assert len(whole(new[:0])) == 0


def test_held_out_rows_do_not_count_themselves_or_their_fold():
    rows = np.array([[0.0], [0.0], [10.0], [10.0]])
    assert held_out_distances(rows, np.array([0, 1, 0, 1]), neighbours=1) == pytest.approx(0.0, abs=1e-3)
    assert held_out_distances(rows, np.array([0, 0, 1, 1]), neighbours=1) == pytest.approx(2.0)


def test_distances_of_held_out_rows_are_to_a_part_of_very_many(monkeypatch: pytest.MonkeyPatch):
    rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    folds = np.arange(300) % 3
    every = extrapolation.held_out_distances(rows, folds)
    monkeypatch.setattr(extrapolation, "HELD_OUT_REFERENCES", 200)
    np.testing.assert_array_equal(extrapolation.held_out_distances(rows, folds), every)
    monkeypatch.setattr(extrapolation, "HELD_OUT_REFERENCES", 100)
    fewer = extrapolation.held_out_distances(rows, folds)
    assert (fewer >= every - 1e-6).all(), "fewer rows are farther away"
    assert np.corrcoef(fewer, every)[0, 1] > 0.9


def test_two_rows_are_the_fewest():
    assert TrainingDistance.fit(np.array([[0.0], [2.0]])).own == pytest.approx([2.0, 2.0])
    with pytest.raises(ValueError, match="at least 2"):
        TrainingDistance.fit(np.zeros((1, 3)))


class TestWidening:
    def test_errors_that_grow_are_found(self):
        rng = np.random.default_rng(4)
        distance = rng.uniform(0, 1, 4000)
        z = (1 + 2 * distance) * rng.standard_normal(4000)
        found = fit_variance_inflation(z, distance, np.arange(4000) % 5)
        assert found(0.0) == 1.0
        assert found(0.9) == pytest.approx((1 + 2 * 0.9) / 2, rel=0.1), "relative to the average row"
        assert found(50.0) == found.factors[-1]

    def test_honest_spreads_are_left_alone(self):
        rng = np.random.default_rng(5)
        factors = [
            max(VarianceInflation.fit(rng.standard_normal(n), rng.uniform(size=n)).factors)
            for n in (10, 23, 60, 500, 5000)
        ]
        assert factors[:2] == [1.0, 1.0], "too few rows for two bins"
        assert max(factors) < 1.3
        kept = [
            fit_variance_inflation(rng.standard_normal(60), rng.uniform(size=60), np.arange(60) % 5)
            != VarianceInflation()
            for _ in range(100)
        ]
        assert np.mean(kept) < 0.4

    def test_few_labels_move_it_less(self):
        sizes = [VarianceInflation.fit(np.repeat([1.0, 3.0], n), np.arange(2.0 * n)).factors[-1] for n in (12, 72, 400)]
        assert 1 < sizes[0] < sizes[1] < sizes[2] < 1.5

    def test_a_row_is_judged_without_its_fold(self):
        rng = np.random.default_rng(6)
        distance, folds = rng.uniform(size=200), np.arange(200) % 4
        z = (1 + distance) * rng.standard_normal(200)
        changed = np.where(folds == 1, 100.0, z)
        assert cross_variance_inflation(z, distance, folds)[folds == 1] == pytest.approx(
            cross_variance_inflation(changed, distance, folds)[folds == 1]
        )

    @given(
        st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 100)), max_size=120),
        st.lists(st.floats(0, 1e6), min_size=1, max_size=5),
    )
    def test_it_never_narrows_and_never_falls(self, rows: list[tuple[float, float]], new: list[float]):
        z, distance = np.array(rows).reshape(-1, 2).T
        found = VarianceInflation.fit(z, distance)(np.sort(new))
        assert (found >= 1).all()
        assert (np.diff(found) >= 0).all()

    def test_factors_that_narrow_are_refused(self):
        with pytest.raises(ValueError, match="at least 1"):
            VarianceInflation((0.0, 1.0), (1.0, 0.9))
        with pytest.raises(ValueError, match="one each"):
            VarianceInflation((0.0,), (1.0, 2.0))
