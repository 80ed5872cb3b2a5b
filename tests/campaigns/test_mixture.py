"""A campaign on two backbones side by side, from the round to the archive."""

from __future__ import annotations

from tests.campaigns.helpers import configure, done, queue, refused
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


def test_a_backbone_named_twice_is_refused(replay):
    configure(replay, {"model": {"backbone": ["megnet-multiproperty", "megnet-multiproperty"]}})
    assert "megnet-multiproperty is named twice" in refused("run", replay)
