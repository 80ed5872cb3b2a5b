"""Common parts of all parsers: result of a record, species, arrays to crystals, and shortened text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.crystal import Crystal, PropertyValue
from engine.materials.elements import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from pymatgen.core import Structure

ID_KEYS = ("id", "material_id", "task_id", "entry_id", "jid", "mat_id", "immutable_id")
"""Keys of a record that hold its id; the first that is present counts."""
ISOTOPES = {"D": "2H", "T": "3H"}
"""Isotopes with their own symbol, and the nuclide."""


@dataclass(frozen=True)
class Parsed:
    """Result of parsing one record's text."""

    crystal: Crystal
    properties: dict[str, PropertyValue] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Notes for the user; a doubtful crystal is a :class:`CrystalError` instead."""
    id: str = ""
    isotopes: str = ""
    """Nuclides in place of an element's natural mixture, e.g. ``2H``; ``2H:0.5`` where half of its sites have it."""


def read_species(species: Sequence[object]) -> tuple[list[int], str]:
    """Atomic numbers of a record's species, and the isotopes among them as :attr:`Parsed.isotopes` has them.

    Raises
    ------
    CrystalError
        If one is not an element, or a mapping of occupancies.
    """
    number_of: dict[object, int] = {}
    for kind in distinct(species):
        number_of[kind] = atomic_number(kind)
    numbers = [number_of[kind] for kind in species]
    nuclides = {kind: nuclide for kind in number_of if (nuclide := _nuclide(kind))}
    if not nuclides:
        return numbers, ""
    found = Counter(nuclides[kind] for kind in species if kind in nuclides)
    hydrogens = numbers.count(1)
    words = [name if count == hydrogens else f"{name}:{count / hydrogens:.6g}" for name, count in sorted(found.items())]
    return numbers, ",".join(words)


def distinct(species: Sequence[object]) -> Iterable[object]:
    """Each species once, in order; every site's where one is a mapping of occupancies, which has no hash."""
    try:
        return dict.fromkeys(species)
    except TypeError:
        return species


def _nuclide(species: object) -> str:
    bare = _DECORATED.match(species) if isinstance(species, str) else None
    return ISOTOPES.get(bare[1], "") if bare else ""


# T1, T2, ... are the tetrahedral sites of minerals, not tritium
_DECORATED = re.compile(r"(?!T\d+$)([A-Z][a-z]?)\d*\.?\d*[+-]?$")


def atomic_number(species: object) -> int:
    """Atomic number of ``Fe``, ``Fe3+`` or ``D``; a mapping of occupancies is a mixed site."""
    number = ATOMIC_NUMBERS.get(species) if isinstance(species, str) else None
    if number is not None:
        return number
    if isinstance(species, dict):
        raise disordered(species)
    bare = _DECORATED.match(str(species))
    symbol = {"D": "H", "T": "H"}.get(bare[1], bare[1]) if bare else ""
    if symbol not in ATOMIC_NUMBERS:
        raise CrystalError(
            RejectionReason.UNKNOWN_ELEMENT,
            f"{species!r} is not an element",
            "use symbols of the elements from H to Lr",
        )
    return ATOMIC_NUMBERS[symbol]


def element(name: object) -> str:
    """Symbol of an element, charged or not; labels and placeholders are not accepted."""
    if not isinstance(name, str) or not (name in ATOMIC_NUMBERS or _CHARGED.fullmatch(name)):
        raise CrystalError(
            RejectionReason.UNKNOWN_ELEMENT,
            f"a site is occupied by {name!r}, which is not an element",
            "use symbols of the elements from H to Lr; leave out vacancies, and give molecules atom by atom",
        )
    return name


_CHARGED = re.compile(r"[A-Z][a-z]?(\d*\.?\d*[+-])?")


def assemble(lattice: Any, numbers: list[int], frac_coords: Any) -> Crystal:
    """Crystal from arrays of the right shapes, or an error."""
    shapes = np.shape(lattice), np.shape(frac_coords)
    if shapes != ((3, 3), (len(numbers), 3)) and numbers:
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"{len(numbers)} species, lattice of shape {shapes[0]}, coordinates of shape {shapes[1]}",
            "give a 3 x 3 lattice and three fractional coordinates for each site",
        )
    return Crystal(lattice, np.array(numbers, dtype=np.int64), frac_coords)


