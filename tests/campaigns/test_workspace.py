"""What steps of a campaign work with: weights are read once, and again when they have changed; folders are given."""

from __future__ import annotations

import json
from pathlib import Path

from campaigns.campaign import Campaign
from campaigns.labelers.labelers import Dft
from campaigns.workspace import Workspace
from engine.learning.backbones.backbone import load_backbone


def test_weights_replaced_on_disk_are_seen(dft: Path) -> None:
    """A notebook stays open while a stage of training writes over the backbone that a campaign names."""
    folder = load_backbone().save(dft / "mine")
    with Campaign.open(dft) as campaign:
        first = campaign.backbone("mine")
        assert campaign.backbone("mine") is first
        (card,) = folder.glob("*.json")
        card.write_text(json.dumps(json.loads(card.read_text()) | {"note": "trained again"}))
        assert campaign.backbone("mine").card["note"] == "trained again"


def test_labeler_and_features_are_given_when_a_campaign_is_opened(dft: Path, tmp_path: Path) -> None:
    answers = Dft()
    with Campaign.open(dft, answers, tmp_path / "shared") as campaign:
        assert campaign.labeler is answers
        assert campaign.features == tmp_path / "shared"
        assert campaign.artifacts == dft / "artifacts"
    workspace = Workspace.open(dft)
    workspace.store.close()
    assert workspace.features == workspace.artifacts
