"""ASE calculators with descriptors of atoms, which need nothing but ASE and numpy; some of them are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.neighborlist import neighbor_list

from tests.engine.physics.awkward import Argon, Dying

HOME = "tests.engine.physics.described"
SHELLS = f"{HOME}:Shells"
WIDTHS = (1.5, 2.0, 3.0, 4.0)
"""Angstrom."""
REACH = 9.0


class Shells(Argon):
    """Sums of Gaussians of the distances to neighbours, by powers of their atomic number: eight an atom."""

    def get_descriptors(self, atoms):
        i, j, d = neighbor_list("ijd", atoms, REACH)
        smooth = np.cos(0.5 * np.pi * d / REACH) ** 2
        weights = [np.exp(-((d / width) ** 2)) * smooth for width in WIDTHS]
        charges = atoms.numbers[j] / 10.0
        columns = [np.bincount(i, w * charges**p, len(atoms)) for w in weights for p in (0, 1)]
        return np.stack(columns, axis=1)


class Turning(Shells):
    """Descriptors that turn with the crystal."""

    def get_descriptors(self, atoms):
        return np.hstack([super().get_descriptors(atoms), atoms.positions])


class OfTheCrystal(Shells):
    """One row for a crystal."""

    def get_descriptors(self, atoms):
        return super().get_descriptors(atoms).mean(axis=0)


class Scaled(Shells):
    """Descriptors times what a file says: others, where package and version stay."""

    def __init__(self, file, **options):
        super().__init__(**options)
        self.factor = float(Path(file).read_text())

    def get_descriptors(self, atoms):
        return self.factor * super().get_descriptors(atoms)


class Failing(Shells):
    """No descriptors of crystals with an element."""

    def __init__(self, symbol="S", **options):
        super().__init__(**options)
        self.symbol = symbol

    def get_descriptors(self, atoms):
        if self.symbol in atoms.symbols:
            raise MemoryError("too many electrons")
        return super().get_descriptors(atoms)


class NoNumbers(Shells):
    """Descriptors that are not numbers."""

    def get_descriptors(self, atoms):
        return np.full((len(atoms), 4), np.nan)


class Fragile(Dying, Shells):
    """Dies of atoms far apart."""

    def get_descriptors(self, atoms):
        self.calculate(atoms)
        return super().get_descriptors(atoms)
