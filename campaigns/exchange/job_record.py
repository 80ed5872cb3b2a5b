"""Files of a job beside its results: POTCAR.titel, SPIN, RELAXATION."""

from __future__ import annotations

import json
from pathlib import Path

from db.records import Json

POTCAR_TITEL = "POTCAR.titel"
"""Name, SHA-256 and TITEL of each pseudopotential, one a line."""
_RECORDS = {"spin": "SPIN", "relaxation": "RELAXATION"}


def job_record(folder: Path) -> Json:
    """What the job recorded, for the provenance of its label; a file that is missing or damaged adds nothing.

    ``potcar``: name, SHA-256 and TITEL of each pseudopotential; ``spin``: whether later stages had spin, and the
    largest moment that the relaxation left on a site; ``relaxation``: restarts, and ionic steps of the last run.
    """
    found: Json = {}
    path = folder / POTCAR_TITEL
    if path.exists():
        rows = [line.split(maxsplit=2) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        found["potcar"] = [
            {"name": row[0], "sha256": row[1], "titel": row[2] if len(row) > 2 else ""} for row in rows if len(row) > 1
        ]
    for key, name in _RECORDS.items():
        content = _content(folder / name)
        if content:
            found[key] = content
    return found


def relaxation_note(record: Json) -> str:
    """Note on a cell that still changed in its last relaxation; empty where it did not."""
    relaxation = record.get("relaxation", {})
    steps = relaxation.get("last_steps")
    if not isinstance(steps, int) or steps <= 1:
        return ""
    return (
        f"the cell still changed after {relaxation.get('restarts')} restarts of the relaxation ({steps} ionic steps in "
        "the last)"
    )


def _content(path: Path) -> Json:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}
