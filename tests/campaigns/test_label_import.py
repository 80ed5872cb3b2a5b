"""Labels from CSV and JSON lines: kept as they are written, or all refused in one message."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns.exceptions import LabelFileError
from campaigns.intake.label_files import OPTIONAL, REQUIRED, read_labels
from tests.campaigns.helpers import done, label_rows, refused, write_lines

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
WORD = TEXT.map(str.strip).filter(bool)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": WORD, "property": WORD, "value": NUMBER, "unit": WORD, "fidelity": WORD},
        optional={
            "temperature": st.floats(1, 2000),
            "uncertainty": NUMBER,
            "cost": NUMBER,
            "method": TEXT,
            "source": TEXT,
        }
        | {"code": TEXT.filter(bool), "k-mesh": TEXT.filter(bool)},
    ).map(lambda row: row | {"property": "kappa"} if row["property"].endswith("K") else row),
    min_size=1,
    max_size=5,
)
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(path: Path, rows: list[dict[str, Any]]) -> None:
    """Every row comes back: known columns as fields, all others as provenance."""
    content = read_labels(path)
    assert content.problems == []
    for label, row in zip(content.labels, rows, strict=True):
        fields = vars(label) | {"id": label.material_id}
        for name in (*REQUIRED, *OPTIONAL):
            assert fields[name] == row.get(name, "" if name in ("method", "source") else None)
        assert label.provenance == {k: v for k, v in row.items() if k not in (*REQUIRED, *OPTIONAL)}


@given(ROWS)
@IN_ONE_FOLDER
def test_csv_round_trips(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Commas, quotes, line breaks and other scripts within a field are text."""
    path = tmp_path / "labels.csv"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
    check(path, rows)


@given(ROWS, st.booleans())
@IN_ONE_FOLDER
def test_json_lines_round_trip(tmp_path: Path, rows: list[dict[str, Any]], ascii: bool) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows), encoding="utf-8", newline="")
    check(path, rows)


def test_what_spreadsheets_write(tmp_path: Path) -> None:
    """A byte-order mark, spaces in the header, Windows line ends, empty lines and cells."""
    path = tmp_path / "labels.csv"
    path.write_bytes(
        b"\xef\xbb\xbfid, property ,value,unit,fidelity,uncertainty,comment\r\n"
        b"NaCl,kappa_300K,6.5,W/(m K),experiment,,\r\n\r\nKCl , kappa_300K,6.9,W/mK,experiment,0.2,old\r\n"
    )
    first, second = read_labels(path).labels
    assert (first.material_id, first.property, first.uncertainty, first.provenance) == ("NaCl", "kappa_300K", None, {})
    assert (second.material_id, second.uncertainty, second.provenance) == ("KCl", 0.2, {"comment": "old"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "id,property,value,unit\n", "lacks the columns fidelity (found: id, property, value, unit)"),
        ("x.csv", "", "lacks the columns id, property, value, unit, fidelity (found: nothing)"),
        ("x.csv", "id,property,value,unit,fidelity\n", "holds no labels"),
        ("x.csv", 'id,property,value,unit,fidelity\n"a,b', "CSV near line 1"),
        ("x.jsonl", "", "holds no labels"),
        ("x.jsonl", "{", "line 1 is not valid JSON"),
        ("x.jsonl", "[1]", "line 1 is a list; give one object a line"),
    ],
)
def test_files_that_hold_no_labels(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LabelFileError) as caught:
        read_labels(tmp_path / name)
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


HEADER = "id,property,value,unit,fidelity"


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("value.csv", "id,property,value,value,unit,fidelity\na,kappa_300K,4,9,W/(m K),dft\n", "value"),
        ("id.csv", "id,id,property,value,unit,fidelity\na,b,kappa_300K,4,W/(m K),dft\n", "id"),
        ("x.jsonl", '{"id": "a", "property": "kappa", "value": 4, "value": 9, "unit": "", "fidelity": "dft"}', "value"),
    ],
)
def test_what_stands_twice_is_refused(tmp_path: Path, name: str, content: str, word: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LabelFileError, match=word):
        read_labels(tmp_path / name)


@pytest.mark.parametrize("value", ["1_0", "０７", "9,5", "9.5(3)", "0x1A", "nan", "inf", "1e999", "ten"])
def test_what_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "l.csv").write_text(f'{HEADER}\na,kappa_300K,"{value}",W/(m K),dft\n')
    (problem,) = read_labels(tmp_path / "l.csv").problems
    assert problem.value == value


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xff")
    with pytest.raises(LabelFileError, match="UTF-8"):
        read_labels(tmp_path / "x.csv")
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(LabelFileError, match="give CSV"):
            read_labels(path)


