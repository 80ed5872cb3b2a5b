"""What a model is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from engine.learning.ensemble import baselines
from engine.learning.ensemble.baselines import baseline_metrics


def test_trees_learn_from_a_part_of_very_many_rows(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    y, folds = x[:, 0] + 0.1 * rng.normal(size=120), np.arange(120) % 3
    monkeypatch.setattr(baselines, "_TREES", 10)
    every = baseline_metrics(x, y, folds, seed=0)
    seen = []
    trees = baselines._extra_trees
    monkeypatch.setattr(baselines, "_extra_trees", lambda a, b, *rest: seen.append(len(a)) or trees(a, b, *rest))
    monkeypatch.setattr(baselines, "_ROWS", 80)
    assert baseline_metrics(x, y, folds, seed=0) == every
    monkeypatch.setattr(baselines, "_ROWS", 30)
    fewer = baseline_metrics(x, y, folds, seed=0)
    assert seen == [80] * 3 + [30] * 3
    assert (
        every["extra_trees"]["mae"] < fewer["extra_trees"]["mae"] < fewer["constant"]["mae"] == every["constant"]["mae"]
    )
