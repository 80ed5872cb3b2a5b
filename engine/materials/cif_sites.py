"""Cell and sites of one block of a CIF, as they are written there: lattice vectors, elements, positions, tolerances."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.cif_block import Block, as_number, decimals
from engine.materials.elements import ATOMIC_NUMBERS
from engine.materials.parsing import disordered

FINEST = 1e-4
"""Fractional distance; closer copies of one site are one atom, whatever the number of digits in the file."""
ROUNDING = 3.0
"""Units of a site's last digit by which copies of a rounded or cut position may be apart, in each coordinate."""
_COORDINATES = [f"_atom_site_fract_{axis}" for axis in "xyz"]
_CARTESIAN = [f"_atom_site_cartn_{axis}" for axis in "xyz"]


@dataclass(frozen=True, eq=False)
class Site:
    """One row of the atoms' loop."""

    label: str
    symbol: str
    """Symbol of the element, or ``D`` or ``T``."""
    written: NDArray[np.float64]
    """Fractional coordinates as in the file."""
    position: NDArray[np.float64]
    """The same with exact thirds and sixths."""
    tolerance: float
    """Rounding error of each fractional coordinate, from its digits."""


def read_sites(block: Block, lattice: NDArray[np.float64]) -> list[Site]:
    """Read the atoms' loop, one site for each row.

    Raises
    ------
    CrystalError
        A site has no coordinates or no element, is partly occupied, or hydrogen atoms have no sites.
    """
    if block.has(*_COORDINATES):
        texts = [block.column(tag) for tag in _COORDINATES]
    elif block.has(*_CARTESIAN):
        texts = [block.column(tag) for tag in _CARTESIAN]
    else:
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            "the block has no coordinates of atoms (_atom_site_fract_x, _y, _z)",
            "give the block with the atoms, or leave the file out",
        )
    labels = block.column("_atom_site_label", "_atom_site_id")
    types = block.column("_atom_site_type_symbol")
    if not all(texts) or not (labels or types):
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            "the atoms have no labels, no types, or a coordinate is missing",
            "give _atom_site_type_symbol and all three coordinates of each site",
        )
    _refuse_disorder(block, labels or types)
    dotted = block.has("_atom_site_group_pdb", "_atom_site_label_atom_id")
    names = labels or types
    symbols = [
        _element(types[n] if types and types[n] else labels[n] if labels else "", bool(types and types[n]), dotted)
        for n in range(len(names))
    ]
    if not {"H", "D", "T"} & set(symbols) and (water := [label for label in labels if _WATER.match(label)]):
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"site {water[0]} is water or hydroxide, and no hydrogen has a site",
            "give every hydrogen atom its position",
        )
    for name, *row in zip(names, *texts, strict=True):
        if not all(row):
            raise CrystalError(
                RejectionReason.MISSING_FIELD,
                f"site {name} has no coordinates",
                "give its position, or take the structure from another source",
            )
    digits = [max(decimals(text) for text in row) for row in zip(*texts, strict=True)]
    tolerances = [10.0**-d for d in digits]
    positions = np.array([[as_number(t, tag) for t in column] for tag, column in zip(_COORDINATES, texts, strict=True)])
    if block.has(*_COORDINATES):
        exact = np.array([[_exact_sixth(t) for t in column] for column in texts]).T
        positions = positions.T
    else:
        positions = positions.T @ np.linalg.inv(lattice)
        exact, tolerances = positions, [FINEST] * len(tolerances)
    tolerances = [max(FINEST, ROUNDING * tolerance) for tolerance in tolerances]
    return [Site(*row) for row in zip(names, symbols, positions, exact, tolerances, strict=True)]


def _exact_sixth(text: str) -> float:
    """A coordinate; one of three or more digits that is a rounded or truncated third or sixth becomes that fraction."""
    value, digits = float(text.partition("(")[0]), decimals(text)
    sixth = round(6 * value) / 6
    return sixth if digits >= _SIXTH_DIGITS and abs(value - sixth) < 10.0**-digits else value


_SIXTH_DIGITS = 3


_TYPE = re.compile(r"([A-Za-z]{1,2})(\d*\.?\d*[+-]|[+-]\d*\.?\d*|\d*)$")
_LABEL = re.compile(r"([A-Z][a-z]?)(?![a-z])(.*)$")
_GROUPS = re.compile(r"(H2?O|H3O|D2?O|OH\d?|OD|NH\d|ND\d|CH\d|CD\d)(?![a-z])")
"""Labels of groups whose hydrogen atoms have no sites."""
_WATER = re.compile(r"(wat|ow|oh|hoh|h2o|dod|d2o)\d*\w?$", re.IGNORECASE)
"""Labels of oxygen atoms that hydrogen is bound to."""


