"""The yardstick of an embedding's columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.learning.backbones.backbone import load_backbone, shipped_backbones
from engine.learning.backbones.column_statistics import ColumnStatistics
from engine.learning.backbones.stack import stacked
from engine.learning.heads.gp import GaussianProcessHead
from tests.engine.learning.bodies import small_backbone

GROUPS = {"composition": slice(0, 3), "bonding": slice(3, 5), "readout": slice(5, 9)}


@given(arrays(np.float32, (7, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_card_keeps_seven_digits(rows):
    population = ColumnStatistics.of(rows)
    again = ColumnStatistics.from_card(json.loads(json.dumps(population.to_card())))
    np.testing.assert_allclose(again.mean, population.mean, rtol=1e-6)
    np.testing.assert_allclose(again.std, population.std, rtol=1e-6)
    assert again.to_card() == ColumnStatistics.from_card(again.to_card()).to_card()


def test_rows_stand_in_for_what_is_not_known():
    rows = np.array([[1.0, 10.0, 5.0], [3.0, 30.0, 7.0]])
    population = ColumnStatistics(np.array([0.5, np.nan, 4.0]), np.array([2.0, np.nan, 0.0]))
    centre, scale = population.standardisation(rows)
    np.testing.assert_allclose(centre, [0.5, 20.0, 6.0])
    np.testing.assert_allclose(scale, [2.0, np.std([10, 30], ddof=1), np.std([5, 7], ddof=1)])


def test_a_column_in_which_few_labels_agree_does_not_decide():
    """Eight labelled rows agree in a column that is nothing but noise over the population."""
    rng = np.random.default_rng(0)
    everything = rng.normal(size=(400, 9)).astype(np.float32)
    labelled = everything[:8].copy()
    labelled[:, 8] = 0.001 * rng.normal(size=8)
    values = labelled[:, 5].astype(np.float64)
    population = ColumnStatistics.of(everything)
    errors = []
    for yardstick in (None, population):
        head = GaussianProcessHead.fit(labelled, values, GROUPS, 0, yardstick)
        errors.append(np.abs(head.predict(everything[8:])[0] - everything[8:, 5]).mean())
    assert errors[1] < errors[0]


def test_without_a_population_rows_are_the_yardstick():
    rng = np.random.default_rng(1)
    rows, values = rng.normal(size=(12, 9)).astype(np.float32), rng.normal(size=12)
    plain = GaussianProcessHead.fit(rows, values, GROUPS, 0)
    unknown = GaussianProcessHead.fit(rows, values, GROUPS, 0, ColumnStatistics.unknown(9))
    np.testing.assert_array_equal(plain.tensors.scale, unknown.tensors.scale)
    assert not np.array_equal(
        plain.tensors.centre,
        GaussianProcessHead.fit(rows, values, GROUPS, 0, ColumnStatistics.of(2 * rows)).tensors.centre,
    )


@pytest.mark.parametrize("name", shipped_backbones())
def test_shipped_backbones_tell_theirs(name):
    population = load_backbone(name).column_statistics
    assert population.mean.shape == (load_backbone(name).embedding_size,)
    assert np.isfinite(population.mean).all()
    assert (population.std >= 0).all()


def test_a_mixture_has_the_columns_of_each_part():
    own, other = load_backbone(), small_backbone("MEGNet")
    population = stacked([own, other]).column_statistics
    width = own.embedding_size
    assert population.mean.shape == (stacked([own, other]).embedding_size,)
    np.testing.assert_array_equal(population.std[:width], own.column_statistics.std)
    assert np.isnan(population.std[width:]).all(), "its card does not tell"
