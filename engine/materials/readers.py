"""Files, folders, archives and databases in a file to raw records, one at a time, in constant memory.

A CSV file with a column of ids, such as GNoME's summary, gives properties to the crystals that are read with it; one
with a column of crystals is read like other files of crystals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from engine.materials.ase_databases import read_ase_database
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.containers import DAMAGE, Found, damaged, files, uncompressed, walk
from engine.materials.formats import Format, RawRecord
from engine.materials.json_documents import json_document, json_lines
from engine.materials.names import PHONOPY, VASP_NAMES, FileIds, bare_name, is_lock, nth
from engine.materials.parsing import printable
from engine.materials.property_tables import PropertyTables
from engine.materials.tables import csv_rows, parquet_rows
from engine.materials.text_streams import as_utf8

READABLE = (
    "CIF, POSCAR/CONTCAR/*.vasp, XYZ/extxyz, JSON, JSONL, Parquet, CSV with a column of crystals, phonopy.yaml, each "
    "also as *.gz, *.bz2, *.xz or in .tar, .tar.gz, .tar.bz2, .tar.xz, .zip; ASE databases (*.db, *.aselmdb), and CSV "
    "with a column of ids beside the crystals"
)


def read(paths: Iterable[str | Path] | str | Path) -> Iterator[RawRecord | Rejection]:
    """Every record of files, folders (recursive, sorted) and archives, in order; unreadable ones as rejections.

    Raises
    ------
    FileNotFoundError
        Before anything is read, if one of the paths does not exist.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    todo = [Path(p) for p in given]
    for path in todo:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give a file, a folder or an archive")
    return _read_all(todo)


def _read_all(paths: list[Path]) -> Iterator[RawRecord | Rejection]:
    ids = FileIds(lambda: (found.path for found in walk(paths, contents=False) if isinstance(found, Found)))
    on_disk = (file for path in paths for file in files(path) if isinstance(file, Path))
    with PropertyTables(on_disk) as tables:
        for found in walk(paths):
            if isinstance(found, Rejection):
                yield _printable(found)
            elif found.file not in tables.files:
                for record in _read_file(found, ids[found.path]):
                    shown = _printable(record)
                    yield tables.joined(shown) if isinstance(shown, RawRecord) else shown


def _printable(record: RawRecord | Rejection) -> RawRecord | Rejection:
    """Escape names of files in old encodings, whose bytes are not text that a database accepts."""
    if (
        record.source.isascii()
        and (isinstance(record, RawRecord) or record.message.isascii())
        and _id(record).isascii()
    ):
        return record
    if isinstance(record, RawRecord):
        return replace(record, id=printable(record.id), source=printable(record.source))
    return replace(
        record,
        source=printable(record.source),
        record_id=printable(record.record_id),
        message=printable(record.message),
    )


def _id(record: RawRecord | Rejection) -> str:
    return record.id if isinstance(record, RawRecord) else record.record_id


def _read_file(found: Found, stem: str) -> Iterator[RawRecord | Rejection]:
    """Records of one file; damage ends the file, not the run."""
    name, source = found.path.name.lower(), found.source
    if is_lock(found.path):
        return
    if found.file is not None and name.endswith((".db", ".aselmdb")):
        yield from read_ase_database(found.file, stem, source)
        return
    if name.endswith((".lmdb", ".mdb")):
        yield Rejection(
            source,
            stem,
            RejectionReason.UNKNOWN_FORMAT,
            "an LMDB file that is not an ASE database (*.aselmdb) holds pickled objects of some program, which can run "
            "anything when they are opened",
            "write its crystals as *.aselmdb, extxyz or JSON lines with the program that it belongs to",
        )
        return
    try:
        if found.content is not None:
            yield from _read_stream(found.path, found.content, stem, source)
        elif found.file is not None:
            with found.file.open("rb") as stream:
                yield from _read_stream(found.path, stream, stem, source)
    except DAMAGE as error:
        yield damaged(source, stem, error)


