"""A campaign on two backbones side by side, from the round to the archive."""

from __future__ import annotations

import json

from engine.learning.backbones.backbone import load_backbone
from tests.campaigns.helpers import configure, done, kappascout, queue, refused
from tests.engine.learning.bodies import small_backbone


def test_a_campaign_stands_on_two_backbones(replay, tmp_path):
    small_backbone("TensorNet").save(replay / "small")
    configure(replay, {"model": {"backbone": ["megnet-multiproperty", "small"]}})

    done("run", replay, "--rounds", "2")

    assert [entry["state"] for entry in queue(replay)] == ["done"] * 8
    latest, *_ = done("models", "list", replay, "--format", "json").json
    shown = done("models", "show", replay, latest["model"], "--format", "json").json
    assert "small-TensorNet" in str(shown)
    assert {row["state"] for row in done("models", "verify", replay, "--format", "json").json} == {"intact"}
    done("report", replay)
    assert "principal components of the standardised embeddings" in (replay / "report.html").read_text().lower()

    done("archive", "create", replay, "--to", tmp_path / "c.tar.gz")
    done("archive", "extract", tmp_path / "c.tar.gz", tmp_path / "elsewhere")
    assert (
        done("rounds", tmp_path / "elsewhere", "--format", "json").json
        == done("rounds", replay, "--format", "json").json
    )


def test_a_part_that_another_part_began_as_is_verified_too(replay, pool_file, tmp_path):
    """It is one model of the store, an ancestor without weights here and a backbone with them."""
    small = small_backbone("MEGNet").save(replay / "small")
    stage = {"tasks": [{"name": "kappa_300K", "scale": "log10"}], "schedule": {"epochs": 1}, "min_labels": 8}
    (tmp_path / "r.json").write_text(json.dumps(stage))
    done("pretrain", tmp_path / "r.json", pool_file, "--from", small, "--out", replay / "made")
    configure(replay, {"model": {"backbone": ["made", "small"]}})
    assert "warning: backbone r + small-MEGNet has learned kappa_300K of 14" in done("run", replay, "--rounds", 1).err
    rows = done("models", "verify", replay, "--format", "json").json
    weights = {row["checkpoint"] for row in rows if row["checkpoint"].startswith("artifacts/backbones/")}
    assert len(weights) == 2
    (spoiled,) = (replay / path for path in weights if load_backbone(small).sha256[:32] in path)
    spoiled.write_bytes(b"other")
    assert kappascout("models", "verify", replay).code == 1
    load_backbone(small).save(spoiled.parent)
    assert kappascout("models", "verify", replay).code == 0
    (record,) = (replay / "artifacts" / "models").glob("round-*/ensemble.json")
    record.write_text(record.read_text().replace('"calibration": ', '"calibration": 1'))
    outcome = kappascout("models", "verify", replay)
    assert outcome.code == 1
    assert "ensemble.json" in outcome.err


def test_a_backbone_named_twice_is_refused(replay):
    configure(replay, {"model": {"backbone": ["megnet-multiproperty", "megnet-multiproperty"]}})
    assert "megnet-multiproperty is named twice" in refused("run", replay)
