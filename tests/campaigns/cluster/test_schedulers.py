"""Headers, times and amounts of memory as queueing systems write them; nothing is asked here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.cluster.hosts import ThisMachine
from campaigns.cluster.schedulers import DIALECTS, Scheduler, longer, more_memory, seconds_of
from campaigns.exceptions import ClusterError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("10:30", 630), ("02:00:00", 7200), ("1-00:00:00", 86400), ("1-12", 129600), (30, 1800)],
)
def test_times_are_read_as_slurm_reads_them(text: str | int, seconds: float) -> None:
    assert seconds_of(text) == seconds


@given(st.integers(1, 10**7), st.floats(1.0, 10.0))
def test_longer_times_are_read_again(seconds: int, factor: float) -> None:
    text = f"{seconds // 86400}-{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    assert seconds_of(text) == seconds
    assert seconds_of(longer(text, factor)) == pytest.approx(seconds * factor, abs=1)


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "UNLIMITED"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ClusterError):
        seconds_of(text)


@pytest.mark.parametrize(("memory", "more"), [("64G", "128G"), ("1500", "3000"), ("0.5GB", "1GB"), ("3M", "6M")])
def test_memory_keeps_its_unit(memory: str, more: str) -> None:
    assert more_memory(memory, 2.0) == more


@pytest.mark.parametrize("kind", DIALECTS)
def test_scripts_of_every_queueing_system_are_bash(kind: str, tmp_path: Path) -> None:
    scheduler = Scheduler(kind, ThisMachine())
    dialect = scheduler.dialect
    lines = [dialect.throttled.format(tasks=7, throttle=2), dialect.after.format(ids="12")]
    header = scheduler.header("name", "out", {"nodes": 2, "my-option": "x"}, [line for line in lines if line])
    path = tmp_path / "job.sh"
    path.write_text(f"#!/bin/bash\n{header}\ntrue\n")
    subprocess.run(["bash", "-n", path], check=True)
    assert "my-option" in header
    if kind != "shell":
        assert "7" in header
        assert "12" in header


def test_slurms_header() -> None:
    options = {"time": "01:00:00", "ntasks-per-node": 4, "qos": "long", "reservation": "mine"}
    header = Scheduler("slurm", ThisMachine()).header("name", "out", options).splitlines()
    assert set(header) == {
        "#SBATCH --job-name=name", "#SBATCH --output=out", "#SBATCH --time=01:00:00", "#SBATCH --ntasks-per-node=4",
        "#SBATCH --qos=long", "#SBATCH --reservation=mine", "#SBATCH --signal=B:TERM@120",
    }  # fmt: skip