def _read_stream(path: PurePosixPath, stream: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    """Split one file's content into records, by the format of its name."""
    name = bare_name(path)
    splitter = _splitter(name)
    if splitter is None:
        yield Rejection(
            source,
            stem,
            RejectionReason.UNKNOWN_FORMAT,
            f"the name {path.name} does not say which format the file has",
            f"rename it or leave it out; readable are {READABLE}",
        )
        return
    empty = True
    with uncompressed(stream, path.name) as packed, packed if name.endswith(_BINARY) else as_utf8(packed) as content:
        records = splitter(content, stem, source)
        for record in _named_apart(records, stem) if name.endswith(_CIF) else records:
            empty = False
            yield record
    if empty:
        yield Rejection(
            source, stem, RejectionReason.UNREADABLE, "the file holds no crystal", "write it again or leave it out"
        )


def _named_apart(blocks: Iterator[RawRecord | Rejection], stem: str) -> Iterator[RawRecord | Rejection]:
    """Assign ids to the blocks of a CIF: the file's for blocks without a name or with a generic one."""
    seen: set[str] = set()
    for n, block in enumerate(blocks, start=1):
        name = _id(block)
        if not name or _NUMBERED.fullmatch(name):
            name = nth(stem, n)
        copy = 1
        own = name
        while name in seen:
            copy += 1
            name = nth(own, copy)
        seen.add(name)
        yield replace(block, id=name) if isinstance(block, RawRecord) else replace(block, record_id=name)


_NUMBERED = re.compile(r"(image|frame|structure|block|global)?_?\d*", re.IGNORECASE)
"""Whether the name of a block is generic: ASE's ``image0``, a number, none."""
_BINARY = (".parquet", ".pq")
_CIF = (".cif", ".mcif")


def _splitter(name: str) -> Any:
    for suffixes, splitter in _SPLITTERS.items():
        if name.endswith(suffixes):
            return splitter
    if PHONOPY.fullmatch(name):
        return _phonopy
    return _poscar if name.startswith(VASP_NAMES) else None


# --- one splitter for each format: content -> records -----------------------------------------------------------------


def _phonopy(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord]:
    if (payload := content.read()).strip():
        yield RawRecord(stem, Format.PHONOPY, payload, source)


def _poscar(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord]:
    if payload := content.read().strip(b"\0"):
        yield RawRecord(stem, Format.POSCAR, payload, source)


def _cif_blocks(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord]:
    """One record for each ``data_`` block that has atoms; reflections, ``data_global`` and the like have none."""
    first: RawRecord | None = None
    without_atoms: bytes | None = None
    several = False
    for n, (name, block) in enumerate(_data_blocks(content), start=1):
        if not _HOLDS_ATOMS.search(block):
            without_atoms = without_atoms or (block if _HOLDS_CELL.search(block) else None)
            continue
        record = RawRecord(name, Format.CIF, block, f"{source}#{name or n}")
        if first is None:
            first = record
            continue
        if not several:
            yield first
        several = True
        yield record
    if first is not None and not several:
        yield RawRecord(stem, Format.CIF, first.payload, source)
    elif first is None and without_atoms is not None:
        yield RawRecord(stem, Format.CIF, without_atoms, source)


_HOLDS_ATOMS = re.compile(rb"^\s*_atom_site[._](fract|cartn)_", re.MULTILINE | re.IGNORECASE)
_HOLDS_CELL = re.compile(rb"^\s*_(cell[._]length|atom_site)[._]", re.MULTILINE | re.IGNORECASE)
_CIF2 = b"#\\#CIF_2.0\n"


def _data_blocks(content: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and text of every block; a line within a semicolon-delimited text field never starts one."""
    name, lines, in_text, magic = "", list[bytes](), False, b""
    for n, line in enumerate(content):
        if n == 0 and line.startswith(_CIF2.rstrip()):
            magic = _CIF2
        if line.startswith(b";"):
            in_text = not in_text
        if not in_text and line.lstrip()[:5].lower() == b"data_":
            if lines:
                yield name, magic + b"".join(lines)
            name, lines = line.lstrip()[5:].split(b"#")[0].strip().decode("utf-8", errors="replace"), []
        lines.append(line)
    if lines:
        yield name, magic + b"".join(lines)


def _xyz_frames(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    """One record for each frame, returned after the start of the next, since extra rows make it another crystal."""
    n = 0
    frame: RawRecord | None = None
    while line := content.readline():
        if not line.strip():
            continue
        if not line.strip().isdigit():
            yield from _xyz_disorder(line, n, frame, stem, source)
            return
        if frame is not None:
            yield frame
        rows = [line, *(content.readline() for _ in range(int(line) + 1))]
        frame = RawRecord(nth(stem, n + 1), Format.XYZ, b"".join(rows), f"{source}[{n}]")
        n += 1
    if frame is not None:
        yield frame


def _xyz_disorder(
    line: bytes, n: int, frame: RawRecord | None, stem: str, source: str
) -> Iterator[RawRecord | Rejection]:
    """Error at the start of the next frame: an extra atom, so that the frame before is wrong, or other text."""
    start = line[:40].decode("utf-8", errors="replace").strip()
    if frame is not None and _ATOM_ROW.match(line):
        message = f"frame {n} has more rows of atoms than the number it starts with; the first is {start!r}"
        remedy = "correct the number or take the row out; the rest of this file was not read"
        yield Rejection(frame.source, frame.id, RejectionReason.CONTRADICTION, message, remedy)
        return
    if frame is not None:
        yield frame
    message = f"frame {n + 1} starts with {start!r}, not a number of atoms"
    remedy = "correct the frame before it; the rest of this file was not read"
    yield Rejection(f"{source}[{n}]", nth(stem, n + 1), RejectionReason.UNREADABLE, message, remedy)


_ATOM_ROW = re.compile(rb"\s*([A-Za-z]{1,3}\S*|\d+)(\s+[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?){3}(\s|$)")


_SPLITTERS = {
    _CIF: _cif_blocks,
    (".xyz", ".extxyz"): _xyz_frames,
    (".jsonl", ".ndjson"): json_lines,
    (".json",): json_document,
    (".parquet", ".pq"): parquet_rows,
    (".csv",): csv_rows,
    (".vasp", ".poscar"): _poscar,
}
