"""Element data as arrays indexed by atomic number (index 0 is unused), read once from pymatgen.

Arrays, because per-site look-ups of ``pymatgen.core.Element`` attributes dominate the time to describe a crystal.
"""

from __future__ import annotations

import warnings

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Element

MAX_Z = 103
_ELEMENTS = [Element.from_Z(z) for z in range(1, MAX_Z + 1)]
_NO_ELECTRONEGATIVITY = {2, 10, 18}
with warnings.catch_warnings(record=True):
    warnings.simplefilter("always")
    # pymatgen warns once a process for each of these; asked here, formulas of noble-gas compounds stay quiet later
    for _z in _NO_ELECTRONEGATIVITY:
        _ = Element.from_Z(_z).X

SYMBOLS: tuple[str, ...] = ("", *(e.symbol for e in _ELEMENTS))
ATOMIC_NUMBERS: dict[str, int] = {e.symbol: e.Z for e in _ELEMENTS}


def _column(values: list[float]) -> np.ndarray:
    return np.array([np.nan, *values], dtype=np.float64)


ATOMIC_MASS = _column([float(e.atomic_mass) for e in _ELEMENTS])
"""Atomic mass in u."""
ELECTRONEGATIVITY = _column([1.5 if e.Z in _NO_ELECTRONEGATIVITY else float(e.X) for e in _ELEMENTS])
"""Pauling electronegativity; 1.5 where none is defined (He, Ne, Ar)."""
ATOMIC_RADIUS = _column([float(e.atomic_radius or 1.5) for e in _ELEMENTS])
"""Empirical atomic radius in Angstrom; 1.5 where none is tabulated."""
COVALENT_RADIUS = np.array([np.nan, *covalent_radii[1 : MAX_Z + 1]], dtype=np.float64)
"""Covalent radius in Angstrom, Cordero et al. 2008."""
PERIOD = _column([float(e.row) for e in _ELEMENTS])
GROUP = _column([float(e.group) for e in _ELEMENTS])
MENDELEEV = _column([float(e.mendeleev_no) for e in _ELEMENTS])
"""Position in the Mendeleev-number sequence, which puts chemically similar elements side by side."""
