from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.exceptions import IllegalMoveError, LabelError, UnknownMaterialError, UnknownRecordError
from db.labels import canonical_unit
from db.records import CopyRecord, FailureRecord, LabelRecord
from db.states import FailureReason


def label(material_id="m1", value=2.5, **changes):
    fields = {"property": "kappa_300K", "unit": "W/(m K)", "fidelity": "dft", "temperature": 300.0}
    return LabelRecord(material_id, value=value, **fields | changes)


def test_labels_come_back_as_they_went_in(store, pool):
    first = label(uncertainty=0.2, method="RTA", source="phono3py", provenance={"mesh": [11, 11, 11]}, cost=120.5)
    report = store.add_labels([first, label("m2", 7)])
    assert (len(report.added), report.unchanged, report.superseded) == (2, [], [])
    found = store.labels("kappa_300K")
    assert found[0] == replace(first, id=report.added[0], record_id="m1", created_at=found[0].created_at)
    assert found[0].is_current
    assert found[1].value == 7.0


def test_the_same_again_is_unchanged(store, pool):
    batch = [label(f"m{i}", 1.0 + i) for i in range(10)]
    added = store.add_labels(batch).added
    report = store.add_labels(batch)
    assert (report.added, report.unchanged, report.superseded) == ([], added, [])
    assert store.labels("kappa_300K", current_only=False) == store.labels("kappa_300K")


def test_a_correction_supersedes_and_nothing_is_lost(store, pool):
    (first,) = store.add_labels([label(value=2.5)]).added
    report = store.add_labels([label(value=3.5)])
    assert report.superseded == [first]
    assert [found.value for found in store.labels("kappa_300K")] == [3.5]
    history = store.labels("kappa_300K", current_only=False)
    assert [(found.value, found.superseded_by) for found in history] == [(2.5, report.added[0]), (3.5, None)]
    assert not history[0].is_current
    back = store.add_labels([label(value=2.5)])
    assert back.superseded == report.added
    assert store.counts()["labels"] == 1


def test_a_withdrawal_takes_back_and_nothing_is_lost(store, pool):
    store.add_labels([label(value=2.5)])
    ids = store.add_labels([label(value=3.5), label("m2")]).added
    first, second = store.withdraw_labels([*ids, ids[0]], "me", " unconverged ")
    assert (first.withdrawal, first.withdrawn_by, first.withdrawn_reason) == (1, "me", "unconverged")
    assert second.withdrawn_at == first.withdrawn_at >= first.created_at
    assert not first.is_current
    assert store.labels() == []
    assert store.counts()["labels"] == 0
    assert (store.fidelities("kappa_300K"), store.labelled_properties(), store.labelled_fidelities()) == ({}, {}, {})
    assert [one.value for one in store.labels(current_only=False)] == [2.5, 3.5, 2.5], "the corrected one stays so"
    assert store.withdrawn_labels() == [first, second]
    again = store.add_labels([label(value=3.5), label("m2", 9.0)])
    assert (again.unchanged, len(again.added), again.superseded) == ([ids[0]], 1, [])
    assert len(store.add_labels([label(value=3.5)], again=True).added) == 1
    store.withdraw_labels(again.added, "me", "x")
    assert store.last_withdrawal() == 2
    assert store.last_label() == max(one.id for one in store.labels(current_only=False))


def test_what_cannot_be_withdrawn_keeps_the_others(store, pool):
    (old,) = store.add_labels([label(value=2.5)]).added
    new, gone = store.add_labels([label(value=3.5), label("m2")]).added
    store.withdraw_labels([gone], "me", "x")
    for ids, reason, error in (
        ([new, old], "x", IllegalMoveError), ([new, gone], "x", IllegalMoveError), ([new], " ", IllegalMoveError),
        ([new, 999], "x", UnknownRecordError),
    ):  # fmt: skip
        with pytest.raises(error):
            store.withdraw_labels(ids, "me", reason)
    assert [one.id for one in store.labels()] == [new]


