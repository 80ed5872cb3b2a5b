"""Folders of results in an archive: only what is read is unpacked, and never outside its folder."""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from campaigns.exceptions import ExchangeError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
MAX_BYTES = 20 * 2**30
"""Largest total size of the files that are read; more is not an export."""
_READ = re.compile(
    r"(?:entry\.json|POSCAR|POSCAR-relaxed|INCAR|KPOINTS|POTCAR\.spec|STARTED|DONE|FAILED|TIMES|OUTCAR"
    r"|phono3py_disp\.yaml|kappa-m.*\.hdf5)"
)
"""Names of the files that mark the state of a calculation."""


def is_archive(path: Path) -> bool:
    """Whether the name has the ending of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def is_export(path: Path) -> bool:
    """Whether a path is a folder or an archive of results, rather than a file of labels."""
    return path.is_dir() or is_archive(path)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Unpack what is read of an archive to a temporary folder, removed after the block.

    Raises
    ------
    ExchangeError
        If it is damaged or too large, or a member's name or link leads out of the folder.
    """
    with tempfile.TemporaryDirectory(prefix="kappascout-") as name:
        folder = Path(name)
        try:
            if path.name.lower().endswith(".zip"):
                _unzip(path, folder)
            else:
                _untar(path, folder)
        except tarfile.FilterError as error:
            raise ExchangeError(f"{path}: {error}; pack the export anew, without absolute paths and links") from error
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ExchangeError(f"{path} is damaged or not an archive ({error}); copy it again") from error
        yield folder


def _untar(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        wanted = []
        for member in archive:
            # every name is checked, also of files that are not read
            tarfile.data_filter(member, str(folder))
            if member.isfile() and _is_read(member.name):
                wanted.append(member)
        _refuse_huge(path, sum(member.size for member in wanted))
        archive.extractall(folder, wanted, filter="data")


def _unzip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        wanted = []
        for member in archive.infolist():
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            if ".." in parts or member.filename.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", member.filename):
                raise ExchangeError(
                    f"{path}: {member.filename!r} leads out of the folder; pack the export anew, without absolute paths"
                )
            if not member.is_dir() and _is_read(member.filename):
                wanted.append(member)
        _refuse_huge(path, sum(member.file_size for member in wanted))
        for member in wanted:
            target = archive.extract(member, folder)
            written = time.mktime((*member.date_time, 0, 0, -1))
            os.utime(target, (written, written))


def _is_read(name: str) -> bool:
    parts = PurePosixPath(name).parts
    is_displaced = any(re.match(r"disp(?:_fc2)?-\d", part) for part in parts)
    return bool(parts) and not is_displaced and _READ.fullmatch(parts[-1]) is not None


def _refuse_huge(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise ExchangeError(
            f"{path} unpacks to {size / 2**30:.0f} GiB of results; unpack it yourself and give the folder"
        )
