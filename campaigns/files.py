"""Files written completely or not at all."""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def python_beside(directory: Path, python: str) -> str:
    """A Python by its name or path, absolute where it lies beside a campaign; empty for none."""
    beside = directory / python
    return str(beside.absolute()) if python and beside.is_file() else python


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Temporary path beside ``path``; it replaces ``path`` when the block succeeds, and is removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str) -> Path:
    """Write text to ``path`` atomically."""
    with replaced(path) as partial:
        partial.write_text(content, encoding="utf-8")
    return path


def share_copies(folder: Path, homes: Iterable[Path]) -> None:
    """Replace files of ``folder`` that one of ``homes`` also has, by name and content, by hard links to those.

    They then take disk space once. On a file system without hard links they stay copies; a copy of the folders
    elsewhere is complete either way.
    """
    for home in homes:
        for file in folder.iterdir():
            twin = home / file.name
            if twin.is_file() and not twin.samefile(file) and filecmp.cmp(twin, file, shallow=False):
                link = file.with_name(f".{file.name}")
                link.unlink(missing_ok=True)
                try:
                    link.hardlink_to(twin)
                except OSError:
                    return
                link.replace(file)
