"""Calculations on a real Slurm, of a private node, with the real phono3py; only VASP is another program's forces."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from campaigns.budget import core_hours
from campaigns.campaign import Campaign
from campaigns.cluster.submitting import PENDING
from campaigns.cluster.watching import observe, only_watch, proceed
from campaigns.exceptions import CampaignBusyError
from db.records import JobRecord
from db.states import FailureKind, FailureReason, JobState, QueueState
from tests.campaigns.cluster.conftest import DIAMOND, FCC, LONSDALEITE, MakeCampaign
from tests.campaigns.helpers import configure, done, queue, refused
from tests.slurm import Slurm

pytest.importorskip("phono3py", reason="phono3py is not installed")
WITHIN = 120.0
"""Seconds after which what should happen has not."""


def approved(directory: Path) -> Path:
    """Queue and approve a round's batch."""
    done("run", directory, "--quiet")
    done("queue", "approve", directory)
    return directory


def jobs(directory: Path) -> list[JobRecord]:
    with Campaign.open(directory) as campaign:
        return campaign.store.jobs()


def look(directory: Path, **options: bool) -> Any:
    """Look once, as `watch --once` does."""
    with Campaign.open(directory) as campaign:
        seen = observe(campaign)
        assert not seen.trouble
        return seen, proceed(campaign, seen, **options)


def until(directory: Path, condition: Callable[[list[JobRecord]], bool]) -> None:
    """Look again and again until jobs are as they should be."""
    end = time.monotonic() + WITHIN
    while not condition(jobs(directory)):
        assert time.monotonic() < end, jobs(directory)
        time.sleep(0.3)
        look(directory)


Hanging = Callable[..., Path]


@pytest.fixture
def hanging(make_campaign: MakeCampaign, scheduler: Slurm, monkeypatch: pytest.MonkeyPatch) -> Hanging:
    """Submit silicon, and wait until VASP hangs in its relaxation; it does so once."""

    def begin(**settings: Any) -> Path:
        directory = approved(make_campaign(DIAMOND, **settings))
        monkeypatch.setenv("FAKE_VASP", "hang_once")
        monkeypatch.setenv("FAKE_VASP_IN", "relax")
        look(directory)
        until(directory, lambda found: found[0].state is JobState.RUNNING)
        wait(lambda: "hanging" in "".join(p.read_text() for p in directory.glob("calculations/*/relax/vasp.out")))
        return directory

    return begin


