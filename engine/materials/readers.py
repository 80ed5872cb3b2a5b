"""Files, folders, archives and databases in a file to raw records, one at a time, in constant memory.

Archives are read in place, in their own order; no member is ever written to disk. A CSV file with a column of ids,
such as GNoME's summary, gives properties to the crystals that are read with it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import re
import sqlite3
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from engine.exceptions import EngineError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.elements import SYMBOLS
from engine.materials.formats import Format, RawRecord
from engine.materials.property_tables import PropertyTables

READABLE = (
    "CIF, POSCAR/CONTCAR/*.vasp, XYZ/extxyz, JSON, JSONL, Parquet, each also as *.gz, *.bz2 or in .tar, .tar.gz, .tgz, "
    ".zip; ASE databases (*.db, *.aselmdb), and CSV with a column of ids beside the crystals"
)


def read(paths: Iterable[str | Path] | str | Path) -> Iterator[RawRecord | Rejection]:
    """Every record of files, folders (recursive, sorted) and archives, in order; what cannot be read as a rejection.

    Raises
    ------
    FileNotFoundError
        At once, before anything is read, if one of the paths does not exist.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    todo = [Path(p) for p in given]
    for path in todo:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give a file, a folder or an archive")
    return _read_all(todo)


def _read_all(paths: list[Path]) -> Iterator[RawRecord | Rejection]:
    with PropertyTables(file for path in paths for file in _files(path)) as tables:
        for path in paths:
            for file in _files(path):
                if file in tables.files:
                    continue
                for record in _read_file(file):
                    yield tables.joined(record) if isinstance(record, RawRecord) else record


def _files(path: Path) -> Iterator[Path]:
    """Files of a folder in the order of their paths; memory holds the names of one folder."""
    if not path.is_dir():
        yield path
        return
    with os.scandir(path) as found:
        entries = sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file()) for entry in found)
    for name, is_folder, is_file in entries:
        if is_folder:
            yield from _files(path / name)
        elif is_file:
            yield path / name


def _read_file(path: Path) -> Iterator[RawRecord | Rejection]:
    """One file on disk; damage ends the file, never the run."""
    source, name = path.as_posix(), path.name.lower()
    if name.endswith(_LOCKS):
        return
    if name.endswith((".db", ".aselmdb")):
        yield from _read_ase_database(path, source)
        return
    if name.endswith((".lmdb", ".mdb")):
        yield Rejection(
            source,
            _stem(PurePosixPath(source)),
            RejectionReason.UNKNOWN_FORMAT,
            "an LMDB file that is no ASE database (*.aselmdb) holds pickled objects of some program, which can run "
            "anything when they are opened",
            "write its crystals as *.aselmdb, extxyz or JSON lines with the program that it belongs to",
        )
        return
    try:
        with path.open("rb") as stream:
            if name.endswith((".tar.gz", ".tgz")):
                yield from _read_tar(gzip.GzipFile(fileobj=stream), source)
            elif name.endswith(".tar"):
                yield from _read_tar(stream, source)
            elif name.endswith(".zip"):
                yield from _read_zip(stream, source)
            else:
                yield from _read_stream(PurePosixPath(path.absolute().as_posix()), stream, source)
    except _DAMAGE as error:
        yield _damaged(source, _stem(PurePosixPath(source)), error)


def _read_tar(stream: IO[bytes] | gzip.GzipFile, source: str) -> Iterator[RawRecord | Rejection]:
    tail = _Tail(stream)
    with tarfile.open(fileobj=tail, mode="r|") as archive:  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            # TarFile remembers every member it has seen; forgetting them keeps memory constant
            archive.members = []
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield from _read_member(member.name, content.read(), source)
    if any(tail.last):
        raise EOFError("the archive ends without its end mark")


