"""Stores for the conformance suite: every test that takes ``store`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.records import CampaignRecord, MaterialRecord, SourceRecord
from db.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty place for a store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    """Folder of the structures: where an SQLite store has it by itself."""
    return tmp_path / "artifacts" / "structures"


@pytest.fixture
def make_campaign(structures: Path) -> Callable[..., Store]:
    """Open a store, made where there is none, with a new campaign."""

    def make(url: str, name: str = "test") -> Store:
        store = Store.open(url, create=True, structures=structures)
        store.create_campaign(CampaignRecord(name, "min", "kappa_300K", {"batch": 4}, seed=7))
        return store

    return make


@pytest.fixture
def store(store_url: str, make_campaign: Callable[..., Store]) -> Iterator[Store]:
    """Open a store that holds one campaign."""
    with make_campaign(store_url) as store:
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
            structure={
                "lattice": [[2.82, 2.82, 0.0], [2.82, 0.0, 2.82], [0.0, 2.82, 2.82]],
                "numbers": [11, 17],
                "frac_coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
            },
            properties=properties,
            sources=(SourceRecord(material_id, origin),),
        )

    return make


@pytest.fixture
def pool(store: Store, make_material: Callable[..., MaterialRecord]) -> list[str]:
    """Ids of ten materials that are in the store."""
    return store.add_materials(make_material(f"m{i}", band_gap_eV=i / 2) for i in range(10)).added
