"""Campaigns on phases of silicon, small enough to be calculated in seconds, and a private Slurm for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from campaigns.exchange.manifest import Entry
from engine.materials.crystal import Crystal
from tests.campaigns.exchange.conftest import SMALL, cluster_environment, record
from tests.campaigns.helpers import configure, done, write_lines
from tests.slurm import Slurm, missing, slurm

DIAMOND = "LTC-Si-diamond"
LONSDALEITE = "lonsdaleite"
FCC = "fcc"
"""Silicon on a face-centred lattice, which is unstable: imaginary modes."""
MakeCampaign = Callable[..., Path]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slurm, dict[str, str]]]:
    """Give a running Slurm, and the environment of its jobs."""
    if lack := missing():
        pytest.skip(lack)
    environment = cluster_environment(tmp_path_factory.mktemp("site"))
    with slurm() as running:
        yield running, environment | running.environment


@pytest.fixture
def scheduler(site: tuple[Slurm, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Give Slurm, which this process finds, without jobs."""
    running, environment = site
    for name, value in environment.items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    yield running
    running.ask("scancel", "--user=root", check=False)


@pytest.fixture
def make_campaign(tmp_path: Path) -> MakeCampaign:
    """Make a campaign on phases of silicon; ``cluster`` and ``dft`` are settings."""

    def make(*phases: str, name: str = "c", **settings: Any) -> Path:
        return new_campaign(tmp_path / name, *phases, **settings)

    return make


def new_campaign(
    directory: Path,
    *phases: str,
    cluster: dict[str, Any] | None = None,
    labeler: dict[str, Any] | None = None,
    batch: int = 2,
    budget: int = 4,
    **dft: Any,
) -> Path:
    """Make it in ``directory``."""
    records = [silicon(phase) for phase in phases]
    done("init", directory, "--cold", "--goal", "max", "--property", "kappa_300K")
    options: dict[str, Any] = {"time": "00:10:00", "ntasks": 1}
    section = {"poll": 0.5, "lost_after": 3.0, "options": options} | (cluster or {})
    configure(
        directory,
        {
            "dft": SMALL | dft,
            "cluster": section,
            "campaign": {"batch": batch, "budget": budget},
            "labeler": labeler or {},
        },
    )
    done("ingest", directory, write_lines(directory.parent / f"{directory.name}.jsonl", records))
    return directory


def silicon(phase: str) -> dict[str, Any]:
    """Give a phase of silicon as a record."""
    if phase == DIAMOND:
        return record(DIAMOND)
    lattice, positions = {
        LONSDALEITE: (
            [[3.84, 0, 0], [-1.92, 3.3255, 0], [0, 0, 6.27]],
            [[1 / 3, 2 / 3, 0.0625], [2 / 3, 1 / 3, 0.5625], [1 / 3, 2 / 3, 0.4375], [2 / 3, 1 / 3, 0.9375]],
        ),
        FCC: ([[0, 2.0, 2.0], [2.0, 0, 2.0], [2.0, 2.0, 0]], [[0.0, 0.0, 0.0]]),
    }[phase]
    crystal = Crystal(lattice, [14] * len(positions), positions)
    return {
        "id": phase,
        "lattice": crystal.lattice.tolist(),
        "species": crystal.symbols,
        "frac_coords": crystal.frac_coords.tolist(),
        "properties": {},
    }


@pytest.fixture
def exported_entry(make_campaign: MakeCampaign, tmp_path: Path) -> Entry:
    """Give the manifest of silicon as it is exported."""
    directory = make_campaign(DIAMOND)
    done("run", directory, "--quiet")
    done("queue", "approve", directory)
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    (path,) = (tmp_path / "out").glob("*/entry.json")
    return Entry.from_json(path.read_text(), str(path))
