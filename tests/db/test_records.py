from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.exceptions import InvalidRecordError
from db.json_values import require_json
from db.records import (
    CampaignRecord,
    FailureRecord,
    MaterialRecord,
    ModelRecord,
    QueueEntryRecord,
    SourceRecord,
    utc_now,
)
from db.states import FailureReason


def material(**changes):
    fields = {
        "material_id": "m1",
        "content_hash": "h",
        "formula": "Si",
        "chemical_system": "Si",
        "spacegroup": 227,
        "n_sites": 2,
        "bucket": "Si|227|2",
        "structure": {"lattice": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "numbers": [14], "frac_coords": [[0, 0, 0]]},
    }
    return MaterialRecord(**fields | changes)


def test_time_is_utc_iso():
    assert utc_now().endswith("+00:00")


def test_material_without_source_is_its_own():
    assert material().sources == (SourceRecord("m1", ""),)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"material_id": " "}, "material_id"),
        ({"content_hash": ""}, "content_hash"),
        ({"properties": {"band_gap_eV": math.nan}}, "band_gap_eV"),
        ({"properties": {"band_gap_eV": math.inf}}, "band_gap_eV"),
        ({"properties": {"tags": ["a"]}}, "tags"),
        ({"properties": {"theoretical": None}}, "theoretical"),
        ({"sources": (SourceRecord("other", "file"),)}, "other"),
    ],
)
def test_bad_materials_are_refused_by_name(changes, named):
    with pytest.raises(InvalidRecordError, match=named):
        material(**changes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CampaignRecord("", "min", "kappa_300K"),
        lambda: CampaignRecord("c", "min", "kappa_300K", settings={"a": object()}),
        lambda: ModelRecord("m", metrics={"mae": math.nan}),
        lambda: FailureRecord("m1", "", "dft", FailureReason.TIMED_OUT),
        lambda: QueueEntryRecord(1, "m1", predicted_mean=math.nan),
        lambda: QueueEntryRecord(1, "m1", details={1: "a"}),
    ],
)
def test_other_bad_records_are_refused(make):
    with pytest.raises(InvalidRecordError):
        make()


def test_json_errors_name_the_path():
    with pytest.raises(InvalidRecordError, match="metrics, folds, item 1, mae"):
        require_json({"folds": [{"mae": 0.1}, {"mae": math.nan}]}, "metrics")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_json_passes(value):
    require_json(value, "value")
