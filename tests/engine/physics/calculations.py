"""Calculations that go well, raise, hang, die or give no number, told by the crystal's size."""

from __future__ import annotations

import os
import signal
import time

from engine.materials.crystal import Crystal
from engine.physics.outcome import Calculated, Outcome
from engine.physics.potential import Potential


def by_size(crystal: Crystal, potential: Potential) -> Outcome:
    """Give kappa = lattice constant, or go wrong in one of the ways of :data:`WRONG`."""
    length = crystal.volume ** (1 / 3)
    if length < 1:
        raise RuntimeError("licence expired")
    if length < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if length < 3:
        time.sleep(600)
    if length < 4:
        return Calculated(float("nan"), 300.0, "by size")
    return Calculated(length, 300.0, "by size", {"threads": os.environ["OMP_NUM_THREADS"]})


WRONG = {0.5: "calculator_error", 1.5: "calculator_error", 2.5: "timed_out", 3.5: "bad_output"}
"""Reason by the cube root of the volume."""


def by_environment(crystal: Crystal, potential: Potential) -> Outcome:
    """Give the lattice constant as kappa, with the process and the GPUs it sees; 1 to 2 Angstrom kill."""
    length = crystal.volume ** (1 / 3)
    if 1 < length < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    seen = {"process": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    return Calculated(length, 300.0, "by environment", seen | {"potential": potential.describe()})
