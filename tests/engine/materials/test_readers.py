"""Every format and container gives the same crystals; damage costs what is damaged and no more."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal
from engine.materials.formats import Format, RawRecord, Record, parse
from engine.materials.readers import read
from tests.engine.materials.cases import rocksalt, rutile, shared, zincblende


def records(*paths: Path) -> list[Record | Rejection]:
    return [r if isinstance(r, Rejection) else parse(r) for r in read(paths)]


def ids(found: Iterable[Record | Rejection]) -> list[str]:
    return [r.id if isinstance(r, Record) else f"-{r.record_id}" for r in found]


def only(found: list[Record | Rejection]) -> Any:
    assert len(found) == 1
    return found[0]


def line(crystal: Crystal, **more: Any) -> dict[str, Any]:
    arrays = {"lattice": crystal.lattice.tolist(), "frac_coords": crystal.frac_coords.tolist()}
    return {"formula": crystal.formula, **arrays, "species": crystal.symbols, **more}


def cif(crystal: Crystal, digits: int = 10) -> str:
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(crystal.to_structure(), significant_figures=digits))


def poscar(crystal: Crystal) -> str:
    return crystal.to_structure().to(fmt="poscar")


def extxyz(*crystals: Crystal) -> str:
    from ase.io import write

    text = io.StringIO()
    for n, crystal in enumerate(crystals):
        atoms = crystal.to_atoms()
        atoms.info["energy_guess"] = -1.5 * n
        write(text, atoms, format="extxyz")
    return text.getvalue()


def same(a: Crystal, b: Crystal) -> bool:
    return a.formula == b.formula and abs(a.volume / b.volume - 1) < 1e-5 and len(a) == len(b)


# --- formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crystal", [rocksalt(), zincblende(), rutile()])
def test_all_formats_agree(tmp_path: Path, crystal: Crystal) -> None:
    (tmp_path / "a.cif").write_text(cif(crystal))
    (tmp_path / "b.vasp").write_text(poscar(crystal))
    (tmp_path / "c.extxyz").write_text(extxyz(crystal))
    (tmp_path / "d.json").write_text(json.dumps(crystal.to_structure().as_dict()))
    (tmp_path / "e.jsonl").write_text(json.dumps(line(crystal)))
    with gzip.open(tmp_path / "f.cif.gz", "wt") as stream:
        stream.write(cif(crystal))
    found = records(tmp_path)
    assert ids(found) == list("abcdef")
    assert all(same(r.crystal, crystal) for r in found if isinstance(r, Record))


def test_poscar_is_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mp-1").mkdir()
    (tmp_path / "mp-1" / "POSCAR").write_text(poscar(rocksalt()))
    (tmp_path / "mp-1" / "CONTCAR.gz").write_bytes(gzip.compress(poscar(rocksalt()).encode()))
    (tmp_path / "mp-1" / "POSCAR-002").write_text(poscar(rocksalt()))
    assert ids(records(tmp_path)) == ["mp-1-CONTCAR.gz", "mp-1-POSCAR", "POSCAR-002"]
    assert ids(records(tmp_path / "mp-1" / "POSCAR")) == ["mp-1"]


def test_poscar_without_element_names_is_refused(tmp_path: Path) -> None:
    lines = poscar(rocksalt()).splitlines()
    text = "\n".join([lines[0], *lines[1:5], *lines[6:8], *(" ".join(x.split()[:3]) for x in lines[8:])]).replace(
        lines[0], "no names", 1
    )
    (tmp_path / "x.vasp").write_text(text)
    refused = only(records(tmp_path / "x.vasp"))
    assert refused.reason is RejectionReason.MISSING_FIELD
    assert "element" in refused.message


def test_blocks_of_a_cif_go_by_their_names(tmp_path: Path) -> None:
    blocks = [cif(c).replace(f"data_{c.formula}", f"data_{n}") for c, n in ((rocksalt(), "one"), (rutile(), "two"))]
    text_field = "data_global\n_publ_section_comment\n;\ndata_not a block\n;\n"
    (tmp_path / "both.cif").write_text(text_field + "\n".join(blocks))
    found = records(tmp_path / "both.cif")
    assert ids(found) == ["one", "two"]
    assert [r.crystal.formula for r in found if isinstance(r, Record)] == ["MgO", "TiO2"]
    (tmp_path / "single.cif").write_text(text_field + blocks[0])
    assert ids(records(tmp_path / "single.cif")) == ["single"]


def test_a_bad_block_spares_the_others(tmp_path: Path) -> None:
    broken = "data_broken\n_cell_length_a 4\n_cell_length_b x\n_atom_site_fract_x 0\n"
    (tmp_path / "m.cif").write_text(broken + cif(rocksalt()) + "\n" + cif(rutile()))
    assert ids(records(tmp_path / "m.cif")) == ["-broken", "MgO", "TiO2"]


def test_precise_coordinates_are_not_rounded_and_coarse_ones_are_noted(tmp_path: Path) -> None:
    wurtzite = Crystal.from_symbols(
        [[3.25, 0, 0], [-1.625, 1.625 * 3**0.5, 0], [0, 0, 5.2]],
        ["Zn", "Zn", "O", "O"],
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]],
    )
    (tmp_path / "coarse.cif").write_text(cif(wurtzite, digits=4))
    shifted = Crystal(wurtzite.lattice, wurtzite.numbers, wurtzite.frac_coords + np.array([2e-5, 0, 0]))
    (tmp_path / "precise.cif").write_text(cif(shifted))
    coarse, precise = records(tmp_path)
    assert isinstance(coarse, Record)
    assert isinstance(precise, Record)
    assert any("rounded" in note for note in coarse.notes)
    assert coarse.crystal.frac_coords.min(axis=0)[0] == pytest.approx(1 / 3, abs=1e-12)
    assert precise.notes == ()
    assert precise.crystal.frac_coords.min(axis=0)[0] == pytest.approx(1 / 3 + 2e-5, abs=1e-9)


def test_frames_of_an_xyz_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "traj.extxyz").write_text(extxyz(rocksalt(), zincblende(), rutile()))
    found = records(tmp_path / "traj.extxyz")
    assert ids(found) == ["traj", "traj-2", "traj-3"]
    assert [r.properties["energy_guess"] for r in found if isinstance(r, Record)] == [0.0, -1.5, -3.0]


def test_an_xyz_without_a_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text("3\nwater\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n")
    assert only(records(tmp_path / "water.xyz")).reason is RejectionReason.MISSING_FIELD


def test_a_truncated_xyz_keeps_its_whole_frames(tmp_path: Path) -> None:
    text = extxyz(rocksalt(), rutile())
    (tmp_path / "cut.xyz").write_text(text[: int(len(text) * 0.8)])
    assert ids(records(tmp_path / "cut.xyz")) == ["cut", "-cut-2"]
    (tmp_path / "lost.xyz").write_text(extxyz(rocksalt()) + "not a number\n" + extxyz(rutile()))
    assert ids(records(tmp_path / "lost.xyz")) == ["lost", "-lost-2"]


def test_pymatgen_entries_and_lists(tmp_path: Path) -> None:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    entry = ComputedStructureEntry(rocksalt().to_structure(), -11.9, data={"band_gap": 4.5}, entry_id="mp-1265-GGA")
    plain = rutile().to_structure()
    plain.properties["source"] = "hand"
    documents = [entry.as_dict(), plain.as_dict(), {"material_id": "mp-2", "structure": plain.as_dict(), "gap": 1}]
    with gzip.open(tmp_path / "list.json.gz", "wt") as stream:
        json.dump(documents, stream)
    found = records(tmp_path / "list.json.gz")
    assert ids(found) == ["mp-1265-GGA", "list-2", "mp-2"]
    assert [r.properties for r in found if isinstance(r, Record)] == [
        {"band_gap": 4.5, "energy": -11.9, "correction": 0.0},
        {"source": "hand"},
        {"source": "hand", "gap": 1},
    ]


def test_no_class_named_in_a_file_is_imported(tmp_path: Path) -> None:
    document = rocksalt().to_structure().as_dict()
    document["@module"], document["@class"] = "this.module.must.not.be.imported", "Evil"
    document["sites"][0]["properties"] = {"x": {"@module": "os", "@class": "system"}}
    (tmp_path / "x.json").write_text(json.dumps(document))
    assert only(records(tmp_path / "x.json")).crystal.formula == "MgO"


def test_oxidation_states_and_deuterium(tmp_path: Path) -> None:
    record = line(rocksalt()) | {"species": ["Mg2+", "O2-"]}
    heavy = line(rocksalt()) | {"species": ["D", "Li+"], "formula": "DLi"}
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(r) for r in (record, heavy)))
    assert [r.crystal.formula for r in records(tmp_path / "x.jsonl") if isinstance(r, Record)] == ["MgO", "LiH"]


def test_properties_are_scalars_and_the_rest_is_noted(tmp_path: Path) -> None:
    properties = {"gap": 1.5, "name": "x", "stable": True, "n": 3, "tensor": [[1, 0], [0, 1]], "unknown": None}
    (tmp_path / "x.jsonl").write_text(json.dumps(line(rocksalt(), id="r1", properties=properties)))
    record = only(records(tmp_path / "x.jsonl"))
    assert record.properties == {"gap": 1.5, "name": "x", "stable": True, "n": 3}
    (note,) = record.notes
    assert "tensor" in note
    assert record.source.endswith("x.jsonl:1")


species = st.sampled_from(["H", "O", "Mg", "Si", "U"])
numbers = st.floats(-1e3, 1e3, allow_nan=False)
scalars = st.one_of(st.floats(allow_nan=False), st.integers(-(2**31), 2**31), st.text(max_size=8), st.booleans())


@given(
    lattice=st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=3, max_size=3),
    sites=st.lists(st.tuples(species, st.tuples(numbers, numbers, numbers)), min_size=1, max_size=6),
    properties=st.dictionaries(st.text("abcxyz_", min_size=4, max_size=9), scalars, max_size=4),
)
def test_json_lines_round_trip(lattice: list, sites: list, properties: dict) -> None:
    content = {
        "id": "x",
        "lattice": lattice,
        "species": [s for s, _ in sites],
        "frac_coords": [c for _, c in sites],
        "properties": properties,
    }
    record = parse(RawRecord("stem", Format.JSON, json.dumps(content).encode(), "here"))
    assert isinstance(record, Record)
    assert record.id == "x"
    assert record.properties == properties
    assert record.crystal.symbols == [s for s, _ in sites]
    np.testing.assert_array_equal(record.crystal.lattice, lattice)
    np.testing.assert_array_equal(record.crystal.frac_coords, [c for _, c in sites])


@given(payload=st.binary(max_size=200), file_format=st.sampled_from(list(Format)))
def test_arbitrary_bytes_never_raise(payload: bytes, file_format: Format) -> None:
    result = parse(RawRecord("stem", file_format, payload, "here"))
    assert isinstance(result, Record | Rejection)


# --- bad records --------------------------------------------------------------------------------------------------

BAD_LINES = [
    ("{not json", RejectionReason.UNREADABLE),
    ("[1, 2]", RejectionReason.UNREADABLE),
    (json.dumps({"id": "a"}), RejectionReason.MISSING_FIELD),
    (json.dumps(line(rocksalt()) | {"species": ["Mg"]}), RejectionReason.UNREADABLE),
    (json.dumps(line(rocksalt()) | {"lattice": [1, 2, 3]}), RejectionReason.UNREADABLE),
    (json.dumps(line(rocksalt()) | {"species": ["Mg", "Xx"]}), RejectionReason.UNKNOWN_ELEMENT),
    (json.dumps(line(rocksalt()) | {"species": ["Mg", {"O": 0.5, "S": 0.5}]}), RejectionReason.DISORDERED),
]


@pytest.mark.parametrize(("text", "reason"), BAD_LINES)
def test_a_bad_line_spares_the_others(tmp_path: Path, text: str, reason: RejectionReason) -> None:
    good = json.dumps(line(rocksalt(), id="good"))
    (tmp_path / "x.jsonl").write_text(f"{good}\n{text}\n\n{good}\n")
    first, refused, last = records(tmp_path / "x.jsonl")
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert isinstance(refused, Rejection)
    assert refused.reason is reason
    assert refused.source.endswith("x.jsonl:2")
    assert refused.remedy


def test_disorder_is_refused_in_cif_and_pymatgen_json(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    mixed = Structure(Lattice.cubic(4.2), [{"Mg": 0.5, "Fe": 0.5}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    partial = Structure(Lattice.cubic(4.2), [{"Mg": 0.7}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for name, structure in (("mixed", mixed), ("partial", partial)):
        structure.to(tmp_path / f"{name}.cif")
        (tmp_path / f"{name}.json").write_text(json.dumps(structure.as_dict()))
    found = records(tmp_path)
    assert len(found) == 4
    assert all(isinstance(r, Rejection) and r.reason is RejectionReason.DISORDERED for r in found)


# --- containers ---------------------------------------------------------------------------------------------------


def tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def members() -> dict[str, bytes]:
    return {
        "deep/z.cif": cif(rocksalt()).encode(),
        "a.vasp": poscar(rutile()).encode(),
        "b.jsonl.gz": gzip.compress(json.dumps(line(zincblende(), id="sic")).encode()),
        "README.txt": b"hello",
        "notes.txt": b"hello",
    }


@pytest.mark.parametrize(("name", "mode"), [("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar", "w")])
def test_tar_archives_in_their_own_order(tmp_path: Path, name: str, mode: str) -> None:
    found = records(tar(tmp_path / name, members(), mode))
    assert ids(found) == ["z", "a", "sic", "-notes.txt"]
    assert isinstance(found[0], Record)
    assert found[0].source.endswith(f"{name}::deep/z.cif")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_zip_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in members().items():
            archive.writestr(name, content)
    assert ids(records(tmp_path / "x.zip")) == ["z", "a", "sic", "-notes.txt"]


def test_a_damaged_zip_member_spares_the_others(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in members().items():
            archive.writestr(name, content)
    content = (tmp_path / "x.zip").read_bytes().replace(b"_cell_length_a", b"_CELL_length_a", 1)
    (tmp_path / "x.zip").write_bytes(content)
    assert ids(records(tmp_path / "x.zip")) == ["-z", "a", "sic", "-notes.txt"]
    (tmp_path / "x.zip").write_bytes(content[:-30])
    assert only(records(tmp_path / "x.zip")).reason is RejectionReason.UNREADABLE


def test_a_truncated_gzip_keeps_what_was_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [line(rocksalt(4 + rng.random()), id=f"m{n}") for n in range(400)]
    whole = gzip.compress("\n".join(json.dumps(r) for r in rows).encode())
    (tmp_path / "x.jsonl.gz").write_bytes(whole[: len(whole) * 3 // 4])
    *read_before, last = records(tmp_path / "x.jsonl.gz")
    assert ids(read_before) == [f"m{n}" for n in range(len(read_before))]
    assert len(read_before) > 100
    assert isinstance(last, Rejection)
    assert last.reason is RejectionReason.UNREADABLE
    assert last.source.endswith("x.jsonl.gz")


def test_a_truncated_tar_keeps_what_was_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = {f"m{n}.cif": cif(rocksalt(4 + rng.random())).encode() for n in range(60)}
    for name, mode in (("x.tar.gz", "w:gz"), ("x.tar", "w")):
        path = tar(tmp_path / name, contents, mode)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
        *read_before, last = records(path)
        assert ids(read_before) == [f"m{n}" for n in range(len(read_before))]
        assert len(read_before) > 10
        assert isinstance(last, Rejection)
        assert last.source.endswith(name)


@pytest.mark.parametrize("name", ["x.json", "x.cif", "x.jsonl", "POSCAR", "x.xyz", "x.tar.gz", "x.zip", "x.cif.gz"])
@pytest.mark.parametrize("content", [b"", b"garbage \x00\xff\n"])
def test_files_that_hold_nothing_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused = only(records(tmp_path / name))
    assert isinstance(refused, Rejection)
    assert refused.reason is RejectionReason.UNREADABLE


def test_unknown_files_are_refused_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "pickle.pkl").write_bytes(b"x")
    found = records(tmp_path)
    assert [r.reason for r in found if isinstance(r, Rejection)] == [RejectionReason.UNKNOWN_FORMAT] * 2


def test_a_missing_path_raises_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif(rocksalt()))
    with pytest.raises(FileNotFoundError, match=r"missing\.cif"):
        read([tmp_path / "a.cif", tmp_path / "missing.cif"])


def test_aflow_cifs_equal_their_json_lines() -> None:
    cifs = {r.id: r for r in records(shared("aflow_cif_sample.tar.gz"))[::20] if isinstance(r, Record)}
    lines = {r.id: r for r in records(shared("aflow_agl.jsonl.gz")) if isinstance(r, Record)}
    assert len(cifs) == 25
    for name, record in cifs.items():
        assert record.notes == ()
        assert same(record.crystal, lines[name].crystal)