def test_a_withdrawn_unit_binds_nobody(store, pool):
    (wrong,) = store.add_labels([label("m1", -120.0, property="formation_energy", unit="kJ/mol")]).added
    store.withdraw_labels([wrong], "me", "wrong unit")
    assert store.add_labels([label("m1", -1.2, property="formation_energy", unit="eV/atom")]).added


@pytest.mark.parametrize(("value", "taken"), [(0.1, True), (0.09, False), (10.0, True), (10.1, False)])
def test_limits(store, pool, value, taken):
    store.label_limits = {"kappa_300K": (0.1, 10.0), "gap": (None, 0.0)}
    assert store.add_labels([label(value=value, property="kappa_400K", temperature=400.0)]).added
    if taken:
        assert store.add_labels([label(value=value)]).added
    else:
        with pytest.raises(LabelError, match=f"{value!r}.*limits"):
            store.add_labels([label(value=value)])


@pytest.mark.parametrize(
    "other",
    [{"fidelity": "agl"}, {"temperature": 400.0}, {"method": "LBTE"}, {"source": "paper"}, {"temperature": None}],
)
def test_labels_that_differ_in_kind_coexist(store, pool, other):
    assert store.add_labels([label(), label(value=9.0, **other)]).superseded == []
    assert len(store.labels("kappa_300K")) == 2


def test_two_copies_of_one_crystal_may_each_have_a_value(store, pool, make_material):
    store.link_copies([CopyRecord("m1", make_material("copy", "h"))])
    batch = [label("m1", 1.0, fidelity="agl"), label("copy", 1.1, fidelity="agl")]
    store.add_labels(batch)
    assert store.add_labels(batch).added == []
    found = store.labels("kappa_300K")
    assert [(one.material_id, one.record_id, one.value) for one in found] == [("m1", "m1", 1.0), ("m1", "copy", 1.1)]


def test_finders(store, pool):
    store.add_labels([label("m1"), label("m2"), label("m1", fidelity="agl"), label("m3", property="gap", unit="eV")])
    assert store.fidelities("kappa_300K") == {"agl": 1, "dft": 2}
    assert store.labelled_properties() == {"gap": 1, "kappa_300K": 3}
    assert [found.material_id for found in store.labels("kappa_300K", "dft")] == ["m1", "m2"]
    assert [found.property for found in store.labels(material_ids=["m3", "m2"])] == ["kappa_300K", "gap"]
    with pytest.raises(UnknownMaterialError):
        store.labels(material_ids=["nobody"])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"value": 0.0}, "must be above zero"),
        ({"value": -1.0}, "must be above zero"),
        ({"value": math.nan}, "not a finite number"),
        ({"value": math.inf}, "not a finite number"),
        ({"value": "2.5"}, "not a finite number"),
        ({"value": True}, "not a finite number"),
        ({"unit": " "}, "no unit"),
        ({"unit": "mW/(m K)"}, "convert the value to W/"),
        ({"fidelity": ""}, "no fidelity"),
        ({"temperature": 0.0}, "temperature 0.0 K"),
        ({"temperature": math.nan}, "temperature nan K"),
        ({"uncertainty": -0.1}, "uncertainty -0.1"),
        ({"cost": math.inf}, "cost inf"),
        ({"provenance": {"mesh": object()}}, "provenance, mesh is a object"),
        ({"material_id": "nobody"}, "no material is known"),
    ],
)
def test_bad_labels_say_what_is_wrong_and_nothing_is_written(store, pool, bad, words):
    with pytest.raises(LabelError, match="1 of 3 labels") as caught:
        store.add_labels([label("m2"), replace(label(), **bad), label("m3")], ["a.csv line 2", "line 3", "line 4"])
    (problem,) = caught.value.problems
    assert problem.location == "line 3"
    assert words in str(caught.value)
    assert store.counts()["labels"] == 0