class _Tail:
    """A stream that remembers its last block: tarfile takes an archive cut between two members for a whole one."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self.last = content[-tarfile.BLOCKSIZE :] or self.last
        return content


def _read_zip(stream: IO[bytes], source: str) -> Iterator[RawRecord | Rejection]:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            try:
                content = archive.read(member)
            except (*_DAMAGE, RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression
                yield _damaged(f"{source}::{member.filename}", _stem(PurePosixPath(member.filename)), error)
                continue
            yield from _read_member(member.filename, content, source)


def _read_member(name: str, content: bytes, archive: str) -> Iterator[RawRecord | Rejection]:
    path, source = PurePosixPath(name), f"{archive}::{name}"
    try:
        yield from _read_stream(path, io.BytesIO(content), source)
    except _DAMAGE as error:
        yield _damaged(source, _stem(path), error)


def _read_stream(path: PurePosixPath, stream: IO[bytes], source: str) -> Iterator[RawRecord | Rejection]:
    """Split one file's content into records, its format told by its name."""
    stem, splitter = _stem(path), _splitter(_bare_name(path))
    if splitter is None:
        yield Rejection(
            source,
            stem,
            RejectionReason.UNKNOWN_FORMAT,
            f"the name {path.name} does not say which format the file has",
            f"rename it or leave it out; readable are {READABLE}",
        )
        return
    content = _uncompressed(stream, path.name.lower())
    empty = True
    for record in splitter(content, stem, source):
        empty = False
        yield record
    if empty:
        yield Rejection(
            source, stem, RejectionReason.UNREADABLE, "the file holds no crystal", "write it again or leave it out"
        )


def _uncompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    return bz2.BZ2File(stream) if name.endswith(".bz2") else stream


# --- names --------------------------------------------------------------------------------------------------------

_SUFFIXES = (
    ".cif", ".vasp", ".poscar", ".extxyz", ".xyz", ".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".db", ".aselmdb",
    ".lmdb", ".mdb",
)  # fmt: skip
_VASP_NAMES = ("poscar", "contcar")
_LOCKS = (".aselmdb-lock", ".lmdb-lock", "lock.mdb")  # what LMDB leaves beside its files


def _bare_name(path: PurePosixPath) -> str:
    return path.name.lower().removesuffix(".gz").removesuffix(".bz2")


def _splitter(name: str) -> Any:
    for suffixes, splitter in _SPLITTERS.items():
        if name.endswith(suffixes):
            return splitter
    return _poscar if name.startswith(_VASP_NAMES) else None


