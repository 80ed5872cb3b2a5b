"""The unit cell in files of phonopy and phono3py: ``phonopy.yaml``, ``phono3py_disp.yaml`` and their like."""

from __future__ import annotations

import io
import re

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.parsing import Parsed, as_text, assemble, fractional, read_species

_IS_PHONO3PY = re.compile(r"^phono3py:", re.MULTILINE)
_BOHR = 0.529177210903
"""Angstrom, CODATA 2018."""
_LENGTHS = {"angstrom": 1.0, "au": _BOHR, "bohr": _BOHR}


def parse_phonopy(payload: bytes) -> Parsed:
    """Read the unit cell with phonopy itself.

    Raises
    ------
    CrystalError
        If phonopy is not installed, or the file has no unit cell or an unknown unit of length.
    """
    try:
        from phono3py.interface.phono3py_yaml import Phono3pyYaml
        from phonopy.interface.phonopy_yaml import PhonopyYaml
    except ImportError as error:
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"phonopy reads this file, and {error.name} is not installed",
            "install it with `pip install kappascout[phonons]`, or give the POSCAR instead",
        ) from error
    text = as_text(payload)
    document = (Phono3pyYaml if _IS_PHONO3PY.search(text) else PhonopyYaml)().read(io.StringIO(text))
    cell, units = document.unitcell, document.physical_units
    if cell is None:
        raise CrystalError(
            RejectionReason.MISSING_FIELD, "the file has no unit_cell", "give phonopy.yaml or phonopy_disp.yaml"
        )
    if document.site_mixture_scheme is not None:
        raise CrystalError(
            RejectionReason.DISORDERED, "several elements share a site (site_mixture)", "give an ordered approximant"
        )
    unit = str(getattr(units, "length_unit", None) or "angstrom").lower()
    if unit not in _LENGTHS:
        raise CrystalError(
            RejectionReason.UNREADABLE, f"the unit of length {unit!r} is not known", "give the POSCAR instead"
        )
    numbers, isotopes = read_species([str(symbol).rstrip("0123456789") for symbol in cell.symbols])
    lattice = cell.cell * _LENGTHS[unit]
    return Parsed(assemble(lattice, numbers, fractional(cell.cell, cell.positions)), isotopes=isotopes)
