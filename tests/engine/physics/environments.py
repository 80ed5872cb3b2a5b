"""Other Python environments for tests: made in a moment, or by ``tests/make_environment.py`` from the package index."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

from tests.conftest import REPOSITORY


def empty_environment(folder: Path) -> str:
    """Python of a new environment that has nothing, not even ASE."""
    venv.create(folder, symlinks=True)
    return str(folder / "bin" / "python")


def borrowing_environment(folder: Path) -> str:
    """Python of a new environment that imports our packages, and the modules of these tests."""
    python = empty_environment(folder)
    (home,) = folder.glob("lib/python*/site-packages")
    (home / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{REPOSITORY}\n")
    return python
