"""What all tests share: the shared data, and one thread a process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgresql import missing, server

# read by torch and BLAS when they are loaded, here and in every process a test starts; threads on shared cores fight
os.environ.setdefault("OMP_NUM_THREADS", "1")

# how long an example takes says nothing on a busy machine
settings.register_profile("kappascout", deadline=None)
settings.load_profile("kappascout")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Give a path under ``../shared``, or skip the test where it is missing."""

    def find(name: str) -> Path:
        path = REPOSITORY.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is missing")
        return path

    return find


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Give the URL of a PostgreSQL server of our own, or skip the test where there is none to start."""
    if reason := missing():
        pytest.skip(reason)
    with server() as running:
        yield running.url
