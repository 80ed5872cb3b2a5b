"""Splits: both sides together are all rows, no group is on both, and the order of the rows does not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.exceptions import SplitError
from engine.metrics.splits import SplitSettings, split_rows

VALUES = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=60)


def groups_of(settings, rows):
    """Split rows that are given as (formula, space-group number)."""
    return split_rows(settings, [r[0] for r in rows], [r[1] for r in rows], np.ones(len(rows)))


ROWS = st.lists(st.tuples(st.sampled_from(["NaCl", "KCl", "MgO", "ZnS", "Si"]), st.integers(215, 230)), min_size=2)


@given(ROWS, st.sampled_from(["formula", "space_group"]), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.5, 0.9]))
def test_no_group_is_on_both_sides(rows, kind, seed, share):
    column = 0 if kind == "formula" else 1
    groups = [row[column] for row in rows]
    assume(len(set(groups)) > 1)
    split = groups_of(SplitSettings(kind, seed, share), rows)
    assert sorted([*split.training, *split.test]) == list(range(len(rows)))
    assert len(split.training)
    assert len(split.test)
    sides = [{groups[row] for row in side} for side in (split.training, split.test)]
    assert not sides[0] & sides[1]
    assert split.groups == (len(sides[0]), len(sides[1]))
    smallest = min(groups.count(group) for group in set(groups))
    assert len(split.test) <= max(2 * share * len(rows), smallest)


@given(ROWS, st.sampled_from(["formula", "space_group"]), st.randoms(use_true_random=False))
def test_the_sides_do_not_depend_on_the_order_of_rows(rows, kind, random):
    column = 0 if kind == "formula" else 1
    groups = [row[column] for row in rows]
    counts = {group: groups.count(group) for group in groups}
    assume(len(counts) > 1)
    mixed = list(rows)
    random.shuffle(mixed)
    first, second = (groups_of(SplitSettings(kind, 3), given) for given in (rows, mixed))
    assert {rows[row][column] for row in first.test} == {mixed[row][column] for row in second.test}


@given(VALUES, st.sampled_from(["low", "high"]), st.one_of(st.none(), st.floats(1e-3, 1e3)))
def test_a_tail_lies_beyond_all_training_values(values, tail, threshold):
    settings = SplitSettings("tail", tail=tail, threshold=threshold)
    values = np.array(values)
    try:
        split = split_rows(settings, [], [], values)
    except SplitError:
        low = tail == "low"
        limit = (values.max() if low else values.min()) if threshold is None else threshold
        sides = values <= limit if low else values >= limit
        assert sides.all() or not sides.any()
        return
    assert sorted([*split.training, *split.test]) == list(range(len(values)))
    known, new = values[split.training], values[split.test]
    assert len(known)
    assert len(new)
    if tail == "low":
        assert new.max() <= split.threshold < known.min()
    else:
        assert known.max() < split.threshold <= new.min()
    assert threshold is None or split.threshold == threshold


def test_a_tail_without_a_threshold_is_a_fifth():
    values = np.arange(100.0)
    low, high = (split_rows(SplitSettings("tail", tail=tail), [], [], values) for tail in ("low", "high"))
    assert low.test.tolist() == list(range(20))
    assert high.test.tolist() == list(range(80, 100))


def test_groups_of_many_rows_are_tested_too():
    """Of three groups of a third each and some of one row, a fifth is best met by one of the large ones."""
    rows = [("X", group) for group in (186, 216, 225) for _ in range(31)] + [("Y", 62), ("Z", 63)]
    tested = [len(groups_of(SplitSettings("space_group", seed), rows).test) for seed in range(10)]
    assert set(tested) <= {31, 32, 33}


def test_another_seed_tests_other_formulas():
    rows = [(f"X{k}", 1) for k in range(200)]
    first, again, other = (groups_of(SplitSettings("formula", seed), rows) for seed in (0, 0, 1))
    assert first.test.tolist() == again.test.tolist()
    assert first.test.tolist() != other.test.tolist()
    assert len(first.test) == len(other.test) == 40


def test_what_cannot_be_split_is_refused():
    with pytest.raises(SplitError, match="3 rows of 1 space groups"):
        groups_of(SplitSettings("space_group"), [("NaCl", 225), ("MgO", 225), ("KCl", 225)])
    with pytest.raises(SplitError, match="0 of 2 values"):
        split_rows(SplitSettings("tail", threshold=9.0), [], [], [1.0, 2.0])
    with pytest.raises(SplitError, match="has no threshold"):
        SplitSettings("formula", threshold=1.0)
    with pytest.raises(SplitError, match="between 0 and 1"):
        SplitSettings("formula", share=1.0)