def _element(text: str, is_type: bool, capitals: bool) -> str:
    """Symbol of a type (``Fe3+``) or, where there are no types, of a label (``Fe1A``).

    ``capitals`` are types in capitals, as mmCIF has them.
    """
    if is_type and (match := _TYPE.match(text)):
        symbol = match[1].capitalize() if capitals else match[1]
        # T1, T2 are the tetrahedral sites of minerals, T alone is tritium
        if symbol in ATOMIC_NUMBERS or symbol == "D" or text == "T":
            return symbol
    if not is_type and not _GROUPS.match(text) and (match := _LABEL.match(text)):
        symbol, rest = match.groups()
        known = symbol in ATOMIC_NUMBERS or symbol == "D"
        if known and not re.match(r"[A-Z]", rest):
            return symbol
    raise CrystalError(
        RejectionReason.UNKNOWN_ELEMENT,
        f"the {'type' if is_type else 'label'} {text or '?'!r} of a site is not an element",
        "give each site the symbol of one element in _atom_site_type_symbol, every hydrogen atom its own site",
    )


def _refuse_disorder(block: Block, names: list[str]) -> None:
    """Refuse occupancies, groups of alternatives, and hydrogen atoms without sites."""
    for name, text in zip(names, block.column("_atom_site_occupancy"), strict=False):
        if text and abs(as_number(text, "_atom_site_occupancy") - 1) > 1e-6:
            raise disordered({name: as_number(text, "_atom_site_occupancy")})
    groups = [
        text
        for tag in ("_atom_site_disorder_group", "_atom_site_disorder_assembly", "_atom_site_label_alt_id")
        for text in block.column(tag)
        if text not in ("", "0")
    ]
    if groups:
        raise CrystalError(
            RejectionReason.DISORDERED,
            f"{len(groups)} sites belong to disorder groups or assemblies ({', '.join(sorted(set(groups))[:4])})",
            "give an ordered crystal without alternatives",
        )
    for name, text in zip(names, block.column("_atom_site_attached_hydrogens"), strict=False):
        if text and as_number(text, "_atom_site_attached_hydrogens") > 0:
            raise CrystalError(
                RejectionReason.MISSING_FIELD,
                f"site {name} has {text} attached hydrogen without a site of its own",
                "give every hydrogen atom its position",
            )
    for name, text in zip(names, block.column("_atom_site_calc_flag"), strict=False):
        if text.lower() in ("dum", "dummy"):
            raise CrystalError(
                RejectionReason.UNKNOWN_ELEMENT, f"site {name} is a dummy", "leave sites that are no atoms out"
            )


def refuse_other_kinds(block: Block) -> None:
    """Refuse blocks that describe no periodic crystal of whole atoms."""
    if block.has("_entity_poly_type", "_entity_poly_entity_id", "_entity_poly_seq_entity_id"):
        raise CrystalError(RejectionReason.UNREADABLE, "the mmCIF is of a macromolecule", "leave it out")
    if (block.number("_cell_modulation_dimension") or 0) > 0 or block.has("_cell_wave_vector_seq_id"):
        raise CrystalError(
            RejectionReason.DISORDERED,
            "the structure is modulated, so that its cell does not repeat",
            "give a commensurate approximant",
        )


def read_lattice(block: Block) -> NDArray[np.float64]:
    """Lattice with vectors as rows, Angstrom: a along x, b in the plane of x and y."""
    import gemmi

    tags = [
        f"_cell_{name}" for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    ]
    values = [number for tag in tags if (number := block.number(tag)) is not None]
    if missing := [tag for tag in tags if block.number(tag) is None]:
        raise CrystalError(
            RejectionReason.MISSING_FIELD, f"the block has no {', '.join(missing)}", "give all six numbers of the cell"
        )
    if any(not 0 < value < 1e5 for value in values[:3]) or any(not 0 < value < 180 for value in values[3:]):
        raise CrystalError(
            RejectionReason.ZERO_VOLUME,
            f"the cell {', '.join(f'{value:g}' for value in values)} is not possible",
            "give lengths in Angstrom and angles in degrees",
        )
    return np.array(gemmi.UnitCell(*values).orth.mat.tolist()).T
