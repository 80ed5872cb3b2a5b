"""The figures of a judgement, and the baselines that stand beside a model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.learning.ensemble.baselines import baseline_metrics
from engine.learning.ensemble.evaluation import evaluate, evaluate_folds, evaluation_curves


def test_a_judgement_is_plain_json():
    rng = np.random.default_rng(0)
    values = rng.normal(size=500)
    found = evaluate(values, values + 0.2 * rng.normal(size=500), np.full(500, 0.2))
    assert json.loads(json.dumps(found)) == found
    assert found["rows"] == 500
    assert found["mae"] == pytest.approx(0.2 * np.sqrt(2 / np.pi), rel=0.1)
    assert {name for name in found if name.startswith("coverage")} == {
        "coverage_50",
        "coverage_80",
        "coverage_90",
        "coverage_95",
    }
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.05)


def test_curves_agree_with_the_figures():
    rng = np.random.default_rng(2)
    std = rng.uniform(0.1, 0.5, 300)
    values = std * rng.normal(size=300)
    figures, curves = evaluate(values, 0 * std, std), evaluation_curves(values, 0 * std, std)
    assert json.loads(json.dumps(curves)) == curves
    reliability = curves["reliability"]
    assert dict(zip(reliability["levels"], reliability["observed"], strict=True))[0.9] == figures["coverage_90"]
    gaps = np.abs(np.subtract(reliability["observed"], reliability["levels"]))
    assert gaps.mean() == pytest.approx(figures["calibration_error"])
    assert sum(curves["pit"]) == sum(curves["error_against_spread"]["rows"]) == 300


def test_folds_are_judged_apart():
    values, mean = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.2, 1.5, 1.5])
    found = evaluate_folds(values, mean, np.ones(4), np.array([0, 1, 1, 0]))
    assert [fold["rows"] for fold in found] == [2, 2]
    assert [fold["mae"] for fold in found] == pytest.approx([0.3, 0.35])


def test_one_row_has_no_rank():
    found = evaluate(np.array([1.0]), np.array([1.5]), np.array([0.3]))
    assert found["r2"] is None
    assert found["spearman"] is None


def test_values_of_hundreds_do_not_overflow():
    found = evaluate(np.array([100.0, 900.0]), np.array([800.0, 200.0]), np.array([50.0, 50.0]))
    assert found["mae"] == 700


def test_baselines_predict_rows_they_were_not_fitted_on():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 88)).astype(np.float32)
    values = x[:, 0].astype(np.float64)
    folds = np.arange(60) % 3
    found = baseline_metrics(x, values, folds, seed=0)
    assert found == baseline_metrics(x, values, folds, seed=0)
    assert found["constant"]["r2"] < 0
    assert 0.3 < found["extra_trees"]["r2"] < 0.99
    constant = np.array([values[folds != k].mean() for k in folds])
    assert found["constant"]["mae"] == pytest.approx(np.abs(values - constant).mean())


def test_labels_equal_but_one():
    values = np.array([1.0] * 8 + [2.0])
    found = baseline_metrics(np.eye(9, 88, dtype=np.float32), values, np.arange(9) % 3, seed=0)
    assert np.isfinite(found["constant"]["nll"])
