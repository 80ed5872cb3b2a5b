"""One entry of an OPTIMADE provider to a crystal, completely or not at all.

The fields are those of the specification, https://github.com/Materials-Consortia/OPTIMADE, "Structures Entries".
"""

from __future__ import annotations

from typing import Any

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.formulas import check_formula
from engine.materials.parsing import Parsed, assemble, element, fractional, read_species, scalars

FIELDS = (
    "lattice_vectors", "cartesian_site_positions", "species", "species_at_sites", "dimension_types",
    "structure_features", "nsites", "elements", "chemical_formula_reduced", "chemical_formula_descriptive",
    "immutable_id",
)  # fmt: skip
"""Requested fields of every structure: its sites, and fields that are compared with them."""
_STANDARD = {
    *FIELDS, "nelements", "elements_ratios", "chemical_formula_hill", "chemical_formula_anonymous", "last_modified",
    "nperiodic_dimensions", "fractional_site_positions", "assemblies", "space_group_it_number", "id", "type",
    "space_group_symmetry_operations_xyz", "space_group_symbol_hall", "space_group_symbol_hermann_mauguin",
    "space_group_symbol_hermann_mauguin_extended", "wyckoff_positions", "site_coordinate_span",
}  # fmt: skip
_ELSEWHERE = "take the structure from another database"
_FEATURES = {
    "implicit_atoms": "some atoms are implicit: they belong to the structure and have no site",
    "assemblies": "some sites exclude one another (assemblies)",
    "site_attachments": "some sites stand for groups of atoms (site_attachments)",
    "unknown_positions": "some sites have no coordinates (unknown_positions)",
}


def parse_optimade(content: dict[str, Any]) -> Parsed:
    """Crystal of an entry, or of its attributes alone; plain values specific to the provider are properties.

    Raises
    ------
    CrystalError
        If it is disordered, not periodic in three directions, lacks atoms or coordinates, or contradicts itself.
    """
    attributes = content.get("attributes")
    entry = attributes if isinstance(attributes, dict) else content
    _require(entry, "lattice_vectors", "cartesian_site_positions", "species_at_sites")
    _check_periodic(entry)
    positions, names = entry["cartesian_site_positions"], entry["species_at_sites"]
    _check_positions(positions)
    kinds = {kind["name"]: kind for kind in entry.get("species") or []}
    symbols = [_occupant(name, kinds.get(name)) for name in names]
    _check_features(entry.get("structure_features") or [])
    _check_counts(entry, len(positions), len(names))
    numbers, isotopes = read_species(symbols)
    lattice = entry["lattice_vectors"]
    crystal = assemble(lattice, numbers, fractional(lattice, positions))
    notes = _compared(entry, crystal.composition)
    compared = isinstance(entry.get("chemical_formula_reduced"), str)
    if (unused := sorted(set(kinds) - set(names))) and not compared:
        raise _refused(f"species {', '.join(unused)} have no site, as implicit atoms")
    own = {
        k.removeprefix("_"): v
        for k, v in entry.items()
        if k not in _STANDARD and (entry is not content or k[:1] == "_")
    }
    known, more = scalars(own)
    return Parsed(crystal, known, notes + more, isotopes=isotopes)


def _check_periodic(entry: dict[str, Any]) -> None:
    types = list(entry.get("dimension_types") or [1, 1, 1])
    if types != [1, 1, 1]:
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            f"the structure repeats in {sum(map(bool, types))} directions, not in three",
            "leave molecules, chains and layers out, e.g. with nperiodic_dimensions=3 in the filter",
        )


def _check_positions(positions: list[Any]) -> None:
    for n, position in enumerate(positions):
        if position is None or any(x is None for x in position):
            raise _refused(f"site {n} has no coordinates")


def _check_features(features: list[str]) -> None:
    for feature in features:
        if feature == "disorder":
            raise CrystalError(
                RejectionReason.DISORDERED, "the entry says that it has disorder", "give an ordered approximant"
            )
        why = _FEATURES.get(feature, f"it has the feature {str(feature)[:60]!r}, which is not known here")
        raise _refused(why)


def _check_counts(entry: dict[str, object], positions: int, species: int) -> None:
    if positions != species:
        raise _refused(f"{positions} positions and {species} species_at_sites")
    nsites = entry.get("nsites")
    if isinstance(nsites, int) and nsites != positions:
        raise _refused(f"nsites is {nsites}, and there are {positions} positions")


def _compared(entry: dict[str, Any], composition: dict[str, int]) -> list[str]:
    """Compare formulas and elements with the atoms; notes on what could not be compared."""
    names = ("chemical_formula_reduced", "chemical_formula_descriptive")
    formulas = {name: entry[name] for name in names if isinstance(entry.get(name), str) and entry[name].strip()}
    notes = [note for name, formula in formulas.items() if (note := check_formula(name, formula, composition))]
    elements = entry.get("elements")
    said = {{"D": "H", "T": "H"}.get(str(e), str(e)) for e in elements} if isinstance(elements, list) else set()
    if said and said != set(composition):
        raise _refused(f"elements are {', '.join(sorted(said))}, and the sites have {', '.join(sorted(composition))}")
    return notes


def _occupant(name: str, kind: dict[str, Any] | None) -> str | dict[str, float]:
    """Symbol of a site's species, or its occupancies."""
    if kind is None:
        return element(name)
    if kind.get("attached"):
        raise _refused(f"{', '.join(map(str, kind['attached']))} bound to a site {name} have no coordinates")
    symbols, shares = kind["chemical_symbols"], kind.get("concentration") or [1.0]
    if len(symbols) == 1 and abs(float(shares[0]) - 1) < 1e-6:
        return element(symbols[0])
    return dict(zip(symbols, map(float, shares), strict=True))


def _require(entry: dict[str, object], *keys: str) -> None:
    missing = [key for key in keys if entry.get(key) is None]
    if missing:
        raise _refused(f"the entry has no {', '.join(missing)} (it has {', '.join(list(entry)[:8]) or 'nothing'})")


def _refused(message: str) -> CrystalError:
    return CrystalError(RejectionReason.MISSING_FIELD, message, _ELSEWHERE)