def wait(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def settled(found: list[JobRecord]) -> bool:
    return bool(found) and all(job.state.is_finished for job in found)


def states(directory: Path) -> dict[str, str]:
    return {entry["id"]: entry["state"] for entry in queue(directory)}


def failures(directory: Path) -> list[FailureReason]:
    with Campaign.open(directory) as campaign:
        return [failure.reason for failure in campaign.store.failures(current_only=False)]


def test_from_approval_to_the_next_round(
    make_campaign: MakeCampaign, scheduler: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One crystal fails by physics, one by the machine and succeeds when repeated; the next round begins by itself."""
    directory = approved(make_campaign(DIAMOND, LONSDALEITE, FCC, batch=2, budget=3))
    first = {entry["id"] for entry in queue(directory)}
    monkeypatch.setenv("FAKE_VASP", "crash_once")
    monkeypatch.setenv("FAKE_VASP_IN", f"{DIAMOND}/relax")
    done("submit", directory)
    assert {job.stage for job in jobs(directory)} == {"prepare", "forces", "kappa"}
    watched = done("watch", directory, "--every", 0.5, "--go-on", "--approve")
    assert set(states(directory).values()) == {"done"}
    assert len(first) < len(states(directory)) == 3
    with Campaign.open(directory) as campaign:
        assert [record.state for record in campaign.store.rounds()] == ["judged", "judged"]
        labels = {label.material_id: label for label in campaign.store.labels("kappa_300K")}
        repeated = {job.folder for job in campaign.store.jobs() if job.attempt == 2}
    assert labels.keys() == {DIAMOND, LONSDALEITE, FCC}
    assert repeated == {folder for folder in repeated if folder.endswith(DIAMOND)} != set()
    assert FailureReason.CALCULATOR_ERROR in failures(directory)
    assert DIAMOND in watched.out, "what was found is printed beside what was predicted"
    ended = [job for job in jobs(directory) if job.state is JobState.ENDED]
    assert all(job.nodes and job.started_at and job.ended_at and job.core_hours is not None for job in ended)


def test_physics_is_not_repeated(
    make_campaign: MakeCampaign, scheduler: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = approved(make_campaign(DIAMOND))
    monkeypatch.setenv("FAKE_VASP", "unconverged")
    look(directory)
    until(directory, settled)
    look(directory)
    assert states(directory) == {DIAMOND: "failed"}
    (reason,) = failures(directory)
    assert reason.kind is FailureKind.CRYSTAL
    assert {job.attempt for job in jobs(directory)} == {1}


def test_a_job_that_somebody_cancels_is_not_repeated(hanging: Hanging, scheduler: Slurm) -> None:
    directory = hanging()
    scheduler.ask("scancel", str(jobs(directory)[0].job_id))
    until(directory, settled)
    look(directory)
    assert states(directory) == {DIAMOND: "failed"}
    assert failures(directory) == [FailureReason.CANCELLED]
    done("queue", "retry", directory, DIAMOND)
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}


def test_an_array_that_somebody_cancels_is_not_repeated(
    make_campaign: MakeCampaign, scheduler: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = approved(make_campaign(DIAMOND))
    monkeypatch.setenv("FAKE_VASP", "hang_once")
    monkeypatch.setenv("FAKE_VASP_IN", "disp-")
    look(directory)
    until(directory, lambda found: found[1].state is JobState.RUNNING)
    scheduler.ask("scancel", str(jobs(directory)[1].job_id))
    until(directory, settled)
    look(directory)
    assert states(directory) == {DIAMOND: "failed"}
    assert failures(directory) == [FailureReason.CANCELLED]
    assert {job.attempt for job in jobs(directory)} == {1}


def test_core_hours_of_attempts_count_once(hanging: Hanging, scheduler: Slurm) -> None:
    directory = hanging()
    scheduler.ask("scancel", "--signal=TERM", "--batch", str(jobs(directory)[0].job_id))
    done("watch", directory, "--every", 0.5)
    with Campaign.open(directory) as campaign:
        spent = core_hours(campaign.workspace)
        (label,) = campaign.store.labels("kappa_300K")
    assert spent == pytest.approx(label.cost)
    assert spent == pytest.approx(sum(job.core_hours or 0.0 for job in jobs(directory)), abs=0.01)


def test_a_label_from_elsewhere_finishes_what_the_machine_failed(
    make_campaign: MakeCampaign, scheduler: Slurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = approved(make_campaign(DIAMOND))
    monkeypatch.setenv("POTCAR_DIR", "")
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "failed"}
    assert failures(directory) == [FailureReason.MISSING_SETUP]
    path = tmp_path / "labels.csv"
    path.write_text(f"id,property,value,unit,fidelity,method\n{DIAMOND},kappa_300K,150,W/(m K),dft,by hand\n")
    done("label", "import", directory, path)
    assert states(directory) == {DIAMOND: "done"}


def test_a_job_whose_node_kills_it_is_repeated(hanging: Hanging, scheduler: Slurm) -> None:
    directory = hanging()
    kill(directory, "slurm_script", "bash run.sh", "fake_vasp")
    until(directory, lambda found: any(job.attempt == 2 for job in found))
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}
    (reason,) = failures(directory)
    assert reason.kind is FailureKind.MACHINE


def test_a_run_that_outlives_its_job_is_waited_for(hanging: Hanging, scheduler: Slurm) -> None:
    """Two never work on one folder, and waiting is no attempt."""
    directory = hanging(cluster={"lost_after": 1.0})
    kill(directory, "slurm_script")
    until(directory, lambda found: any("another run" in job.message for job in found))
    assert states(directory)[DIAMOND] in ("exported", "running")
    kill(directory, "bash run.sh", "fake_vasp")
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}
    assert len(failures(directory)) == 1, "the job that was killed"


def kill(directory: Path, *programs: str) -> None:
    """Kill the processes of a campaign with these words in their commands, as the end of a node does."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if any(words in command for words in programs) and Path(process.cwd()).is_relative_to(directory):
                process.kill()


def test_the_time_limit_gives_more_time(hanging: Hanging, scheduler: Slurm) -> None:
    """Slurm's warning, as it comes before the limit."""
    directory = hanging()
    scheduler.ask("scancel", "--signal=TERM", "--batch", str(jobs(directory)[0].job_id))
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}
    assert failures(directory) == [FailureReason.TIMED_OUT]
    times = {job.attempt: job.resources["time"] for job in jobs(directory)}
    assert times == {1: "00:10:00", 2: "00:20:00"}


def test_a_job_that_is_queued_again_goes_on(hanging: Hanging, scheduler: Slurm) -> None:
    """As after preemption: the same id begins again, and takes its own lock over."""
    directory = hanging()
    job = str(jobs(directory)[0].job_id)
    scheduler.ask("scontrol", "requeue", job)
    # Slurm waits two minutes before a job begins again
    wait(lambda: scheduler.ask("squeue", "-h", "-j", job, "-o", "%t").strip() == "PD")
    scheduler.ask("scontrol", "update", f"jobid={job}", "starttime=now")
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}
    # Slurm may cancel what waits for the job when it ends for the first time; that is repeated
    assert {reason.kind for reason in failures(directory)} <= {FailureKind.MACHINE}


