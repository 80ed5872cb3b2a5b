"""One frame of extended XYZ to a crystal, read by ASE."""

from __future__ import annotations

import io
import re

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.parsing import ISOTOPES, Parsed, as_text, assemble, own_id, read_species, scalars

_PROPERTIES = re.compile(r"""Properties\s*=\s*["']?([^\s"']+)""", re.IGNORECASE)


def parse_xyz(payload: bytes) -> Parsed:
    """Parse one frame of extended XYZ.

    Raises
    ------
    CrystalError
        If it has no cell that repeats in three directions, or a species is not an element.
    """
    from ase.io import read

    lines = as_text(payload).splitlines()
    species = _species(lines)
    numbers, isotopes = read_species(species)
    # ASE has no isotopes
    text = "\n".join([*lines[:2], *(_as_hydrogen(line) for line in lines[2:])]) + "\n"
    atoms = read(io.StringIO(text), index=0, format="extxyz")
    if not atoms.pbc.all() or not atoms.cell.array.any():
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            "the frame has no cell that repeats in three directions",
            'add Lattice="ax ay az bx by bz cx cy cz" (and pbc="T T T") to its second line',
        )
    numbers = numbers or atoms.numbers.tolist()
    info = {k: v.item() if isinstance(v, np.generic) else v for k, v in atoms.info.items()}
    properties, notes = scalars(info)
    crystal = assemble(atoms.cell.array, numbers, atoms.get_scaled_positions(wrap=False))
    return Parsed(crystal, properties, notes, own_id(info), isotopes)


def _species(lines: list[str]) -> list[str]:
    """Species of the rows as in the file; none where the frame gives atomic numbers instead."""
    column = 0
    if len(lines) > 1 and (found := _PROPERTIES.search(lines[1])):
        words = found[1].split(":")
        names, widths = [name.lower() for name in words[::3]], words[2::3]
        if "species" not in names:
            return []
        column = sum(int(width) for width in widths[: names.index("species")])
    rows = [line.split() for line in lines[2:] if line.strip()]
    symbols = [row[column] for row in rows if len(row) > column]
    return [] if all(symbol.isdigit() for symbol in symbols) else symbols


def _as_hydrogen(line: str) -> str:
    return re.sub(rf"(?<!\S)({'|'.join(ISOTOPES)})(?!\S)", "H", line, count=1)
