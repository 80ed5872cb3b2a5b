"""One block of a CIF to a crystal."""

from __future__ import annotations

import re

from engine.materials.parsing import Parsed, as_text, first_line, from_structure


def parse_cif(payload: bytes) -> Parsed:
    """Parse one block of a CIF."""
    from pymatgen.io.cif import CifParser

    # pymatgen rounds 0.3333 to 1/3, which is right for four decimals and wrong where the file is precise
    tolerance = 0.0 if _PRECISE.search(payload) else 1e-4
    parser = CifParser.from_str(as_text(payload), occupancy_tolerance=1.0, frac_tolerance=tolerance)
    structures = parser.parse_structures(primitive=False, check_occu=False, on_error="raise")
    notes = [first_line(w) for w in parser.warnings if not w.startswith("Skipping relative stoichiometry check")]
    return Parsed(from_structure(structures[0]), {}, notes)


_PRECISE = re.compile(rb"(?<![\d.])0?\.\d{6}")