def _stem(path: PurePosixPath) -> str:
    """Take format and compression off the name; a bare ``POSCAR`` goes by its folder's name."""
    name = path.name.removesuffix(".gz").removesuffix(".bz2")
    if name.lower() in _VASP_NAMES and path.parent.name:
        return path.parent.name
    suffix = next((s for s in _SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] or path.name


def _nth(stem: str, n: int) -> str:
    return stem if n == 1 else f"{stem}-{n}"


# --- one splitter a format: content -> records --------------------------------------------------------------------


def _poscar(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord]:
    if payload := content.read().strip(b"\0"):
        yield RawRecord(stem, Format.POSCAR, payload, source)


def _json_lines(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord]:
    for n, line in enumerate(content, start=1):
        if line.strip():
            yield RawRecord(_nth(stem, n), Format.JSON, line, f"{source}:{n}")


def _json_document(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    """One object, or each of a list's: a list at the top (JARVIS) or under ``entries`` (Alexandria), as it streams."""
    n = 0
    try:
        with io.TextIOWrapper(content, encoding="utf-8-sig") as text:
            start = text.read(_BLOCK)
            head = _LIST.match(start)
            if head:
                entries = _list_items(start[head.end() :], text)
            else:
                document = json.loads(start + text.read())
                if not isinstance(document, dict) or not isinstance(document.get("entries"), list):
                    yield RawRecord(stem, Format.JSON, document, source)
                    return
                entries = iter(document["entries"])
            for n, entry in enumerate(entries, start=1):
                yield RawRecord(_nth(stem, n), Format.JSON, entry, f"{source}[{n - 1}]")
    except ValueError as error:
        yield _damaged(source, _nth(stem, n + 1), error)


_BLOCK = 1 << 20
_LIST = re.compile(r'\s*(?:\{\s*"entries"\s*:\s*)?\[')
_BETWEEN = re.compile(r"[\s,]*")


def _list_items(block: str, rest: IO[str]) -> Iterator[Any]:
    """Items of a JSON list whose bracket has been read, one at a time; a list that does not end is a ``ValueError``."""
    decoder = json.JSONDecoder()
    while True:
        position = 0
        while True:
            position = _BETWEEN.match(block, position).end()  # type: ignore[union-attr]
            if block.startswith("]", position):
                return
            try:
                item, position = decoder.raw_decode(block, position)
            except ValueError:
                break
            yield item
        # as much again as is left, so that an item of any size is tried a few times only
        more = rest.read(max(_BLOCK, len(block) - position))
        if not more:
            raise ValueError("the list does not end, or an item is no JSON")
        block = block[position:] + more


def _parquet_rows(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    """One record a row: a crystal's columns as in a JSON record, and every other column a property."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = content if content.seekable() else io.BytesIO(content.read())
    n = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=_ROWS):
            for row in batch.to_pylist():
                n += 1
                properties = {k: v for k, v in row.items() if k not in _CRYSTAL_COLUMNS}
                properties |= _as_dict(row.get("properties"))
                payload = {k: v for k, v in row.items() if k in _CRYSTAL_COLUMNS} | {"properties": properties}
                yield RawRecord(_nth(stem, n), Format.JSON, payload, f"{source}[{n - 1}]")
    except (pa.ArrowException, OSError) as error:
        yield _damaged(source, _nth(stem, n + 1), error)


_ROWS = 256
_CRYSTAL_COLUMNS = {
    "id", "material_id", "task_id", "entry_id", "jid", "mat_id", "immutable_id", "formula", "data", "properties",
    "lattice", "species", "frac_coords", "structure", "sites", "atoms", "cif",
    "lattice_vectors", "cartesian_site_positions", "species_at_sites", "dimension_types",
}  # fmt: skip


def _as_dict(value: Any) -> dict[str, Any]:
    value = json.loads(value) if isinstance(value, str) else value
    return value if isinstance(value, dict) else {}


def _read_ase_database(path: Path, source: str) -> Iterator[RawRecord | Rejection]:
    """One record a row of an ASE database; its key-value pairs and its energy are properties."""
    stem = _stem(PurePosixPath(source))
    try:
        for row in _ase_lmdb_rows(path) if path.name.lower().endswith(".aselmdb") else _ase_sqlite_rows(path):
            where = f"{source}[{row.id}]"
            if not row.pbc.all() or abs(np.linalg.det(row.cell)) < 1e-9:
                message = "the row has no cell that repeats in three directions"
                remedy = "leave molecules and slabs without a cell out"
                yield Rejection(where, f"{stem}-{row.id}", RejectionReason.MISSING_FIELD, message, remedy)
                continue
            yield RawRecord(f"{stem}-{row.id}", Format.JSON, _ase_row(row), where)
    except (sqlite3.Error, OSError, KeyError, ValueError, zlib.error) as error:
        yield _damaged(source, stem, error)


def _ase_sqlite_rows(path: Path) -> Iterator[Any]:
    import ase.db

    with path.open("rb") as stream:
        if stream.read(16) != b"SQLite format 3\0":
            raise sqlite3.DatabaseError("it is not an SQLite file, as an ASE database is")
    yield from ase.db.connect(path, type="db", use_lock_file=False).select()


def _ase_lmdb_rows(path: Path) -> Iterator[Any]:
    """Rows of an ASE database in LMDB, which are compressed JSON."""
    import ase.db

    try:
        import lmdb
        from ase_db_backends.aselmdb import LMDBDatabase  # noqa: F401
    except ImportError as error:
        raise EngineError(
            f"{path} is an ASE database in LMDB, and {error.name} is not installed; install it with "
            "`pip install kappascout[lmdb]`"
        ) from error
    try:
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as whole:
            size = (whole.info()["last_pgno"] + 1) * whole.stat()["psize"]
        if path.stat().st_size < size:  # reading on would end the process
            raise EOFError(f"it has {path.stat().st_size} of {size} bytes")
        with ase.db.connect(path, type="aselmdb", readonly=True) as database:
            yield from database.select()
    except (lmdb.Error, EOFError) as error:
        raise OSError(str(error)) from error


def _ase_row(row: Any) -> dict[str, Any]:
    energy = {"energy_eV": float(row.energy)} if "energy" in row else {}
    known = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in row.key_value_pairs.items()
    }
    own = {key: known[key] for key in ("id", "material_id", "jid", "mat_id") if key in known}
    return {
        **own,
        "lattice": row.cell.tolist(),
        "species": [SYMBOLS[z] for z in row.numbers],
        "frac_coords": np.linalg.solve(row.cell.T, row.positions.T).T.tolist(),
        "properties": energy | {key: value for key, value in known.items() if key not in own},
    }


def _cif_blocks(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord]:
    """One record a ``data_`` block that has atoms; reflections, journals' ``data_global`` and the like have none."""
    used: Counter[str] = Counter()
    first: tuple[str, bytes] | None = None
    without_atoms: bytes | None = None
    for name, block in _data_blocks(content):
        if not _HOLDS_ATOMS.search(block):
            without_atoms = without_atoms or (block if _HOLDS_CELL.search(block) else None)
        elif first is None:
            first = name, block
        else:
            if not used:
                yield _cif_record(*first, stem, source, used)
            yield _cif_record(name, block, stem, source, used)
    if first is not None and not used:
        yield RawRecord(stem, Format.CIF, first[1], source)
    elif first is None and without_atoms is not None:
        yield RawRecord(stem, Format.CIF, without_atoms, source)


def _cif_record(name: str, block: bytes, stem: str, source: str, used: Counter[str]) -> RawRecord:
    """Record of one of several blocks: by its name, the file's where it has none, counted where it comes again."""
    name = name or stem
    used[name] += 1
    unique = _nth(name, used[name])
    return RawRecord(unique, Format.CIF, block, f"{source}#{unique}")


_HOLDS_ATOMS = re.compile(rb"^\s*_atom_site[._](fract|cartn)_", re.MULTILINE | re.IGNORECASE)
_HOLDS_CELL = re.compile(rb"^\s*_(cell[._]length|atom_site)[._]", re.MULTILINE | re.IGNORECASE)
_CIF2 = b"#\\#CIF_2.0\n"


def _data_blocks(content: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and text of every block; a line within a semicolon-delimited text field never starts one."""
    name, lines, in_text, magic = "", list[bytes](), False, b""
    for n, raw in enumerate(content):
        line = raw.removeprefix(b"\xef\xbb\xbf") if n == 0 else raw
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
    """One record a frame; each waits until the next has begun, since rows too many make it another crystal."""
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
        frame = RawRecord(_nth(stem, n + 1), Format.XYZ, b"".join(rows), f"{source}[{n}]")
        n += 1
    if frame is not None:
        yield frame


def _xyz_disorder(
    line: bytes, n: int, frame: RawRecord | None, stem: str, source: str
) -> Iterator[RawRecord | Rejection]:
    """What stands where the next frame should begin: one more atom, so that the frame before is wrong, or anything."""
    start = line[:40].decode("utf-8", errors="replace").strip()
    if frame is not None and _ATOM_ROW.match(line):
        message = f"frame {n} has more rows of atoms than the number it starts with; the first is {start!r}"
        remedy = "correct the number or take the row out; the rest of this file was not read"
        yield Rejection(frame.source, frame.id, RejectionReason.CONTRADICTION, message, remedy)
        return
    if frame is not None:
        yield frame
    message = f"frame {n + 1} starts with {start!r}, not a number of atoms"
    remedy = "mend the frame before it; the rest of this file was not read"
    yield Rejection(f"{source}[{n}]", _nth(stem, n + 1), RejectionReason.UNREADABLE, message, remedy)


_ATOM_ROW = re.compile(rb"\s*([A-Za-z]{1,3}\S*|\d+)(\s+[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?){3}(\s|$)")


_SPLITTERS = {
    (".cif",): _cif_blocks,
    (".xyz", ".extxyz"): _xyz_frames,
    (".jsonl", ".ndjson"): _json_lines,
    (".json",): _json_document,
    (".parquet", ".pq"): _parquet_rows,
    (".vasp", ".poscar"): _poscar,
}


# --- damage -------------------------------------------------------------------------------------------------------

_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


def _damaged(source: str, record_id: str, error: Exception) -> Rejection:
    return Rejection(
        source,
        record_id,
        RejectionReason.UNREADABLE,
        f"{source} is truncated or damaged: {error or type(error).__name__}; what came before was read",
        "fetch the file again and ingest it again",
    )
