"""The embedded default from start to end."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.measure import Measure, peak_gigabytes, seconds

SECONDS = 240.0
GIGABYTES = 3.0


def measure() -> list[Measure]:
    """Wall time and the largest process of ``kappascout demo``, against their limits."""
    names = ("kappascout demo", "memory of kappascout demo")
    if find_spec("campaigns.demo") is None:
        return [Measure(name, None, None, "", note="skipped: there is no campaigns/demo.py") for name in names]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("kappascout")), "demo", str(Path(folder) / "demo"), "--quiet"]
        taken = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    return [
        Measure(names[0], taken, SECONDS, "s", "<= 1", "against the limit"),
        Measure(names[1], peak_gigabytes(resource.RUSAGE_CHILDREN), GIGABYTES, "GB", "<= 1", "against the limit"),
    ]
