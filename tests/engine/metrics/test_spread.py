"""The parts of a spread against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from engine.learning.ensemble.ensemble import MemberTable
from engine.metrics.spread import decompose


def test_parts_of_two_members():
    found = decompose([[0.0, 1.0], [2.0, 1.0]], [[3.0, 0.5], [3.0, 0.5]])
    assert found.between == pytest.approx([np.sqrt(2.0), 0.0])
    assert found.within == pytest.approx([3.0, 0.5])
    assert found.total == pytest.approx([np.sqrt(11.0), 0.5])


def test_the_total_is_that_of_the_ensemble():
    rng = np.random.default_rng(0)
    table = MemberTable(rng.normal(size=(5, 40)), rng.uniform(0.1, 0.4, size=(5, 40)))
    assert decompose(table.mean, table.std).scaled(1.3).total == pytest.approx(table.total(1.3)[1])


def test_the_variance_is_that_of_the_mixture():
    """Draw from the mixture itself: member by member, then the member's own scatter."""
    rng = np.random.default_rng(1)
    mean, std = rng.normal(size=(4, 1)), np.full((4, 1), 0.3)
    drawn = np.concatenate([m + 0.3 * rng.standard_normal(50_000) for m in mean[:, 0]])
    parts = decompose(mean, std)
    population = parts.between**2 * 3 / 4 + parts.within**2
    assert drawn.var() == pytest.approx(population[0], rel=0.02)


def test_summary_shares_the_variance():
    summary = decompose([[0.0, 0.0], [2.0, 2.0]], np.full((2, 2), np.sqrt(2.0))).summary()
    assert summary == pytest.approx({"between": 2**0.5, "within": 2**0.5, "total": 2.0, "between_share": 0.5})
    assert decompose(np.zeros((3, 4))).summary()["between_share"] == 0.0


def test_factors_may_differ_from_row_to_row():
    scaled = decompose([[0.0, 0.0], [2.0, 2.0]]).scaled([1.0, 3.0])
    assert scaled.total == pytest.approx([2**0.5, 3 * 2**0.5])


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="at least 2 members"):
        decompose([[1.0, 2.0]])
    with pytest.raises(ValueError, match="standard deviations of shape"):
        decompose(np.zeros((2, 3)), np.zeros((2, 2)))
