"""The table of elements is pymatgen's and ASE's, to the last bit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Element

from engine.materials import elements

ELEMENTS = [Element.from_Z(z) for z in range(1, elements.MAX_Z + 1)]


def test_every_number_is_that_of_its_source() -> None:
    elements.quiet_noble_gases()
    none = {"He", "Ne", "Ar"}
    assert ("", *(e.symbol for e in ELEMENTS)) == elements.SYMBOLS
    assert {e.symbol: e.Z for e in ELEMENTS} == elements.ATOMIC_NUMBERS
    for ours, theirs in (
        (elements.ATOMIC_MASS, [float(e.atomic_mass) for e in ELEMENTS]),
        (elements.ELECTRONEGATIVITY, [1.5 if e.symbol in none else float(e.X) for e in ELEMENTS]),
        (elements.ATOMIC_RADIUS, [float(e.atomic_radius or 1.5) for e in ELEMENTS]),
        (elements.COVALENT_RADIUS, covalent_radii[1 : elements.MAX_Z + 1]),
        (elements.PERIOD, [e.row for e in ELEMENTS]),
        (elements.GROUP, [e.group for e in ELEMENTS]),
        (elements.MENDELEEV, [float(e.mendeleev_no) for e in ELEMENTS]),
    ):
        assert np.isnan(ours[0])
        assert ours[1:].tolist() == list(theirs)


def test_formulas_of_noble_gases_are_quiet() -> None:
    """In a process that has not asked pymatgen before."""
    program = (
        "from engine.materials.crystal import Crystal\n"
        "crystal = Crystal([[4, 0, 0], [0, 4, 0], [0, 0, 4]], [2, 11], [[0, 0, 0], [0.5, 0.5, 0.5]])\n"
        "crystal.to_structure().formula\n"
        "print(crystal.formula)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("NaHe", "")
