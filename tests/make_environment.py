"""An environment with other libraries of potentials, gigabytes from the package index, for the tests that need them.

``python -m tests.make_environment`` makes it in ``$KAPPASCOUT_TEST_ENVIRONMENTS``, without that variable in
``~/.cache/kappascout-tests``. Tests never make it: they use what is there, and are skipped, with this command as the
reason, where it is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

LIBRARIES = ("sevenn", "chgnet")
"""Packages that hold their weights."""
FOLDER = (
    Path(os.environ.get("KAPPASCOUT_TEST_ENVIRONMENTS", Path.home() / ".cache" / "kappascout-tests")) / "potentials"
)
PYTHON = FOLDER / "bin" / "python"


def reason_against(library: str) -> str:
    """Why a library's tests cannot run; empty if they can."""
    if not PYTHON.exists():
        return f"there is no environment {FOLDER}: python -m tests.make_environment"
    done = subprocess.run([PYTHON, "-E", "-c", f"import {library}"], capture_output=True, text=True, check=False)
    return f"{PYTHON} cannot import {library}: {done.stderr.strip().splitlines()[-1]}" if done.returncode else ""


def main() -> None:
    """Make the environment; one that is there is completed."""
    venv.create(FOLDER, symlinks=True, with_pip=True)
    subprocess.run([PYTHON, "-E", "-m", "pip", "install", "--quiet", "ase", *LIBRARIES], check=True)
    sys.exit("; ".join(reason for library in LIBRARIES if (reason := reason_against(library))) or None)


if __name__ == "__main__":
    main()
