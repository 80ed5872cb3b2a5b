"""Files, folders and archives to raw records, one at a time, in constant memory.

Archives are read in place, in their own order; no member is ever written to disk.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.formats import Format, RawRecord

READABLE = "CIF, POSCAR/CONTCAR/*.vasp, XYZ/extxyz, JSON, JSONL, each also as *.gz or in .tar, .tar.gz, .tgz, .zip"


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
    return (record for path in todo for file in _files(path) for record in _read_file(file))


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(p for p in path.rglob("*") if p.is_file())
    else:
        yield path


def _read_file(path: Path) -> Iterator[RawRecord | Rejection]:
    """One file on disk; damage ends the file, never the run."""
    source, name = path.as_posix(), path.name.lower()
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
    content = gzip.GzipFile(fileobj=stream) if path.name.lower().endswith(".gz") else stream
    empty = True
    for record in splitter(content, stem, source):
        empty = False
        yield record
    if empty:
        yield Rejection(
            source, stem, RejectionReason.UNREADABLE, "the file holds no crystal", "write it again or leave it out"
        )


# --- names --------------------------------------------------------------------------------------------------------

_SUFFIXES = (".cif", ".vasp", ".poscar", ".extxyz", ".xyz", ".jsonl", ".ndjson", ".json")
_VASP_NAMES = ("poscar", "contcar")


def _bare_name(path: PurePosixPath) -> str:
    return path.name.lower().removesuffix(".gz")


def _splitter(name: str) -> Any:
    if name.endswith(".cif"):
        return _cif_blocks
    if name.endswith((".xyz", ".extxyz")):
        return _xyz_frames
    if name.endswith((".jsonl", ".ndjson")):
        return _json_lines
    if name.endswith(".json"):
        return _json_document
    if name.endswith((".vasp", ".poscar")) or name.startswith(_VASP_NAMES):
        return _poscar
    return None


def _stem(path: PurePosixPath) -> str:
    """Take format and compression off the name; a bare ``POSCAR`` goes by its folder's name."""
    name = path.name.removesuffix(".gz")
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
    try:
        document = json.loads(content.read())
    except ValueError as error:
        yield _damaged(source, stem, error)
        return
    if not isinstance(document, list):
        yield RawRecord(stem, Format.JSON, document, source)
        return
    for n, entry in enumerate(document, start=1):
        yield RawRecord(_nth(stem, n), Format.JSON, entry, f"{source}[{n - 1}]")


def _cif_blocks(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord]:
    """One record a ``data_`` block; blocks with neither cell nor sites (journals' ``data_global``) hold no crystal."""
    first: bytes | None = None
    several = False
    for name, block in _data_blocks(content):
        if not _HOLDS_CRYSTAL.search(block):
            continue
        if first is None:
            first, first_name = block, name
            continue
        if not several:
            yield RawRecord(first_name, Format.CIF, first, f"{source}#{first_name}")
            several = True
        yield RawRecord(name, Format.CIF, block, f"{source}#{name}")
    if first is not None and not several:
        yield RawRecord(stem, Format.CIF, first, source)


_HOLDS_CRYSTAL = re.compile(rb"^\s*_(cell_length|atom_site)_", re.MULTILINE | re.IGNORECASE)


def _data_blocks(content: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and text of every block; a line within a semicolon-delimited text field never starts one."""
    name, lines, in_text = "", list[bytes](), False
    for line in content:
        if line.startswith(b";"):
            in_text = not in_text
        if not in_text and line[:5].lower() == b"data_":
            if lines:
                yield name, b"".join(lines)
            name, lines = line[5:].split(b"#")[0].strip().decode("utf-8", errors="replace"), []
        lines.append(line)
    if lines:
        yield name, b"".join(lines)


def _xyz_frames(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    n = 0
    while line := content.readline():
        if not line.strip():
            continue
        n += 1
        if not line.strip().isdigit():
            start = line[:40].decode("utf-8", errors="replace").strip()
            message = f"frame {n} starts with {start!r}, not a number of atoms"
            remedy = "mend the frame before it; the rest of this file was not read"
            yield Rejection(f"{source}[{n - 1}]", _nth(stem, n), RejectionReason.UNREADABLE, message, remedy)
            return
        frame = [line, *(content.readline() for _ in range(int(line) + 1))]
        yield RawRecord(_nth(stem, n), Format.XYZ, b"".join(frame), f"{source}[{n - 1}]")


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
