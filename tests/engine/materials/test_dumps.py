"""Dumps of other databases: JARVIS, Alexandria, GNoME, ASE, Parquet, OPTIMADE; streamed, and the same crystals."""

from __future__ import annotations

import bz2
import csv
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal
from engine.materials.formats import RawRecord, Record, parse
from engine.materials.json_text import JsonStream
from engine.materials.readers import read
from engine.materials.reference import reference_crystals
from tests.engine.materials.cases import rocksalt, rutile, zincblende

CRYSTALS = [rocksalt(), zincblende(), rutile()]


def records(*paths: Path) -> list[Record | Rejection]:
    return [r if isinstance(r, Rejection) else parse(r) for r in read(paths)]


def good(*paths: Path) -> list[Record]:
    found = records(*paths)
    assert all(isinstance(r, Record) for r in found), found
    return [r for r in found if isinstance(r, Record)]


def refused(*paths: Path) -> Rejection:
    (found,) = (r for r in records(*paths) if isinstance(r, Rejection))
    return found


def assert_same(found: list[Record], crystals: list[Crystal]) -> None:
    assert len(found) == len(crystals)
    for record, crystal in zip(found, crystals, strict=True):
        assert record.crystal.symbols == crystal.symbols
        np.testing.assert_allclose(record.crystal.lattice, crystal.lattice, atol=1e-6)
        shift = record.crystal.frac_coords - crystal.frac_coords
        np.testing.assert_allclose(shift - np.round(shift), 0, atol=1e-6)


def jarvis(crystal: Crystal, n: int, cartesian: bool = False) -> dict[str, Any]:
    coords = crystal.frac_coords @ crystal.lattice if cartesian else crystal.frac_coords
    atoms = {"lattice_mat": crystal.lattice.tolist(), "coords": coords.tolist(), "elements": crystal.symbols}
    known = {"optb88vdw_bandgap": 1.5, "ehull": 0.0, "mbj_bandgap": "na", "formation_energy_peratom": -2.5}
    return {"jid": f"JVASP-{n}", "formula": crystal.formula, "atoms": atoms | {"cartesian": cartesian}} | known


def test_jarvis(tmp_path: Path) -> None:
    """A list in one file, as in its zip archives; ``na`` is nothing."""
    rows = [jarvis(c, n, cartesian=n == 1) for n, c in enumerate(CRYSTALS)]
    with zipfile.ZipFile(tmp_path / "jdft_3d.json.zip", "w") as archive:
        archive.writestr("jdft_3d-12-12-2022.json", json.dumps(rows))
    found = good(tmp_path / "jdft_3d.json.zip")
    assert_same(found, CRYSTALS)
    assert [r.id for r in found] == ["JVASP-0", "JVASP-1", "JVASP-2"]
    assert found[0].properties["band_gap_eV"] == found[0].properties["optb88vdw_bandgap"] == 1.5
    assert (found[0].properties["energy_above_hull_eV"], found[0].properties["formation_energy_eV"]) == (0.0, -2.5)
    assert "mbj_bandgap" not in found[0].properties


def alexandria(crystal: Crystal, n: int) -> dict[str, Any]:
    data = {"mat_id": f"agm00{n}", "e_above_hull": 0.01, "band_gap_ind": 0.7, "stress": [[0.0]], "spg": 225}
    entry = {"@module": "pymatgen.entries.computed_entries", "@class": "ComputedStructureEntry", "energy": -10.0}
    return entry | {"entry_id": None, "structure": crystal.to_structure().as_dict(), "data": data}


@pytest.mark.parametrize("entries_first", [True, False])
def test_alexandria(tmp_path: Path, entries_first: bool) -> None:
    """``{"entries": [...]}`` in bz2, as Alexandria's files are."""
    rows = {"entries": [alexandria(c, n) for n, c in enumerate(CRYSTALS)]}
    document = rows if entries_first else {"version": 1} | rows
    (tmp_path / "alexandria_000.json.bz2").write_bytes(bz2.compress(json.dumps(document).encode()))
    found = good(tmp_path)
    assert_same(found, CRYSTALS)
    assert [r.id for r in found] == ["agm000", "agm001", "agm002"]
    assert found[0].properties["energy_above_hull_eV"] == 0.01
    assert found[0].properties["band_gap_eV"] == 0.7


