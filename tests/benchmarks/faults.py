"""Faults thrown at submitted calculations on a private Slurm.

``python -m tests.benchmarks.faults [FAULTS] [SEED]`` submits silicon at twenty densities, keeps ``kappascout watch``
running, and injects faults one after another until there were so many; then everything must end as it does without
faults. Prints a table of faults, and the differences: results that are lost, states that are wrong.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from campaigns.campaign import Campaign
from campaigns.intake.adding import material_record
from db.records import QueueEntryRecord
from db.states import FailureKind, JobState, QueueState, RoundState
from engine.materials.crystal import Crystal
from engine.materials.identity import identify
from engine.materials.reference import reference_crystals
from tests.campaigns.cluster.conftest import DIAMOND
from tests.campaigns.exchange.conftest import SMALL, cluster_environment
from tests.campaigns.helpers import configure, done
from tests.slurm import Slurm, missing, slurm

CRYSTALS = 20
QUIET = 0.5
"""Seconds between faults."""


def main() -> None:
    """Compute without faults, then with them, and compare."""
    faults = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if lack := missing():
        sys.exit(lack)
    with tempfile.TemporaryDirectory() as name, slurm() as running:
        root = Path(name)
        (root / "site").mkdir()
        os.environ.update(cluster_environment(root / "site") | running.environment)
        expected = values(finished(campaign(root / "calm")))
        begun = time.monotonic()
        counts, directory = with_faults(campaign(root / "rough"), running, faults, random.Random(seed))
        found = values(directory)
        report(expected, found, counts, directory, time.monotonic() - begun)


def campaign(directory: Path) -> Path:
    """Make a campaign whose whole pool is approved."""
    silicon = reference_crystals()[DIAMOND]
    crystals = [
        Crystal(silicon.lattice * (0.95 + 0.005 * i), silicon.numbers, silicon.frac_coords) for i in range(CRYSTALS)
    ]
    records = [material_record(identify(f"si-{i}", crystal)) for i, crystal in enumerate(crystals)]
    done("init", directory, "--cold", "--goal", "min", "--property", "kappa_300K")
    cluster = {"poll": 1.0, "lost_after": 5.0, "options": {"time": "00:10:00", "ntasks": 1}, "max_jobs": 4}
    settings = {
        "dft": SMALL | {"relax": False, "mesh_length": 8.0},
        "cluster": cluster,
        "campaign": {"batch": CRYSTALS, "budget": CRYSTALS},
        "labeler": {"max_retries": 1000},
    }
    configure(directory, settings)
    with Campaign.open(directory) as opened:
        # neither by ingest nor by a round, for which they are one compound
        opened.store.add_materials(records)
        opened.store.start_round({"settings": opened.configuration.model_dump(mode="json"), "labels": 0})
        queue = [
            QueueEntryRecord(i, each.material_id, 2.5, 1.5, 4.0, fidelity="dft") for i, each in enumerate(records, 1)
        ]
        opened.store.finish_step(1, RoundState.QUEUED, queue=queue)
        opened.move([], QueueState.APPROVED, "benchmark")
    return directory


def watch(directory: Path) -> subprocess.Popen[bytes]:
    """Start ``kappascout watch``."""
    with (directory.parent / f"{directory.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "campaigns", "watch", directory, "--every", "1", "--yes"], stdout=log, stderr=log
        )


def finished(directory: Path) -> Path:
    """Let it run to its end."""
    assert watch(directory).wait(timeout=1800) == 0
    return directory


def values(directory: Path) -> dict[str, list[float]]:
    """Labels of each crystal."""
    found: dict[str, list[float]] = {}
    with Campaign.open(directory) as opened:
        for label in opened.store.labels("kappa_300K", current_only=False):
            found.setdefault(label.material_id, []).append(label.value)
    return found


def with_faults(
    directory: Path, running: Slurm, faults: int, chance: random.Random
) -> tuple[Counter[tuple[str, str]], Path]:
    """Inject faults while it runs; begin again whatever a person would."""
    injected: Counter[tuple[str, str]] = Counter()
    process = watch(directory)
    while True:
        time.sleep(QUIET * (0.5 + chance.random()))
        if process.poll() is not None:
            retry(directory)
            if is_over(directory):
                if sum(injected.values()) >= faults:
                    return injected, directory
                raise SystemExit("all crystals were finished before all faults were injected; give fewer faults")
            process = watch(directory)
        if sum(injected.values()) < faults:
            name, inject = chance.choice(list(FAULTS.items()))
            if words := inject(directory, running, process, chance):
                injected[name, words] += 1


def retry(directory: Path) -> None:
    """Repeat what waits for a person."""
    with Campaign.open(directory) as opened:
        failed = [entry.material_id for entry in opened.store.queue([QueueState.FAILED])]
    if failed:
        done("queue", "retry", directory, *failed, "--force")


def is_over(directory: Path) -> bool:
    with Campaign.open(directory) as opened:
        return {entry.state for entry in opened.store.queue()} == {QueueState.DONE}


# -- faults -----------------------------------------------------------------------------------------------------------


def one_running(running: Slurm, chance: random.Random) -> str:
    ids = running.ask("squeue", "-h", "-t", "R", "-o", "%i", check=False).split()
    return chance.choice(ids) if ids else ""


def cancel(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Somebody cancels a running job."""
    id_ = one_running(running, chance)
    if id_:
        running.ask("scancel", id_, check=False)
    return "scancel of a running job" if id_ else ""


