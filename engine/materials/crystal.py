"""A crystal as plain arrays, and a material: a crystal with an identity.

Plain arrays rather than ``pymatgen.Structure`` because a pool holds millions; :meth:`Crystal.to_structure` and
:meth:`Crystal.to_atoms` give the objects that users know.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.materials.elements import ATOMIC_MASS, ATOMIC_NUMBERS, SYMBOLS, quiet_noble_gases

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray
    from pymatgen.core import Structure

AVOGADRO_DENSITY = 1.66053906660  # g/cm3 per u/A3
PropertyValue = float | int | str | bool


@dataclass(frozen=True, eq=False)
class Crystal:
    """An ordered periodic crystal.

    ``lattice`` is 3 x 3, rows are lattice vectors in Angstrom; ``numbers`` is n atomic numbers; ``frac_coords`` is
    n x 3 fractional coordinates.
    """

    lattice: NDArray[np.float64]
    numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Convert the arrays to their types."""
        object.__setattr__(self, "lattice", np.asarray(self.lattice, dtype=np.float64).reshape(3, 3))
        object.__setattr__(self, "numbers", np.asarray(self.numbers, dtype=np.int64).reshape(-1))
        object.__setattr__(self, "frac_coords", np.asarray(self.frac_coords, dtype=np.float64).reshape(-1, 3))
        if len(self.numbers) != len(self.frac_coords):
            raise ValueError(f"{len(self.numbers)} atomic numbers but {len(self.frac_coords)} coordinates")

    def __len__(self) -> int:
        """Count the sites of the cell."""
        return len(self.numbers)

    @cached_property
    def volume(self) -> float:
        """Cell volume in cubic Angstrom (never negative)."""
        return abs(float(np.linalg.det(self.lattice)))

    @cached_property
    def spacing(self) -> float:
        """Cube root of the volume per atom, Angstrom."""
        return float((self.volume / len(self)) ** (1 / 3))

    @cached_property
    def density(self) -> float:
        """Mass density in g/cm3."""
        return float(ATOMIC_MASS[self.numbers].sum()) / self.volume * AVOGADRO_DENSITY

    @cached_property
    def symbols(self) -> list[str]:
        """Element symbols, one for each site."""
        return [SYMBOLS[z] for z in self.numbers]

    @cached_property
    def composition(self) -> dict[str, int]:
        """Atoms of each element in the cell, by symbol."""
        return {SYMBOLS[z]: n for z, n in Counter(self.numbers.tolist()).items()}

    @cached_property
    def formula(self) -> str:
        """Reduced formula as pymatgen writes it, e.g. ``Mg2Si``."""
        return _reduced_formula(tuple(sorted(self.composition.items())))

    @cached_property
    def chemical_system(self) -> str:
        """Element symbols in alphabetical order joined by dashes, e.g. ``Mg-Si``."""
        return "-".join(sorted(self.composition))

    def to_structure(self) -> Structure:
        """The same crystal as a pymatgen ``Structure``."""
        from pymatgen.core import Structure

        quiet_noble_gases()
        return Structure(self.lattice, self.symbols, self.frac_coords)

    def to_atoms(self) -> Atoms:
        """The same crystal as ASE ``Atoms``."""
        from ase import Atoms

        return Atoms(numbers=self.numbers, cell=self.lattice, scaled_positions=self.frac_coords, pbc=True)

    @classmethod
    def from_structure(cls, structure: Structure) -> Crystal:
        """Crystal of an ordered pymatgen ``Structure``; a disordered one raises ``AttributeError``."""
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
        return cls(structure.lattice.matrix, numbers, structure.frac_coords)

    @classmethod
    def from_symbols(cls, lattice: Any, symbols: list[str], frac_coords: Any) -> Crystal:
        """Build from element symbols; an unknown symbol raises ``KeyError``."""
        return cls(lattice, np.array([ATOMIC_NUMBERS[s] for s in symbols], dtype=np.int64), frac_coords)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: ``lattice``, ``numbers``, ``frac_coords``."""
        return {
            "lattice": self.lattice.tolist(),
            "numbers": self.numbers.tolist(),
            "frac_coords": self.frac_coords.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Crystal:
        """Inverse of :meth:`to_dict`."""
        return cls(data["lattice"], data["numbers"], data["frac_coords"])


@lru_cache(maxsize=1024)
def _reduced_formula(composition: tuple[tuple[str, int], ...]) -> str:
    """Reduced formula by pymatgen, cached because it takes as long as all other checks of a small crystal."""
    from pymatgen.core import Composition

    quiet_noble_gases()
    return str(Composition(dict(composition)).reduced_formula)


@dataclass(frozen=True, eq=False)
class Material:
    """A standardised crystal with a stable id, a content hash, properties and provenance."""

    id: str
    crystal: Crystal
    content_hash: str
    spacegroup: int
    properties: dict[str, PropertyValue] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()
    """Notes of the reader for the user, e.g. on coordinates moved to special positions."""
    isotopes: str = ""
    """Nuclides in place of an element's natural mixture, as :attr:`engine.materials.parsing.Parsed.isotopes`."""

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return self.crystal.formula

    @property
    def bucket(self) -> str:
        """Key shared by copies of one crystal: formula, space group, sites, and isotopes where there are any."""
        natural = f"{self.formula}|{self.spacegroup}|{len(self.crystal)}"
        return f"{natural}|{self.isotopes}" if self.isotopes else natural


def isotopes_of(bucket: str) -> str:
    """Nuclides in :attr:`Material.bucket`, empty where there are none."""
    return bucket.split("|", 3)[3] if bucket.count("|") == 3 else ""
