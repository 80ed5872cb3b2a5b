"""Simple crystals with published properties, and Birch's curve."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from engine.materials.crystal import Crystal
from engine.physics.energy_volume import EV_PER_A3

LATTICE_CONSTANTS = {
    "LiF": 4.03, "NaF": 4.63, "KF": 5.34, "RbF": 5.65, "LiCl": 5.14, "NaCl": 5.64, "KCl": 6.29, "RbCl": 6.58,
    "LiBr": 5.50, "NaBr": 5.97, "KBr": 6.60, "RbBr": 6.85, "LiI": 6.00, "NaI": 6.47, "KI": 7.07, "RbI": 7.34,
    "MgO": 4.21,
}  # fmt: skip
"""Of rocksalt crystals, measured, in Angstrom (Wyckoff, Crystal Structures)."""

BULK_MODULI = {
    "LiF": 69.8, "NaF": 48.5, "KF": 31.6, "LiCl": 31.8, "NaCl": 25.0, "KCl": 18.2, "RbCl": 16.2, "NaBr": 20.6,
    "KBr": 15.3, "NaI": 16.1, "KI": 12.0, "RbI": 11.1, "MgO": 162.0,
}  # fmt: skip
"""Measured, in GPa."""


def rocksalt(formula: str, length: float | None = None) -> Crystal:
    """Build a primitive rocksalt cell, at the measured lattice constant unless told otherwise."""
    return fcc_pair(formula, length or LATTICE_CONSTANTS[formula], 0.5)


def diamond(symbol: str, length: float) -> Crystal:
    """Build a primitive diamond cell."""
    return fcc_pair(symbol, length, 0.25)


def fcc(symbol: str, length: float) -> Crystal:
    """Build a primitive fcc cell."""
    return Crystal.from_symbols(_HALF * length, [symbol], [[0, 0, 0]])


def birch(volume: Any, v0: float, modulus: float, slope: float) -> Any:
    """Birch-Murnaghan energy in eV; ``modulus`` in GPa."""
    x = (v0 / volume) ** (2 / 3)
    return 9 * v0 * modulus / EV_PER_A3 / 16 * ((x - 1) ** 3 * slope + (x - 1) ** 2 * (6 - 4 * x))


_HALF = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])


def fcc_pair(formula: str, length: float, place: float) -> Crystal:
    """Build an fcc lattice of two atoms, the second at ``place`` on the diagonal: 1/2 rocksalt, 1/4 zincblende."""
    symbols = re.findall("[A-Z][a-z]?", formula)
    return Crystal.from_symbols(_HALF * length, [symbols[0], symbols[-1]], [[0, 0, 0], [place] * 3])
