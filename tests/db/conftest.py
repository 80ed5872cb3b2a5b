"""Stores for the conformance suite: every test that takes ``store`` runs against every backend.

SQLite is always there. PostgreSQL joins where ``KAPPASCOUT_TEST_POSTGRESQL`` holds the URL of a server on which
databases may be created (``postgresql+psycopg://user@/postgres?host=/socket/folder``).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from db.records import CampaignRecord, MaterialRecord, SourceRecord
from db.store import Store

POSTGRESQL = os.environ.get("KAPPASCOUT_TEST_POSTGRESQL")
STORE_URLS = ["sqlite", *(["postgresql"] if POSTGRESQL else [])]


@pytest.fixture(params=STORE_URLS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty place for a store."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    assert POSTGRESQL is not None
    server = create_engine(POSTGRESQL, isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """Open a store that holds one campaign."""
    with Store.open(store_url, create=True) as store:
        store.create_campaign(CampaignRecord("test", "min", "kappa_300K", {"batch": 4}, seed=7))
        yield store


@pytest.fixture
def make_material() -> Callable[..., MaterialRecord]:
    """Make a small material; what is not given follows from the id."""

    def make(
        material_id: str, content_hash: str | None = None, origin: str = "pool.jsonl", **properties: float
    ) -> MaterialRecord:
        return MaterialRecord(
            material_id=material_id,
            content_hash=content_hash or f"hash of {material_id}",
            formula="NaCl",
            chemical_system="Cl-Na",
            spacegroup=225,
            n_sites=2,
            bucket="NaCl|225|2",
            structure={"lattice": [[2.82, 2.82, 0.0], [2.82, 0.0, 2.82], [0.0, 2.82, 2.82]], "numbers": [11, 17]},
            properties=properties,
            sources=(SourceRecord(material_id, origin),),
        )

    return make


@pytest.fixture
def pool(store: Store, make_material: Callable[..., MaterialRecord]) -> list[str]:
    """Ids of ten materials that are in the store."""
    return store.add_materials(make_material(f"m{i}", band_gap_eV=i / 2) for i in range(10)).added
