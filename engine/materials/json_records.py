"""One JSON object to a crystal: records of this program, pymatgen, JARVIS, ASE and OPTIMADE, and the text of a CIF.

No class named in a file is imported: pymatgen's JSON is read as plain data.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.cif import parse_cif
from engine.materials.crystal import Crystal, PropertyValue
from engine.materials.elements import SYMBOLS
from engine.materials.formulas import check_formula
from engine.materials.optimade_entry import parse_optimade
from engine.materials.parsing import (
    ID_KEYS,
    Parsed,
    assemble,
    disordered,
    distinct,
    element,
    fractional,
    left_out,
    own_id,
    plain_values,
    read_species,
)
from engine.materials.poscar import parse_poscar

ENTRY_FIELDS = ("computed_structure_entry", "entry", "cse")
"""Fields that may hold a whole record, whose values are added to this one's, as in tables of WBM."""
CRYSTAL_FIELDS = (
    *ENTRY_FIELDS,
    "structure", "structure_json", "pymatgen_structure", "final_structure", "relaxed_structure", "initial_structure",
    "crystal", "atoms", "ase_atoms", "cif", "cif_str", "cif_string", "cif_text", "poscar",
)  # fmt: skip
"""Fields of a record, or columns of a table, that may hold a crystal: an object, its JSON, or a file's text."""
FORMULA_FIELDS = ("formula", "pretty_formula", "formula_pretty", "reduced_formula", "chemical_formula_reduced")
"""Fields that are compared with the sites."""
NOT_PROPERTIES = {*ID_KEYS, "@module", "@class", "@version", "formula"}
REMEDY = (
    "a record is {id, lattice, species, frac_coords, properties}, a pymatgen structure or an object with one under "
    "`structure`, or one of JARVIS, OPTIMADE or ASE; a file is one of them, a list, or {id: record}"
)
_OF_LAYOUT = {
    "pymatgen": {"charge"},
    "optimade": {"type"},
    "ase": {"energy", "unique_id", "ctime", "mtime", "user", "__ase_objtype__"},
}
_TEXTS = {*CRYSTAL_FIELDS}
_PARTS = {
    "composition", "initial_magmoms", "forces", "stress", "constraints", "calculator_parameters",
    *CRYSTAL_FIELDS, "lattice", "species", "frac_coords", "numbers", "positions", "cell", "pbc", "sites", "properties",
    "data", "attributes", "output", "lattice_mat", "elements", "coords", "lattice_vectors", "cartesian_site_positions",
    "species_at_sites", "dimension_types", "structure_features", "links", "relationships", "key_value_pairs",
}  # fmt: skip


def parse_json(content: dict[str, Any]) -> Parsed:
    """Parse one JSON object."""
    layout, inner = _crystal_in(content)
    parsed = _LAYOUTS[layout](inner)
    holders = [_opened(content.get("properties")), inner.get("properties"), content.get("data"), inner.get("data")]
    holders += [content, *(content.get(name) for name in ENTRY_FIELDS)]
    values, dropped = _collected([parsed.properties, *holders], _OF_LAYOUT.get(layout, set()))
    if layout == "jarvis":
        values = {name: value for name, value in values.items() if value != "na"}  # JARVIS' word for not known
    notes = [left_out(dropped)] if dropped else []
    for name in FORMULA_FIELDS:
        formula = content.get(name)
        if isinstance(formula, str) and formula.strip():
            notes.append(check_formula(name, formula, parsed.crystal.composition))
    notes += parsed.notes
    return replace(parsed, properties=with_our_names(values), notes=[note for note in notes if note])


def holds_crystal(content: object) -> bool:
    """Whether an object is a record, by the names of its fields; some of them may still be missing."""
    if not isinstance(content, dict):
        return False
    layout, inner = _crystal_in(content)
    return layout != "ours" or inner is not content or len(_OURS & set(content)) > 1


def is_crystal_text(value: object) -> bool:
    """Whether a value is the text of a crystal: JSON, CIF or POSCAR."""
    return isinstance(value, str) and _TEXT.search(value) is not None


