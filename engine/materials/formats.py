"""One record's text to a crystal: CIF, POSCAR, extended XYZ, and JSON: ours, pymatgen's, JARVIS' and OPTIMADE's.

Nothing here unpickles, and no class named in a file is imported: pymatgen's JSON is read as plain data.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal, PropertyValue
from engine.materials.elements import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymatgen.core import Structure


class Format(StrEnum):
    """A format that can be read."""

    CIF = "cif"
    POSCAR = "poscar"
    XYZ = "xyz"
    JSON = "json"
    """One object: our own record, a pymatgen structure or an entry that holds one, JARVIS, OPTIMADE."""


@dataclass(frozen=True)
class RawRecord:
    """One crystal's text as found in a file, not parsed yet, so that parsing can happen in another process."""

    id: str
    """From the file's name; an id inside the record supersedes it."""
    format: Format
    payload: bytes | dict[str, Any]
    source: str
    """File, and where in it (archive member, line, block or frame)."""
    properties: dict[str, PropertyValue] = field(default_factory=dict)
    """Known from elsewhere, e.g. from a table beside the file; those in the record itself go before."""


@dataclass(frozen=True)
class Record:
    """A crystal as its file describes it: parsed, not checked, not standardised."""

    id: str
    crystal: Crystal
    properties: dict[str, PropertyValue]
    source: str
    notes: tuple[str, ...] = ()
    """What the parser noticed, e.g. coordinates rounded to special positions."""


def parse(raw: RawRecord) -> Record | Rejection:
    """Parse one record; whatever is wrong with it comes back as a :class:`Rejection`, warnings as notes."""
    record_id = raw.id
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            content = _json_object(raw.payload) if raw.format is Format.JSON else raw.payload
            if isinstance(content, dict):
                record_id = _own_id(content) or raw.id
            parsed = _PARSERS[raw.format](content)
        except CrystalError as error:
            return rejection(error, raw.source, record_id)
        except Exception as error:  # the parsers below belong to others and raise whatever they like on damaged text
            return rejection(_unreadable(raw.format, error), raw.source, record_id)
    notes = tuple(dict.fromkeys([_first_line(w.message) for w in caught] + parsed.notes))
    return Record(parsed.id or record_id, parsed.crystal, raw.properties | parsed.properties, raw.source, notes)


def rejection(error: CrystalError, source: str, record_id: str) -> Rejection:
    """Turn ``error`` into a line of the quarantine list."""
    return Rejection(source, record_id, RejectionReason(error.reason), error.message, error.remedy)


@dataclass(frozen=True)
class _Parsed:
    crystal: Crystal
    properties: dict[str, PropertyValue]
    notes: list[str]
    id: str = ""


# --- JSON ---------------------------------------------------------------------------------------------------------

_ID_KEYS = ("id", "material_id", "task_id", "entry_id", "jid", "mat_id", "immutable_id")
_NOT_PROPERTIES = {*_ID_KEYS, "@module", "@class", "@version", "formula", "charge", "composition", "type"}


def _json_object(payload: bytes | dict[str, Any]) -> dict[str, Any]:
    content = payload if isinstance(payload, dict) else json.loads(payload)
    if not isinstance(content, dict):
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"a record must be a JSON object, not {type(content).__name__}",
            'write {"id", "lattice", "species", "frac_coords", "properties"} or a pymatgen structure',
        )
    return content


def _own_id(content: dict[str, Any]) -> str:
    data = content.get("data")
    for holder in (content, data if isinstance(data, dict) else {}):
        for key in _ID_KEYS:
            if isinstance(holder.get(key), str | int) and str(holder[key]).strip():
                return str(holder[key]).strip()
    return ""


