"""Crystals of copper and gold, whose effective-medium potential comes with ASE."""

from __future__ import annotations

import numpy as np

from engine.materials.crystal import Crystal
from engine.physics.potential import KnownCompound

SPEC = "ase.calculators.emt:EMT"


def fcc(symbol: str, a: float) -> Crystal:
    """Primitive face-centred cubic cell."""
    return KnownCompound(symbol, "fcc", a, 0.0).crystal


def bcc(symbol: str, a: float) -> Crystal:
    """Primitive body-centred cubic cell."""
    return Crystal.from_symbols(a / 2 * (np.ones((3, 3)) - 2 * np.eye(3)), [symbol], [[0, 0, 0]])


def l12(corner: str, face: str, a: float) -> Crystal:
    """``face`` on three, ``corner`` on one of the four sites of the cube, as in Cu3Au."""
    places = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Crystal.from_symbols(np.eye(3) * a, [corner, face, face, face], places)


def l10(one: str, other: str, a: float) -> Crystal:
    """Layers in turn along the tetragonal axis, as in CuAu."""
    lattice = np.diag([a / np.sqrt(2), a / np.sqrt(2), 0.95 * a])
    return Crystal.from_symbols(lattice, [one, other], [[0, 0, 0], [0.5, 0.5, 0.5]])
