"""Calculations that go well or wrong by the formula of the crystal."""

from __future__ import annotations

import os
import signal
import time

from engine.materials.crystal import Crystal
from engine.physics.born_charges import PolarCrystal
from engine.physics.outcome import Calculated, Failed, Outcome
from engine.physics.potential import Potential


def by_formula(crystal: Crystal, potential: Potential) -> Outcome:
    """Give the volume as kappa, or go wrong in the way of :data:`WRONG`."""
    match crystal.formula:
        case "LiF":
            raise RuntimeError("licence expired")
        case "NaF":
            time.sleep(600)
        case "KF":
            return Calculated(float("inf"), 300.0, "by formula")
        case "RbF":
            os.kill(os.getpid(), signal.SIGKILL)
        case "LiCl":
            return Failed("imaginary_modes", "a mode at -1.2 THz", {"frequency": -1.2}, 7.2)
    return Calculated(crystal.volume, 300.0, "by formula", {"potential": potential.describe()}, 3.6)


def by_charges(crystal: Crystal, potential: Potential) -> Outcome:
    """Say whether the crystal has Born charges, with the volume as kappa."""
    if not isinstance(crystal, PolarCrystal):
        return Calculated(crystal.volume, 300.0, "without charges")
    return Calculated(crystal.volume, 300.0, "with charges", {"born_charges": crystal.describe()})


WRONG = {
    "LiF": "crashed", "NaF": "too_long", "KF": "bad_output", "RbF": "calculator_error", "LiCl": "imaginary_modes",
}  # fmt: skip
"""Reasons in the store; a process that was killed from outside may be calculated again."""
