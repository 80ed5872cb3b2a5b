"""A round whose work is done by Dask workers that Slurm starts."""

from __future__ import annotations

import pytest

from campaigns.campaign import Campaign
from db.states import RoundState
from tests.campaigns.cluster.conftest import DIAMOND, FCC, LONSDALEITE, MakeCampaign
from tests.campaigns.helpers import configure, done, queue
from tests.conftest import REPOSITORY
from tests.slurm import Slurm

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")


def test_a_round_on_slurm(make_campaign: MakeCampaign, scheduler: Slurm) -> None:
    """The same queue as on this machine."""
    here = make_campaign(DIAMOND, LONSDALEITE, FCC)
    done("run", here, "--quiet")
    expected = [entry["id"] for entry in queue(here)]
    assert expected
    there = make_campaign(DIAMOND, LONSDALEITE, FCC, name="there")
    slurm = {
        "walltime": "00:10:00",
        "memory": "1 GB",
        "job_script_prologue": [f"export PYTHONPATH={REPOSITORY}", "export OMP_NUM_THREADS=1"],
        "log_directory": str(there / "logs"),
    }
    configure(there, {"execution": {"backend": "dask", "workers": 1, "timeout": 120.0, "slurm": slurm}})
    done("run", there, "--quiet")
    assert [entry["id"] for entry in queue(there)] == expected
    with Campaign.open(there) as campaign:
        assert [record.state for record in campaign.store.rounds()] == [RoundState.QUEUED]
