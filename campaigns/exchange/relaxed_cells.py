"""Relaxed cells of entries that were exported as ``--format vasp``, which have no label to keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.files import write_whole
from db.records import Json

if TYPE_CHECKING:
    from campaigns.exchange.results import Reading
    from campaigns.workspace import Workspace


def keep_relaxed(workspace: Workspace, reading: Reading, provenance: Json) -> Path:
    """Write the relaxed cell to ``artifacts/relaxed``, as a line of JSON that ``ingest`` reads."""
    assert reading.relaxed is not None
    crystal, entry = reading.relaxed, reading.entry
    row = {
        "id": entry.id,
        "formula": entry.formula,
        "lattice": crystal.lattice.tolist(),
        "species": crystal.symbols,
        "frac_coords": crystal.frac_coords.tolist(),
        "properties": {},
        "provenance": {name: value for name, value in provenance.items() if name != "relaxed"},
    }
    path = workspace.artifacts / "relaxed" / f"{reading.folder}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(row, ensure_ascii=False) + "\n")
    return path
