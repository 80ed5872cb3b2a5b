"""One JSON object to a crystal: our own record, pymatgen's, JARVIS' and OPTIMADE's, and text of a CIF within one.

No class named in a file is imported: pymatgen's JSON is read as plain data.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.cif import parse_cif
from engine.materials.crystal import Crystal, PropertyValue
from engine.materials.parsing import ID_KEYS, Parsed, assemble, atomic_number, disordered, scalars

NOT_PROPERTIES = {*ID_KEYS, "@module", "@class", "@version", "formula", "charge", "composition", "type"}


def parse_json(content: dict[str, Any]) -> Parsed:
    """Parse one JSON object."""
    properties, notes = scalars(content.get("properties") or {})
    if isinstance(content.get("structure"), str):
        content = content | {"structure": json.loads(content["structure"])}
    if isinstance(content.get("structure"), dict):
        crystal = _from_pymatgen(content["structure"])
        for holder in (content["structure"].get("properties"), content.get("data"), content):
            more, _ = scalars({k: v for k, v in (holder or {}).items() if k not in NOT_PROPERTIES})
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
        return replace(parse_cif(content["cif"].encode()), properties=with_our_names(properties))
    else:
        crystal = _from_arrays(content)
    return Parsed(crystal, properties, notes)


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
    kept, _ = scalars({k: v for k, v in values.items() if k not in NOT_PROPERTIES and v != "na"})
    return with_our_names(kept)


def _from_arrays(content: dict[str, Any]) -> Crystal:
    _require(content, "lattice", "species", "frac_coords")
    return assemble(content["lattice"], [atomic_number(s) for s in content["species"]], content["frac_coords"])


def _from_jarvis(atoms: dict[str, Any]) -> Crystal:
    """Take the dictionary of ``jarvis.core.atoms.Atoms``."""
    _require(atoms, "lattice_mat", "elements", "coords")
    numbers, coords = [atomic_number(s) for s in atoms["elements"]], atoms["coords"]
    if atoms.get("cartesian"):
        coords = _fractional(atoms["lattice_mat"], coords)
    return assemble(atoms["lattice_mat"], numbers, coords)


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
    numbers = [atomic_number(_occupant(name, kinds.get(name))) for name in entry["species_at_sites"]]
    lattice = entry["lattice_vectors"]
    return assemble(lattice, numbers, _fractional(lattice, entry["cartesian_site_positions"]))


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
            raise disordered({str(s.get("element")): float(s.get("occu", 1)) for s in species})
        numbers.append(atomic_number(species[0]["element"]))
        coords.append(site["abc"])
    return assemble(structure["lattice"]["matrix"], numbers, coords)


def _require(content: dict[str, Any], *keys: str) -> None:
    missing = [k for k in keys if content.get(k) is None]
    if missing:
        found = ", ".join(list(content)[:8]) or "nothing"
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the record has no {', '.join(missing)} (it has {found})",
            "add what is missing, or leave files that hold no crystal out",
        )
