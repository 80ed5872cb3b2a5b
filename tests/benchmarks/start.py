"""How soon the command line answers."""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.benchmarks.measure import Measure, seconds

REPEATS = 5
LIMIT = 0.4
"""Seconds."""


def measure() -> list[Measure]:
    """Median wall time of ``kappascout --help``."""
    command = Path(sys.executable).with_name("kappascout")
    ours = _median([str(command), "--help"])
    reference = _median([sys.executable, "-c", "pass"])
    return [
        Measure("kappascout --help", ours, reference, "s", "", "against `python -c pass`"),
        Measure("kappascout --help", ours, LIMIT, "s", "<= 1", "against the limit"),
    ]


def _median(command: list[str]) -> float:
    run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return statistics.median(seconds(run) for _ in range(REPEATS))
