"""CSV of crystals, row by row; tables of properties as before; and a refusal where a table is neither."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.formats import Record, parse
from engine.materials.readers import read
from engine.materials.tables import cells, whole_rows
from tests.engine.materials.cases import rocksalt, rutile, zincblende
from tests.engine.materials.test_readers import cif

CRYSTALS = [rocksalt(), zincblende(), rutile()]


def records(*paths: Path) -> list[Record | Rejection]:
    return [r if isinstance(r, Rejection) else parse(r) for r in read(paths)]


def table(*rows: list[Any], delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def mp20(delimiter: str = ",") -> str:
    """Give a table as MP-20's."""
    names = ["", "material_id", "formation_energy_per_atom", "band_gap", "pretty_formula", "elements", "cif"]
    rows = [
        [n, f"mp-{n}", -1.5, "" if n == 2 else 0.5, c.formula, str(list(c.composition)), cif(c), 225]
        for n, c in enumerate(CRYSTALS)
    ]
    return table([*names, "spacegroup.number"], *rows, delimiter=delimiter)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("container", ["csv", "csv.gz", "zip"])
def test_mp20(tmp_path: Path, delimiter: str, container: str) -> None:
    path = tmp_path / f"mp20.{container}"
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mp20/test.csv", mp20(delimiter))
    else:
        content = mp20(delimiter).encode()
        path.write_bytes(content if container == "csv" else gzip.compress(content))
    found = records(path)
    assert all(isinstance(r, Record) for r in found), found
    good = [r for r in found if isinstance(r, Record)]
    assert [(r.id, r.crystal.formula) for r in good] == [("mp-0", "MgO"), ("mp-1", "SiC"), ("mp-2", "TiO2")]
    expected = {"formation_energy_per_atom": -1.5, "pretty_formula": "TiO2", "spacegroup.number": 225.0}
    assert good[2].properties == expected
    assert good[0].properties["band_gap"] == 0.5


@pytest.mark.parametrize("column", ["structure", "structure_json", "atoms", "Structure"])
@pytest.mark.parametrize("writing", [json.dumps, str])
def test_columns_of_json_and_of_python(tmp_path: Path, column: str, writing: Any) -> None:
    rows = [[f"q{n}", writing(c.to_structure().as_dict()), 2.5] for n, c in enumerate(CRYSTALS)]
    (tmp_path / "x.csv").write_text(table(["id", column, "kappa"], *rows))
    found = records(tmp_path)
    assert [(r.id, r.crystal.formula, r.properties) for r in found if isinstance(r, Record)] == [
        (f"q{n}", c.formula, {"kappa": 2.5}) for n, c in enumerate(CRYSTALS)
    ]


def test_bad_rows_are_refused_by_themselves(tmp_path: Path) -> None:
    good = cif(CRYSTALS[0])
    rows = [["a", good, "MgO"], ["b", "", "MgO"], ["c", good], ["d", good, "MgO2"], ["e", good, "MgO"]]
    (tmp_path / "x.csv").write_text(table(["id", "cif", "formula"], *rows))
    found = records(tmp_path)
    assert [r.id if isinstance(r, Record) else f"-{r.record_id}" for r in found] == ["a", "-b", "-x-3", "-d", "e"]


@pytest.mark.parametrize("text", ["formula,gap\nMgO,5\n", "a;b\n1;2\n", "cif,gap\nno crystal,1\n", "\n"])
def test_a_table_of_neither_is_refused_once_with_its_columns(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    (found,) = records(tmp_path)
    assert isinstance(found, Rejection)
    assert found.reason is RejectionReason.MISSING_FIELD
    assert all(name in found.message for name in text.splitlines()[0].replace(";", ",").split(","))
    assert "cif" in found.remedy


def test_a_table_of_properties_in_an_archive_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.cif", cif(CRYSTALS[0]))
        archive.writestr("t.csv", "id,gap\na,5\n")
    good, refused = records(tmp_path / "x.zip")
    assert isinstance(good, Record)
    assert isinstance(refused, Rejection)
    assert "archive" in refused.remedy


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_of_properties_are_joined(tmp_path: Path, name: str, encoding: str) -> None:
    """Also where a column of words is called as one of crystals, and a cell has several lines."""
    text = table(["id", "structure", "note", "gap"], ["y", "rock salt", "two\nlines", 5], ["z", "x", "", 6])
    content = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (tmp_path / "y.cif").write_text(cif(CRYSTALS[0]))
    (tmp_path / "z.cif").write_text(cif(CRYSTALS[1]))
    first, second = records(tmp_path)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert first.properties == {"structure": "rock salt", "note": "two\nlines", "gap": 5.0}
    assert second.properties == {"structure": "x", "gap": 6.0}


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id,gap\n" + b"x,1\n" * 5000)[:-20])
    (found,) = records(tmp_path)
    assert isinstance(found, Rejection)
    assert found.reason is RejectionReason.UNREADABLE


@given(st.lists(st.lists(st.text('ab",;\n\r', max_size=6), min_size=2, max_size=3), max_size=6))
def test_rows_are_cut_as_the_csv_module_cuts_them(rows: list[list[str]]) -> None:
    content = table(*rows).encode()
    found = [cells(row) for row in whole_rows(io.BytesIO(content))]
    assert found == list(csv.reader(io.StringIO(content.decode(), newline="")))


def test_a_quote_that_never_ends_costs_its_line(tmp_path: Path) -> None:
    lines = list(whole_rows(io.BytesIO(b'a,"b\nc,d\ne,f\n')))
    assert lines == [b'a,"b\n', b"c,d\n", b"e,f\n"]
