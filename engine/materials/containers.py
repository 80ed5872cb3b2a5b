"""Files of folders and archives, and of archives within archives, one at a time and in their own order.

Memory holds one member, or a part of a large one; nothing is written to disk except a large archive in an archive,
to a temporary file. Links out of an archive and circular links are rejected.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.names import ARCHIVES, is_no_crystal, place, stem

DEPTH = 3
"""Deepest nesting of archives that is opened."""
WHOLE = 1 << 26
"""Bytes; a member up to this size is read completely before it is parsed, so that its checksum is verified."""
SWELLING = 200
"""Largest compression ratio of a large member; text has a tenth of that."""
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
"""Exceptions of a truncated or damaged file."""


@dataclass(frozen=True)
class Found:
    """A file in a folder or an archive."""

    path: PurePosixPath
    """Absolute path, with archives as folders."""
    source: str
    """Path for messages: ``pool.zip::a/b.cif``."""
    file: Path | None = None
    """Path on disk; None within an archive."""
    content: IO[bytes] | None = None
    """Content of a member, valid until the next file is read; None where only names are listed."""


def walk(paths: Iterable[Path], contents: bool = True) -> Iterator[Found | Rejection]:
    """Every file of files, folders and archives; without ``contents``, their names."""
    for path in paths:
        for found in files(path):
            if isinstance(found, Rejection):
                yield found
                continue
            where = PurePosixPath(os.path.normpath(found.absolute()))
            if found.name.lower().endswith(ARCHIVES):
                yield from _archive_on_disk(found, where, contents)
            else:
                yield Found(where, found.as_posix(), found)


def files(path: Path) -> Iterator[Path | Rejection]:
    """Files of a folder in the order of their paths; memory holds the names of one folder.

    A link to a file is that file; one to a folder is followed where that is not read in its own place.
    """
    if path.is_dir():
        root = Path(os.path.realpath(path))
        yield from _files_below(path, root, {root})
    else:
        yield path


def uncompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    """Unpack a file by its name."""
    name = name.lower()
    if name.endswith((".gz", ".tgz")):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if name.endswith((".bz2", ".tbz2", ".tbz")):
        return bz2.BZ2File(stream)
    return lzma.LZMAFile(stream) if name.endswith((".xz", ".txz")) else stream


def damaged(source: str, record_id: str, error: Exception) -> Rejection:
    """Refuse a file that ends early or is not what its name says."""
    return Rejection(
        source,
        record_id,
        RejectionReason.UNREADABLE,
        f"{source} is truncated or damaged: {error or type(error).__name__}; records before it were read",
        "fetch the file again and ingest it again",
    )


# --- folders ------------------------------------------------------------------------------------------------------


def _files_below(folder: Path, root: Path, linked: set[Path]) -> Iterator[Path | Rejection]:
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
    except OSError as error:
        yield damaged(folder.as_posix(), folder.name, error)
        return
    for name, is_folder in entries:
        path = folder / name
        if is_no_crystal(PurePosixPath(name) / "x" if is_folder else PurePosixPath(name)):
            continue
        if is_folder:
            yield from _files_below(path, root, linked)
        elif path.is_file():
            yield path
        elif path.is_symlink():
            yield from _linked_folder(path, root, linked)
        else:
            yield _not_followed(path.as_posix(), name, "is neither a file nor a folder")


def _linked_folder(link: Path, root: Path, linked: set[Path]) -> Iterator[Path | Rejection]:
    """Files behind a link to a folder, unless they are read elsewhere; ``linked`` prevents circular links."""
    target = link.readlink()
    real = Path(os.path.realpath(link))
    if not link.is_dir():
        yield _not_followed(link.as_posix(), link.name, f"is a link to {target}, which is not there")
    elif real.is_relative_to(root) or root.is_relative_to(real) or any(real.is_relative_to(p) for p in linked):
        yield _not_followed(link.as_posix(), link.name, f"is a link to {target}, which is read in its own place")
    else:
        linked.add(real)
        yield from _files_below(link, root, linked)


def _not_followed(source: str, name: str, message: str) -> Rejection:
    return Rejection(
        source,
        stem(PurePosixPath(name)),
        RejectionReason.UNREADABLE,
        f"{source} {message}",
        "nothing, if its crystals are here under another name; else replace it by the file",
    )


# --- archives -----------------------------------------------------------------------------------------------------


def _archive_on_disk(file: Path, where: PurePosixPath, contents: bool) -> Iterator[Found | Rejection]:
    source = file.as_posix()
    try:
        with file.open("rb") as stream:
            yield from _members(stream, where, source, 1, contents)
    except DAMAGE as error:
        yield damaged(source, stem(place(where)), error)


def _members(
    stream: IO[bytes], path: PurePosixPath, source: str, depth: int, contents: bool
) -> Iterator[Found | Rejection]:
    if depth > DEPTH:
        message = f"{source} is an archive within {DEPTH} others"
        yield Rejection(source, stem(place(path)), RejectionReason.UNREADABLE, message, "unpack it before")
        return
    read = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    for member in read(stream, path, source, contents):
        if isinstance(member, Rejection) or not member.path.name.lower().endswith(ARCHIVES):
            yield member
            continue
        assert member.content is not None
        try:
            with _seekable(member.content) as inner:
                yield from _members(inner, member.path, member.source, depth + 1, contents)
        except DAMAGE as error:
            yield damaged(member.source, stem(place(member.path)), error)


def _tar_members(stream: IO[bytes], path: PurePosixPath, source: str, contents: bool) -> Iterator[Found | Rejection]:
    tail = _Tail(uncompressed(stream, path.name))
    with tarfile.open(fileobj=tail, mode="r|") as archive:  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            # TarFile stores every member it has read; clearing them keeps memory constant
            archive.members = []
            inside = _inside(path, member.name)
            if member.isdir() or is_no_crystal(inside):
                continue
            name = f"{source}::{member.name}"
            if member.issym() or member.islnk():
                yield _link(name, inside, member.linkname)
            elif not member.isfile():
                yield _not_followed(name, inside.name, "is neither a file nor a folder")
            elif contents or inside.name.lower().endswith(ARCHIVES):
                content = archive.extractfile(member)
                assert content is not None
                yield Found(inside, name, content=io.BytesIO(content.read()) if member.size <= WHOLE else content)
            else:
                yield Found(inside, name)
    if any(tail.last):
        raise EOFError("the archive ends without its end mark")


class _Tail:
    """A stream that stores its last block, since tarfile accepts an archive truncated between two members."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self.last = content[-tarfile.BLOCKSIZE :] or self.last
        return content


