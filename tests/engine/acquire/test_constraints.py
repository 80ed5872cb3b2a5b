"""Constraints keep what they should, count what they remove, and refuse nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from engine.acquire.constraints import Columns, Elements, Missing, PropertyRange, apply_constraints
from engine.exceptions import AcquisitionError

COLUMNS = Columns(
    {"band_gap_eV": np.array([0.0, 0.5, 1.5, np.nan, 3.0]), "n_sites": np.array([2.0, 4.0, 8.0, 2.0, 40.0])},
    ["Mg-O", "Mg-Si", "O-Pb-Ti", "Si", "O-Si"],
)


def _kept(*constraints) -> list[int]:
    return np.flatnonzero(apply_constraints(constraints, COLUMNS, 5).mask).tolist()


def test_ranges_include_their_limits_and_drop_or_keep_what_is_missing():
    assert _kept(PropertyRange("band_gap_eV", 0.5, 1.5)) == [1, 2]
    assert _kept(PropertyRange("band_gap_eV", minimum=0.5)) == [1, 2, 4]
    assert _kept(PropertyRange("band_gap_eV", maximum=0.5, missing=Missing.KEEP)) == [0, 1, 3]
    assert _kept(PropertyRange("n_sites", maximum=8)) == [0, 1, 2, 3]


def test_elements():
    assert _kept(Elements(include={"O"})) == [0, 2, 4]
    assert _kept(Elements(include={"O", "Si"})) == [4]
    assert _kept(Elements(exclude={"Pb", "Si"})) == [0]
    assert _kept(Elements(only={"Mg", "Si"})) == [1, 3]
    assert _kept(Elements(include={"Mg"}, exclude={"O"})) == [1]


def test_each_constraint_counts_what_it_removed_of_what_was_left():
    selection = apply_constraints(
        [PropertyRange("band_gap_eV", minimum=0.5), Elements(exclude={"Pb"}), PropertyRange("n_sites", maximum=8)],
        COLUMNS,
        5,
    )
    assert selection.mask.sum() == 1
    assert selection.removed == (("0.5 <= band_gap_eV", 2), ("elements without Pb", 1), ("n_sites <= 8", 1))


def test_nothing_left_says_which_constraint_removed_how_many():
    selection = apply_constraints([PropertyRange("n_sites", 3, 3), Elements(only={"Au"})], COLUMNS, 5)
    assert not selection.mask.any()
    assert selection.removed == (("3 <= n_sites <= 3", 5), ("elements only Au", 0))


def test_no_constraint_keeps_all():
    assert _kept() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PropertyRange("band_gap_eV", 2, 1), "band_gap_eV .* 2 .* 1;"),
        (lambda: PropertyRange("band_gap_eV", float("nan"), 1), "nan"),
        (lambda: PropertyRange("band_gap_eV"), "no limit"),
        (Elements, "names none"),
        (lambda: Elements(include={"Xx"}), "unknown element 'Xx'"),
        (lambda: Elements(include={"O"}, exclude={"O"}), "both .* O"),
        (lambda: Elements(include={"O"}, only={"Si"}), "both .* O"),
        (lambda: _kept(PropertyRange("band_gap", 1)), "did you mean 'band_gap_eV'"),
        (lambda: apply_constraints([PropertyRange("n_sites", 1)], COLUMNS, 6), "5 rows, the pool 6"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(AcquisitionError, match=message):
        make()
