"""Element data as arrays indexed by atomic number (index 0 is unused).

Arrays, because per-site look-ups of ``pymatgen.core.Element`` attributes dominate the time to describe a crystal; from
a separate table, because importing pymatgen is too slow for small commands.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np

from engine.materials.element_table import TABLE

MAX_Z = len(TABLE)
_NO_ELECTRONEGATIVITY = ("He", "Ne", "Ar")
_SYMBOLS, *_NUMBERS = zip(*TABLE, strict=True)

SYMBOLS: tuple[str, ...] = ("", *_SYMBOLS)
ATOMIC_NUMBERS: dict[str, int] = {symbol: z for z, symbol in enumerate(_SYMBOLS, start=1)}

ATOMIC_MASS, ELECTRONEGATIVITY, ATOMIC_RADIUS, COVALENT_RADIUS, PERIOD, GROUP, MENDELEEV = (
    np.array([np.nan, *column], dtype=np.float64) for column in _NUMBERS
)
"""Atomic mass in u; Pauling electronegativity, 1.5 where none is defined (He, Ne, Ar); empirical atomic radius in
Angstrom, 1.5 where none is tabulated; covalent radius in Angstrom, Cordero et al. 2008; period; group; position in the
Mendeleev-number sequence, which puts chemically similar elements side by side."""


@lru_cache(maxsize=1)
def quiet_noble_gases() -> None:
    """Have pymatgen warn once, at a time of our choice, that these elements have no electronegativity."""
    from pymatgen.core import Element

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        for symbol in _NO_ELECTRONEGATIVITY:
            _ = Element(symbol).X