def test_a_dump_that_is_cut(tmp_path: Path) -> None:
    """What came before is read."""
    text = json.dumps([jarvis(c, n) for n, c in enumerate(CRYSTALS)])
    (tmp_path / "cut.json").write_text(text[:-40])
    found = records(tmp_path / "cut.json")
    assert [isinstance(r, Record) for r in found] == [True, True, False]
    assert isinstance(found[-1], Rejection)
    assert "does not end" in found[-1].message


def test_a_large_dump_takes_no_more_memory(tmp_path: Path) -> None:
    """Twenty megabytes pass through eight."""
    line = json.dumps(jarvis(rutile(), 1) | {"note": "x" * 2000})
    path = tmp_path / "large.json"
    path.write_text("[" + ", ".join([line] * 8400) + "]")
    assert path.stat().st_size > 2e7
    tracemalloc.start()
    count = sum(1 for _ in read(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 8400
    assert peak < 8e6


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(), st.recursive(st.integers() | st.text(), st.lists), max_size=3), max_size=5))
def test_lists_are_read_as_json_reads_them(items: list[Any]) -> None:
    """However the text falls into blocks."""
    text = JsonStream(io.StringIO(json.dumps(items, indent=1)))
    assert list(text.items()) == items
    assert text.peek() == ""


def write_gnome(folder: Path, names: list[str]) -> None:
    from pymatgen.io.cif import CifWriter

    folder.mkdir()
    with (folder / "stable_materials_summary.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["", "Composition", "MaterialId", "Elements", "Bandgap", "Decomposition Energy Per Atom", "Is Train"]
        )
        for n, (name, crystal) in enumerate(zip(names, CRYSTALS, strict=True)):
            elements = str(sorted(crystal.composition))
            writer.writerow([n, crystal.formula, name, elements, "" if n == 2 else 0.5 * n, -0.01, n == 0])
    with zipfile.ZipFile(folder / "by_id.zip", "w") as archive:
        for name, crystal in zip(names, CRYSTALS, strict=True):
            archive.writestr(f"by_id/{name}.CIF", str(CifWriter(crystal.to_structure(), significant_figures=10)))


def test_gnome(tmp_path: Path) -> None:
    """A CSV and an archive of CIF files: one crystal a file, its properties from the row of its id."""
    names = ["000c1a8b2c", "00164ed3f9", "ff0a"]
    write_gnome(tmp_path / "gnome_data", names)
    found = good(tmp_path / "gnome_data")
    assert [r.crystal.formula for r in found] == [c.formula for c in CRYSTALS]
    assert [r.id for r in found] == names
    expected = {"Composition": "MgO", "Bandgap": 0.0, "band_gap_eV": 0.0, "Decomposition Energy Per Atom": -0.01}
    assert found[0].properties == expected | {"Is Train": True, "energy_above_hull_eV": -0.01}
    assert "Bandgap" not in found[2].properties
    apart = good(tmp_path / "gnome_data" / "by_id.zip", tmp_path / "gnome_data" / "stable_materials_summary.csv")
    assert [r.properties for r in apart] == [r.properties for r in found]


def test_a_table_without_ids_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("formula,gap\nNaCl,5\n")
    found = refused(tmp_path)
    assert (found.record_id, found.reason) == ("x", RejectionReason.MISSING_FIELD)
    assert "formula, gap" in found.message
    assert "cif" in found.remedy


def test_a_table_of_any_bytes_never_stops_a_run(tmp_path: Path) -> None:
    """Rows that are short, empty, or of another encoding have no properties."""
    (tmp_path / "t.csv").write_bytes(b'id,gap,name\n\nx,1.5,\xff\nshort\ny,2\n"open,1,2\nx,9,second\n')
    (tmp_path / "x.json").write_text(json.dumps(own(CRYSTALS[0])))
    (record,) = good(tmp_path)
    assert record.properties["gap"] == 1.5


