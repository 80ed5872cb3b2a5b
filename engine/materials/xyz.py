"""One frame of extended XYZ to a crystal."""

from __future__ import annotations

import io

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.parsing import Parsed, as_text, assemble, own_id, scalars


def parse_xyz(payload: bytes) -> Parsed:
    """Parse one frame of extended XYZ."""
    from ase.io import read

    atoms = read(io.StringIO(as_text(payload)), index=0, format="extxyz")
    if not atoms.pbc.all() or not atoms.cell.array.any():
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            "the frame has no cell that repeats in three directions",
            'add Lattice="ax ay az bx by bz cx cy cz" (and pbc="T T T") to its second line',
        )
    info = {k: v.item() if isinstance(v, np.generic) else v for k, v in atoms.info.items()}
    properties, notes = scalars(info)
    crystal = assemble(atoms.cell.array, atoms.numbers.tolist(), atoms.get_scaled_positions(wrap=False))
    return Parsed(crystal, properties, notes, own_id(info))