def _zip_members(stream: IO[bytes], path: PurePosixPath, source: str, contents: bool) -> Iterator[Found | Rejection]:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            inside, name = _inside(path, member.filename), f"{source}::{member.filename}"
            if member.is_dir() or is_no_crystal(inside):
                continue
            if not contents and not inside.name.lower().endswith(ARCHIVES):
                yield Found(inside, name)
                continue
            try:
                if stat.S_ISLNK(member.external_attr >> 16):
                    yield _link(name, inside, archive.read(member)[:200].decode("utf-8", errors="replace"))
                elif member.file_size > max(WHOLE, SWELLING * member.compress_size):
                    raise zipfile.BadZipFile(f"{member.compress_size} bytes would unpack to {member.file_size}")
                elif member.file_size > WHOLE:
                    with archive.open(member) as content:
                        yield Found(inside, name, content=content)
                else:
                    yield Found(inside, name, content=io.BytesIO(archive.read(member)))
            except (*DAMAGE, RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression
                yield damaged(name, stem(inside), error)


def _inside(archive: PurePosixPath, name: str) -> PurePosixPath:
    """Path of a member, always below its archive."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return place(archive).joinpath(*(parts or ["unnamed"]))


def _link(source: str, path: PurePosixPath, target: str) -> Rejection:
    message = f"is a link to {target}, and links in archives are not followed"
    return _not_followed(source, path.name, message)


def _seekable(content: IO[bytes]) -> IO[bytes]:
    """An archive within an archive as a file that can be read in any order."""
    if isinstance(content, io.BytesIO):
        return content
    whole = tempfile.TemporaryFile()  # noqa: SIM115
    while block := content.read(1 << 20):
        whole.write(block)
    whole.seek(0)
    return whole
