"""Accuracy against closed forms; constants have no rank correlation."""

from __future__ import annotations

import numpy as np
import pytest

from engine.metrics.accuracy import accuracy, symmetric_error


def test_a_constant_factor_is_a_constant_log_error():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    result = accuracy(true, true + np.log10(1.5), "log10")
    assert result.n == 4
    assert result.mae == pytest.approx(np.log10(1.5)) == pytest.approx(result.rmse)
    assert result.mape == pytest.approx(0.5)
    assert result.spearman == pytest.approx(1.0)
    assert result.r2 == pytest.approx(1 - 4 * np.log10(1.5) ** 2 / 5)


def test_the_mean_has_r2_zero_and_no_rank():
    result = accuracy([0.0, 1.0, 2.0], [1.0, 1.0, 1.0], "log10")
    assert result.r2 == pytest.approx(0)
    assert result.spearman is None


def test_constant_values_have_neither():
    result = accuracy([1.0, 1.0], [0.5, 1.5], "log10")
    assert result.r2 is None
    assert result.spearman is None
    assert accuracy([1.0], [1.0], "log10").mae == 0


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="same rows"):
        accuracy([1.0, 2.0], [1.0], "log10")
    with pytest.raises(ValueError, match="same rows"):
        accuracy([], [], "log10")


def test_a_linear_scale_compares_in_the_unit_itself():
    result = accuracy([100.0, 400.0], [150.0, 200.0], scale="linear")
    assert result.mae == pytest.approx(125)
    assert result.mape == pytest.approx(0.5)
    assert accuracy([-900.0, 900.0], [900.0, -900.0], scale="linear").mape == pytest.approx(2)


def test_no_relative_error_of_zero():
    assert accuracy([0.0, 1.0], [1.0, 1.0], scale="linear").mape is None


def test_symmetric_errors_lie_between_nought_and_two():
    assert symmetric_error([3.0, 1.0, 2.0, np.nan], [1.0, 3.0, 2.0, 1.0]).tolist() == [1.0, 1.0, 0.0, 2.0]
    assert symmetric_error([1e-9], [1e9])[0] == pytest.approx(2)