def _parse_json(content: dict[str, Any]) -> _Parsed:
    properties, notes = _scalars(content.get("properties") or {})
    if isinstance(content.get("structure"), str):
        content = content | {"structure": json.loads(content["structure"])}
    if isinstance(content.get("structure"), dict):
        crystal = _from_pymatgen(content["structure"])
        for holder in (content["structure"].get("properties"), content.get("data"), content):
            more, _ = _scalars({k: v for k, v in (holder or {}).items() if k not in _NOT_PROPERTIES})
            properties = {**more, **properties}
        properties = with_our_names(properties)
    elif "sites" in content:
        crystal = _from_pymatgen(content)
    elif isinstance(content.get("atoms"), dict):
        crystal = _from_jarvis(content["atoms"])
        properties = _foreign(content)
    elif "cartesian_site_positions" in (entry := content.get("attributes") or content):
        crystal = _from_optimade(entry)
        own = {k.removeprefix("_"): v for k, v in entry.items() if k.startswith("_")}
        properties |= _foreign(own if entry is not content else own | entry)
    elif isinstance(content.get("cif"), str):
        return replace(_parse_cif(content["cif"].encode()), properties=with_our_names(properties))
    else:
        crystal = _from_arrays(content)
    return _Parsed(crystal, properties, notes)


OUR_NAMES = {
    "optb88vdw_bandgap": "band_gap_eV",
    "ehull": "energy_above_hull_eV",
    "formation_energy_peratom": "formation_energy_eV",
    "band_gap_ind": "band_gap_eV",
    "e_above_hull": "energy_above_hull_eV",
    "e_form": "formation_energy_eV",
    "alexandria_band_gap": "band_gap_eV",
    "alexandria_hull_distance": "energy_above_hull_eV",
    "alexandria_formation_energy_per_atom": "formation_energy_eV",
    "jarvis_optb88vdw_bandgap": "band_gap_eV",
    "jarvis_ehull": "energy_above_hull_eV",
    "jarvis_formation_energy_peratom": "formation_energy_eV",
    "oqmd_band_gap": "band_gap_eV",
    "oqmd_stability": "energy_above_hull_eV",
    "oqmd_delta_e": "formation_energy_eV",
    "Bandgap": "band_gap_eV",
    "Decomposition Energy Per Atom": "energy_above_hull_eV",
    "Formation Energy Per Atom": "formation_energy_eV",
}
"""Fields of JARVIS, Alexandria, OQMD and GNoME that campaigns constrain, to our names; energies are eV per atom."""


def with_our_names(properties: dict[str, PropertyValue]) -> dict[str, PropertyValue]:
    """Add what other databases call otherwise under our names too."""
    return {ours: properties[theirs] for theirs, ours in OUR_NAMES.items() if theirs in properties} | properties


def _foreign(values: dict[str, Any]) -> dict[str, PropertyValue]:
    """Give the plain values of another database's entry; ``na`` is JARVIS' word for not known."""
    kept, _ = _scalars({k: v for k, v in values.items() if k not in _NOT_PROPERTIES and v != "na"})
    return with_our_names(kept)


def _scalars(values: dict[str, Any]) -> tuple[dict[str, PropertyValue], list[str]]:
    """Keep the values a property can have, with a note on each of the others; null means not known."""
    kept = {k: v for k, v in values.items() if isinstance(v, float | int | str | bool)}
    dropped = [k for k, v in values.items() if isinstance(v, list | dict)]
    return kept, [f"property {k} is a list or object and was left out" for k in dropped]


def _from_arrays(content: dict[str, Any]) -> Crystal:
    _require(content, "lattice", "species", "frac_coords")
    return _crystal(content["lattice"], [_number(s) for s in content["species"]], content["frac_coords"])


def _from_jarvis(atoms: dict[str, Any]) -> Crystal:
    """Take the dictionary of ``jarvis.core.atoms.Atoms``."""
    _require(atoms, "lattice_mat", "elements", "coords")
    numbers, coords = [_number(s) for s in atoms["elements"]], atoms["coords"]
    if atoms.get("cartesian"):
        coords = _fractional(atoms["lattice_mat"], coords)
    return _crystal(atoms["lattice_mat"], numbers, coords)