def layout_seen(content: object) -> str:
    """Description of a record that holds no crystal, for the message to the user."""
    if isinstance(content, list):
        return f"a list of {len(content)} values without names (pandas names them with orient='split')"
    if not isinstance(content, dict):
        return f"{type(content).__name__} {str(content)[:40]!r}" if content is not None else "null"
    name = f"a {content['@class']} of " if isinstance(content.get("@class"), str) else ""
    return f"{name}{', '.join(list(map(str, content))[:8]) or 'nothing'}"[:200]


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
"""Names of fields of JARVIS, Alexandria, OQMD and GNoME in this program; energies are eV per atom."""


def with_our_names(properties: dict[str, PropertyValue]) -> dict[str, PropertyValue]:
    """Add properties of other databases under the names of this program."""
    return {ours: properties[theirs] for theirs, ours in OUR_NAMES.items() if theirs in properties} | properties


# --- where the crystal is -----------------------------------------------------------------------------------------

_OURS = {"lattice", "species", "frac_coords"}
_TEXT = re.compile(
    r"""_cell_length_a|^\s*\{.*["'](lattice|lattice_mat|cell|sites)["']|\n[ \t]*direct|\n[ \t]*cart""", re.I | re.S
)


def _crystal_in(content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Layout of a record, and the object that has it; ``ours`` by default."""
    if (layout := _bare_layout(content)) is not None:
        return layout, content
    names = {name.lower(): name for name in content if isinstance(name, str) and name.lower() in CRYSTAL_FIELDS}
    for field in CRYSTAL_FIELDS:
        value = content.get(names.get(field, field))
        if isinstance(value, dict) and (layout := _bare_layout(value)):
            return layout, value
        if field in ENTRY_FIELDS and isinstance(value, dict) and holds_crystal(value):
            return _crystal_in(value)
        if is_crystal_text(value):
            return "text", {"text": value}
    output = content.get("output")
    if isinstance(output, dict) and isinstance(output.get("structure"), dict):
        return _crystal_in({"structure": output["structure"]})
    return "ours", content


def _bare_layout(content: dict[str, object]) -> str | None:
    if "sites" in content and "lattice" in content:
        return "pymatgen"
    if "lattice_mat" in content:
        return "jarvis"
    attributes = content.get("attributes")
    if "cartesian_site_positions" in content or (
        isinstance(attributes, dict) and ("cartesian_site_positions" in attributes or "lattice_vectors" in attributes)
    ):
        return "optimade"
    if "numbers" in content and ("positions" in content or "cell" in content):
        return "ase"
    return "ours" if _is_ours(content) else None


def _is_ours(content: dict[str, object]) -> bool:
    return "frac_coords" in content and "lattice" in content


def _opened(properties: object) -> object:
    """An object that a table holds as text."""
    return json.loads(properties) if isinstance(properties, str) and properties[:1] == "{" else properties


def _collected(holders: Iterable[object], more: set[str]) -> tuple[dict[str, PropertyValue], list[str]]:
    """Plain values of several objects, the first taking precedence, and names of values that are not plain.

    ``more`` are names that are not properties, besides :data:`NOT_PROPERTIES`.
    """
    values: dict[str, PropertyValue] = {}
    dropped: dict[str, None] = {}
    for holder in holders:
        if not isinstance(holder, dict):
            continue
        ours = {k: v for k, v in holder.items() if not (k in NOT_PROPERTIES or k in more or _is_crystal_field(k, v))}
        plain, others = plain_values(ours)
        values = plain | values
        dropped |= dict.fromkeys(name for name in others if name.lower() not in _PARTS)
    return values, [name for name in dropped if name not in values]


def _is_crystal_field(name: str, value: object) -> bool:
    return isinstance(value, str) and name.lower() in _TEXTS and is_crystal_text(value)


# --- one reader for each layout ---------------------------------------------------------------------------------------


def _from_arrays(content: dict[str, Any]) -> Parsed:
    if "numbers" in content and "species" not in content:
        content = content | {"species": [_symbol(n) for n in content["numbers"]]}
    if not _OURS & set(content):
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the record holds no crystal in a layout that is known (it has {layout_seen(content)})",
            REMEDY,
        )
    _require(content, "lattice", "species", "frac_coords")
    species = content["species"]
    for kind in distinct(species):
        if not isinstance(kind, dict):
            element(kind)
    numbers, isotopes = read_species(species)
    return Parsed(assemble(content["lattice"], numbers, content["frac_coords"]), isotopes=isotopes)


def _symbol(number: int) -> str:
    """Symbol of an element, or its number."""
    return SYMBOLS[number] if 0 < number < len(SYMBOLS) else str(number)


def _from_jarvis(atoms: dict[str, Any]) -> Parsed:
    """Crystal from the dictionary of ``jarvis.core.atoms.Atoms``."""
    _require(atoms, "lattice_mat", "elements", "coords")
    numbers, isotopes = read_species([element(kind) for kind in atoms["elements"]])
    coords = atoms["coords"]
    if atoms.get("cartesian"):
        coords = fractional(atoms["lattice_mat"], coords)
    return Parsed(assemble(atoms["lattice_mat"], numbers, coords), isotopes=isotopes)


def _from_ase(row: dict[str, Any]) -> Parsed:
    """Crystal from a row of ASE's JSON database, or ``Atoms.todict()``; key-value pairs and energy are properties."""
    from ase.io.jsonio import decode

    _require(row, "numbers", "positions", "cell")
    parts = decode(json.dumps({name: row.get(name) for name in ("numbers", "positions", "cell", "pbc")}))
    periodic = np.broadcast_to(np.asarray(True if parts["pbc"] is None else parts["pbc"], dtype=bool), 3)
    _require_three_directions(int(periodic.sum()))
    cell = (
        parts["cell"].get("array")
        if isinstance(parts["cell"], dict)
        else getattr(parts["cell"], "array", parts["cell"])
    )
    lattice = np.asarray(cell, dtype=np.float64)
    crystal = Crystal(lattice, parts["numbers"], fractional(lattice, parts["positions"]))
    pairs = row.get("key_value_pairs")
    known, _ = plain_values({k: v for k, v in (pairs if isinstance(pairs, dict) else {}).items() if k not in ID_KEYS})
    energy: dict[str, PropertyValue] = (
        {"energy_eV": float(row["energy"])} if isinstance(row.get("energy"), int | float) else {}
    )
    return Parsed(crystal, energy | known, id=own_id(pairs) if isinstance(pairs, dict) else "")


def _from_pymatgen(structure: dict[str, Any]) -> Parsed:
    _require(structure, "lattice", "sites")
    _require(structure["lattice"], "matrix")
    _require_three_directions(sum(map(bool, structure["lattice"].get("pbc") or (True, True, True))))
    symbols, coords = [], []
    for site in structure["sites"]:
        _require(site, "species", "abc")
        species = site["species"]
        if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
            raise disordered({str(s.get("element")): float(s.get("occu", 1)) for s in species})
        symbols.append(_symbol_at_site(species[0]))
        coords.append(site["abc"])
    numbers, isotopes = read_species(symbols)
    return Parsed(assemble(structure["lattice"]["matrix"], numbers, coords), isotopes=isotopes)


def _symbol_at_site(species: dict[str, object]) -> str:
    if species.get("@class") == "DummySpecies":
        return element(f"DummySpecies {species.get('element')}")
    return element(species.get("element"))


def _from_text(content: dict[str, Any]) -> Parsed:
    """Crystal from the text of a file, or a JSON object as text."""
    text = content["text"].strip()
    if not text.startswith("{"):
        return parse_cif(text.encode()) if "_cell_length" in text.lower() else parse_poscar(text.encode())
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        record = ast.literal_eval(text)  # what pandas writes into a CSV
    layout, inner = _crystal_in(record)
    parsed = _LAYOUTS[layout](inner)
    values, _ = plain_values(record.get("properties") or {})
    return replace(parsed, properties=values | parsed.properties)


_LAYOUTS: dict[str, Callable[[dict[str, Any]], Parsed]] = {
    "ours": _from_arrays,
    "pymatgen": _from_pymatgen,
    "jarvis": _from_jarvis,
    "optimade": parse_optimade,
    "ase": _from_ase,
    "text": _from_text,
}


def _require(content: dict[str, object], *keys: str) -> None:
    missing = [k for k in keys if content.get(k) is None]
    if missing:
        found = ", ".join(list(content)[:8]) or "nothing"
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the record has no {', '.join(missing)} (it has {found})",
            "add what is missing, or leave out files without crystals",
        )


def _require_three_directions(count: int) -> None:
    if count != 3:
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the structure is periodic in {count} directions, not in three",
            "leave out molecules, chains and layers; a crystal has pbc [true, true, true]",
        )
