"""Layouts of JSON that people bring: every record comes in under its id with its values, or is refused by name."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.formats import Record, parse
from engine.materials.readers import read
from tests.engine.materials.cases import rocksalt, rutile, zincblende
from tests.engine.materials.sources.services import optimade_entry
from tests.engine.materials.test_dumps import alexandria

CRYSTALS = [rocksalt(), zincblende(), rutile()]
FORMULAS = [c.formula for c in CRYSTALS]
PYMATGEN = [c.to_structure().as_dict() for c in CRYSTALS]
OURS = [
    {"lattice": c.lattice.tolist(), "species": c.symbols, "frac_coords": c.frac_coords.tolist(), "kappa": 2.0 * n}
    for n, c in enumerate(CRYSTALS)
]
ENTRIES = [optimade_entry((f"m{n}", c, {}), "exmpl") for n, c in enumerate(CRYSTALS)]
COLUMNS = ["structure", "log10(K_VRH)"]
DOCUMENT = {"structure": PYMATGEN[0], "symmetry": {"number": 225}, "band_gap": 4.5, "theoretical": None}


def records(path: Path, document: object) -> list[Record | Rejection]:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return [r if isinstance(r, Rejection) else parse(r) for r in read(path)]


def good(path: Path, document: object) -> list[Record]:
    found = records(path, document)
    assert all(isinstance(r, Record) for r in found), found
    return [r for r in found if isinstance(r, Record)]


def rows(orient: str) -> Any:
    """Give what ``DataFrame.to_json(orient=...)`` writes of three structures under ids, with a value each."""
    ids, values = ["a1", "b2", "c3"], [1.5, 2.5, None]
    table = list(zip(ids, PYMATGEN, values, strict=True))
    return {
        "split": {"columns": ["structure", "kappa"], "index": ids, "data": [[s, v] for _, s, v in table]},
        "split, sorted": {"columns": ["structure", "kappa"], "data": [[s, v] for _, s, v in table], "index": ids},
        "index": {i: {"structure": s, "kappa": v} for i, s, v in table},
        "columns": {"structure": {i: s for i, s, _ in table}, "kappa": {i: v for i, _, v in table}},
        "columns, values first": {"kappa": {i: v for i, _, v in table}, "structure": {i: s for i, s, _ in table}},
        "table": {
            "schema": {"fields": [], "primaryKey": ["name"]},
            "data": [{"name": i, "structure": s, "kappa": v} for i, s, v in table],
        },
        "records": [{"id": i, "structure": s, "kappa": v} for i, s, v in table],
        "lines": "\n".join(json.dumps({"id": i, "structure": s, "kappa": v}) for i, s, v in table),
    }[orient]


@pytest.mark.parametrize(
    "orient",
    ["split", "split, sorted", "index", "columns", "columns, values first", "table", "records", "lines"],
)
def test_tables_as_pandas_writes_them(tmp_path: Path, orient: str) -> None:
    found = good(tmp_path / "x.json", rows(orient))
    assert [(r.id, r.crystal.formula) for r in found] == list(zip(["a1", "b2", "c3"], FORMULAS, strict=True))
    assert [r.properties for r in found] == [{"kappa": 1.5}, {"kappa": 2.5}, {}]


@pytest.mark.parametrize(
    ("document", "ids"),
    [
        ({"mp-1": PYMATGEN[0], "mp-2": PYMATGEN[1]}, ["mp-1", "mp-2"]),
        ({"r1": OURS[0], "version": 1, "r2": OURS[1]}, ["r1", "r2"]),
        ({"0": PYMATGEN[0], "1": PYMATGEN[1]}, ["x-0", "x-1"]),
        ({"index": [0, 1], "columns": COLUMNS, "data": [[PYMATGEN[0], 1.2], [PYMATGEN[1], 1.3]]}, ["x-0", "x-1"]),
        ({"data": ENTRIES[:2], "meta": {"api_version": "1.2.0"}}, ["m0", "m1"]),
        ({"links": {"next": None}, "meta": {}, "data": ENTRIES[:2]}, ["m0", "m1"]),
        ({"data": ENTRIES[0], "meta": {}}, ["m0"]),
        ({"data": [DOCUMENT | {"material_id": "mp-149"}], "meta": {"total_doc": 1}}, ["mp-149"]),
        ([DOCUMENT | {"material_id": {"@class": "MPID", "string": "mp-149"}}], ["mp-149"]),
        ([DOCUMENT | {"material_id": {"@class": "AlphaID", "value": "mp-149"}}], ["mp-149"]),
        ({"structures": PYMATGEN[:2]}, ["x", "x-2"]),
        (
            "\n".join(map(json.dumps, [{"x-optimade": {}}, {"type": "info", "id": "structures"}, *ENTRIES])),
            ["m0", "m1", "m2"],
        ),
        ([json.dumps(PYMATGEN[0]), json.dumps(PYMATGEN[1])], ["x", "x-2"]),
        (alexandria(CRYSTALS[0], 1), ["agm001"]),
        ([alexandria(c, n) for n, c in enumerate(CRYSTALS[:2])], ["agm000", "agm001"]),
        ("\n".join(json.dumps(s) for s in PYMATGEN[:2]), ["x", "x-2"]),
        ({"output": {"structure": PYMATGEN[0]}, "input": {"structure": PYMATGEN[0]}, "task_id": "mp-9"}, ["mp-9"]),
    ],
)
def test_layouts(tmp_path: Path, document: object, ids: list[str]) -> None:
    found = good(tmp_path / "x.json", document)
    assert [r.id for r in found] == ids
    assert [r.crystal.formula for r in found] == FORMULAS[: len(ids)]


def test_columns_of_entries(tmp_path: Path) -> None:
    """As WBM's computed structure entries."""
    entries = {str(n): alexandria(c, n) for n, c in enumerate(CRYSTALS)}
    document = {"material_id": {n: f"wbm-1-{n}" for n in entries}, "computed_structure_entry": entries}
    found = good(tmp_path / "x.json", document)
    assert [(r.id, r.crystal.formula) for r in found] == [(f"wbm-1-{n}", f) for n, f in enumerate(FORMULAS)]
    assert found[0].properties["energy"] == -10.0


