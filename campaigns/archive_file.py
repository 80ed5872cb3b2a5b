"""The file of an archive: a compressed tar whose last member is a manifest with the SHA-256 of all others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from campaigns.configuration import FILE
from campaigns.exceptions import ArchiveError
from campaigns.output import Count
from db.records import Json
from db.tables import SCHEMA_VERSION

FORMAT = 1
MANIFEST = "manifest.json"
COMPRESSIONS = {".tar.zst": "zstd", ".tar.gz": "gzip", ".tgz": "gzip"}
_BLOCK = 1 << 20


class FileEntry(BaseModel):
    """Size and hash of one file of an archive."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """Contents of an archive: its files with their hashes, and the rows of the store by table."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    campaign: str
    schema_version: str
    """Version of the store's tables."""
    code_version: str
    created_at: str
    rows: dict[str, int]
    """Rows of the store by table, each table after those its rows refer to."""
    files: dict[str, FileEntry]

    def summary(self) -> dict[str, Any]:
        """Summary on one line."""
        return {
            "campaign": self.campaign,
            "created_at": self.created_at,
            "code_version": self.code_version,
            "schema_version": self.schema_version,
            "files": len(self.files),
            "bytes": sum(entry.bytes for entry in self.files.values()),
            **{noun: self.rows.get(noun, 0) for noun in ("material", "label", "model", "round", "queue_entry")},
        }


class ArchiveWriter:
    """Archive that is being written."""

    def __init__(self, tar: tarfile.TarFile, say: Callable[[str], None]):
        self.files: dict[str, FileEntry] = {}
        self._tar = tar
        self._say = say

    def add(self, path: Path, name: str) -> None:
        """Add a file as it is now."""
        with path.open("rb") as file:
            self._add(name, file, os.fstat(file.fileno()).st_size)

    def add_rows(self, name: str, rows: Iterable[Json]) -> int:
        """Add rows as JSON lines; returns how many."""
        count = 0
        with tempfile.TemporaryFile() as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n")
                count += 1
            size = file.tell()
            file.seek(0)
            self._add(name, file, size)
        return count

    def add_text(self, name: str, text: str) -> None:
        """Add a short text."""
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            size = file.tell()
            file.seek(0)
            self._add(name, file, size)

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o644
        hashed = _Hashed(file)
        self._tar.addfile(entry, hashed)
        self.files[name] = FileEntry(sha256=hashed.digest.hexdigest(), bytes=size)
        self._say(Count(f"{len(self.files)} files archived"))


class ArchiveReader:
    """Archive that is extracted to a folder, or only checked."""

    def __init__(self, path: Path, folder: Path | None, say: Callable[[str], None]):
        self._path = path
        self._folder = folder
        self._say = say
        self._found: dict[str, FileEntry] = {}
        self._manifest: bytes | None = None

    def read(self) -> Manifest:
        """Read to the end and compare with the manifest."""
        compression = compression_of(self._path)
        try:
            with _reader(self._path, compression) as tar:
                for member in tar:
                    self._take(tar, member)
        except (tarfile.TarError, EOFError) as error:
            raise self._broken(f"it is damaged or was not written to its end ({error})") from error
        except OSError as error:
            if error.errno is not None:  # an error of the operating system, not of the decompressor
                raise
            raise self._broken(f"it is damaged or was not written to its end ({error})") from error
        return self._checked()

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name
        if self._manifest is not None:
            raise self._broken(f"{name!r} follows the manifest, which is the last file of an archive")
        path = PurePosixPath(name)
        if not member.isreg() or path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
            raise self._broken(f"it holds {name!r}, which is not a plain file inside the campaign's directory")
        if name in self._found:
            raise self._broken(f"it holds {name!r} twice")
        source = tar.extractfile(member)
        assert source is not None  # it is a plain file
        hashed = _Hashed(source)
        if name == MANIFEST:
            self._manifest = hashed.read()
        if self._folder is None:
            while hashed.read(_BLOCK):
                pass
        else:
            target = self._folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.write(self._manifest or b"")
                shutil.copyfileobj(hashed, file, _BLOCK)
        if name != MANIFEST:
            self._found[name] = FileEntry(sha256=hashed.digest.hexdigest(), bytes=member.size)
            self._say(Count(f"{len(self._found)} files read"))

    def _checked(self) -> Manifest:
        if self._manifest is None:
            raise self._broken("it ends without a manifest, so it was not written to its end")
        try:
            manifest = Manifest.model_validate_json(self._manifest)
        except ValidationError as error:
            raise self._broken(f"its manifest cannot be read ({error.errors()[0]['msg']})") from error
        if manifest.format > FORMAT or manifest.schema_version > SCHEMA_VERSION:
            raise ArchiveError(
                f"{self._path} was written by kappascout {manifest.code_version}, newer than this one; "
                "upgrade the program with `pip install --upgrade kappascout`"
            )
        names = {FILE, *(f"store/{table}.jsonl" for table in manifest.rows), *manifest.files, *self._found}
        wrong = [name for name in sorted(names) if not self._found.get(name) == manifest.files.get(name) is not None]
        if wrong:
            shown = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
            raise self._broken(f"{len(wrong)} of its files are missing, changed or not in its manifest ({shown})")
        return manifest

    def _broken(self, reason: str) -> ArchiveError:
        return ArchiveError(f"{self._path} cannot be used: {reason}; use another copy of it")


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]):
        self.digest = hashlib.sha256()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


@contextmanager
def writing(path: Path, compression: str) -> Iterator[tarfile.TarFile]:
    """An archive's tar, open to be written."""
    import pyarrow as pa

    with pa.output_stream(path, compression=compression) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        yield tar


@contextmanager
def _reader(path: Path, compression: str) -> Iterator[tarfile.TarFile]:
    import pyarrow as pa

    with pa.input_stream(path, compression=compression) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


def compression_of(path: Path) -> str:
    """Compression of an archive by the ending of its name.

    Raises
    ------
    ArchiveError
        If it has no ending of an archive.
    """
    for suffix, name in COMPRESSIONS.items():
        if path.name.endswith(suffix):
            return name
    raise ArchiveError(f"{path.name!r} does not have the ending of an archive; name it {' or '.join(COMPRESSIONS)}")
