"""Cells that are made once, figures, and tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from campaigns.studies import results
from campaigns.studies.results import Cells, Result, judge


def test_a_cell_is_made_once(tmp_path):
    made = []

    def compute():
        made.append(1)
        return np.array([0.5, 1.25])

    for _ in range(2):
        cells = Cells(tmp_path, lambda _: None)
        assert cells.predicted({"study": "s", "split": 0}, compute).tolist() == [0.5, 1.25]
    assert len(made) == 1
    cells.predicted({"study": "s", "split": 1}, compute)
    assert len(made) == 2
    assert len(list(tmp_path.glob("s-*.json"))) == 2


def test_a_cell_of_older_code_is_made_again(tmp_path, monkeypatch):
    cells = Cells(tmp_path, lambda _: None)
    assert cells.predicted({"study": "s"}, lambda: np.zeros(1)) == [0]
    monkeypatch.setattr(results, "CODE_VERSION", results.CODE_VERSION + 1)
    assert cells.predicted({"study": "s"}, lambda: np.ones(1)) == [1]


def test_a_cell_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Cells(tmp_path, lambda _: None).predicted({"study": "s"}, lambda: np.array([1 / 0]))
    assert not list(tmp_path.iterdir())


def test_figures_in_true_units():
    true, predicted = np.log10([1.0, 2.0, 4.0, 100.0]), np.log10([2.0, 1.0, 4.0, 50.0])
    figures = judge(true, predicted, "log10")
    assert figures["mape"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert figures["mae"] == pytest.approx(3 * np.log10(2) / 4)
    assert figures["recall_lowest"] == 1.0
    assert judge(true, predicted, "linear")["mape"] is None


def test_markdown_of_a_result(tmp_path):
    rows = [{"set": "a", "split": k, "mae": 0.1 + k, "mape": None} for k in range(2)]
    result = Result("s", rows, "| x |", {"n": 1}, {}, 90.0, ["less of it"])
    path = result.write(tmp_path, "kappascout study s")
    assert "- less of it" in path.read_text()
    assert "1.5 CPU-minutes" in path.read_text()
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["rows"] == rows
    assert {"torch", "matgl"} <= set(written["versions"])
    assert result.summary() == [{"set": "a", "mae": pytest.approx(0.6), "mape": None}]


def test_numbers_as_text():
    assert results.short(0.5) == ".500"
    assert results.short(-0.25) == "-.250"
    assert results.short(-1.5) == "-1.50"
    assert results.mean_std([0.1, None, 0.3]) == ".200 (.141)"
    assert results.mean_std([None]) == "-"