def test_every_bad_label_is_listed(store, pool):
    with pytest.raises(LabelError, match=r"and 10 more") as caught:
        store.add_labels(label(value=-float(i), source=str(i)) for i in range(60))
    assert [problem.location for problem in caught.value.problems] == [f"label {i}" for i in range(1, 61)]
    assert "label 50: 'm1', value -49.0: kappa_300K must be above zero" in str(caught.value)


def test_contradictions_inside_a_batch_are_refused(store, pool):
    with pytest.raises(LabelError, match=r"label 2: 'm1', value 3.5.*label 1 \(value 2.5\)"):
        store.add_labels([label(), label(value=3.5)])
    assert len(store.add_labels([label(), label()]).added) == 1


def test_one_property_has_one_unit(store, pool):
    store.add_labels([label("m1", -1.2, property="formation_energy", unit="eV/atom")])
    with pytest.raises(LabelError, match="'eV/atom'"):
        store.add_labels([label("m2", -120.0, property="formation_energy", unit="kJ/mol")])


@pytest.mark.parametrize("unit", ["W/(m K)", "W/mK", "W/(m*K)", "W/m/K", "W m^-1 K^-1", "W·m⁻¹·K⁻¹", " W/(K m) "])
def test_usual_spellings_of_the_unit_are_one(unit):
    assert canonical_unit("kappa_300K", unit) == "W/(m K)"
    assert canonical_unit("band_gap", unit) == unit.strip()


def test_voided_failures_stay_and_may_come_again(store, pool):
    failure = FailureRecord("m1", "kappa_300K", "dft", FailureReason.TIMED_OUT, "24 h", cost=10.0)
    (first,) = store.add_failures([failure])
    (other,) = store.add_failures([replace(failure, material_id="m2")])
    assert store.last_voiding() == 0
    store.void_failures([first], "Ada", "longer")
    assert [one.id for one in store.failures()] == [other]
    void, _ = store.failures(current_only=False)
    assert (void.voiding, void.voided_by, void.voided_note, void.is_current) == (1, "Ada", "longer", False)
    assert void.voided_at.endswith("+00:00")
    (again,) = store.add_failures([failure])
    assert [one.id for one in store.failures(material_ids=["m1"])] == [again]
    with pytest.raises(IllegalMoveError, match=f"failure {first} was voided .* by Ada"):
        store.void_failures([other, first], "Ada")
    with pytest.raises(UnknownRecordError, match="998"):
        store.void_failures([other, 998], "Ada")
    assert [one.id for one in store.failures()] == [other, again]
    store.void_failures([other, again], "Bob")
    assert store.failures() == []
    assert [one.voiding for one in store.failures(current_only=False)] == [1, 2, 2]
    assert store.last_voiding() == 2


def test_failures(store, pool):
    failure = FailureRecord("m1", "kappa_300K", "dft", FailureReason.IMAGINARY_MODES, "-1.2 THz", cost=10.0)
    (first,) = store.add_failures([failure, failure])
    assert store.add_failures([failure]) == []
    store.add_failures([replace(failure, material_id="m2", reason=FailureReason.TIMED_OUT)])
    found = store.failures("kappa_300K")
    assert found[0] == replace(failure, id=first, created_at=found[0].created_at)
    assert [one.reason for one in found] == [FailureReason.IMAGINARY_MODES, FailureReason.TIMED_OUT]
    assert [one.material_id for one in store.failures(material_ids=["m2"])] == ["m2"]
    assert store.failures("gap") == []


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=positive,
    fidelity=words.filter(str.strip),
    temperature=st.none() | positive,
    uncertainty=st.none() | positive,
    method=words,
    source=words,
    provenance=st.dictionaries(words, words | st.integers() | st.lists(positive), max_size=3),
)
def test_any_label_round_trips(store, pool, **fields):
    record = LabelRecord("m4", "kappa_300K", unit="W/(m K)", **fields)
    report = store.add_labels([record])
    (found,) = [
        one for one in store.labels("kappa_300K", material_ids=["m4"]) if one.id in report.added + report.unchanged
    ]
    kept = replace(found, id=None, record_id="", created_at="")
    assert kept == record if report.added else replace(kept, provenance=record.provenance) == record
