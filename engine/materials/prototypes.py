"""Structure prototypes as data, and crystals built from them.

Sites follow International Tables A; wurtzite and chalcopyrite have one free coordinate ``x`` (wurtzite calls it u).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.crystal import Crystal
from engine.materials.elements import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Site:
    """One site of the conventional cell: fractional position ``base + x * slope``."""

    role: int
    """Index into ``Prototype.roles``."""
    base: Vector
    slope: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Prototype:
    """A structure type: its symmetry, its sites in one primitive cell, and the defaults of its free parameters."""

    name: str
    spacegroup: int
    """Number of the space group."""
    roles: tuple[str, ...]
    """Role of each element of the formula, in site order, e.g. cation and anion."""
    centering: str
    """Centring: ``P``, ``F`` or ``I``."""
    sites: tuple[Site, ...]
    hexagonal: bool = False
    c_over_a: float = 1.0
    """Ideal ratio c/a; exactly 1 in a cubic prototype."""
    x: float | None = None
    """Ideal internal coordinate; None where symmetry fixes every site."""

    @property
    def is_cubic(self) -> bool:
        """Whether ``a`` alone fixes the cell."""
        return self.spacegroup >= 195

    @property
    def counts(self) -> tuple[int, ...]:
        """Atoms of each role in one formula unit."""
        totals = [sum(site.role == role for site in self.sites) for role in range(len(self.roles))]
        divisor = math.gcd(*totals)
        return tuple(total // divisor for total in totals)

    def formula(self, elements: Sequence[str]) -> str:
        """Write the formula in site order, e.g. ``TiNiSn`` with Ni on the eightfold coordinated site."""
        return "".join(e + (str(n) if n > 1 else "") for e, n in zip(elements, self.counts, strict=True))

    def elements(self, formula: str) -> tuple[str, ...]:
        """Inverse of :meth:`formula`."""
        found = tuple(re.findall(r"[A-Z][a-z]?", formula))
        if len(found) != len(self.roles) or self.formula(found) != formula:
            raise ValueError(f"{formula!r} is not a {self.name} formula; write the elements in the order {self.roles}")
        return found

    @cached_property
    def coordinates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``base`` and ``slope`` of the sites, each n_sites x 3."""
        return np.array([s.base for s in self.sites]), np.array([s.slope for s in self.sites])

    @cached_property
    def shortest_distances(self) -> NDArray[np.float64]:
        """Shortest distance between each pair of roles (n_roles x n_roles), in units of a, in the ideal cell."""
        lattice, positions = _cell(self, 1.0, self.c_over_a, self.x, primitive=True)
        shifts = np.stack(np.meshgrid(*[range(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        delta = positions[:, None, None, :] - positions[None, :, None, :] + shifts
        distances = np.linalg.norm(delta @ lattice, axis=-1)
        distances[distances < 1e-8] = np.inf
        roles = np.array([site.role for site in self.sites])
        n = len(self.roles)
        return np.array([[distances[roles == i][:, roles == j].min() for j in range(n)] for i in range(n)])


def build(
    prototype: str | Prototype,
    elements: Sequence[str],
    a: float,
    c: float | None = None,
    x: float | None = None,
    *,
    primitive: bool = True,
) -> Crystal:
    """Build a crystal of a prototype.

    Parameters
    ----------
    prototype
        Name in :data:`PROTOTYPES`, or the prototype itself.
    elements
        Symbols, one for each role, in site order.
    a, c
        Conventional lattice parameters in Angstrom; without ``c`` the ideal ratio is used.
    x
        Free internal coordinate; without it the ideal one.
    primitive
        Primitive cell, or the conventional one.
    """
    kind = find(prototype) if isinstance(prototype, str) else prototype
    if len(elements) != len(kind.roles):
        raise ValueError(f"{kind.name} needs {len(kind.roles)} elements {kind.roles}, received {tuple(elements)}")
    if not a > 0 or (c is not None and not c > 0):
        raise ValueError(f"lattice parameters must be positive, received a={a}, c={c}; give them in Angstrom")
    if kind.is_cubic and c is not None and not math.isclose(c, a):
        raise ValueError(f"{kind.name} is cubic, received a={a}, c={c}; leave c out")
    if x is not None and kind.x is None:
        raise ValueError(f"{kind.name} has no free coordinate, received x={x}; leave x out")
    lattice, positions = _cell(
        kind, a, a * kind.c_over_a if c is None else c, kind.x if x is None else x, primitive=primitive
    )
    copies = len(positions) // len(kind.sites)
    numbers = [ATOMIC_NUMBERS[elements[site.role]] for site in kind.sites] * copies
    return Crystal(lattice, np.array(numbers), positions)


def find(name: str) -> Prototype:
    """Prototype by name."""
    try:
        return PROTOTYPES[name]
    except KeyError:
        raise ValueError(f"unknown prototype {name!r}; known are {', '.join(PROTOTYPES)}") from None


def _cell(
    kind: Prototype, a: float, c: float, x: float | None, *, primitive: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lattice (3 x 3, Angstrom) and fractional coordinates (n x 3) of one cell."""
    base, slope = kind.coordinates
    conventional = base + (x or 0.0) * slope
    axes = np.array([[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, c]])
    if kind.hexagonal:
        axes[1] = [-0.5 * a, math.sqrt(0.75) * a, 0.0]
    if primitive:
        vectors = _PRIMITIVE[kind.centering]
        return vectors @ axes, (conventional @ _INVERSE[kind.centering]) % 1.0
    shifted = [conventional + shift for shift in _CENTERING[kind.centering]]
    return axes, np.concatenate(shifted) % 1.0


_PRIMITIVE = {
    "P": np.eye(3),
    "F": np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
}
_INVERSE = {name: np.linalg.inv(vectors) for name, vectors in _PRIMITIVE.items()}
_CENTERING = {
    "P": np.zeros((1, 3)),
    "F": np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]),
    "I": np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]),
}
_ORIGIN, _QUARTER, _HALF, _THREE_QUARTERS = ((v, v, v) for v in (0.0, 0.25, 0.5, 0.75))
_THIRD = 1 / 3

PROTOTYPES: dict[str, Prototype] = {
    p.name: p
    for p in (
        Prototype("diamond", 227, ("atom",), "F", (Site(0, _ORIGIN), Site(0, _QUARTER))),
        Prototype("rocksalt", 225, ("cation", "anion"), "F", (Site(0, _ORIGIN), Site(1, _HALF))),
        Prototype("zincblende", 216, ("cation", "anion"), "F", (Site(0, _ORIGIN), Site(1, _QUARTER))),
        Prototype(
            "wurtzite",
            186,
            ("cation", "anion"),
            "P",
            (
                Site(0, (_THIRD, 2 * _THIRD, 0.0)),
                Site(0, (2 * _THIRD, _THIRD, 0.5)),
                Site(1, (_THIRD, 2 * _THIRD, 0.0), (0.0, 0.0, 1.0)),
                Site(1, (2 * _THIRD, _THIRD, 0.5), (0.0, 0.0, 1.0)),
            ),
            hexagonal=True,
            c_over_a=math.sqrt(8 / 3),
            x=0.375,
        ),
        Prototype(
            "fluorite",
            225,
            ("cation", "anion"),
            "F",
            (Site(0, _ORIGIN), Site(1, _QUARTER), Site(1, _THREE_QUARTERS)),
        ),
        Prototype(
            "antifluorite",
            225,
            ("cation", "anion"),
            "F",
            (Site(0, _QUARTER), Site(0, _THREE_QUARTERS), Site(1, _ORIGIN)),
        ),
        Prototype("CsCl", 221, ("cation", "anion"), "P", (Site(0, _ORIGIN), Site(1, _HALF))),
        Prototype(
            "half-Heusler",
            216,
            ("4a, four neighbours", "4c, eight neighbours", "4b, four neighbours"),
            "F",
            (Site(0, _ORIGIN), Site(1, _QUARTER), Site(2, _HALF)),
        ),
        Prototype(
            "full-Heusler",
            225,
            ("8c", "4a", "4b"),
            "F",
            (Site(0, _QUARTER), Site(0, _THREE_QUARTERS), Site(1, _ORIGIN), Site(2, _HALF)),
        ),
        Prototype(
            "perovskite",
            221,
            ("A, twelve neighbours", "B, six neighbours", "anion"),
            "P",
            (
                Site(0, _HALF),
                Site(1, _ORIGIN),
                Site(2, (0.5, 0.0, 0.0)),
                Site(2, (0.0, 0.5, 0.0)),
                Site(2, (0.0, 0.0, 0.5)),
            ),
        ),
        Prototype(
            "chalcopyrite",
            122,
            ("4a cation", "4b cation", "anion"),
            "I",
            (
                Site(0, _ORIGIN),
                Site(0, (0.0, 0.5, 0.25)),
                Site(1, (0.0, 0.0, 0.5)),
                Site(1, (0.0, 0.5, 0.75)),
                Site(2, (0.0, 0.25, 0.125), (1.0, 0.0, 0.0)),
                Site(2, (0.0, 0.75, 0.125), (-1.0, 0.0, 0.0)),
                Site(2, (0.75, 0.0, 0.875), (0.0, 1.0, 0.0)),
                Site(2, (0.25, 0.0, 0.875), (0.0, -1.0, 0.0)),
            ),
            c_over_a=2.0,
            x=0.25,
        ),
    )
}
"""Every prototype by name."""
