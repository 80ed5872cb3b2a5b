"""Polar crystals with Born charges as phonopy's and phono3py's examples have them (BSD licence), as BORN files."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.materials.crystal import Crystal


class Charged(NamedTuple):
    """Text of a BORN file, and its cell."""

    born: str
    poscar: str


NACL = """# epsilon and Z* of atoms 1 2
2.56345522 0 0 0 2.56345522 0 0 0 2.56345522
1.09044426 0 0 0 1.09044426 0 0 0 1.09044426
-1.09044426 0 0 0 -1.09044426 0 0 0 -1.09044426
"""
"""phono3py, example/NaCl-pypolymlp, PBEsol."""
MGO = """14.400
3.38121106 0 0 0 3.38121106 0 0 0 3.38121106
1.9715466666666668 0 0 0 1.9715466666666668 0 0 0 1.9715466666666668
-1.9721233333333332 0 0 0 -1.9721233333333332 0 0 0 -1.9721233333333332
"""
"""phonopy, example/MgO."""
ALN = Charged(
    """# epsilon and Z* of atoms 1 3
4.4350090 0 0 0 4.4350090 0 0 0 4.6532690
2.5126475 0 0 0 2.5126475 0 0 0 2.6735300
-2.5126475 0 0 0 -2.5126475 0 0 0 -2.6735300
""",
    """Al N
1.0
3.1109999994919080 0.0 0.0
-1.5554999997459540 2.6942050307333680 0.0
0.0 0.0 4.978
Al N
2 2
Direct
0.3333333333333333 0.6666666666666665 0.00094882
0.6666666666666667 0.3333333333333333 0.50094882
0.3333333333333333 0.6666666666666665 0.61905118
0.6666666666666667 0.3333333333333333 0.11905118
""",
)
"""Wurtzite; phono3py, example/AlN-LDA."""
_THIRD, _SIXTH = 1 / 3, 1 / 12
_AL, _O = 0.1479062921042101, 0.3058086537880128
_CENTRES = ((0.0, 0.0, 0.0), (2 * _THIRD, _THIRD, _THIRD), (_THIRD, 2 * _THIRD, 2 * _THIRD))


def _corundum() -> str:
    # atoms 1 and 13 of phonopy's file are those whose charges it has; the others follow from the space group
    own = [(0, 0, z) for z in (_AL, 0.5 - _AL, -_AL, 0.5 + _AL)]
    oxygen = [(_O, 0, 0.25), (0, _O, 0.25), (-_O, -_O, 0.25), (-_O, 0, 0.75), (0, -_O, 0.75), (_O, _O, 0.75)]
    rows = [np.add(site, centre) % 1 for sites in (own, oxygen) for centre in _CENTRES for site in sites]
    first = next(n for n, row in enumerate(rows) if np.allclose(row, (_THIRD, 2 * _THIRD, 0.0187603745624614)))
    rows[0], rows[first] = rows[first], rows[0]
    coordinates = "\n".join(" ".join(f"{x:.16f}" for x in row) for row in rows)
    lattice = "4.7742263452989944 0 0\n-2.3871131726494972 4.1346012984458653 0\n0 0 13.0113593913272219"
    return f"corundum\n1.0\n{lattice}\nAl O\n12 18\nDirect\n{coordinates}\n"


AL2O3 = Charged(
    """# epsilon and Z* of atoms 1 13
3.27649624 0 0 0 3.27649624 0 0 0 3.21878866
2.96008813 -0.02948662 0 0.02948662 2.96008813 0 0 0 2.92614183
-2.07328119 0 0 0 -1.87350298 0.25811770 0 0.35087130 -1.95076122
""",
    _corundum(),
)
"""Corundum in its hexagonal cell; phonopy, example/Al2O3."""


def rotated(crystal: Crystal, rotation: NDArray[np.float64]) -> Crystal:
    """Rotate a crystal; its fractional coordinates stay."""
    return Crystal(crystal.lattice @ rotation.T, crystal.numbers, crystal.frac_coords)


def some_rotation(seed: int = 0) -> NDArray[np.float64]:
    """Make a proper rotation about no axis of a crystal."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))
