"""Energies above the hull of the materials of a campaign, against references with energies of the same potential."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.stability.calculations import FAILURE, FIGURES, Calculations, sha256_of
from campaigns.stability.names import ENERGY_ABOVE_HULL, HULL_WITH
from campaigns.stability.references import read_references
from db.records import MaterialKey, PropertyValue

if TYPE_CHECKING:
    from campaigns.stability.references import Reference
    from campaigns.stability.request import RelaxReport, RelaxRequest
    from db.store import Store
    from engine.physics.hull import Hull, Phase

_NAMED = 3
_BLOCK = 1024


def usable_references(request: RelaxRequest, keys: Sequence[MaterialKey]) -> list[Reference]:
    """Read the references that share the elements of a material; none if no file is given.

    Raises
    ------
    CampaignError
        If a file cannot be used, none of its phases is made of the elements of a material, or one has no crystal and
        its energy is not said to be of this potential.
    """
    if not request.references:
        return []
    found = read_references(request.references)
    systems = {frozenset(key.chemical_system.split("-")) for key in keys}
    within = {elements: any(elements <= system for system in systems) for elements in {r.elements for r in found}}
    used = [r for r in found if within[r.elements]]
    if not used:
        raise CampaignError(
            f"none of the {len(found)} references is made of the elements of one material, as in "
            f"{' or '.join(sorted(key.chemical_system for key in keys)[:1])}; give references of these systems"
        )
    bare = [r for r in used if r.crystal is None]
    if bare and not request.given_energies:
        raise CampaignError(
            f"{len(bare)} references have an energy and no crystal ({_named(bare)}), and energies of "
            f"{request.potential} do not compare with those of other methods; give crystals, which are relaxed with "
            "the same potential, or --given-energies if they were calculated with it"
        )
    return used


def is_relaxed_here(reference: Reference, request: RelaxRequest) -> bool:
    """Whether a reference is relaxed, rather than used with the energy it came with."""
    return reference.crystal is not None and not (request.given_energies and reference.energy is not None)


def add_energies_above_hull(
    store: Store,
    request: RelaxRequest,
    relaxed: Calculations,
    keys: Sequence[MaterialKey],
    references: Sequence[Reference],
    report: RelaxReport,
) -> None:
    """Store the energy above the hull of every relaxed material whose elements have references.

    An energy above the hull that a material came with stays, unless ``request.replace``; one that was calculated by an
    earlier call is replaced, or removed where the references of this one do not cover the elements.
    """
    from engine.physics.hull import Hull

    phases = _phases(request, relaxed, references, report)
    hull = Hull(phase for _, phase in phases)
    report.references = len(phases)
    made_with = f"{relaxed.method}; {len(phases)} references {_hash_of(phases)[:12]}"
    known = store.property_values([ENERGY_ABOVE_HULL, HULL_WITH])
    foreign = known[ENERGY_ABOVE_HULL].keys() - known[HULL_WITH].keys()
    found: dict[str, dict[str, PropertyValue | None]] = {}
    for key in keys:
        energy = _relaxed_energy(relaxed, key.content_hash)
        if energy is None:
            continue
        if key.material_id in foreign and not request.replace:
            report.kept += 1
            continue
        elements = key.chemical_system.split("-")
        if missing := hull.without_reference(elements):
            report.without_reference[key.chemical_system] = missing
            if key.material_id in known[HULL_WITH]:
                found[key.material_id] = {ENERGY_ABOVE_HULL: None, HULL_WITH: None}
                report.removed += 1
        else:
            found[key.material_id] = {ENERGY_ABOVE_HULL: _above(hull, key.formula, energy), HULL_WITH: made_with}
            report.above_hull += 1
        if len(found) == _BLOCK:
            store.set_properties(found)
            found = {}
    store.set_properties(found)
    if report.removed:
        report.notes.append(
            f"{report.removed} energies above the hull of earlier references are removed, since these do not cover "
            "their elements"
        )


def _phases(
    request: RelaxRequest, relaxed: Calculations, references: Sequence[Reference], report: RelaxReport
) -> list[tuple[Reference, Phase]]:
    """References with an energy of the potential; those that have none are named in the report."""
    from engine.physics.hull import Phase

    phases: list[tuple[Reference, Phase]] = []
    failed: list[str] = []
    for one in references:
        energy = _relaxed_energy(relaxed, one.content_hash) if is_relaxed_here(one, request) else one.energy
        if energy is None:
            failed.append(f"{one.id} ({relaxed.results[one.content_hash][FAILURE]['reason']})")
        else:
            phases.append((one, Phase(one.composition, energy)))
    if failed:
        more = ", ..." if len(failed) > _NAMED else ""
        report.notes.append(
            f"{len(failed)} references could not be relaxed and are missing from the hull, which may make other phases "
            f"look more stable: {', '.join(failed[:_NAMED])}{more}"
        )
    given = [one for one, _ in phases if not is_relaxed_here(one, request)]
    if corrected := [one for one in given if one.is_corrected]:
        report.notes.append(
            f"the corrections of {len(corrected)} references are left out, since energies of the potential have none"
        )
    if unused := [one for one, _ in phases if one.energy is not None and is_relaxed_here(one, request)]:
        report.notes.append(
            f"the energies that {len(unused)} references came with are not used; their crystals were relaxed with the "
            "potential"
        )
    return phases


def _relaxed_energy(relaxed: Calculations, content_hash: str) -> float | None:
    energy = relaxed.results.get(content_hash, {}).get(FIGURES, {}).get("energy_per_atom_eV")
    return None if energy is None else float(energy)


def _above(hull: Hull, formula: str, energy: float) -> float:
    from pymatgen.core import Composition

    from engine.physics.hull import Phase

    composition = {str(element): float(n) for element, n in Composition(formula).items()}
    (above,) = hull.energies_above([Phase(composition, energy)])
    return above


def _hash_of(phases: Iterable[tuple[Reference, Phase]]) -> str:
    return sha256_of(sorted([sorted(phase.composition.items()), phase.energy] for _, phase in phases))


def _named(references: Sequence[Reference]) -> str:
    return ", ".join(r.id for r in references[:_NAMED]) + (", ..." if len(references) > _NAMED else "")