@pytest.mark.parametrize("key", [None, "structure"])
def test_values_at_the_top_are_properties_in_every_layout(tmp_path: Path, key: str | None) -> None:
    own = {"id": "s1", "kappa": 3.1, "name": "x", "ok": True, "unknown": None, "tensor": [1, 2], "more": {"a": 1}}
    for crystal in (PYMATGEN[0], OURS[0] | {"kappa": None}, ENTRIES[0]):
        (record,) = good(tmp_path / "x.json", (dict(crystal) if key is None else {key: crystal}) | own)
        assert record.id == "s1"
        assert {k: record.properties.get(k) for k in ("kappa", "name", "ok")} == {"kappa": 3.1, "name": "x", "ok": True}
        assert "unknown" not in record.properties
        (note,) = record.notes
        assert "tensor, more" in note


@pytest.mark.parametrize("written", ["atoms", "database", "encoded"])
def test_json_of_ase(tmp_path: Path, written: str) -> None:
    """A molecule among the rows is refused, and the others stay."""
    from ase import Atoms
    from ase.db import connect
    from ase.io import write
    from ase.io.jsonio import encode

    path = tmp_path / "x.json"
    if written == "atoms":
        write(path, CRYSTALS[2].to_atoms())
    elif written == "encoded":
        path.write_text(encode(CRYSTALS[2].to_atoms()))
    else:
        with connect(path) as database:
            database.write(CRYSTALS[2].to_atoms(), gap=0.5, material_id="mp-2657")
            database.write(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]))
    first, *others = records(path, path.read_text())
    assert isinstance(first, Record)
    assert first.crystal.formula == "TiO2"
    assert first.crystal.volume == pytest.approx(CRYSTALS[2].volume)
    assert first.id == ("mp-2657" if written == "database" else "x")
    assert first.properties == ({"gap": 0.5} if written == "database" else {})
    assert [(r.record_id, "0 directions" in r.message) for r in others if isinstance(r, Rejection)] == (
        [("x-2", True)] if written == "database" else []
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([{"id": n, "kappa": 1.0} for n in range(500)], "none of its 500 records"),
        ("\n".join(json.dumps({"id": n, "kappa": 1.0}) for n in range(500)), "id, kappa"),
        ({"columns": ["kappa"], "index": [0, 1], "data": [[1], [2]]}, "none of its 2 records"),
        ([[PYMATGEN[0], 1.0], [PYMATGEN[1], 2.0]], "orient='split'"),
        ({"@class": "PhaseDiagram", "entries": []}, "holds no crystal"),
        ({"mp-1": {"kappa": 1}, "mp-2": {"kappa": 2}}, "mp-1, mp-2"),
        ({"@class": "Molecule", "sites": []}, "a Molecule of"),
        ("[1, 2, 3]", "none of its 3 records"),
        ("{}", "nothing"),
    ],
)
def test_a_file_without_crystals_is_refused_once(tmp_path: Path, document: object, words: str) -> None:
    (refused,) = records(tmp_path / "x.json", document)
    assert isinstance(refused, Rejection)
    assert words in refused.message
    assert refused.remedy