def _from_optimade(entry: dict[str, Any]) -> Crystal:
    """Take a structure as the OPTIMADE specification has it; disorder and what has no coordinates is refused."""
    _require(entry, "lattice_vectors", "cartesian_site_positions", "species_at_sites")
    if list(entry.get("dimension_types") or [1, 1, 1]) != [1, 1, 1]:
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the structure repeats in {sum(map(bool, entry['dimension_types']))} directions, not in three",
            "leave molecules, chains and layers out, e.g. with nperiodic_dimensions=3 in the filter",
        )
    for n, position in enumerate(entry["cartesian_site_positions"]):
        if position is None or any(x is None for x in position):
            raise CrystalError(
                RejectionReason.MISSING_FIELD,
                f"site {n} has no coordinates",
                "take the structure from another database",
            )
    kinds = {kind["name"]: kind for kind in entry.get("species") or []}
    numbers = [_number(_occupant(name, kinds.get(name))) for name in entry["species_at_sites"]]
    lattice = entry["lattice_vectors"]
    return _crystal(lattice, numbers, _fractional(lattice, entry["cartesian_site_positions"]))


def _occupant(name: str, kind: dict[str, Any] | None) -> Any:
    """Give the symbol that a site's species stands for, or its occupancies."""
    if kind is None:
        return name
    if kind.get("attached"):
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"{', '.join(map(str, kind['attached']))} bound to a site {name} have no coordinates",
            "take the structure from another database",
        )
    symbols, shares = kind["chemical_symbols"], kind.get("concentration") or [1.0]
    if len(symbols) == 1 and abs(float(shares[0]) - 1) < 1e-6:
        return symbols[0]
    return dict(zip(symbols, map(float, shares), strict=True))


def _fractional(lattice: Any, cartesian: Any) -> Any:
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


def _from_pymatgen(structure: dict[str, Any]) -> Crystal:
    _require(structure, "lattice", "sites")
    _require(structure["lattice"], "matrix")
    numbers, coords = [], []
    for site in structure["sites"]:
        _require(site, "species", "abc")
        species = site["species"]
        if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
            raise _disordered({str(s.get("element")): float(s.get("occu", 1)) for s in species})
        numbers.append(_number(species[0]["element"]))
        coords.append(site["abc"])
    return _crystal(structure["lattice"]["matrix"], numbers, coords)


def _require(content: dict[str, Any], *keys: str) -> None:
    missing = [k for k in keys if content.get(k) is None]
    if missing:
        found = ", ".join(list(content)[:8]) or "nothing"
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the record has no {', '.join(missing)} (it has {found})",
            "add what is missing, or leave files that hold no crystal out",
        )


# --- CIF, POSCAR, XYZ ---------------------------------------------------------------------------------------------


def _parse_cif(payload: bytes) -> _Parsed:
    from pymatgen.io.cif import CifParser

    # pymatgen rounds 0.3333 to 1/3, which is right for four decimals and wrong where the file is precise
    tolerance = 0.0 if _PRECISE.search(payload) else 1e-4
    parser = CifParser.from_str(_text(payload), occupancy_tolerance=1.0, frac_tolerance=tolerance)
    structures = parser.parse_structures(primitive=False, check_occu=False, on_error="raise")
    notes = [_first_line(w) for w in parser.warnings if not w.startswith("Skipping relative stoichiometry check")]
    return _Parsed(_from_structure(structures[0]), {}, notes)


_PRECISE = re.compile(rb"(?<![\d.])0?\.\d{6}")


def _parse_poscar(payload: bytes) -> _Parsed:
    from pymatgen.io.vasp import Poscar
    from pymatgen.io.vasp.inputs import BadPoscarWarning

    with warnings.catch_warnings():
        # pymatgen would go on with H, He, Li, ... in place of names that are not there
        warnings.filterwarnings("error", message="Elements in POSCAR", category=BadPoscarWarning)
        try:
            poscar = Poscar.from_str(_text(payload), read_velocities=False)
        except BadPoscarWarning as error:
            raise CrystalError(
                RejectionReason.MISSING_FIELD,
                "the POSCAR does not name its elements",
                "write the element symbols in its sixth line, as VASP 5 does",
            ) from error
    return _Parsed(_from_structure(poscar.structure), {}, [])


