"""A table of relaxed materials for a person: what failed first, then the others in order of insertion."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from campaigns.stability.names import (
    ENERGY_ABOVE_HULL,
    LOWEST_FREQUENCY,
    PHONON_FAILURE,
    RELAXATION_FAILURE,
    RELAXED_ENERGY,
    VOLUME_CHANGE,
)
from db.records import MaterialKey

if TYPE_CHECKING:
    from db.store import Store

MOST_ROWS = 20
_FIGURES = {
    "energy (eV/atom)": (RELAXED_ENERGY, ".4f"),
    "volume change": (VOLUME_CHANGE, "+.1%"),
    "above hull (eV/atom)": (ENERGY_ABOVE_HULL, ".3f"),
    "lowest frequency (THz)": (LOWEST_FREQUENCY, ".2f"),
}
_FAILURES = (RELAXATION_FAILURE, PHONON_FAILURE)
_WIDTH = 60


def stability_rows(store: Store, keys: Sequence[MaterialKey]) -> list[dict[str, str]]:
    """Figures of at most :data:`MOST_ROWS` materials as text, by id; columns that no material has are left out."""
    names = [name for name, _ in _FIGURES.values()]
    known = store.property_values([*names, *_FAILURES], [key.material_id for key in keys])
    failed = {id_ for name in _FAILURES for id_ in known[name]}
    shown = sorted(keys, key=lambda key: key.material_id not in failed)[:MOST_ROWS]
    rows = []
    for key in shown:
        figures = {
            column: format(value, form) if isinstance(value := known[name].get(key.material_id), int | float) else ""
            for column, (name, form) in _FIGURES.items()
            if known[name]
        }
        reasons = [str(known[name][key.material_id]) for name in _FAILURES if key.material_id in known[name]]
        failure = {"failure": textwrap.shorten("; ".join(reasons), _WIDTH, placeholder=" ...")} if failed else {}
        rows.append({"id": key.material_id, **figures, **failure})
    return rows
