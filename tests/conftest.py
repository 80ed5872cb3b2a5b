"""What all tests share: the shared data, and one thread a process."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import create_engine, make_url, text

from tests.postgresql import missing, server

# read by torch and BLAS when they are loaded, here and in every process a test starts; threads on shared cores fight
os.environ.setdefault("OMP_NUM_THREADS", "1")

# how long an example takes says nothing on a busy machine
settings.register_profile("kappascout", deadline=None)
settings.load_profile("kappascout")

REPOSITORY = Path(__file__).resolve().parents[1]

LONGEST = (
    "test_readme.py", "campaigns/test_demo.py", "campaigns/test_kill.py", "campaigns/studies/test_studies.py",
    "campaigns/backtest/test_backtest.py", "campaigns/round/test_score.py", "campaigns/pool/test_pool.py",
    "campaigns/round/test_stopping.py", "campaigns/standalone/test_models.py", "campaigns/test_postgresql.py",
    "campaigns/test_mixture.py",
)  # fmt: skip
"""Files of few but long tests, the longest first: started last, one would run alone while the other processes idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files: the longest first, then those of most tests; within a file nothing changes."""
    tests = Counter(item.path for item in items)
    rank = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (rank.get(item.path, len(LONGEST)), -tests[item.path], item.path))


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


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """URL of an empty schema on a server of our own; a database of its own would take a third of a second."""
    server = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
        url = make_url(postgresql).update_query_dict({"options": f"-csearch_path={name}"})
        yield url.render_as_string(hide_password=False)
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    server.dispose()
