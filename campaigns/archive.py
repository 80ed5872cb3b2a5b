"""A whole campaign as one file, checked by hash: to keep a backup, or to move to another machine or database.

An archive is a compressed tar of ``campaign.toml``, ``store/TABLE.jsonl`` (the store's rows as JSON lines, the same
from SQLite and PostgreSQL), ``artifacts/``, the files that ``campaign.toml`` names, and last ``manifest.json`` with the
SHA-256 of every one of them. An archive without it, or that differs from it, is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.archive_file import FORMAT, MANIFEST, ArchiveReader, ArchiveWriter, Manifest, compression_of, writing
from campaigns.configuration import FILE, Configuration, parse_configuration
from campaigns.exceptions import ArchiveError
from campaigns.files import replaced
from db.connection import STRUCTURES
from db.portable import load_campaign
from db.records import Json, utc_now
from db.store import Store
from db.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from campaigns.campaign import Campaign

STORE = "store.sqlite"
CACHES = ("graphs", "embeddings", "statistics")
"""Folders under ``artifacts`` that are computed again from the crystals where they are missing."""


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
    compression = compression_of(to)
    named, outside = _named_files(campaign.configuration, directory)
    for path in outside:
        say(f"left out, because it lies outside the campaign's directory: {path}")
    with campaign.locked(), replaced(to) as partial, writing(partial, compression) as tar:
        archive = ArchiveWriter(tar, say)
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
    return ArchiveReader(path, None, say).read()


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
        manifest = ArchiveReader(path, partial, say).read()
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
