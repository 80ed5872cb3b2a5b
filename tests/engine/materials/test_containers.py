"""Archives of every kind and depth, links, what a system leaves behind, encodings, and ids from paths."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.materials.checks import Rejection
from engine.materials.formats import Record, parse
from engine.materials.names import FileIds
from engine.materials.readers import read
from tests.engine.materials.cases import rocksalt, rutile, zincblende
from tests.engine.materials.test_readers import cif, extxyz, line, poscar, tar

MGO, SIC, TIO2 = rocksalt(), zincblende(), rutile()
JUNK = {
    "__MACOSX/x/._a.cif": b"\0\5\26\7",
    "x/._a.cif": b"\0\5\26\7",
    ".DS_Store": b"x",
    "x/Thumbs.db": b"x",
    "README": b"read me",
    "README.md": b"read me",
    "LICENSE.txt": b"free",
    "x/desktop.ini": b"x",
}
CRYSTALS = {"x/a.cif": cif(MGO).encode(), "x/b.mcif": cif(SIC).encode()}


def records(*paths: Path) -> list[Record | Rejection]:
    return [r if isinstance(r, Rejection) else parse(r) for r in read(paths)]


def found(*paths: Path) -> dict[str, str]:
    """Give formulas by id; what was refused is an error."""
    outcomes = records(*paths)
    assert all(isinstance(r, Record) for r in outcomes), outcomes
    good = [r for r in outcomes if isinstance(r, Record)]
    assert len({r.id for r in good}) == len(good)
    return {r.id: r.crystal.formula for r in good}


def refused(*paths: Path) -> list[str]:
    return [r.message for r in records(*paths) if isinstance(r, Rejection)]


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write(folder: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# --- archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("x.tar.bz2", "w:bz2"),
        ("x.tbz2", "w:bz2"),
        ("x.tar.xz", "w:xz"),
        ("x.txz", "w:xz"),
        ("x.tar.gz", "w:gz"),
        ("x.tar", "w"),
        ("x.zip", ""),
        ("folder", ""),
    ],
)
def test_every_container_and_what_a_system_leaves_in_it(tmp_path: Path, name: str, mode: str) -> None:
    members = CRYSTALS | JUNK
    if name == "folder":
        write(tmp_path / name, members)
    elif mode:
        tar(tmp_path / name, members, mode)
    else:
        zipped(tmp_path / name, members)
    assert found(tmp_path / name) == {"a": "MgO", "b": "SiC"}


def test_a_readme_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    assert len(refused(write(tmp_path, JUNK) / "README.md")) == 1


def test_files_of_xz(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(line(c)) for c in (MGO, SIC))
    (tmp_path / "a.cif.xz").write_bytes(lzma.compress(cif(TIO2).encode()))
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    assert found(tmp_path) == {"a": "TiO2", "b": "MgO", "b-2": "SiC"}
    (tmp_path / "a.cif.xz").write_bytes(lzma.compress(cif(TIO2).encode())[:-20])
    assert len(refused(tmp_path / "a.cif.xz")) == 1


@pytest.mark.parametrize("outer", ["zip", "tar.gz", "tar"])
def test_archives_in_archives(tmp_path: Path, outer: str) -> None:
    """To a depth of three; the fourth is refused by its name, and the others stay."""
    inner = zipped(tmp_path / "i.zip", CRYSTALS).read_bytes()
    middle = tar(tmp_path / "m.tar.gz", {"c.vasp": poscar(TIO2).encode(), "inner.zip": inner}).read_bytes()
    members = {"middle.tar.gz": middle, "cut.zip": inner[:-30]}
    path = tmp_path / f"outer.{outer}"
    if outer == "zip":
        zipped(path, members)
    else:
        tar(path, members, "w:gz" if outer == "tar.gz" else "w")
    outcomes = records(path)
    good = {r.id: r.crystal.formula for r in outcomes if isinstance(r, Record)}
    assert good == {"a": "MgO", "b": "SiC", "c": "TiO2"}
    assert [r.record_id for r in outcomes if isinstance(r, Rejection)] == ["cut"]
    zipped(tmp_path / "deeper.zip", {path.name: path.read_bytes()})
    messages = refused(tmp_path / "deeper.zip")
    assert any("inner.zip" in message for message in messages)


def test_a_member_that_swells_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.json", b" " * (1 << 27))
        archive.writestr("a.cif", cif(MGO))
    outcomes = records(tmp_path / "x.zip")
    assert [r.record_id if isinstance(r, Rejection) else r.id for r in outcomes] == ["bomb", "a"]


# --- links --------------------------------------------------------------------------------------------------------


def test_links_in_folders_are_followed_or_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", {"a/x.cif": cif(MGO).encode()})
    write(tmp_path / "elsewhere", {"o.cif": cif(SIC).encode()})
    links = {
        "file.cif": "a/x.cif",
        "out": "../elsewhere",
        "inside": "a",
        "loop": ".",
        "up": "..",
        "self": "self",
        "gone.cif": "../gone.cif",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    outcomes = records(folder)
    assert {r.id: r.crystal.formula for r in outcomes if isinstance(r, Record)} == {
        "x": "MgO",
        "file": "MgO",
        "o": "SiC",
    }
    told = {Path(r.source).name: r.message for r in outcomes if isinstance(r, Rejection)}
    assert set(told) == {"inside", "loop", "up", "self", "gone.cif", "back"}
    assert all(links[name] in message for name, message in told.items() if name in links)


def test_links_in_archives_are_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        content = cif(MGO).encode()
        for name, kind in (("a.cif", tarfile.REGTYPE), ("l.cif", tarfile.SYMTYPE), ("h.cif", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.cif" if kind != tarfile.REGTYPE else ""
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("l.cif")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr("a.cif", cif(MGO))
        archive.writestr(link, "a.cif")
    for name, expected in (("x.tar.gz", ["l.cif", "h.cif"]), ("x.zip", ["l.cif"])):
        outcomes = records(tmp_path / name)
        assert [r.id for r in outcomes if isinstance(r, Record)] == ["a"]
        told = [r for r in outcomes if isinstance(r, Rejection)]
        assert [r.source.partition("::")[2] for r in told] == expected
        assert all("a link to a.cif" in r.message for r in told)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.cif")
    assert len(refused(tmp_path)) == 1


def test_names_in_an_old_encoding(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"b\xff.cif")
    path.write_bytes(cif(MGO).encode())
    (record,) = records(tmp_path)
    assert isinstance(record, Record)
    assert record.id.encode() == rb"b\udcff"
    record.source.encode()


# --- ids ----------------------------------------------------------------------------------------------------------

LAYOUTS = [
    (["mp-1/POSCAR", "mp-2/POSCAR"], ["mp-1", "mp-2"]),
    (["mp-1/relax/CONTCAR", "mp-2/relax/CONTCAR"], ["mp-1-relax", "mp-2-relax"]),
    (["mp-1/vasp/relax2/CONTCAR.gz"], ["mp-1-vasp-relax2"]),
    (["mp-1/01_static/POSCAR"], ["mp-1-01_static"]),
    (["mp-1/phonopy.yaml", "mp-2/phono3py_disp.yaml"], ["mp-1", "mp-2"]),
    (["mp-1/POSCAR", "mp-1/CONTCAR"], ["mp-1-POSCAR", "mp-1-CONTCAR"]),
    (["a/x.cif", "b/y.cif"], ["x", "y"]),
    (["a/x.cif", "b/x.cif"], ["a-x", "b-x"]),
    (["a/r/x.cif", "b/r/x.cif", "b/s/x.cif"], ["a-r-x", "b-r-x", "s-x"]),
    (["a/x.cif", "a/x.vasp"], ["x.cif", "x.vasp"]),
    (["a/x.cif", "b/x.cif", "b/x.vasp"], ["a-x", "b-x.cif", "b-x.vasp"]),
    (["a/x.cif", "b/x.cif", "a-x.cif"], ["s-a-x", "b-x", "a-x"]),
    (["mp-1/POSCAR-001", "mp-2/POSCAR-001"], ["mp-1-POSCAR-001", "mp-2-POSCAR-001"]),
]


@pytest.mark.parametrize(("paths", "ids"), LAYOUTS)
def test_ids_take_as_much_of_the_path_as_tells_them_apart(paths: list[str], ids: list[str]) -> None:
    full = [PurePosixPath("/s") / path for path in paths]
    for order in (full, full[::-1]):
        found_ids = FileIds(lambda order=order: order)  # type: ignore[misc]
        assert [found_ids[path] for path in full] == ids


@given(st.sets(st.lists(st.sampled_from(["a", "b", "a-b", "relax"]), min_size=1, max_size=4).map(tuple), max_size=8))
def test_ids_are_unique_and_do_not_hang_on_the_order(folders: set[tuple[str, ...]]) -> None:
    names = ["x.cif", "CONTCAR"]
    paths = [PurePosixPath("/", *folder, name) for folder in sorted(folders) for name in names]
    forwards, backwards = FileIds(lambda: paths), FileIds(lambda: paths[::-1])
    ids = [forwards[path] for path in paths]
    assert ids == [backwards[path] for path in paths]
    assert len(set(ids)) == len(ids)
    assert not any("/" in id_ for id_ in ids)


def test_a_thousand_contcars(tmp_path: Path) -> None:
    """In a folder, in an archive, and given by their names, under the same ids."""
    members = {f"mp-{n}/relax/CONTCAR": poscar(rocksalt(4 + n / 1000)).encode() for n in range(300)}
    expected = {f"mp-{n}-relax" for n in range(300)}
    write(tmp_path / "f", members)
    assert set(found(tmp_path / "f")) == expected
    assert set(found(tar(tmp_path / "x.tar.xz", members, "w:xz"))) == expected
    assert set(found(*sorted((tmp_path / "f").glob("*/*/CONTCAR")))) == expected
    same = {f"{n}/x.cif": cif(rocksalt(4 + n / 1000)).encode() for n in range(30)}
    assert set(found(zipped(tmp_path / "y.zip", same))) == {f"{n}-x" for n in range(30)}


def test_a_file_given_twice_keeps_its_id(tmp_path: Path) -> None:
    path = write(tmp_path, {"f/x.cif": cif(MGO).encode()}) / "f" / "x.cif"
    assert [r.id for r in records(path, path.parent) if isinstance(r, Record)] == ["x", "x"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["image0", "image0"], ["x", "x-2"]),
        (["image0", "image1"], ["x", "x-2"]),
        (["", ""], ["x", "x-2"]),
        (["one", "one", "two"], ["one", "one-2", "two"]),
    ],
)
def test_blocks_of_one_name(tmp_path: Path, names: list[str], ids: list[str]) -> None:
    blocks = [cif(rocksalt(4.2 + n / 10)).replace("data_MgO", f"data_{name}") for n, name in enumerate(names)]
    (tmp_path / "x.cif").write_text("\n".join(blocks))
    assert list(found(tmp_path)) == ids


# --- encodings ----------------------------------------------------------------------------------------------------


def csv_of(crystal: str) -> str:
    quoted = crystal.replace('"', '""')
    return f'id,cif\nx,"{quoted}"\n'


TEXTS = {
    "x.json": json.dumps(line(MGO), indent=1),
    "x.jsonl": json.dumps(line(MGO)) + "\n",
    "x.csv": csv_of(cif(MGO)),
    "x.xyz": extxyz(MGO),
    "POSCAR": poscar(MGO),
    "x.cif": cif(MGO),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cr", "crlf"])
def test_text_of_any_encoding_and_line_ends(tmp_path: Path, name: str, encoding: str) -> None:
    text = TEXTS[name]
    ends = {"cr": "\r", "crlf": "\r\n"}
    content = text.replace("\n", ends[encoding]).encode() if encoding in ends else text.encode(encoding)
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    zipped(tmp_path / "z.zip", {name: content})
    for path in (tmp_path / name, tmp_path / f"{name}.gz", tmp_path / "z.zip"):
        (record,) = records(path)
        assert isinstance(record, Record), record
        assert record.crystal.formula == "MgO"
        assert record.crystal.volume == pytest.approx(MGO.volume, rel=1e-5)
