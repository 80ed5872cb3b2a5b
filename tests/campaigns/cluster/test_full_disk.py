"""Calculations on a disk that is full: the machine's failure, and done when there is room again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.states import FailureKind, JobState
from tests.campaigns.cluster.conftest import DIAMOND, MakeCampaign
from tests.campaigns.cluster.test_slurm import approved, failures, jobs, look, settled, states, until
from tests.campaigns.helpers import done
from tests.slurm import Slurm

pytest.importorskip("phono3py", reason="phono3py is not installed")
SIZE = "2m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that is a file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode or os.geteuid() != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_the_machines_failure(make_campaign: MakeCampaign, scheduler: Slurm, small_disk: Path) -> None:
    directory = approved(make_campaign(DIAMOND, cluster={"folder": str(small_disk)}))
    scheduler.ask("scontrol", "update", "partitionname=debug", "state=down")
    look(directory)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(b"0" * 2**22)
    scheduler.ask("scontrol", "update", "partitionname=debug", "state=up")
    until(directory, lambda found: settled([job for job in found if job.attempt == 1]))
    assert JobState.FAILED in {job.state for job in jobs(directory)}
    assert states(directory)[DIAMOND] != "done"
    assert {reason.kind for reason in failures(directory)} <= {FailureKind.MACHINE}
    ballast.unlink()
    if states(directory)[DIAMOND] == "failed":
        done("queue", "retry", directory, DIAMOND, "--force")
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}
