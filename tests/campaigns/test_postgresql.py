"""One campaign on a PostgreSQL server, worked on from two directories."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from campaigns.archive import create_archive, extract_archive
from campaigns.campaign import Campaign
from db.states import QueueState, RoundState
from tests.campaigns.helpers import done, label_rows, queue, refused, write_lines


@pytest.fixture
def directories(dft: Path, tmp_path: Path, postgresql_url: str) -> tuple[Path, Path, Path]:
    """Give two directories with one store on the server, and one with the same campaign in a store of its own."""
    archive = tmp_path / "c.tar.zst"
    with Campaign.open(dft) as campaign:
        create_archive(campaign, archive, caches=True)
    first, second, alone = (tmp_path / name for name in ("first", "second", "alone"))
    extract_archive(archive, first, postgresql_url)
    extract_archive(archive, alone)
    second.mkdir()
    (second / "campaign.toml").write_text((first / "campaign.toml").read_text())
    return first, second, alone


def test_labels_come_in_while_another_process_ranks(
    directories: tuple[Path, Path, Path], records: list[dict[str, Any]]
) -> None:
    """Neither waits for the other, and the round is what it would have been without them."""
    first, second, alone = directories
    program = [sys.executable, "-m", "campaigns", "run", str(first), "--rounds", "1", "--quiet"]
    labels = write_lines(second / "labels.jsonl", label_rows(records[20:26]))
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as ranking:
        with Campaign.open(second) as campaign:
            while not campaign.store.rounds():
                assert ranking.poll() is None, ranking.communicate()
                time.sleep(0.02)
        assert done("label", "import", second, labels, "--format", "json").json["added"] == 6
        _, messages = ranking.communicate()
    assert ranking.returncode == 0, messages
    with Campaign.open(second) as campaign:
        (record,) = campaign.store.rounds()
        arrived = {label.created_at for label in campaign.store.labels()[14:]}
        assert record.started_at < min(arrived) <= max(arrived) < record.steps[RoundState.QUEUED]
        assert record.manifest["labels"] == 14
        assert campaign.store.counts()["labels"] == 20
    done("run", alone, "--rounds", 1, "--quiet")
    chosen = [(entry["rank"], entry["id"], entry["log10_mean"]) for entry in queue(alone)]
    assert [(entry["rank"], entry["id"], entry["log10_mean"]) for entry in queue(second)] == chosen
    # the next round, from the other directory, learns from all of them
    done("queue", "approve", second)
    with Campaign.open(second) as campaign:
        claimed = campaign.store.queue([QueueState.APPROVED])[:2]
        campaign.store.move([entry.id or 0 for entry in claimed], QueueState.RUNNING, "a worker")
    assert [entry["state"] for entry in queue(first)] == ["running", "running", "approved", "approved"]
    with Campaign.open(first) as campaign:
        campaign.store.move(
            [entry.id or 0 for entry in campaign.store.queue([QueueState.APPROVED])], QueueState.RUNNING, "another"
        )
        assert [entry.rank for entry in campaign.queue_entries([QueueState.RUNNING])] == [1, 2, 3, 4]
    assert [entry.rank for entry in claimed] == [1, 2]


def test_a_password_comes_from_the_environment(directories: tuple[Path, Path, Path]) -> None:
    first = directories[0]
    toml = first / "campaign.toml"
    there = toml.read_text()
    gone = there.replace("postgresql+psycopg://kappascout@/", "postgresql+psycopg://me:${GONE_PASSWORD}@127.0.0.1:1/")
    assert gone != there
    toml.write_text(gone)
    assert "variable GONE_PASSWORD, which is not set" in refused("status", first)
