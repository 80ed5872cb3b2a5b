"""The queue written for those who compute it: structures as CIF, or a table as CSV or JSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.campaign import queue_row
from campaigns.exceptions import CampaignError
from campaigns.files import replaced, write_whole
from db.states import QueueState
from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from db.records import QueueEntryRecord

FORMATS = ("cif", "csv", "json")
_EXPORTABLE = (QueueState.APPROVED, QueueState.EXPORTED, QueueState.RUNNING)


def export_queue(campaign: Campaign, to: Path, format: str, round: int | None = None) -> list[QueueEntryRecord]:
    """Write every approved entry (and again those exported before) to ``to``; approved ones become exported.

    ``cif``: a folder with one file an entry and ``queue.csv``; ``csv`` and ``json``: one file. Files are written whole
    before any entry moves, so that an exported entry is on disk; writing them again gives the same bytes.
    """
    if format not in FORMATS:
        raise CampaignError(f"format {format!r} is not known; choose one of {', '.join(FORMATS)}")
    with campaign.locked():
        entries = campaign.queue_entries(_EXPORTABLE, round)
        if not entries:
            proposed = len(campaign.queue_entries([QueueState.PROPOSED], round))
            approve = f"approve some first: `kappascout queue approve {campaign.directory}`"
            hint = approve if proposed else f"do a round first: `kappascout run {campaign.directory}`"
            raise CampaignError(f"no approved entry to export ({proposed} proposed); {hint}")
        try:
            _write(campaign, entries, to, format)
        except OSError as error:
            raise CampaignError(f"cannot write to {to} ({error.strerror}); no entry was marked as exported") from error
        approved = [e.material_id for e in entries if e.state is QueueState.APPROVED]
        if approved:
            campaign.move(approved, QueueState.EXPORTED, f"written to {to} as {format}")
    return entries


def _write(campaign: Campaign, entries: list[QueueEntryRecord], to: Path, format: str) -> None:
    # without the state, which changes by being exported
    rows = [queue_row(e, f) for e, f in campaign.with_formula(entries)]
    rows = [{name: value for name, value in row.items() if name != "state"} for row in rows]
    if format == "csv":
        _write_csv(to, rows)
    elif format == "json":
        write_whole(to, json.dumps(_with_structures(campaign, rows), indent=1) + "\n")
    else:
        _write_cifs(campaign, entries, to)
        _write_csv(to / "queue.csv", rows)


def _write_cifs(campaign: Campaign, entries: list[QueueEntryRecord], folder: Path) -> None:
    structures = {m.material_id: m.structure for m in campaign.store.materials([e.material_id for e in entries])}
    for entry in entries:
        crystal = Crystal.from_dict(structures[entry.material_id])
        name = f"{entry.round:03d}-{entry.rank:04d}-{_file_name(entry.material_id)}.cif"
        write_whole(folder / name, crystal.to_structure().to(fmt="cif"))


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with replaced(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _with_structures(campaign: Campaign, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the standardised structure in pymatgen's JSON form."""
    structures = {m.material_id: m.structure for m in campaign.store.materials([r["id"] for r in rows])}
    return [r | {"structure": Crystal.from_dict(structures[r["id"]]).to_structure().as_dict()} for r in rows]


def _file_name(material_id: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in material_id)