def fractional(lattice: Any, cartesian: Any) -> Any:
    """Positions in Angstrom, n x 3, as fractions of a 3 x 3 lattice."""
    vectors = np.array(lattice, dtype=np.float64)
    if vectors.shape != (3, 3) or not np.isfinite(vectors).all():
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the lattice {lattice} is not three vectors of three numbers",
            "take the structure from another database",
        )
    try:
        return np.linalg.solve(vectors.T, np.array(cartesian, dtype=np.float64).reshape(-1, 3).T).T
    except np.linalg.LinAlgError as error:
        raise CrystalError(
            RejectionReason.ZERO_VOLUME,
            "the three lattice vectors lie in one plane",
            "check the lattice: three vectors in Angstrom that do not lie in one plane",
        ) from error


def from_structure(structure: Structure) -> Crystal:
    """Crystal of an ordered pymatgen ``Structure``."""
    for site in structure:
        if not site.is_ordered:
            raise disordered({str(k): float(v) for k, v in site.species.items()})
    numbers = [atomic_number(site.specie.symbol) for site in structure]
    return assemble(structure.lattice.matrix, numbers, structure.frac_coords)


def disordered(occupancies: dict[str, float]) -> CrystalError:
    """Refusal of a site that several species share or that is partly empty."""
    shown = ", ".join(f"{k} {v:g}" for k, v in occupancies.items())
    return CrystalError(
        RejectionReason.DISORDERED,
        f"a site is occupied by {shown}",
        "give an ordered approximant, e.g. from pymatgen's OrderDisorderedStructureTransformation",
    )


def scalars(values: dict[str, object]) -> tuple[dict[str, PropertyValue], list[str]]:
    """Properties with allowed values, with one note on the others; null means not known."""
    kept, dropped = plain_values(values)
    return kept, [left_out(dropped)] if dropped else []


def plain_values(values: dict[str, object]) -> tuple[dict[str, PropertyValue], list[str]]:
    """Properties with allowed values, and the names of the others."""
    kept: dict[str, PropertyValue] = {}
    dropped = []
    for name, value in values.items():
        if isinstance(value, float | int | str | bool) and _is_storable(value) and is_text(name):
            kept[name] = value
        elif value is not None and not _is_empty(value):
            dropped.append(name)
    return kept, dropped


def left_out(names: Sequence[str]) -> str:
    """Note on the properties that are left out."""
    return f"property {', '.join(names)} is a list or object (or no whole number or text) and was left out"


def _is_empty(value: object) -> bool:
    """Whether a value is a list, array or object without entries; long lists are not written out to see it."""
    return not value if type(value) in (list, dict) else str(value) in ("[]", "{}")


def _is_storable(value: PropertyValue) -> bool:
    """Whether a database can store a value: whole numbers of 64 bits, text that can be encoded."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, str) or is_text(value)


def is_text(text: str) -> bool:
    """Whether text can be encoded; files and databases refuse half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def own_id(content: dict[str, object]) -> str:
    """Id that a record gives itself, empty if none."""
    data = content.get("data")
    for holder in (content, data if isinstance(data, dict) else {}):
        for key in ID_KEYS:
            value = holder.get(key)
            if isinstance(value, dict) and "@class" in value:  # an MPID or AlphaID of emmet
                value = value.get("string") or value.get("value")
            if isinstance(value, str | int) and str(value).strip():
                return str(value).strip()
    return ""


def printable(text: str) -> str:
    """Text with lone surrogates replaced by their escapes."""
    return text if is_text(text) else text.encode("utf-8", "backslashreplace").decode()


def first_line(message: object) -> str:
    """First line of a message, at most 300 characters."""
    lines = str(message).strip().splitlines()
    return lines[0][:300] if lines else ""


def as_text(payload: bytes) -> str:
    """Text of a record; only numbers and symbols matter, so that author names in old encodings are no error."""
    return payload.decode("utf-8-sig", errors="replace")
