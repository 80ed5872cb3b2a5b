"""What one look of ``kappascout watch`` costs with many entries: processor time, and questions to the queueing system.

``python -m tests.benchmarks.watch [ENTRIES]`` starts a private Slurm, submits a held job for each entry, and looks.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from campaigns.campaign import Campaign
from campaigns.cluster.watching import observe, proceed
from campaigns.intake.adding import material_record
from db.records import JobRecord, QueueEntryRecord
from db.states import JobState, QueueState, RoundState
from engine.materials.crystal import Crystal
from engine.materials.identity import identify
from tests.campaigns.helpers import configure, done
from tests.engine.materials.cases import rocksalt
from tests.slurm import Slurm, missing, slurm


def main() -> None:
    """Print a line for the first look, when all jobs are new, and one for the next."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    if lack := missing():
        sys.exit(lack)
    with tempfile.TemporaryDirectory() as name, slurm() as running:
        root = Path(name)
        questions = logged(root / "bin", running)
        directory = campaign(root / "c", entries)
        submit(directory, root, running)
        for look in ("first", "second", "third"):
            questions.write_text("")
            begun = time.process_time(), time.perf_counter()
            with Campaign.open(directory) as opened:
                seen = observe(opened)
                proceed(opened, seen)
            assert not seen.trouble, seen.trouble
            cpu, wall = time.process_time() - begun[0], time.perf_counter() - begun[1]
            asked = questions.read_text().split()
            print(f"{look} look at {entries} jobs: {cpu:.2f} CPU-s, {wall:.2f} s, questions: {' '.join(asked)}")


def logged(folder: Path, running: Slurm) -> Path:
    """Put commands on the path that write their name to a file before they ask Slurm."""
    folder.mkdir()
    log = folder / "log"
    for name in ("squeue", "scontrol", "sacct"):
        script = folder / name
        script.write_text(f'#!/bin/sh\necho {name} >>{log}\nexec {shutil.which(name)} "$@"\n')
        script.chmod(0o755)
    os.environ.update(running.environment)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    log.touch()
    return log


def campaign(directory: Path, entries: int) -> Path:
    """Make a campaign with so many entries that wait in the queueing system."""
    done("init", directory, "--cold", "--goal", "min", "--property", "kappa_300K")
    configure(directory, {"campaign": {"batch": entries, "budget": entries}})
    with Campaign.open(directory) as opened:
        store = opened.store
        store.add_materials([material_record(identify(f"m-{i}", crystal(i))) for i in range(entries)])
        store.start_round({"settings": opened.configuration.model_dump(mode="json"), "labels": 0})
        queue = [QueueEntryRecord(i + 1, f"m-{i}", 2.5, 1.5, 4.0, fidelity="dft") for i in range(entries)]
        store.finish_step(1, RoundState.QUEUED, queue=queue)
        for state in (QueueState.APPROVED, QueueState.EXPORTED):
            opened.move([], state, "benchmark")
    return directory


def crystal(i: int) -> Crystal:
    """One of many that differ."""
    cations = ("Mg", "Ca", "Sr", "Ba")
    return rocksalt(4 + (i // len(cations)) * 0.02, cations[i % len(cations)])


def submit(directory: Path, root: Path, running: Slurm) -> None:
    """Submit a held job for each entry, and record it."""
    script = root / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    with Campaign.open(directory) as opened:
        records = []
        for entry in opened.store.queue():
            job = f"benchmark-{entry.rank}"
            id_ = running.ask("sbatch", "--hold", "--parsable", f"--job-name={job}", str(script)).strip()
            records.append(JobRecord(entry.id or 0, job, "kappa", 1, queue="slurm", folder=f"{entry.rank}", job_id=id_))
        added = opened.store.add_jobs(records)
        opened.store.update_jobs([replace(job, state=JobState.QUEUED) for job in added])


if __name__ == "__main__":
    main()