def own(crystal: Crystal) -> dict[str, Any]:
    arrays = {"lattice": crystal.lattice.tolist(), "frac_coords": crystal.frac_coords.tolist()}
    return arrays | {"species": crystal.symbols}


@pytest.mark.parametrize("kind", ["db", "aselmdb"])
def test_an_ase_database(tmp_path: Path, kind: str) -> None:
    """Key-value pairs and energies are properties; a molecule is refused; the file is left as it was."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    if kind == "aselmdb":
        pytest.importorskip("ase_db_backends", reason="LMDB is not installed (extra `lmdb`)")
    path = tmp_path / f"pool.{kind}"
    with connect(path) as database:
        for n, crystal in enumerate(CRYSTALS):
            atoms = crystal.to_atoms()
            atoms.calc = SinglePointCalculator(atoms, energy=-5.5)
            database.write(atoms, gap=0.5 + n, kind="oxide", data={"forces": [1, 2]})
        database.write(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]))
        database.write(CRYSTALS[0].to_atoms(), material_id="mp-1265")
    before = path.read_bytes()
    (tmp_path / "pool.aselmdb-lock").unlink(missing_ok=True)
    *found, molecule, named = records(path)
    assert_same([r for r in found if isinstance(r, Record)], CRYSTALS)
    assert isinstance(found[1], Record)
    assert (found[1].id, found[1].properties) == ("pool-2", {"energy_eV": -5.5, "gap": 1.5, "kind": "oxide"})
    assert isinstance(molecule, Rejection)
    assert (molecule.record_id, molecule.reason) == ("pool-4", RejectionReason.MISSING_FIELD)
    assert isinstance(named, Record)
    assert named.id == "mp-1265"
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 2000, b"no database"])
def test_a_database_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)
    found = refused(tmp_path)
    assert (found.record_id, found.reason) == ("x", RejectionReason.UNREADABLE)


def test_a_cut_lmdb_database_ends_the_file_and_not_the_process(tmp_path: Path) -> None:
    pytest.importorskip("ase_db_backends", reason="LMDB is not installed (extra `lmdb`)")
    from ase.db import connect

    path = tmp_path / "x.aselmdb"
    with connect(path) as database:
        for _ in range(20):
            database.write(CRYSTALS[0].to_atoms(), data={"forces": list(range(500))})
    whole = path.read_bytes()
    assert len(good(tmp_path)) == 20, "what LMDB leaves beside the file is passed over"
    for content in (b"", b"no database" * 1000, whole[: len(whole) // 2], b"\0" * len(whole)):
        path.write_bytes(content)
        found = refused(path)
        assert (found.record_id, found.reason) == ("x", RejectionReason.UNREADABLE)


def test_other_lmdb_files_are_refused_once(tmp_path: Path) -> None:
    """They hold pickles, as those of OCP and of graph data sets do."""
    (tmp_path / "graphs.lmdb").write_bytes(b"x")
    (tmp_path / "folder.lmdb").mkdir()
    for name in ("data.mdb", "lock.mdb"):
        (tmp_path / "folder.lmdb" / name).write_bytes(b"x")
    found = records(tmp_path)
    assert [(r.record_id, r.reason) for r in found if isinstance(r, Rejection)] == [
        ("data", RejectionReason.UNKNOWN_FORMAT),
        ("graphs", RejectionReason.UNKNOWN_FORMAT),
    ]
    assert isinstance(found[0], Rejection)
    assert "holds pickled objects of some program" in found[0].message


def test_parquet_streams(tmp_path: Path) -> None:
    """Memory holds one row group's batch, whatever the size of the file; each group is decoded when it is read."""
    row = own(CRYSTALS[2])
    schema = pa.Table.from_pylist([row | {"id": "m"}]).schema
    with pq.ParquetWriter(tmp_path / "pool.parquet", schema) as writer:
        for start in range(0, 20000, 1000):
            writer.write_table(pa.Table.from_pylist([row | {"id": f"m{start + n}"} for n in range(1000)], schema))
    pool = pa.default_memory_pool()
    before, most, count = pool.bytes_allocated(), 0, 0
    for _ in read(tmp_path / "pool.parquet"):
        count += 1
        most = max(most, pool.bytes_allocated() - before)
    assert count == 20000
    assert most < 3e6  # the whole file would take 6 MB