def test_long_arrays_are_split(make_campaign: MakeCampaign, scheduler: Slurm) -> None:
    directory = approved(make_campaign(DIAMOND, cluster={"max_array": 3, "throttle": 1}))
    look(directory)
    arrays = [job for job in jobs(directory) if job.stage == "forces"]
    assert [job.tasks for job in arrays] == [3, 1]
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}


def test_a_withdrawn_entry_is_cancelled(
    make_campaign: MakeCampaign, scheduler: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = approved(make_campaign(DIAMOND))
    monkeypatch.setenv("FAKE_VASP", "hang")
    look(directory)
    done("queue", "withdraw", directory, DIAMOND)
    look(directory)
    assert {job.state for job in jobs(directory)} == {JobState.CANCELLED}
    wait(lambda: not scheduler.ask("squeue", "-h"))
    assert states(directory) == {DIAMOND: "withdrawn"}


def test_an_interrupted_submission_is_found_again(make_campaign: MakeCampaign, scheduler: Slurm) -> None:
    """Killed after Slurm took the jobs and before their ids were written."""
    directory = approved(make_campaign(DIAMOND))
    with Campaign.open(directory) as campaign:
        look(directory)
        taken = campaign.store.jobs()
        campaign.store.update_jobs([replace(j, job_id=None, state=JobState.WRITTEN, submitted_at=None) for j in taken])
    look(directory)
    found = {job.name: job.job_id for job in jobs(directory) if job.state is not JobState.WRITTEN}
    assert found.items() <= {job.name: job.job_id for job in taken}.items()
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}
    assert not [job for job in jobs(directory) if job.attempt > 1]


def test_a_wrong_partition_in_slurms_words(make_campaign: MakeCampaign, scheduler: Slurm) -> None:
    directory = approved(make_campaign(DIAMOND, cluster={"options": {"partition": "no_such_partition"}}))
    assert "invalid partition" in refused("submit", directory, "--quiet").lower()
    assert states(directory) == {DIAMOND: "exported"}
    assert {job.state for job in jobs(directory)} == {JobState.REFUSED}
    configure(directory, {"cluster": {"options": {"partition": "debug"}}})
    done("watch", directory, "--every", 0.5)
    assert states(directory) == {DIAMOND: "done"}


def test_one_watch_at_a_time(make_campaign: MakeCampaign, scheduler: Slurm) -> None:
    directory = approved(make_campaign(DIAMOND))
    with Campaign.open(directory) as campaign, only_watch(campaign.workspace):
        with pytest.raises(CampaignBusyError):
            Campaign.open(directory) and only_watch(campaign.workspace).__enter__()
        assert "another" in refused("watch", directory, "--once")


def test_a_folder_that_is_gone(make_campaign: MakeCampaign, scheduler: Slurm) -> None:
    directory = approved(make_campaign(DIAMOND, labeler={"max_retries": 0}))
    look(directory)
    until(directory, lambda found: found[0].state is not JobState.QUEUED)
    scheduler.ask("scancel", "--user=root")
    wait(lambda: not scheduler.ask("squeue", "-h"))
    shutil.rmtree(directory / "calculations")
    until(directory, settled)
    look(directory)
    assert states(directory) == {DIAMOND: "failed"}
    assert failures(directory)[0].kind is FailureKind.MACHINE


def test_no_scheduler(make_campaign: MakeCampaign) -> None:
    directory = approved(make_campaign(DIAMOND, cluster={"scheduler": "pbs"}))
    assert "no pbs on this machine" in refused("submit", directory, "--quiet")
    with Campaign.open(directory) as campaign:
        assert not campaign.store.jobs(PENDING)
        assert campaign.store.queue()[0].state in (QueueState.APPROVED, QueueState.EXPORTED)
