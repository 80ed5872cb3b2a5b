"""Leave-one-out errors and columns of features."""

from __future__ import annotations

import numpy as np

from campaigns.studies.models import Features, left_out_errors
from engine.learning.backbones.column_statistics import ColumnStatistics


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
    np.testing.assert_allclose(left_out_errors(head), errors, atol=1e-8)


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
