"""What a potential is to a calculation: energies and forces of crystals, and the test of a known compound."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import PotentialError, UnknownElementError
from engine.physics.energy_volume import equation_of_state
from engine.physics.outcome import CalculationError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

LATTICE_TOLERANCE = 0.03
BULK_MODULUS_TOLERANCE = 0.5


class Potential(ABC):
    """Energies and forces of crystals, identified by :attr:`sha256`."""

    name: str
    """Short name."""
    sha256: str
    """SHA-256 of the weights, or of the published parameters."""
    elements: frozenset[str]
    """Symbols of the elements it covers."""

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


def check_compound(potential: Potential, crystal: Crystal, length: float, modulus: float, advice: str) -> None:
    """Raise :class:`PotentialError` unless a primitive cell of a cubic F lattice is right, else with ``advice``.

    ``length`` is its lattice constant (Angstrom), ``modulus`` its bulk modulus (GPa).
    """
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
