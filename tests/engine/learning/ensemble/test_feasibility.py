"""The classifier of failures: found where failures have a cause, the rate where they have none, few of them nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.exceptions import TrainingError
from engine.learning.ensemble.feasibility import Feasibility
from engine.learning.features.composition import COMPOSITION_STATISTICS as STATISTICS
from engine.learning.features.composition import composition_statistics
from engine.materials.reference import reference_crystals


@pytest.fixture(scope="module")
def columns() -> np.ndarray:
    """Composition statistics of real crystals."""
    return composition_statistics(reference_crystals().values())


def test_failures_with_a_cause_are_foreseen(columns: np.ndarray):
    """Heavy crystals fail more often than not; half of the crystals are never shown."""
    rng = np.random.default_rng(0)
    mass = columns[:, STATISTICS.index("mean_mass")]
    truth = 1 / (1 + np.exp(-4 * (np.log(mass) - np.log(90)) / np.log(mass).std()))
    failed = rng.random(len(columns)) < truth
    shown, new = np.arange(0, len(columns), 2), np.arange(1, len(columns), 2)
    found = Feasibility.fit(columns[shown], failed[shown])
    assert found.discriminates
    assert "a classifier tells which are likely to" in str(found)
    success = found.success(columns[new])
    assert success[~failed[new]].mean() - success[failed[new]].mean() > 0.35
    brier = np.mean((1 - success - failed[new]) ** 2)
    assert brier < 0.75 * np.mean((found.rate - failed[new]) ** 2)
    assert found.classifier.log_loss < found.constant.log_loss
    assert brier == pytest.approx(found.classifier.brier, abs=0.06), "held-out scores tell how it will do"


def test_failures_without_a_cause_give_the_rate(columns: np.ndarray):
    rng = np.random.default_rng(1)
    taken = [Feasibility.fit(columns[:80], rng.random(80) < 0.25, seed).discriminates for seed in range(12)]
    assert np.mean(taken) < 0.2
    found = Feasibility.fit(columns[:80], np.arange(80) % 4 == 0)
    assert not found.discriminates
    assert "a classifier is no better than the rate" in str(found)
    assert found.success(columns) == pytest.approx(np.full(len(columns), 1 - 20.5 / 85))


@pytest.mark.parametrize(("n", "failures", "rate"), [(0, 0, 0.1), (3, 0, 0.5 / 8), (20, 1, 1.5 / 25), (4, 4, 0.5)])
def test_few_failures_give_a_shrunk_rate(columns: np.ndarray, n: int, failures: int, rate: float):
    found = Feasibility.fit(columns[:n], np.arange(n) < failures)
    assert found.rate == pytest.approx(rate)
    assert found.success(columns[:2]) == pytest.approx([1 - rate] * 2)
    assert "too few to tell which will" in str(found)
    assert found.classifier is None


def test_it_survives_as_json(columns: np.ndarray):
    failed = columns[:, STATISTICS.index("mean_mass")] > 80
    for found in (Feasibility.fit(columns[:10], failed[:10]), Feasibility.fit(columns, failed)):
        again = Feasibility.from_dict(json.loads(json.dumps(found.to_dict())))
        assert again == found
        assert np.array_equal(again.success(columns), found.success(columns))


def test_units_and_constant_columns_do_not_matter(columns: np.ndarray):
    failed = columns[:, STATISTICS.index("mean_mass")] > 80
    plain = Feasibility.fit(columns, failed)
    scaled = np.concatenate([1000 * columns.astype(np.float64) + 5, np.full((len(columns), 1), 7.0)], axis=1)
    assert Feasibility.fit(scaled, failed).success(scaled) == pytest.approx(plain.success(columns), abs=1e-3)


def test_shapes_and_numbers_that_do_not_fit(columns: np.ndarray):
    with pytest.raises(TrainingError, match="n outcomes"):
        Feasibility.fit(columns, [True])
    with pytest.raises(TrainingError, match="1 of 6 rows are not finite"):
        Feasibility.fit(np.where(np.arange(6)[:, None] == 2, np.nan, 1.0) * np.ones((6, 2)), [True] * 6)
    found = Feasibility.fit(columns, columns[:, STATISTICS.index("mean_mass")] > 80)
    with pytest.raises(TrainingError, match=f"N x {len(STATISTICS)}"):
        found.success(columns[:, :3])
