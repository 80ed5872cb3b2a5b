"""A round whose work is done by Dask workers that Slurm starts."""

from __future__ import annotations

import sys

import pytest

from campaigns.campaign import Campaign
from db.states import RoundState
from tests.campaigns.cluster.conftest import DIAMOND, FCC, LONSDALEITE, MakeCampaign
from tests.campaigns.helpers import done, queue
from tests.conftest import REPOSITORY
from tests.slurm import Slurm

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")


def test_a_round_and_a_labeler_on_slurm(make_campaign: MakeCampaign, scheduler: Slurm) -> None:
    """The same queue as on this machine, and labels of a calculator that the workers ran."""
    here = make_campaign(DIAMOND, LONSDALEITE, FCC)
    done("run", here, "--quiet")
    expected = [entry["id"] for entry in queue(here)]
    assert expected
    path = here / "campaign.toml"
    prologue = [f"export PYTHONPATH={REPOSITORY}", "export OMP_NUM_THREADS=1"]
    lines = "".join(f'"{line}", ' for line in prologue)
    text = path.read_text() + (
        '\n[execution]\nbackend = "dask"\nworkers = 1\ntimeout = 120.0\n'
        f'\n[execution.slurm]\nwalltime = "00:10:00"\nmemory = "1 GB"\njob_script_prologue = [{lines}]\n'
        f'log_directory = "{here / "logs"}"\n'
    )
    there = here.parent / "there"
    assert sys.executable
    done("init", there, "--cold", "--goal", "max", "--property", "kappa_300K")
    text = text.replace('name = "c"', 'name = "there"')
    (there / "campaign.toml").write_text(text)
    done("ingest", there, here.parent / "c.jsonl")
    done("run", there, "--quiet")
    assert [entry["id"] for entry in queue(there)] == expected
    with Campaign.open(there) as campaign:
        assert [record.state for record in campaign.store.rounds()] == [RoundState.QUEUED]