def test_parquet_of_our_own_columns(tmp_path: Path) -> None:
    """Columns as in a JSON record; others are properties; in an archive too."""
    rows = [own(c) | {"id": f"m{n}", "band_gap_eV": 0.5 * n, "stable": True} for n, c in enumerate(CRYSTALS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet", row_group_size=2)
    found = good(tmp_path / "pool.parquet")
    assert_same(found, CRYSTALS)
    assert [r.id for r in found] == ["m0", "m1", "m2"]
    assert found[2].properties == {"band_gap_eV": 1.0, "stable": True}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "pool.parquet", "pool.parquet")
    assert_same(good(tmp_path / "a.zip"), CRYSTALS)


@pytest.mark.parametrize("form", ["structure", "cif", "optimade"])
def test_parquet_of_other_columns(tmp_path: Path, form: str) -> None:
    """JSON of pymatgen, CIF text, and OPTIMADE's columns as in LeMat-Bulk."""
    from pymatgen.io.cif import CifWriter

    crystals = list(reference_crystals().values())[:3]

    def row(n: int, crystal: Crystal) -> dict[str, Any]:
        if form == "structure":
            return {"material_id": f"m{n}", "structure": json.dumps(crystal.to_structure().as_dict()), "gap": 1.0}
        if form == "cif":
            cif = str(CifWriter(crystal.to_structure(), significant_figures=10))
            return {"material_id": f"m{n}", "cif": cif, "gap": 1.0}
        kinds = [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in crystal.composition]
        return {
            "immutable_id": f"m{n}",
            "lattice_vectors": crystal.lattice.tolist(),
            "cartesian_site_positions": (crystal.frac_coords @ crystal.lattice).tolist(),
            "species_at_sites": crystal.symbols,
            "species": kinds,
            "dimension_types": [1, 1, 1],
            "gap": 1.0,
        }

    pq.write_table(pa.Table.from_pylist([row(n, c) for n, c in enumerate(crystals)]), tmp_path / "x.parquet")
    found = good(tmp_path / "x.parquet")
    assert [r.id for r in found] == ["m0", "m1", "m2"]
    for record, crystal in zip(found, crystals, strict=True):
        assert record.crystal.formula == crystal.formula
        assert np.isclose(record.crystal.density, crystal.density, rtol=1e-5)
        assert record.properties["gap"] == 1.0


def test_parquet_that_is_cut(tmp_path: Path) -> None:
    rows = [own(c) | {"id": f"m{n}"} for n, c in enumerate(CRYSTALS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content[:-100])
    found = refused(tmp_path)
    assert (found.record_id, found.reason) == ("x", RejectionReason.UNREADABLE)


def test_optimade_json_lines(tmp_path: Path) -> None:
    """Entries of ``/structures`` saved one a line."""
    from tests.engine.materials.sources.services import optimade_entry

    rows = [optimade_entry((f"m{n}", c, {"band_gap_eV": 2.0}), "oqmd") for n, c in enumerate(CRYSTALS)]
    (tmp_path / "oqmd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = good(tmp_path)
    assert_same(found, CRYSTALS)
    assert found[0].properties == {"oqmd_band_gap": 2.0, "band_gap_eV": 2.0}


def test_folders_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.json", "a/z.json", "a/b/c.json", "a.json", "c/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(own(CRYSTALS[0])))
    (tmp_path / "loop").symlink_to(tmp_path)
    expected = sorted(p for p in tmp_path.rglob("*") if p.is_file() and "loop" not in p.parts)
    assert [r.source for r in read(tmp_path) if isinstance(r, RawRecord)] == [p.as_posix() for p in expected]
