"""A campaign for kappa at 300 K begins with the shipped model, and learns its own labels on top of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from campaigns.campaign import Campaign
from campaigns.exceptions import CampaignError
from campaigns.intake.adding import add_materials
from campaigns.intake.ingest_report import IngestReport
from campaigns.intake.reading import open_sources
from campaigns.models.predictors import check_unchanged
from campaigns.round.context import RoundContext
from db.records import LabelRecord
from engine.learning.ensemble.storage import load_ensemble
from engine.materials.crystal import Material
from engine.materials.sources.kinds import REFERENCE
from tests.campaigns.helpers import done

FACTOR = 1.5


@pytest.fixture(scope="module")
def materials() -> list[Material]:
    """A few dozen reference compounds, without their values."""
    found = [m for part in open_sources([REFERENCE]) for m in part if isinstance(m, Material)]
    return found[::5]


def _warm(directory: Path, materials: list[Material], said: list[str], labels: int) -> Campaign:
    """A warm campaign with so many labels, each what the model predicts times a constant factor."""
    campaign = Campaign.create(directory, batch=5, budget=40)
    add_materials(campaign.store, materials, IngestReport())
    if labels:
        first = _predictions(campaign, said)
        some = sorted(first)[:: max(1, len(first) // labels)][:labels]
        campaign.store.add_labels(
            LabelRecord(id_, "kappa_300K", FACTOR * first[id_], "W/(m K)", "dft", method="test") for id_ in some
        )
    return campaign


def _predictions(campaign: Campaign, said: list[str]) -> dict[str, float]:
    """Run a round; the mean of every material, W/(m K)."""
    campaign.run(rounds=1, say=said.append, wait=False)
    return _last(campaign)


def _last(campaign: Campaign) -> dict[str, float]:
    predictions = campaign.store.rounds()[-1].predictions
    assert predictions is not None
    table = parquet.read_table(campaign.directory / predictions.path)
    return dict(zip(table["id"].to_pylist(), table["mean"].to_pylist(), strict=True))


def test_the_first_batch_comes_from_the_shipped_model(tmp_path: Path, materials: list[Material]) -> None:
    """Without any label the pool is predicted, and what is queued is low; what the model has seen is said."""
    said: list[str] = []
    with _warm(tmp_path / "c", materials, said, 0) as campaign:
        predicted = _predictions(campaign, said)
        queued = [predicted[entry.material_id] for entry in campaign.store.queue()]
        assert len(predicted) == len(materials)
        assert len(queued) == 5
        assert max(queued) < np.quantile(list(predicted.values()), 0.3)
    assert any("was trained on" in line and f"of the {len(materials)} crystals" in line for line in said)


def test_ten_labels_correct_a_constant_factor(tmp_path: Path, materials: list[Material]) -> None:
    """Labels 1.5 times the model's predictions move the predictions of the others by most of that, and it is said."""
    said: list[str] = []
    with _warm(tmp_path / "c", materials, said, 10) as campaign:
        before = _last(campaign)
        known = {label.material_id for label in campaign.store.labels("kappa_300K", "dft")}
        after = _predictions(campaign, said)
        ratio = np.array([after[id_] / before[id_] for id_ in after if id_ not in known])
    assert FACTOR * 0.87 < np.exp(np.median(np.log(ratio))) < FACTOR * 1.15
    assert any("1.5 times (median)" in line for line in said)


def test_only_kappa_at_300_kelvin_begins_warm(tmp_path: Path) -> None:
    """Other temperatures and properties have no shipped model; ``--cold`` goes without."""
    for name, warm in (("kappa_300K", True), ("kappa_300K_W_mK", True), ("kappa_600K", False), ("band_gap", False)):
        with Campaign.create(tmp_path / name, property=name) as campaign:
            assert bool(campaign.configuration.model.lower_fidelity) is warm
    done("init", tmp_path / "cold", "--cold")
    with Campaign.open(tmp_path / "cold") as campaign:
        assert not campaign.configuration.model.lower_fidelity


def test_few_labels_leave_the_model_whole(tmp_path: Path, materials: list[Material]) -> None:
    """Three labels are too few to train: the model still predicts, with all that it has learned."""
    said: list[str] = []
    with _warm(tmp_path / "c", materials, said, 3) as campaign:
        before = _last(campaign)
        said.clear()
        assert _predictions(campaign, said) == before
    assert not any("left out" in line for line in said)


def test_a_round_goes_on_only_with_the_model_it_began_with(tmp_path: Path, materials: list[Material]) -> None:
    """An upgrade of the program may ship another one of the same name."""
    said: list[str] = []
    with _warm(tmp_path / "c", materials, said, 0) as campaign:
        _predictions(campaign, said)
        context = RoundContext.of(campaign.workspace, campaign.store.rounds()[-1], said.append)
        check_unchanged(context, "kappa-300K", load_ensemble("kappa-300K"))
        with pytest.raises(CampaignError, match="round 1 "):
            check_unchanged(context, "kappa-300K", load_ensemble("kappa-300K-rehearsal"))
