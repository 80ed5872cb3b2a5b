"""Names of the properties that tell whether a material is stable; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.records import QueueEntryRecord
    from db.store import Store

ENERGY_ABOVE_HULL = "energy_above_hull_eV"
"""eV per atom; from a database, or by ``kappascout relax``. It decides between copies of a crystal: the only energy
that is comparable across databases."""
HULL_WITH = "energy_above_hull_with"
"""Potential and references of an energy above the hull that ``kappascout relax`` has calculated."""
RELAXED_ENERGY = "relaxed_energy_eV_per_atom"
VOLUME_CHANGE = "relaxed_volume_change"
"""Relative change of the volume on relaxation."""
DISPLACEMENT = "relaxed_displacement_A"
"""Largest distance that an atom moved within the cell."""
RELAXED_WITH = "relaxed_with"
"""Potential and settings of the relaxation."""
RELAXATION_FAILURE = "relaxation_failure"
LOWEST_FREQUENCY = "lowest_frequency_THz"
"""At the zone centre and the zone boundary; imaginary frequencies are negative."""
LOWEST_WITH = "lowest_frequency_with"
PHONON_FAILURE = "phonon_failure"
CALCULATED = {
    RELAXED_ENERGY: "",
    VOLUME_CHANGE: "",
    DISPLACEMENT: "",
    ENERGY_ABOVE_HULL: " --references FILE",
    LOWEST_FREQUENCY: " --phonons",
}
"""Properties that ``kappascout relax`` calculates, with the options that ask for them."""
GENERATED = "lattice_source"
"""Property that only crystals of ``builtin:candidates`` have: nobody has made or calculated them."""
UNKNOWN = "unknown"
STABILITY_UNKNOWN = f"; stability {UNKNOWN}"
"""End of the reason of a queue entry."""


def stability_of(store: Store, ids: Iterable[str]) -> dict[str, str]:
    """Stability in words by material id: the energy above the hull, or ``unknown`` for a generated crystal without one.

    Materials that came from elsewhere without an energy above the hull are absent.
    """
    wanted = list(ids)
    known = store.property_values([ENERGY_ABOVE_HULL, GENERATED], wanted)
    found = dict.fromkeys(known[GENERATED], UNKNOWN)
    for id_, value in known[ENERGY_ABOVE_HULL].items():
        if isinstance(value, int | float):
            where = "above" if value >= 0 else "below"
            found[id_] = f"{abs(value):.3f} eV/atom {where} hull"
    return {id_: found[id_] for id_ in wanted if id_ in found}


def with_stability(store: Store, entries: Sequence[QueueEntryRecord]) -> list[QueueEntryRecord]:
    """Queue entries whose reason says so where the stability of a generated crystal is unknown."""
    known = stability_of(store, [entry.material_id for entry in entries])
    return [
        replace(entry, reason=entry.reason + STABILITY_UNKNOWN) if known.get(entry.material_id) == UNKNOWN else entry
        for entry in entries
    ]
