"""A whole campaign as one file, checked by hash: to keep a backup, or to move to another machine or database.

An archive is a compressed tar of ``campaign.toml``, ``store/TABLE.jsonl`` (the store's rows as JSON lines, the same
from SQLite and PostgreSQL), ``artifacts/``, the files that ``campaign.toml`` names, and last ``manifest.json`` with the
SHA-256 of every one of them. An archive without it, or that differs from it, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from campaigns.configuration import FILE, Configuration, parse_configuration
from campaigns.exceptions import ArchiveError
from campaigns.files import replaced
from campaigns.output import Count
from db.connection import STRUCTURES
from db.portable import load_campaign
from db.records import Json, utc_now
from db.store import Store
from db.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from campaigns.campaign import Campaign

FORMAT = 1
MANIFEST = "manifest.json"
STORE = "store.sqlite"
COMPRESSIONS = {".tar.zst": "zstd", ".tar.gz": "gzip", ".tgz": "gzip"}
CACHES = ("graphs", "embeddings", "statistics")
"""Folders under ``artifacts`` that are computed again from the crystals where they are missing."""
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


def create_archive(
    campaign: Campaign, to: Path, caches: bool = False, say: Callable[[str], None] = lambda text: None
) -> Manifest:
    """Write a campaign into one file, while no other process works in its directory.

    Parameters
    ----------
    campaign
        An open campaign.
    to
        File to write, ``.tar.zst`` or ``.tar.gz``; it appears when it is complete.
    caches
        Whether to include graphs and embeddings, which are otherwise computed again when they are needed.
    say
        Receives progress, and names of files in ``campaign.toml`` that lie outside the directory and are left out.
    """
    directory = campaign.directory
    compression = _compression(to)
    named, outside = _named_files(campaign.configuration, directory)
    for path in outside:
        say(f"left out, because it lies outside the campaign's directory: {path}")
    with campaign.locked(), replaced(to) as partial, _writer(partial, compression) as tar:
        archive = _Writing(tar, say)
        archive.add(directory / FILE, FILE)
        rows = {name: archive.add_rows(f"store/{name}.jsonl", found) for name, found in campaign.store.dump()}
        for path in dict.fromkeys((*_files(campaign.artifacts, () if caches else CACHES), *named)):
            archive.add(path, path.relative_to(directory).as_posix())
        manifest = Manifest(
            format=FORMAT,
            campaign=campaign.configuration.campaign.name,
            schema_version=SCHEMA_VERSION,
            code_version=version("kappascout"),
            created_at=utc_now(),
            rows=rows,
            files=archive.files,
        )
        archive.add_text(MANIFEST, manifest.model_dump_json(indent=1))
    return manifest


def verify_archive(path: Path, say: Callable[[str], None] = lambda text: None) -> Manifest:
    """Hash every file of an archive.

    Raises
    ------
    ArchiveError
        If it is damaged, incomplete, or not an archive of a campaign; the message names the file at fault.
    """
    return _Reading(path, None, say).read()


def extract_archive(
    path: Path, directory: Path, store_url: str = "", say: Callable[[str], None] = lambda text: None
) -> Manifest:
    """Make a campaign directory from an archive, checked by hash; it appears when it is complete.

    Parameters
    ----------
    path
        The archive.
    directory
        A new or empty one.
    store_url
        Database for the store; without one it is ``store.sqlite`` in ``directory``, wherever it was before.
        ``campaign.toml`` is changed to say so.
    say
        Receives progress.

    Raises
    ------
    ArchiveError
        If ``directory`` is not empty, or the archive is damaged, incomplete, or not an archive of a campaign.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ArchiveError(f"{directory} exists and is not empty; choose another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _appearing(directory) as partial:
        manifest = _Reading(path, partial, say).read()
        toml = partial / FILE
        toml.write_text(_with_store(toml.read_text(encoding="utf-8"), store_url), encoding="utf-8")
        configuration = parse_configuration(toml.read_text(encoding="utf-8"), f"{FILE} of {path}")
        say(f"{sum(manifest.rows.values())} rows for the store")
        store: str | Path = store_url or partial / STORE
        patience = configuration.store.timeout
        rows, folder = _tables(partial, manifest), partial / STRUCTURES
        written = load_campaign(store, rows, manifest.schema_version, patience, folder)
        if manifest.schema_version == SCHEMA_VERSION and written != manifest.rows:
            raise ArchiveError(f"the rows in {path} differ from its manifest; use another copy of it")
        Store.open(store, campaign=configuration.campaign.name, timeout=patience).close()
        shutil.rmtree(partial / "store")
        (partial / MANIFEST).unlink()
    return manifest


class _Writing:
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


class _Reading:
    """Archive that is extracted to a folder, or only checked."""

    def __init__(self, path: Path, folder: Path | None, say: Callable[[str], None]):
        self._path = path
        self._folder = folder
        self._say = say
        self._found: dict[str, FileEntry] = {}
        self._manifest: bytes | None = None

    def read(self) -> Manifest:
        """Read to the end and compare with the manifest."""
        compression = _compression(self._path)
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
def _appearing(directory: Path) -> Iterator[Path]:
    """A folder beside ``directory``: it becomes ``directory`` when the block succeeds, and is removed otherwise."""
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _writer(path: Path, compression: str) -> Iterator[tarfile.TarFile]:
    import pyarrow as pa

    with pa.output_stream(path, compression=compression) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        yield tar


@contextmanager
def _reader(path: Path, compression: str) -> Iterator[tarfile.TarFile]:
    import pyarrow as pa

    with pa.input_stream(path, compression=compression) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


def _compression(path: Path) -> str:
    for suffix, name in COMPRESSIONS.items():
        if path.name.endswith(suffix):
            return name
    raise ArchiveError(f"{path.name!r} does not have the ending of an archive; name it {' or '.join(COMPRESSIONS)}")


def _files(folder: Path, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """Files under ``folder`` in order, except its subfolders ``without`` and hidden files (not complete yet)."""
    for place, folders, names in os.walk(folder):
        skipped = without if Path(place) == folder else ()
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _named_files(configuration: Configuration, directory: Path) -> tuple[list[Path], list[Path]]:
    """Files that the settings name: those inside the directory, and what lies outside."""
    home = directory.resolve()
    inside: list[Path] = []
    outside: list[Path] = []
    for value in _texts(configuration.model_dump(mode="json")):
        path = directory / value
        # a text may not be a file name at all, and Path.exists raises an error on one that is too long
        if value in {"", FILE, STORE} or not os.path.exists(path) or path.resolve() == home:  # noqa: PTH110
            continue
        if not path.resolve().is_relative_to(home):
            outside.append(path)
        else:
            inside += _files(path) if path.is_dir() else [path]
    return inside, outside


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _tables(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Iterator[Json]]]:
    for table in manifest.rows:
        with (folder / "store" / f"{table}.jsonl").open(encoding="utf-8") as file:
            yield table, map(json.loads, file)


def _with_store(text: str, url: str) -> str:
    """Change the text of a ``campaign.toml`` so that its store is at ``url``, or in its directory."""
    line = f"url = {json.dumps(url)}"
    lines: list[str] = []
    section, done = "", not url
    for old in text.splitlines():
        if header := re.match(r"\s*\[\s*([\w.]+)\s*\]", old):
            section = header[1]
        if section == "store" and re.match(r"\s*url\s*=", old):
            lines.append(f"# {old.strip()}")
        else:
            lines.append(old)
        if section == "store" and header and not done:
            lines.append(line)
            done = True
    if not done:
        lines += ["", "[store]", line]
    new = "\n".join(lines) + "\n"
    if tomllib.loads(new).get("store", {}).get("url", "") != url:
        raise ArchiveError(f"[store] in the archived {FILE} is written in an unusual way; its url cannot be set")
    return new