def _parse_xyz(payload: bytes) -> _Parsed:
    from ase.io import read

    atoms = read(io.StringIO(_text(payload)), index=0, format="extxyz")
    if not atoms.pbc.all() or not atoms.cell.array.any():
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            "the frame has no cell that repeats in three directions",
            'add Lattice="ax ay az bx by bz cx cy cz" (and pbc="T T T") to its second line',
        )
    info = {k: v.item() if isinstance(v, np.generic) else v for k, v in atoms.info.items()}
    properties, notes = _scalars(info)
    crystal = _crystal(atoms.cell.array, atoms.numbers.tolist(), atoms.get_scaled_positions(wrap=False))
    return _Parsed(crystal, properties, notes, _own_id(info))


_PARSERS: dict[Format, Callable[[Any], _Parsed]] = {
    Format.CIF: _parse_cif,
    Format.POSCAR: _parse_poscar,
    Format.XYZ: _parse_xyz,
    Format.JSON: _parse_json,
}


def _from_structure(structure: Structure) -> Crystal:
    for site in structure:
        if not site.is_ordered:
            raise _disordered({str(k): float(v) for k, v in site.species.items()})
    numbers = [_number(site.specie.symbol) for site in structure]
    return _crystal(structure.lattice.matrix, numbers, structure.frac_coords)


# --- shared -------------------------------------------------------------------------------------------------------

_DECORATED = re.compile(r"([A-Z][a-z]?)\d*\.?\d*[+-]?$")


def _number(species: Any) -> int:
    """Atomic number of ``Fe``, ``Fe3+`` or ``D``; a mapping of occupancies is a mixed site."""
    number = ATOMIC_NUMBERS.get(species) if isinstance(species, str) else None
    if number is not None:
        return number
    if isinstance(species, dict):
        raise _disordered(species)
    bare = _DECORATED.match(str(species))
    symbol = {"D": "H", "T": "H"}.get(bare[1], bare[1]) if bare else ""
    if symbol not in ATOMIC_NUMBERS:
        raise CrystalError(
            RejectionReason.UNKNOWN_ELEMENT,
            f"{species!r} is not an element",
            "use symbols of the elements from H to Lr",
        )
    return ATOMIC_NUMBERS[symbol]


def _crystal(lattice: Any, numbers: list[int], frac_coords: Any) -> Crystal:
    """Arrays of the right shapes, or what is wrong with them."""
    shapes = np.shape(lattice), np.shape(frac_coords)
    if shapes != ((3, 3), (len(numbers), 3)) and numbers:
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"{len(numbers)} species, lattice of shape {shapes[0]}, coordinates of shape {shapes[1]}",
            "give a 3 x 3 lattice and three fractional coordinates a site",
        )
    return Crystal(lattice, np.array(numbers, dtype=np.int64), frac_coords)


def _disordered(occupancies: dict[str, float]) -> CrystalError:
    shown = ", ".join(f"{k} {v:g}" for k, v in occupancies.items())
    return CrystalError(
        RejectionReason.DISORDERED,
        f"a site is occupied by {shown}",
        "give an ordered approximant, e.g. from pymatgen's OrderDisorderedStructureTransformation",
    )


def _unreadable(file_format: Format, error: Exception) -> CrystalError:
    return CrystalError(
        RejectionReason.UNREADABLE,
        f"not readable as {file_format.value}: {_first_line(error) or type(error).__name__}",
        "mend or replace the file, or rename it if it has another format",
    )


def _first_line(message: object) -> str:
    lines = str(message).strip().splitlines()
    return lines[0][:300] if lines else ""


def _text(payload: bytes) -> str:
    """Numbers and symbols are ASCII; author names in old encodings must not stop a file."""
    return payload.decode("utf-8-sig", errors="replace")