def test_rows_without_crystals_are_refused_each_beside_others(tmp_path: Path) -> None:
    found = records(tmp_path / "x.json", [{"id": "no"}, OURS[0] | {"id": "yes"}, {"id": "nor"}, None])
    assert [r.id if isinstance(r, Record) else f"-{r.record_id}" for r in found] == ["-no", "yes", "-nor", "-x-4"]
    found = records(tmp_path / "x.json", [{"id": n} for n in range(150)] + [OURS[0] | {"id": "yes"}])
    assert len(found) == 102
    assert isinstance(found[100], Rejection)
    assert "50 more records" in found[100].message


DEEP = "[" * 100_000 + "]" * 100_000
ABSURD = [
    (DEEP, ""),
    ('{"a": ' * 100_000 + "1" + "}" * 100_000, ""),
    (json.dumps(OURS[1])[:-1] + f', "x": {"9" * 10_000}}}', "digits"),
    (json.dumps(OURS[1] | {"lattice": [[10**400, 0, 0], [0, 1, 0], [0, 0, 1]]}), "too large"),
    (json.dumps(OURS[1] | {"id": "\ud800"}), r"\ud800"),
    (json.dumps(OURS[1] | {"species": ["\ud800", "C"]}), r"ud800"),
]


@pytest.mark.parametrize(("text", "words"), ABSURD)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_absurd_records_cost_themselves(tmp_path: Path, text: str, words: str, suffix: str) -> None:
    """Nested deeply, numbers without end, half characters: one refusal, and what follows is read."""
    around = json.dumps(OURS[0])
    document = f"[{around}, {text}, {around}]" if suffix == "json" else f"{around}\n{text}\n{around}"
    first, refused, last = records(tmp_path / f"x.{suffix}", document)
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert isinstance(refused, Rejection)
    assert refused.reason in (RejectionReason.UNREADABLE, RejectionReason.UNKNOWN_ELEMENT)
    assert words in refused.message
    refused.message.encode()
    refused.record_id.encode()


def test_values_that_no_database_keeps_are_left_out_and_told(tmp_path: Path) -> None:
    (record,) = good(tmp_path / "x.json", OURS[1] | {"big": 10**400, "half": "\udfff", "k\ud800": 1, "gap": 1.5})
    assert record.properties == {"kappa": 2.0, "gap": 1.5}
    (note,) = record.notes
    assert "big, half, k" in note
    note.encode()


@pytest.mark.parametrize("layout", ["map", "data", "split"])
def test_large_documents_stream(tmp_path: Path, layout: str) -> None:
    """Sixteen megabytes pass through eight."""
    path = tmp_path / "large.json"
    record = OURS[2] | {"note": "x" * 2000}
    count = 7500
    document: dict[str, Any] = {
        "map": {f"m{n}": record for n in range(count)},
        "data": {"meta": {}, "data": [record] * count},
        "split": {
            "index": list(range(count)),
            "columns": ["structure", "note"],
            "data": [[OURS[2], "x" * 2000]] * count,
        },
    }[layout]
    path.write_text(json.dumps(document))
    assert path.stat().st_size > 1.6e7
    tracemalloc.start()
    found = sum(1 for _ in read(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == count
    assert peak < 8e6