BAD = {
    "negative": ({"value": -1.0}, "must be above zero"),
    "zero": ({"value": 0.0}, "must be above zero"),
    "not a number": ({"value": "about 3"}, "value is 'about 3', not a finite number"),
    "truth": ({"value": True}, "value is True, not a finite number"),
    "nan": ({"value": float("nan")}, "value is nan, not a finite number"),
    "infinite": ({"value": float("inf")}, "value is inf, not a finite number"),
    "huge": ({"value": 10**400}, "not a finite number"),
    "no value": ({"value": None}, "no value; every label needs id, property, value, unit, fidelity"),
    "no unit": ({"unit": ""}, "no unit; every label needs"),
    "blank unit": ({"unit": " "}, "no unit; every label needs"),
    "wrong unit": ({"unit": "W/(cm K)"}, "unit 'W/(cm K)'; convert the value to W/(m K)"),
    "no fidelity": ({"fidelity": ""}, "no fidelity; every label needs"),
    "unknown material": ({"id": "nobody"}, "no material is known under this id; ingest it first"),
    "600 K": ({"temperature": 600}, "temperature is 600 K, but kappa_300K is the value at 300 K"),
    "absolute zero": ({"property": "kappa", "temperature": -1.0}, "give a temperature above zero"),
    "uncertainty": ({"uncertainty": -0.1}, "uncertainty -0.1; give a number from zero up"),
    "word for a number": ({"uncertainty": "small"}, "uncertainty is 'small', not a finite number"),
}


def test_all_bad_rows_are_listed_and_nothing_is_imported(dft: Path, records: list[dict[str, Any]]) -> None:
    """One message for every row of every file, in their order, whoever found the fault."""
    before = done("label", "list", dft, "--format", "json").json
    good = label_rows(records[20:])
    bad = [row | change for row, (change, _) in zip(good, BAD.values(), strict=False)]
    twice = [good[30], good[30] | {"value": 99.0}]
    first = write_lines(dft / "first.jsonl", [good[25], *bad])
    second = write_lines(dft / "second.jsonl", [*twice, good[31]])
    message = refused("label", "import", dft, first, second)
    assert f"{len(BAD) + 1} of {len(BAD) + 4} labels" in message
    lines = message.splitlines()[1:]
    for number, (name, (_, expected)) in enumerate(BAD.items(), start=2):
        own = [line for line in lines if f"{first} line {number}: " in line]
        assert own, name
        assert any(expected in line for line in own), (name, own)
    assert f"{second} line 2: " in lines[-1]
    assert f"contradicts {second} line 1 (value {good[30]['value']!r})" in lines[-1]
    assert done("label", "list", dft, "--format", "json").json == before


def test_a_file_that_cannot_be_read_stops_the_others(dft: Path, records: list[dict[str, Any]]) -> None:
    good = write_lines(dft / "good.jsonl", label_rows(records[20:22]))
    (dft / "bad.csv").write_text("id,value\n")
    assert "lacks the columns" in refused("label", "import", dft, good, dft / "bad.csv")
    assert len(done("label", "list", dft, "--format", "json").json) == 14


def test_importing_again_changes_nothing_and_a_correction_supersedes(dft: Path, records: list[dict[str, Any]]) -> None:
    rows = label_rows(records[20:23])
    path = write_lines(dft / "labels.jsonl", rows)
    assert done("label", "import", dft, path, "--format", "json").json == {"added": 3, "unchanged": 0, "superseded": 0}
    assert done("label", "import", dft, path, "--format", "json").json == {"added": 0, "unchanged": 3, "superseded": 0}
    rows[0] = rows[0] | {"value": 123.0}
    again = done("label", "import", dft, write_lines(path, rows), "--format", "csv").out
    assert again == "added,unchanged,superseded\n1,2,1\n"
    values = {label["material_id"]: label["value"] for label in done("label", "list", dft, "--format", "json").json}
    assert values[rows[0]["id"]] == 123.0


def test_room_temperature_and_other_spellings_pass(dft: Path, records: list[dict[str, Any]]) -> None:
    rows = label_rows(records[20:22], temperature=298.15, unit="W/mK", cost=1200, code="VASP 6")
    done("label", "import", dft, write_lines(dft / "labels.jsonl", rows))
    label = done("label", "list", dft, "--format", "json").json[-1]
    assert (label["unit"], label["cost"], label["provenance"]) == ("W/(m K)", 1200.0, {"code": "VASP 6"})
