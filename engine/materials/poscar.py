"""POSCAR and CONTCAR of VASP to a crystal."""

from __future__ import annotations

import warnings

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.parsing import Parsed, as_text, from_structure


def parse_poscar(payload: bytes) -> Parsed:
    """Parse a POSCAR."""
    from pymatgen.io.vasp import Poscar
    from pymatgen.io.vasp.inputs import BadPoscarWarning

    with warnings.catch_warnings():
        # pymatgen would go on with H, He, Li, ... in place of names that are not there
        warnings.filterwarnings("error", message="Elements in POSCAR", category=BadPoscarWarning)
        try:
            poscar = Poscar.from_str(as_text(payload), read_velocities=False)
        except BadPoscarWarning as error:
            raise CrystalError(
                RejectionReason.MISSING_FIELD,
                "the POSCAR does not name its elements",
                "write the element symbols in its sixth line, as VASP 5 does",
            ) from error
    return Parsed(from_structure(poscar.structure), {}, [])
