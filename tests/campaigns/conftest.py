"""Campaigns on real crystals, made once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.materials.sources import server
from tests.campaigns.helpers import configure, done, label_rows, reference_records, write_lines

POOL = 60
INITIAL = 14


@pytest.fixture(scope="session")
def records() -> list[dict[str, Any]]:
    """Give real crystals with a published first-principles conductivity."""
    return reference_records(POOL)


@pytest.fixture(scope="session")
def pool_file(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the crystals as JSON lines, with their values."""
    return write_lines(tmp_path_factory.mktemp("pool") / "pool.jsonl", records)


@pytest.fixture(scope="session")
def _campaign(records: list[dict[str, Any]], pool_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a campaign on the crystals with a few labels, embeddings made."""
    from campaigns.campaign import Campaign
    from campaigns.pool.pool import Pool, embed_pool
    from engine.learning.features.featuriser import Featuriser

    directory = tmp_path_factory.mktemp("made") / "c"
    done("init", directory, "--cold", "--goal", "min", "--property", "kappa_300K")
    done("ingest", directory, pool_file)
    labels = write_lines(directory / "initial.jsonl", label_rows(records[:INITIAL], source="initial"))
    done("label", "import", directory, labels)
    with Campaign.open(directory) as campaign:
        backbone = campaign.backbone(campaign.configuration.model.backbone)
        pool = Pool.of(campaign.store, backbone.elements)
        for _ in embed_pool(campaign.store, Featuriser(backbone, campaign.features), pool):
            pass
    configure(directory, {"campaign": {"batch": 4, "budget": 8}, "model": {"members": 3}})
    return directory


@pytest.fixture
def dft(_campaign: Path, tmp_path: Path) -> Path:
    """Give a campaign that waits for imported labels; two rounds of four are left in its budget."""
    return Path(shutil.copytree(_campaign, tmp_path / "c"))


@pytest.fixture
def replay(dft: Path, pool_file: Path) -> Path:
    """Give the same campaign with a labeler that answers from the pool's file."""
    configure(dft, {"labeler": {"kind": "replay", "source": str(pool_file)}})
    return dft


@pytest.fixture(scope="session")
def _empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("empty") / "c"
    done("init", directory, "--cold")
    return directory


@pytest.fixture
def empty(_empty: Path, tmp_path: Path) -> Path:
    """Campaign without materials."""
    return Path(shutil.copytree(_empty, tmp_path / "c"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask databases twice without waiting."""
    patience = server.Patience(spacing=0.0, attempts=2, pause=0.001, longest=2.0, timeout=5.0)
    monkeypatch.setattr(server, "PATIENCE", patience)
