"""Displaced supercells of finished calculations as they were exported, whatever the settings are by now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exchange.manifest import Entry
from engine.physics.cost import Workload

if TYPE_CHECKING:
    from campaigns.exchange.manifest import Matrix
    from db.records import LabelRecord, MaterialKey

EXPORTS = "exports"
"""Folder of the exported entries in a campaign's ``artifacts``."""


def exported_workloads(
    artifacts: Path, finished: Mapping[str, LabelRecord], present: Mapping[MaterialKey, Workload]
) -> dict[str, Workload]:
    """Workload by material id of those labels that came from an exported calculation whose record is there.

    Parameters
    ----------
    artifacts
        Folder of the campaign's files.
    finished
        Labels by material id.
    present
        Workload of the same materials with the present settings, which gives the valence electrons.

    Raises
    ------
    ExchangeError
        If a record of the exports is damaged.
    """
    wanted = {
        (id_, label.provenance["settings_sha256"]): id_
        for id_, label in finished.items()
        if label.provenance.get("settings_sha256")
    }
    keys = {key.material_id: key for key in present}
    found = {}
    for entry in _entries(artifacts / EXPORTS) if wanted else ():
        id_ = wanted.get((entry.id, entry.settings_sha256))
        if id_ in keys and (workload := _workload(entry, keys[id_], present[keys[id_]])) is not None:
            found[id_] = workload
    return found


def _entries(folder: Path) -> Iterable[Entry]:
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        yield Entry.from_json(path.read_text(encoding="utf-8"), str(path))


def _workload(entry: Entry, key: MaterialKey, present: Workload) -> Workload | None:
    """Workload of an exported entry; None where its parts are not recorded."""
    work, phonons = entry.work, entry.settings.phonons
    if work is None or phonons is None:
        return None
    atoms = _atoms(phonons.supercell, key)
    electrons = atoms * present.electrons / present.atoms
    if phonons.fc2_supercell is None:
        return Workload(work.supercells, atoms, electrons)
    if phonons.snapshots is None or phonons.fc2_snapshots is None:
        return None
    return Workload(
        phonons.snapshots, atoms, electrons, True, phonons.fc2_snapshots, _atoms(phonons.fc2_supercell, key)
    )


def _atoms(matrix: Matrix, key: MaterialKey) -> int:
    return round(abs(np.linalg.det(np.array(matrix)))) * key.n_sites
