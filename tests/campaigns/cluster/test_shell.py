"""Calculations by processes of this machine, without a queueing system."""

from __future__ import annotations

import pytest

from campaigns.campaign import Campaign
from db.states import JobState
from tests.campaigns.cluster.conftest import DIAMOND, LONSDALEITE, MakeCampaign
from tests.campaigns.exchange.conftest import cluster_environment
from tests.campaigns.helpers import done, queue

pytest.importorskip("phono3py", reason="phono3py is not installed")


def test_one_after_another(
    make_campaign: MakeCampaign, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster_environment(tmp_path_factory.mktemp("site")).items():
        monkeypatch.setenv(name, value)
    directory = make_campaign(DIAMOND, LONSDALEITE, cluster={"scheduler": "shell"})
    done("run", directory, "--quiet")
    done("queue", "approve", directory)
    done("submit", directory)
    with Campaign.open(directory) as campaign:
        assert len(campaign.store.jobs()) == 1
    done("watch", directory, "--every", 0.5)
    assert {entry["state"] for entry in queue(directory)} == {"done"}
    with Campaign.open(directory) as campaign:
        jobs = campaign.store.jobs()
    assert [job.state for job in jobs] == [JobState.ENDED, JobState.ENDED]
    assert str(jobs[0].ended_at) <= str(jobs[1].started_at), "two at a time would share the cores"
