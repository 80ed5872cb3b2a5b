"""Which elements may stand in a prototype: oxidation states, valence electrons, radii.

Sources of the rules are those of :mod:`engine.materials.candidates`.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING

from pymatgen.core import Element

from engine.materials.elements import ATOMIC_NUMBERS, ELECTRONEGATIVITY, GROUP
from engine.materials.prototypes import find

if TYPE_CHECKING:
    from collections.abc import Iterator

Species = tuple[tuple[str, ...], tuple[int, ...]]
"""Elements in site order, and their charges; no charges where valence electrons were counted."""


@cache
def ionic_radius(element: str, charge: int) -> float:
    """Shannon crystal radius in Angstrom, coordination six."""
    if (element, charge) in _EXTRA_RADII:
        return _EXTRA_RADII[element, charge]
    return float(Element(element).ionic_radii[charge])


def with_charges(prototype: str, elements: tuple[str, ...]) -> Species:
    """Charges of a known ionic compound: that of the anion is known, perovskite A sites follow their group."""
    counts = find(prototype).counts
    anion = _ANION_CHARGE[elements[-1]]
    if prototype != "perovskite":
        return elements, (-anion * counts[1] // counts[0], anion)
    group = int(GROUP[ATOMIC_NUMBERS[elements[0]]])
    a_site = {1: 1, 13: 1, 2: 2, 14: 2, 3: 3}[group]
    return elements, (a_site, -3 * anion - a_site, anion)


def _ionic_pairs(
    cations: dict[int, tuple[str, ...]], anions: dict[int, tuple[str, ...]], ratio: tuple[int, int] = (1, 1)
) -> Iterator[Species]:
    """Charge-balanced binaries of ``ratio`` cations to anions, the anion the more electronegative."""
    for (positive, metals), (negative, others) in product(cations.items(), anions.items()):
        if positive * ratio[0] + negative * ratio[1] == 0:
            for metal, other in product(metals, others):
                if _electronegativity(metal) < _electronegativity(other):
                    yield (metal, other), (positive, negative)


def _electronegativity(element: str) -> float:
    return float(ELECTRONEGATIVITY[ATOMIC_NUMBERS[element]])


def _rocksalt() -> Iterator[Species]:
    for elements, charges in _ionic_pairs({q: _CATIONS[q] for q in (1, 2, 3)}, _ANIONS):
        if 0.25 < _radius_ratio(elements, charges) < 1.3:
            yield elements, charges


def _tetrahedral() -> Iterator[Species]:
    yield from _ionic_pairs(_TETRAHEDRAL_CATIONS, _ANIONS)


def _cscl() -> Iterator[Species]:
    for elements, charges in _ionic_pairs({1: _CATIONS[1]}, {-1: _HALOGENS}):
        if _radius_ratio(elements, charges) > 0.6:
            yield elements, charges


def _fluorite() -> Iterator[Species]:
    for elements, charges in _ionic_pairs({q: _CATIONS[q] for q in (2, 4)}, {q: _ANIONS[q] for q in (-1, -2)}, (1, 2)):
        if _radius_ratio(elements, charges) > 0.4:
            yield elements, charges


def _antifluorite() -> Iterator[Species]:
    yield from _ionic_pairs({1: _CATIONS[1], 2: _CATIONS[2]}, {q: _ANIONS[q] for q in (-2, -4)}, (2, 1))


def _radius_ratio(elements: tuple[str, ...], charges: tuple[int, ...]) -> float:
    """Effective cation over anion radius (0.14 Angstrom less and more than the crystal radii)."""
    cation, anion = (ionic_radius(e, q) for e, q in zip(elements[-2:], charges[-2:], strict=True))
    return (cation - 0.14) / (anion + 0.14)


def _perovskite() -> Iterator[Species]:
    """Perovskites with a tolerance factor of 0.78 to 1.05 and an octahedral factor of 0.37 to 0.90."""
    anions = [(-1, x) for x in _ANIONS[-1]] + [(-2, x) for x in ("O", "S", "Se")] + [(-3, "N")]
    for (anion_charge, anion), a_charge in product(anions, (1, 2, 3)):
        b_charge = -3 * anion_charge - a_charge
        for a, b in product(_A_SITES[a_charge], _CATIONS.get(b_charge, ())):
            elements, charges = (a, b, anion), (a_charge, b_charge, anion_charge)
            if a == b or max(_electronegativity(a), _electronegativity(b)) >= _electronegativity(anion):
                continue
            r_a, r_b, r_x = (ionic_radius(e, q) for e, q in zip(elements, charges, strict=True))
            tolerance = (r_a + r_x) / (2**0.5 * (r_b + r_x))
            if 0.78 < tolerance < 1.05 and 0.37 < _radius_ratio(elements, charges) < 0.90:
                yield elements, charges


def _chalcopyrite() -> Iterator[Species]:
    """I-III-VI2 and II-IV-V2 compounds."""
    for charges, kinds in _CHALCOPYRITES.items():
        for first, second, anion in product(*kinds):
            if max(_electronegativity(first), _electronegativity(second)) < _electronegativity(anion):
                yield (first, second, anion), charges


def _half_heusler() -> Iterator[Species]:
    """18 electrons around a late transition metal, or 8 in each of the three site orders (all three are known)."""
    for (group_x, metals), (group_y, middles), (electrons_z, others) in product(
        _EARLY_METALS.items(), _LATE_METALS.items(), _P_BLOCK.items()
    ):
        if group_x + group_y + electrons_z == 18:
            for x, y, z in product(metals, middles, others):
                if _electronegativity(x) < _electronegativity(z):
                    yield (x, y, z), ()
    for charges in ((1, 2, -3), (1, 3, -4), (2, 2, -4), (1, 1, -2)):
        kinds = _S_METALS[charges[0]], _ZINTL_CATIONS[charges[1]], _ZINTL_ANIONS[charges[2]]
        for compound in product(*kinds):
            first, second, anion = map(_electronegativity, compound)
            ordered = first < second or charges[0] != charges[1]  # one of each pair of equivalent compositions
            if ordered and max(first, second) < anion:
                for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2)):
                    yield tuple(compound[k] for k in order), tuple(charges[k] for k in order)


def _full_heusler() -> Iterator[Species]:
    """24 electrons around a transition metal; charge-balanced I2-I-V and I2-II-IV; 10 electrons of He et al."""
    for (group_x, metals), (group_y, middles), (electrons_z, others) in product(
        _LATE_METALS.items(), _EARLY_METALS.items(), _P_BLOCK.items()
    ):
        if 2 * group_x + group_y + electrons_z == 24 and electrons_z < 6:
            for x, y, z in product(metals, middles, others):
                yield (x, y, z), ()
    for z_charge, y_charge in ((-3, 1), (-4, 2)):
        for x, y, z in product((*_ALKALIS, "Cu", "Ag"), _ZINTL_CATIONS[y_charge], _ZINTL_ANIONS[z_charge]):
            if x != y and max(_electronegativity(x), _electronegativity(y)) < _electronegativity(z):
                yield (x, y, z), (1, y_charge, z_charge)
    for x in ("Ca", "Sr", "Ba", "Eu", "Yb"):
        for y, z in (
            *product(("Cu", "Ag", "Au"), ("As", "Sb", "Bi")),
            *product(("Zn", "Cd", "Hg"), ("Ge", "Sn", "Pb")),
        ):
            yield (x, y, z), ()


_HALOGENS = ("F", "Cl", "Br", "I")
_PNICTOGENS = ("N", "P", "As", "Sb", "Bi")
_LANTHANIDES = ("La", "Ce", "Pr", "Nd", "Sm", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu")
_ALKALIS = ("Li", "Na", "K", "Rb", "Cs")
_ALKALINE_EARTHS = ("Mg", "Ca", "Sr", "Ba")

_ANIONS: dict[int, tuple[str, ...]] = {
    -1: (*_HALOGENS, "H"),
    -2: ("O", "S", "Se", "Te"),
    -3: _PNICTOGENS,
    -4: ("C", "Si", "Ge", "Sn", "Pb"),
}
_ANION_CHARGE = {element: charge for charge, elements in _ANIONS.items() for element in elements}
_CATIONS: dict[int, tuple[str, ...]] = {
    1: (*_ALKALIS, "Cu", "Ag", "Au", "Tl"),
    2: (
        "Be",
        *_ALKALINE_EARTHS,
        "Zn",
        "Cd",
        "Hg",
        "Sn",
        "Pb",
        "Ti",
        "V",
        "Cr",
        "Mn",
        "Fe",
        "Co",
        "Ni",
        "Cu",
        "Eu",
        "Yb",
        "Sm",
    ),
    3: ("Al", "Ga", "In", "Tl", "Sc", "Y", *_LANTHANIDES, "Ti", "V", "Cr", "Mn", "Fe", "Co", "Rh", "Bi", "Sb"),
    4: ("Si", "Ge", "Sn", "Pb", "Ti", "Zr", "Hf", "Ce", "V", "Nb", "Mo", "W", "Mn", "Ru", "Os", "Ir", "Pt", "Te", "Tb"),
    5: ("V", "Nb", "Ta", "Sb", "Bi", "Mo", "W", "Re", "Os"),
    6: ("Mo", "W", "Re"),
}
"""Common oxidation states."""
_TETRAHEDRAL_CATIONS: dict[int, tuple[str, ...]] = {
    1: ("Li", "Cu", "Ag", "Au"),
    2: ("Be", "Mg", "Zn", "Cd", "Hg", "Mn", "Fe", "Co", "Ni", "Cu"),
    3: ("B", "Al", "Ga", "In", "Tl", "Sc", "Y", "Fe"),
    4: ("Si", "Ge", "Sn", "Ti", "Zr", "Hf"),
}
_CHALCOPYRITES: dict[tuple[int, ...], tuple[tuple[str, ...], ...]] = {
    (1, 3, -2): (("Li", "Na", "Cu", "Ag", "Au"), ("B", "Al", "Ga", "In", "Tl", "Sc", "Fe"), _ANIONS[-2]),
    (2, 4, -3): (
        ("Be", "Mg", "Zn", "Cd", "Hg", "Mn"),
        ("C", "Si", "Ge", "Sn", "Pb", "Ti", "Zr", "Hf"),
        _ANIONS[-3],
    ),
}
_A_SITES: dict[int, tuple[str, ...]] = {
    1: (*_ALKALIS, "Ag", "Tl"),
    2: (*_ALKALINE_EARTHS, "Pb", "Eu", "Cd", "Sn"),
    3: ("Y", *_LANTHANIDES, "Bi"),
}
_EARLY_METALS: dict[int, tuple[str, ...]] = {
    1: _ALKALIS[:2],
    2: (*_ALKALINE_EARTHS, "Eu", "Yb"),
    3: ("Sc", "Y", *_LANTHANIDES),
    4: ("Ti", "Zr", "Hf"),
    5: ("V", "Nb", "Ta"),
    6: ("Cr", "Mo", "W"),
}
"""Elements by number of valence electrons."""
_LATE_METALS: dict[int, tuple[str, ...]] = {
    8: ("Fe", "Ru", "Os"),
    9: ("Co", "Rh", "Ir"),
    10: ("Ni", "Pd", "Pt"),
    11: ("Cu", "Ag", "Au"),
}
"""Elements by number of valence electrons, d electrons included."""
_P_BLOCK: dict[int, tuple[str, ...]] = {
    3: ("Al", "Ga", "In", "Tl"),
    4: ("Si", "Ge", "Sn", "Pb"),
    5: ("P", "As", "Sb", "Bi"),
    6: ("S", "Se", "Te"),
}
"""Elements by number of valence electrons."""
_S_METALS: dict[int, tuple[str, ...]] = {1: _ALKALIS, 2: ("Ca", "Sr", "Ba", "Mg", "Eu", "Yb")}
_ZINTL_CATIONS: dict[int, tuple[str, ...]] = {
    1: (*_ALKALIS, "Cu", "Ag"),
    2: ("Be", *_ALKALINE_EARTHS, "Zn", "Cd", "Hg"),
    3: ("B", "Al", "Ga", "In", "Tl", "Sc", "Y", "La"),
}
_ZINTL_ANIONS: dict[int, tuple[str, ...]] = {q: _ANIONS[q] for q in (-2, -3, -4)}

RULES = {
    "rocksalt": _rocksalt,
    "zincblende": _tetrahedral,
    "wurtzite": _tetrahedral,
    "fluorite": _fluorite,
    "antifluorite": _antifluorite,
    "CsCl": _cscl,
    "half-Heusler": _half_heusler,
    "full-Heusler": _full_heusler,
    "perovskite": _perovskite,
    "chalcopyrite": _chalcopyrite,
}

_EXTRA_RADII: dict[tuple[str, int], float] = {
    ("H", -1): 1.26,
    ("F", -1): 1.19,
    ("Cl", -1): 1.67,
    ("Br", -1): 1.82,
    ("I", -1): 2.06,
    ("O", -2): 1.26,
    ("S", -2): 1.70,
    ("Se", -2): 1.84,
    ("Te", -2): 2.07,
    ("N", -3): 1.32,
    ("P", -3): 1.84,
    ("As", -3): 1.90,
    ("Sb", -3): 2.07,
    ("Bi", -3): 2.12,
    ("Sn", 2): 1.26,
    ("Ni", 2): 0.83,
    ("Cr", 3): 0.755,
    ("Mn", 4): 0.67,
}
"""Crystal radii in Angstrom missing in pymatgen or for this spin: Shannon's; where there is none, the bond less his
cation's radius in La pnictides and alkali hydrides, and for Sn2+ that of Pb2+ less the difference of PbTe and SnTe."""
