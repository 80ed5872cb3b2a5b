"""What steps of a campaign work with: weights are read once, and again when they have changed; folders are given."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from campaigns.campaign import Campaign
from campaigns.labelers.labelers import Dft
from campaigns.models.lower_fidelity import lower_fidelity
from campaigns.round.context import RoundContext
from campaigns.round.manifest import RoundManifest
from campaigns.workspace import Workspace
from engine.learning.backbones.backbone import Backbone, load_backbone
from tests.campaigns.helpers import FIELD, configure, done
from tests.engine.learning.bodies import small_backbone


def test_weights_replaced_on_disk_are_seen(dft: Path) -> None:
    """A notebook stays open while a stage of training writes over the backbone that a campaign names."""
    folder = load_backbone().save(dft / "mine")
    with Campaign.open(dft) as campaign:
        first = campaign.backbone("mine")
        assert campaign.backbone("mine") is first
        (card,) = folder.glob("*.json")
        card.write_text(json.dumps(json.loads(card.read_text()) | {"note": "trained again"}))
        assert campaign.backbone("mine").card["note"] == "trained again"


def other_weights() -> Backbone:
    """The small backbone with other weights."""
    other = small_backbone("MEGNet")
    with torch.no_grad():
        for parameter in other.network.body.parameters():
            parameter.mul_(1.25)
    return other


def save_with_old_times(backbone: Backbone, folder: Path) -> None:
    """Write over a backbone as a copy that keeps times does."""
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    backbone.save(folder)
    for name, time in times.items():
        os.utime(folder / name, ns=(time, time))


def test_weights_replaced_with_equal_sizes_and_times_are_seen(replay: Path) -> None:
    """By the card beside them, which holds their SHA-256."""
    folder = replay / "mine"
    seen, status = [], []
    with Campaign.open(replay) as campaign:
        for weights in (small_backbone("MEGNet"), other_weights()):
            weights.save(folder)
            card = folder / "card.json"
            card.write_text(card.read_text().ljust(4096))
            for path in folder.iterdir():
                os.utime(path, ns=(10**18, 10**18))
            status.append({path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()})
            seen.append(campaign.backbone("mine").sha256)
            assert seen[-1] == weights.sha256
    assert status[0] == status[1]
    assert seen[0] != seen[1]


def test_weights_replaced_between_two_openings_in_one_process(replay: Path, pool_file: Path) -> None:
    """A round embeds by the backbone on disk, starts from the lower-fidelity model on disk, and records both."""
    folder = small_backbone("MEGNet").save(replay / "mine")
    configure(replay, {"model": {"backbone": "mine", "lower_fidelity": "cheap", "members": 2}})
    embeddings, lower = [], []
    for weights in (small_backbone("MEGNet"), other_weights()):
        save_with_old_times(weights, folder)
        shutil.rmtree(replay / "cheap", ignore_errors=True)
        done("train", pool_file, "--property", FIELD, "--members", 2, "--from", folder, "--out", replay / "cheap")
        assert len(done("run", replay, "--rounds", 1, "--format", "json").json) == 1
        with Campaign.open(replay) as campaign:
            record = campaign.store.rounds()[-1]
            manifest = RoundManifest.of(record)
            assert manifest.backbone_sha256 == weights.sha256
            context = RoundContext.of(campaign.workspace, record, lambda text: None)
            keys = context.pool.hashes[:4]
            embeddings.append(context.featuriser.embeddings(keys))
            ensemble = lower_fidelity(context)
            assert ensemble is not None
            assert ensemble.backbone.sha256 == weights.sha256
            lower.append(ensemble.predict(context.featuriser, keys).mean)
            recorded = {
                model.backbone_hash for model in campaign.store.models() if model.stage.get("kind") == "lower_fidelity"
            }
            assert weights.sha256 in recorded
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3
    assert np.abs(lower[0] - lower[1]).max() > 1e-6


def test_labeler_and_features_are_given_when_a_campaign_is_opened(dft: Path, tmp_path: Path) -> None:
    answers = Dft()
    with Campaign.open(dft, answers, tmp_path / "shared") as campaign:
        assert campaign.labeler is answers
        assert campaign.features == tmp_path / "shared"
        assert campaign.artifacts == dft / "artifacts"
    workspace = Workspace.open(dft)
    workspace.store.close()
    assert workspace.features == workspace.artifacts