def cancel_waiting(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Somebody cancels a job that waits."""
    ids = running.ask("squeue", "-h", "-t", "PD", "-o", "%A", check=False).split()
    if ids:
        running.ask("scancel", chance.choice(ids), check=False)
    return "scancel of a waiting job" if ids else ""


def node(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """A job and all that it started are killed, as by the end of its node."""
    found = subprocess.run(["pgrep", "-f", "slurm_script"], capture_output=True, text=True, check=False).stdout.split()
    if not found:
        return ""
    leader = chance.choice(found)
    children = subprocess.run(["pgrep", "-P", leader], capture_output=True, text=True, check=False).stdout.split()
    for pid in [leader, *children]:
        subprocess.run(["kill", "-KILL", pid], capture_output=True, check=False)
    return "kill -9 of a job and what it started"


def limit(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Slurm's warning before the time limit."""
    id_ = one_running(running, chance)
    if id_:
        running.ask("scancel", "--signal=TERM", "--batch", id_, check=False)
    return "warning of the time limit" if id_ else ""


def requeue(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """A job is preempted: it begins again later, under its id."""
    id_ = one_running(running, chance)
    if not id_ or "_" in id_:
        return ""
    running.ask("scontrol", "requeue", id_, check=False)
    time.sleep(2.0)
    running.ask("scontrol", "update", f"jobid={id_}", "starttime=now", check=False)
    return "preempted and queued again"


def end_watch(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """``watch`` is killed, in whatever it does."""
    if process.poll() is not None:
        return ""
    process.send_signal(signal.SIGKILL)
    process.wait()
    return "kill -9 of watch"


def record(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """The record of a job's end is lost."""
    with Campaign.open(directory) as opened:
        pending = [job.name for job in opened.store.jobs([JobState.RUNNING, JobState.QUEUED])]
    found = [p for name in pending for p in directory.glob(f"calculations/*/.jobs/{name}*.ended")]
    if not found:
        return ""
    chance.choice(found).unlink(missing_ok=True)
    return "record of a job's end removed"


def restart(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """The queueing system does not answer for a while."""
    pid = int((running.folder / "run" / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2.0)
    os.kill(pid, signal.SIGCONT)
    return "slurmctld stopped for 2 s"


def output(directory: Path, running: Slurm, process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """The output of a supercell is cut, as by a full disk."""
    with Campaign.open(directory) as opened:
        active = {job.folder for job in opened.store.jobs([JobState.RUNNING, JobState.QUEUED])}
    found = [p for name in active for p in directory.glob(f"calculations/{name}/disp-*/vasprun.xml")]
    if not found:
        return ""
    path = chance.choice(sorted(found))
    path.write_bytes(path.read_bytes()[:100])
    return "vasprun.xml of a supercell cut"


FAULTS: dict[str, Callable[[Path, Slurm, subprocess.Popen[bytes], random.Random], str]] = {
    "cancel": cancel,
    "cancel waiting": cancel_waiting,
    "node": node,
    "limit": limit,
    "requeue": requeue,
    "watch": end_watch,
    "record": record,
    "restart": restart,
    "output": output,
}


def report(
    expected: dict[str, list[float]],
    found: dict[str, list[float]],
    counts: Counter[tuple[str, str]],
    directory: Path,
    seconds: float,
) -> None:
    """Print what was injected and what differs."""
    print(f"| fault | {sum(counts.values())} |\n|---|--:|")
    for (_, words), count in sorted(counts.items()):
        print(f"| {words} | {count} |")
    with Campaign.open(directory) as opened:
        failures = opened.store.failures(current_only=False)
        jobs = opened.store.jobs()
        pending = [job.name for job in jobs if not job.state.is_finished]
    crystal = [f for f in failures if f.reason.kind is FailureKind.CRYSTAL]
    lost = sorted(set(expected) - set(found))
    twice = sorted(id_ for id_, own in found.items() if len(own) > 1)
    wrong = sorted(id_ for id_ in set(expected) & set(found) if not np.allclose(found[id_], expected[id_], rtol=0.01))
    print(f"\n{len(expected)} crystals, {len(jobs)} jobs, {len(failures)} failures of the machine, {seconds:.0f} s")
    print(f"results lost: {lost}; wrong values: {wrong}; twice: {twice}")
    print(f"failures taken for the crystal's: {[f.message for f in crystal]}; jobs left pending: {pending}")


if __name__ == "__main__":
    main()
