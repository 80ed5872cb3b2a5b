"""Discovery metrics equal those of the peers' scorer, on real values."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics.discovery import acceleration, count_hits, discovery_curve, top_rows, top_words

SHARED = Path(__file__).resolve().parents[4] / "shared"


def _bench():
    path = SHARED / "bench" / "common.py"
    if not path.exists():
        pytest.skip("../shared/bench is not here")
    spec = importlib.util.spec_from_file_location("bench_common", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _agl() -> np.ndarray:
    path = SHARED / "data" / "aflow_agl.jsonl.gz"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    with gzip.open(path, "rt") as lines:
        return np.log10([json.loads(line)["properties"]["kappa_agl_300K_W_mK"] for line in lines])


@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_curve_is_the_peers_curve(goal):
    bench, values = _bench(), _agl()
    order = np.random.default_rng(0).choice(len(values), 350, replace=False)
    guided = [*order[:50], *np.setdiff1d(top_rows(values, goal, percent=9), order[:50])[:230]]
    for acquired in (order.tolist(), [int(i) for i in guided]):
        points = discovery_curve(values, acquired, goal=goal, initial=50, batch=50)
        rows = bench.curve(bench.target(10**values, goal), acquired, 50, 50)
        assert len(points) == len(rows)
        for point, row in zip(points, rows, strict=True):
            ours = [point.round, point.labels, point.recall_top1, point.recall_top5]
            ours += [point.enhancement_top1, point.enhancement_top5, point.regret]
            keys = ["round", "labels", "recall_top1", "recall_top5", "ef_top1", "ef_top5", "regret"]
            assert ours == pytest.approx([row[k] for k in keys])
            assert point.best == pytest.approx(row["best"] if goal == "min" else -row["best"])
        for fraction in (0.5, 0.8):
            theirs = bench.acceleration(rows, len(values), fraction)
            assert acceleration(points, len(values), fraction) == (pytest.approx(theirs) if theirs else None)


@given(st.lists(st.integers(-5, 5), min_size=20, max_size=1200), st.sampled_from(["min", "max"]))
def test_top_rows_are_the_peers_top_sets(values, goal):
    target = np.array(values, dtype=float) * (1 if goal == "min" else -1)
    one, five = _bench().top_sets(target)
    assert set(top_rows(values, goal, percent=1, at_least=10).tolist()) == one
    assert set(top_rows(values, goal, percent=5).tolist()) == five


def test_a_small_campaign_by_hand():
    values = np.arange(100.0)
    points = discovery_curve(values, [50, 20, 1, 0, 2, 99], goal="min", initial=2, batch=2, threshold=1.0)
    assert [p.labels for p in points] == [2, 4, 6]
    assert [p.recall_top1 for p in points] == pytest.approx([0, 0.2, 0.3])
    assert [p.recall_top5 for p in points] == pytest.approx([0, 0.4, 0.6])
    assert [p.enhancement_top5 for p in points] == pytest.approx([0, 10, 10])
    assert [p.regret for p in points] == [20, 0, 0]
    assert [p.hits for p in points] == [0, 2, 2]
    assert acceleration(points, 100, 0.6) == pytest.approx(10)
    assert acceleration(points, 100, 0.8) is None
    assert discovery_curve(values, [50, 99], goal="max", initial=1, batch=1)[-1].best == 99


def test_hits_lie_at_or_beyond_the_threshold():
    assert count_hits([0.5, 1.0, 2.0], "min", 1.0) == 2
    assert count_hits([0.5, 1.0, 2.0], "max", 1.0) == 2


def test_what_cannot_be_judged():
    with pytest.raises(ValueError, match="acquired twice"):
        discovery_curve(np.arange(9.0), [1, 1], goal="min", initial=1, batch=1)
    with pytest.raises(ValueError, match="initial 5"):
        discovery_curve(np.arange(9.0), [1, 2], goal="min", initial=5, batch=1)
    with pytest.raises(ValueError, match="use 'min' or 'max'"):
        top_rows([1.0], "low", percent=1)


@pytest.mark.parametrize(
    ("n", "percent", "words", "count"),
    [
        (238, 1, "best 10", 10), (238, 5, "best 5 % (11)", 11), (3406, 1, "best 1 % (34)", 34), (999, 1, "best 10", 10),
        (1000, 1, "best 1 % (10)", 10), (19, 5, "best 1", 1), (8, 1, "best 8", 8),
    ],
)  # fmt: skip
def test_groups_are_named_with_their_count(n: int, percent: int, words: str, count: int) -> None:
    assert top_words(n, percent) == words
    assert top_words(n, percent, "lowest") == words.replace("best", "lowest")
    (point,) = discovery_curve(np.arange(float(n)), [0], goal="min", initial=1, batch=1)
    assert {1: point.rows_top1, 5: point.rows_top5}[percent] == count


def test_only_candidates_count():
    """The lowest initial rows are not to be found, and random choice is one of candidates."""
    values, candidates = np.arange(220.0), np.arange(20, 220)
    sizes = {"goal": "min", "initial": 2, "batch": 5}
    order = [0, 1, *range(20, 25), *range(200, 205)]
    points = discovery_curve(values, order, **sizes, candidates=candidates)
    assert [p.recall_top5 for p in points] == [0.0, 0.5, 0.5]
    assert [p.enhancement_top5 for p in points] == pytest.approx([1.0, 0.5 / (5 / 200), 0.5 / (10 / 200)])
    assert points[0].rows_top5 == 10
    assert acceleration(points, len(candidates), 0.5, given=2) == pytest.approx(0.5 * 200 / 5)
    whole = [discovery_curve(values, order, **sizes, candidates=rows) for rows in (None, np.arange(220))]
    assert [p.recall_top5 for p in whole[0]] == [p.recall_top5 for p in whole[1]]
