"""Entries come back from JSON as they were, and hashes tell what matters from what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.exceptions import ExchangeError
from campaigns.exchange.manifest import (
    Entry,
    EntrySettings,
    Method,
    Phonons,
    Predicted,
    Work,
    differences,
    meaning_sha256,
    text_sha256,
)

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 10**6)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ROW = st.tuples(*[st.integers(-9, 9)] * 3)
MATRIX = st.tuples(ROW, ROW, ROW)
PHONONS = st.builds(
    Phonons,
    supercell=MATRIX,
    fc2_supercell=st.none() | MATRIX,
    displacements=st.sampled_from(["random", "systematic"]),
    snapshots=st.none() | COUNT,
    fc2_snapshots=st.none() | COUNT,
    seed=COUNT,
    amplitude=NUMBER,
    pair_cutoff=st.none() | NUMBER,
    mesh=st.tuples(COUNT, COUNT, COUNT),
    solver=st.sampled_from(["rta", "lbte"]),
    isotope=st.booleans(),
    temperatures=st.lists(NUMBER, max_size=3).map(tuple),
    imaginary_tolerance=NUMBER,
)
SETTINGS = st.builds(
    EntrySettings,
    relax=st.booleans(),
    born=st.booleans(),
    phonons=st.none() | PHONONS,
    inputs=st.dictionaries(TEXT, TEXT, max_size=3),
    method=st.none()
    | st.builds(
        Method,
        **dict.fromkeys(("preset", "potcar_release"), st.none() | TEXT),
        **dict.fromkeys(("functional", "spin", "moments", "magnetism"), TEXT),
        potcar=st.dictionaries(TEXT, TEXT, max_size=2),
        hubbard_u=st.dictionaries(TEXT, NUMBER, max_size=2),
    ),
)
PREDICTED = st.builds(Predicted, **{name: st.none() | NUMBER for name in Predicted.model_fields})


def _entry(settings: EntrySettings, **fields: Any) -> Entry:
    return Entry(schema_version=1, settings=settings, settings_sha256=settings.sha256, **fields)


ENTRIES = st.builds(
    _entry,
    settings=SETTINGS,
    **dict.fromkeys(("campaign", "property", "fidelity", "id", "formula", "reason"), TEXT),
    **dict.fromkeys(("content_hash", "poscar_sha256"), TEXT),
    **dict.fromkeys(("round", "rank", "spacegroup"), COUNT),
    **{name: st.none() | NUMBER for name in ("acquisition", "expected_cost")},
    predicted=PREDICTED,
    work=st.none() | st.builds(Work, supercells=COUNT, atoms=COUNT, core_hours=NUMBER),
    notes=st.lists(TEXT, max_size=2).map(tuple),
    versions=st.dictionaries(TEXT, TEXT, max_size=3),
)


@given(ENTRIES)
def test_entries_round_trip(entry: Entry) -> None:
    text = entry.to_json()
    again = Entry.from_json(text, "x")
    assert again == entry
    assert again.to_json() == text
    assert again.identity == entry.identity
    assert differences(entry, again) == []


@given(ENTRIES, SETTINGS)
def test_other_settings_are_named(entry: Entry, settings: EntrySettings) -> None:
    changed = entry.model_copy(update={"settings": settings})
    named = differences(entry, changed)
    assert bool(named) == (settings != entry.settings)
    assert all(name.startswith("settings.") for name in named)
    if named:
        with pytest.raises(ExchangeError, match=r"^x "):
            Entry.from_json(changed.to_json(), "x")


@given(ENTRIES, st.data())
def test_a_cut_manifest_is_refused(entry: Entry, data: st.DataObject) -> None:
    text = entry.to_json().rstrip()
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ExchangeError, match=r"^x "):
        Entry.from_json(text[:cut], "x")


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        ("INCAR", "ENCUT = 520.0\nNSW = 0\n", "nsw=0 # no steps\n\nENCUT  =  520.0 ; NCORE = 4\n", True),
        ("INCAR", "ENCUT = 520.0\n", "ENCUT = 500.0\n", False),
        ("INCAR", "ENCUT = 520.0\n", "ENCUT = 520.0\nISPIN = 2\n", False),
        ("KPOINTS", "pymatgen\n0\nGamma\n2 2 2\n", "mine\n0\nGamma\n2  2 2\n", True),
        ("KPOINTS", "pymatgen\n0\nGamma\n2 2 2\n", "pymatgen\n0\nGamma\n3 3 3\n", False),
        ("POTCAR.spec", "Na_pv\nCl\n", "Na_pv\r\nCl", True),
        ("POTCAR.spec", "Na_pv\nCl\n", "Cl\nNa_pv\n", False),
    ],
)
def test_the_meaning_of_inputs(name: str, one: str, other: str, same: bool) -> None:
    assert (meaning_sha256(name, one) == meaning_sha256(name, other)) is same


def test_settings_without_a_method_have_the_hash_of_earlier_versions() -> None:
    settings = EntrySettings(relax=True, born=False, phonons=None, inputs={"relax/INCAR": "x"})
    text = '{"born": false, "inputs": {"relax/INCAR": "x"}, "phonons": null, "relax": true}'
    assert settings.sha256 == text_sha256(text)
    assert "method" not in settings.model_dump(mode="json")
    method = Method(
        preset=None,
        functional="PBE",
        potcar_release="PBE_54",
        potcar={},
        spin="none",
        moments="",
        magnetism="",
        hubbard_u={},
    )
    assert settings.model_copy(update={"method": method}).sha256 != settings.sha256
