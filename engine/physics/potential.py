"""What a potential is to a calculation: energies and forces of crystals, and the test of a known compound."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.exceptions import PotentialError, UnknownElementError
from engine.materials.crystal import Crystal
from engine.physics.energy_volume import equation_of_state
from engine.physics.outcome import CalculationError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

LATTICE_TOLERANCE = 0.03
BULK_MODULUS_TOLERANCE = 0.5
_ATOMS = {"fcc": (0.0,), "rocksalt": (0.0, 0.5), "diamond": (0.0, 0.25)}
"""Fractional coordinates of the atoms of a primitive cell, the same along all three vectors."""
_HALF = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])


class KnownCompound(NamedTuple):
    """A crystal with a cubic F lattice whose equation of state is measured."""

    formula: str
    structure: str
    length: float
    """Lattice constant, Angstrom."""
    modulus: float
    """Bulk modulus, GPa."""

    @property
    def crystal(self) -> Crystal:
        """Primitive cell at the measured lattice constant."""
        places = _ATOMS[self.structure]
        symbols = (re.findall("[A-Z][a-z]?", self.formula) * len(places))[: len(places)]
        return Crystal.from_symbols(_HALF * self.length, symbols, [[place] * 3 for place in places])


KNOWN_COMPOUNDS = (
    KnownCompound("MgO", "rocksalt", 4.21, 160.0),
    KnownCompound("NaCl", "rocksalt", 5.64, 25.0),
)
"""Measured at room temperature; both check a potential that covers all elements."""
KNOWN_ELEMENTS = (
    KnownCompound("Si", "diamond", 5.43, 98.8),
    KnownCompound("Ge", "diamond", 5.66, 77.2),
    KnownCompound("Cu", "fcc", 3.61, 137.0),
    KnownCompound("Al", "fcc", 4.05, 72.2),
    KnownCompound("Ag", "fcc", 4.09, 100.7),
    KnownCompound("Au", "fcc", 4.08, 173.2),
    KnownCompound("Ni", "fcc", 3.52, 186.0),
    KnownCompound("Pd", "fcc", 3.89, 180.8),
    KnownCompound("Pt", "fcc", 3.92, 278.3),
    KnownCompound("Pb", "fcc", 4.95, 43.0),
    KnownCompound("Ne", "fcc", 4.46, 1.1),
    KnownCompound("Ar", "fcc", 5.31, 2.7),
    KnownCompound("Kr", "fcc", 5.64, 3.5),
)
"""For potentials without those: C. Kittel, Introduction to Solid State Physics, 8th edition, chapters 1 and 3; bulk
moduli of the rare gases N. W. Ashcroft, N. D. Mermin, Solid State Physics, chapter 20."""


class Potential(ABC):
    """Energies and forces of crystals, identified by :attr:`sha256`."""

    name: str
    """Short name."""
    sha256: str
    """SHA-256 of the weights, or of the published parameters."""
    elements: frozenset[str]
    """Symbols of the elements it covers."""

    @property
    def core_seconds_elsewhere(self) -> float:
        """Processor time so far of other processes that calculate for it, seconds."""
        return 0.0

    @abstractmethod
    def calculator(self) -> Calculator:
        """Make a new ASE calculator: eV, eV/Angstrom, eV/Angstrom^3; one thread."""

    def energies(self, crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Energies of N cells in eV, shape ``N``."""
        found = []
        for crystal in crystals:
            atoms = crystal.to_atoms()
            atoms.calc = self.calculator()
            found.append(float(atoms.get_potential_energy()))
        return np.array(found)

    def check_elements(self, crystal: Crystal) -> None:
        """Raise :class:`UnknownElementError` if the potential cannot describe ``crystal``."""
        if unknown := sorted(set(crystal.symbols) - self.elements):
            raise UnknownElementError(
                f"{crystal.formula}: potential {self.name} does not know {', '.join(unknown)}; choose another potential"
            )

    def describe(self) -> dict[str, str]:
        """Name of the potential, for a record."""
        return {"name": self.name, "sha256": self.sha256}


def check_compound(potential: Potential, known: KnownCompound, advice: str) -> None:
    """Raise :class:`PotentialError`, with ``advice``, unless lattice constant and bulk modulus are right."""
    crystal, length, modulus = known.crystal, known.length, known.modulus
    try:
        fit = equation_of_state(crystal, potential.energies, strain=0.05)
    except CalculationError as error:
        raise PotentialError(f"potential {potential.name} is wrong on {crystal.formula}: {error}; {advice}") from error
    volume = fit.minimum or crystal.volume
    found_length, found_modulus = (4 * volume) ** (1 / 3), fit.bulk_modulus(volume)
    if abs(found_length / length - 1) > LATTICE_TOLERANCE:
        raise PotentialError(
            f"potential {potential.name} gives {crystal.formula} a lattice constant of {found_length:.2f} Angstrom, "
            f"known is {length:.2f} (within {LATTICE_TOLERANCE:.0%} is accepted); {advice}"
        )
    if abs(found_modulus / modulus - 1) > BULK_MODULUS_TOLERANCE:
        raise PotentialError(
            f"potential {potential.name} gives {crystal.formula} a bulk modulus of {found_modulus:.0f} GPa, known is "
            f"{modulus:.0f} (within {BULK_MODULUS_TOLERANCE:.0%} is accepted); {advice}"
        )
