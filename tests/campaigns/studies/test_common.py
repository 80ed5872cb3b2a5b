"""Cells that are made once, splits and figures, leave-one-out errors, data found by name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.exceptions import CampaignError
from campaigns.studies import common
from campaigns.studies.common import Cells, Features, judge, random_splits, read_sources
from engine.learning.backbones.column_statistics import ColumnStatistics
from tests.engine.learning.bodies import small_backbone


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
    monkeypatch.setattr(common, "CODE_VERSION", common.CODE_VERSION + 1)
    assert cells.predicted({"study": "s"}, lambda: np.ones(1)) == [1]


def test_a_cell_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Cells(tmp_path, lambda _: None).predicted({"study": "s"}, lambda: np.array([1 / 0]))
    assert not list(tmp_path.iterdir())


@given(st.integers(10, 300), st.integers(1, 4))
def test_splits_part_the_rows(n_rows, n_splits):
    splits = list(random_splits(n_rows, n_splits))
    assert len(splits) == n_splits
    for training, test in splits:
        assert sorted([*training, *test]) == list(range(n_rows))
        assert len(test) == round(0.2 * n_rows)


def test_figures_in_true_units():
    true, predicted = np.log10([1.0, 2.0, 4.0, 100.0]), np.log10([2.0, 1.0, 4.0, 50.0])
    figures = judge(true, predicted, "log10")
    assert figures["mape"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert figures["mae"] == pytest.approx(3 * np.log10(2) / 4)
    assert figures["recall_lowest"] == 1.0
    assert judge(true, predicted, "linear")["mape"] is None


def test_leave_one_out_is_that_of_refitting():
    from engine.learning.heads.gp import GaussianProcessHead

    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4)).astype(np.float32)
    y = np.sin(x[:, 0]) + 0.1 * rng.normal(size=30)
    head = GaussianProcessHead.fit(x, y, {"composition": slice(0, 4), "bonding": slice(4, 4)}, 0)
    kernel = (head.cholesky @ head.cholesky.T).numpy()
    target = head.tensors.target.numpy() * float(head.tensors.std)
    errors = []
    for i in range(30):
        rest = np.arange(30) != i
        errors.append(target[i] - kernel[i, rest] @ np.linalg.solve(kernel[np.ix_(rest, rest)], target[rest]))
    np.testing.assert_allclose(common.left_out_errors(head), errors, atol=1e-8)


def test_columns():
    groups = {"composition": slice(0, 2), "readout": slice(2, 4), "trunk": slice(4, 5)}
    columns = Features(np.arange(15, dtype=np.float32).reshape(3, 5), groups)
    assert columns.statistics.groups == {"composition": slice(0, 2)}
    joined = columns.statistics.joined("agl", np.array([7.0, 8.0, 9.0]))
    assert joined.groups["agl"] == slice(2, 3)
    assert joined[np.array([2])].values.tolist() == [[10.0, 11.0, 9.0]]


def test_columns_keep_their_yardstick():
    """Of a column that is joined nothing is known."""
    groups = {"composition": slice(0, 2), "readout": slice(2, 4), "trunk": slice(4, 5)}
    columns = Features(np.zeros((3, 5), np.float32), groups, ColumnStatistics(np.arange(5.0), np.full(5, 2.0)))
    found = columns.statistics.joined("agl", np.zeros(3))[np.array([0])].column_statistics
    np.testing.assert_array_equal(found.mean, [0.0, 1.0, np.nan])
    np.testing.assert_array_equal(found.std, [2.0, 2.0, np.nan])


def test_missing_data_is_named_at_once(tmp_path):
    (tmp_path / "ltc_l96.jsonl").write_text(json.dumps({"id": "a"}) + "\n")
    with pytest.raises(CampaignError, match=r"lacks aflow_agl.*kappa_agl_300K_W_mK.*ltc_hh143") as error:
        read_sources(tmp_path, ("agl", "L96", "HH143"), lambda _: None)
    assert "ltc_l96" not in str(error.value)
    with pytest.raises(CampaignError, match="no folder"):
        read_sources(tmp_path / "none", ("agl",), lambda _: None)


def test_records_without_the_field(shared, studies_data):
    (studies_data / "ltc_l96.jsonl").write_text((studies_data / "ltc_hh143.jsonl").read_text().replace("kappa", "k"))
    with pytest.raises(CampaignError, match="no crystal with kappa_300K_W_mK"):
        read_sources(studies_data, ("L96",), lambda _: None)


def test_markdown_of_a_result(tmp_path):
    rows = [{"set": "a", "split": k, "mae": 0.1 + k, "mape": None} for k in range(2)]
    result = common.Result("s", rows, "| x |", {"n": 1}, {}, 90.0, ["less of it"])
    path = result.write(tmp_path, "kappascout study s")
    assert "- less of it" in path.read_text()
    assert "1.5 CPU-minutes" in path.read_text()
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["rows"] == rows
    assert {"torch", "matgl"} <= set(written["versions"])
    assert result.summary() == [{"set": "a", "mae": pytest.approx(0.6), "mape": None}]


def test_numbers_as_text():
    assert common.short(0.5) == ".500"
    assert common.short(-0.25) == "-.250"
    assert common.short(-1.5) == "-1.50"
    assert common.mean_std([0.1, None, 0.3]) == ".200 (.141)"
    assert common.mean_std([None]) == "-"


def test_a_start_that_has_seen_the_answers_by_another_name(studies_data):
    """A campaign calls ``kappa_300K`` what the files call ``kappa_300K_W_mK``; AGL is another quantity."""
    materials = read_sources(studies_data, ("L96",), lambda _: None)["L96"]

    def backbone(name):
        return replace(small_backbone("MEGNet"), card={"seen": {name: [materials[3].content_hash[:12]]}})

    common.check_unseen(backbone("kappa_agl_300K_W_mK"), materials, common.SOURCES["L96"])
    with pytest.raises(CampaignError, match=r"has seen kappa_300K_W_mK of 1 crystals .*told its answers"):
        common.check_unseen(backbone("kappa_300K"), materials, common.SOURCES["L96"])
