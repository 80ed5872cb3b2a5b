"""Statements of a CIF on its content besides the atoms: formula, Z, volume, density, multiplicities."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.cif_block import Block
from engine.materials.crystal import AVOGADRO_DENSITY
from engine.materials.elements import ATOMIC_MASS, ATOMIC_NUMBERS, quiet_noble_gases

VOLUME_TOLERANCE = 0.01
DENSITY_TOLERANCE = 0.03
"""Relative tolerance; formula weights differ by isotopes and rounding."""


@dataclass(frozen=True)
class Statements:
    """Statements of one block; None or empty where not given."""

    formula: dict[str, float] = field(default_factory=dict)
    """Atoms of a formula unit by element."""
    written: str = ""
    """The formula as in the file."""
    units: float | None = None
    """Z, formula units in the cell."""
    volume: float | None = None
    """Volume of the cell, cubic Angstrom."""
    density: float | None = None
    """Density in g/cm3, as calculated by the author's program."""
    multiplicities: tuple[int | None, ...] = ()
    """Multiplicity of each site."""
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, block: Block) -> Statements:
        """Collect the statements of a block."""
        notes: list[str] = []

        def number(tag: str) -> float | None:
            try:
                return block.number(tag)
            except CrystalError as error:
                notes.append(f"{error.message}, and was not compared")
                return None

        written = block.text("_chemical_formula_sum")
        formula = _formula(written)
        if written and not formula:
            notes.append(f"the formula {written!r} cannot be read and was not compared")
        multiplicities = block.column("_atom_site_site_symmetry_multiplicity", "_atom_site_symmetry_multiplicity")
        return cls(
            formula,
            written,
            number("_cell_formula_units_z"),
            number("_cell_volume"),
            number("_exptl_crystal_density_diffrn"),
            tuple(int(m) if m.isdigit() else None for m in multiplicities),
            tuple(notes),
        )

    @property
    def count_atoms(self) -> bool:
        """Whether they determine the number of atoms in the cell."""
        return bool(self.formula and self.units) or self.density is not None

    def require(
        self, composition: Counter[str], lattice: NDArray[np.float64], multiplicities: list[int] | None
    ) -> None:
        """Compare a crystal with them.

        Parameters
        ----------
        composition
            Atoms of the cell by element, H for all its isotopes.
        lattice
            3 x 3, Angstrom.
        multiplicities
            Number of atoms of each site; None where not compared.

        Raises
        ------
        CrystalError
            At the first contradiction.
        """
        volume = abs(float(np.linalg.det(lattice)))
        if self.volume and abs(volume / self.volume - 1) > VOLUME_TOLERANCE:
            raise _contradiction(
                f"the cell has {volume:.2f} cubic Angstrom, _cell_volume says {self.volume:g}", "check the cell"
            )
        self._require_formula(composition)
        mass = sum(n * float(ATOMIC_MASS[ATOMIC_NUMBERS[symbol]]) for symbol, n in composition.items())
        density = mass / volume * AVOGADRO_DENSITY
        if self.density and abs(density / self.density - 1) > DENSITY_TOLERANCE:
            raise _contradiction(
                f"the atoms of the cell have a density of {density:.3f} g/cm3, the file says {self.density:g}",
                "check that all atoms are listed and the setting of the space group",
            )
        for stated, found in zip(self.multiplicities, multiplicities or (), strict=False):
            if stated is not None and found and stated != found:
                raise _contradiction(
                    f"a site has {found} atoms in the cell, its multiplicity says {stated}",
                    "check the setting of the space group",
                )

    def _require_formula(self, composition: Counter[str]) -> None:
        if not self.formula:
            return
        shown = " ".join(f"{symbol}{n}" for symbol, n in sorted(composition.items()))
        ratios = {symbol: composition.get(symbol, 0) / n for symbol, n in self.formula.items()}
        units = sum(ratios.values()) / len(ratios)
        same = composition.keys() == self.formula.keys() and all(abs(r - units) < 1e-3 * units for r in ratios.values())
        if not same:
            raise _contradiction(
                f"the sites make {shown} per cell, the formula is {self.written!r}",
                "check that every atom of the formula, hydrogen too, has a site",
            )
        # pymatgen writes the atoms of the cell as the formula, and Z for the reduced one
        reduced = math.gcd(*composition.values())
        if self.units and min(abs(units - self.units), abs(reduced - self.units)) > 1e-3 * self.units:
            raise _contradiction(
                f"the sites make {units:g} formula units of {self.written!r} per cell, Z is {self.units:g}",
                "check that all atoms are listed, the setting of the space group, and Z",
            )


def _contradiction(message: str, remedy: str) -> CrystalError:
    return CrystalError(RejectionReason.CONTRADICTION, message, remedy)


def _formula(text: str) -> dict[str, float]:
    """Atoms by element of ``Ca1 H2 O2``; empty if it is not a formula."""
    from pymatgen.core import Composition

    quiet_noble_gases()
    try:
        composition = Composition(text.replace(",", " ")) if text else {}
        amounts = {str(element): float(n) for element, n in composition.items() if n > 0}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    plain: dict[str, float] = {}
    for symbol, n in amounts.items():
        name = {"D": "H", "T": "H"}.get(symbol, symbol)
        plain[name] = plain.get(name, 0.0) + n
    return plain if plain.keys() <= ATOMIC_NUMBERS.keys() else {}
