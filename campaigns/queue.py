"""Changes of queue entries: moves, failures, completion by labels; and entries as rows."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.round.manifest import RoundManifest
from campaigns.stability.names import stability_of
from db.records import FailureRecord, QueueEntryRecord
from db.states import QUEUE_MOVES, UNFINISHED, FailureReason, QueueState

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.store import Store

Cell = str | float | None


def move(
    workspace: Workspace, ids: Sequence[str], to: QueueState, note: str = "", fidelity: str | None = None
) -> list[QueueEntryRecord]:
    """Move the unfinished entries of these materials (of one ``fidelity`` if given); without ids, all that can."""
    with workspace.locked(), workspace.store.transaction():
        chosen = unfinished(workspace, ids, fidelity) if ids else [
            e for e in workspace.store.queue(UNFINISHED) if to in QUEUE_MOVES[e.state]
        ]  # fmt: skip
        move_entries(workspace.store, chosen, to, note)
    return chosen


def fail(workspace: Workspace, ids: Sequence[str], reason: FailureReason, message: str = "") -> list[QueueEntryRecord]:
    """Record that the calculations of these materials failed; their queue entries are failed."""
    section = workspace.configuration.campaign
    with workspace.locked(), workspace.store.transaction():
        chosen = unfinished(workspace, ids)
        workspace.store.add_failures(
            FailureRecord(e.material_id, section.property, e.fidelity, reason, message, source=author()) for e in chosen
        )
        move_entries(workspace.store, chosen, QueueState.FAILED, f"{reason}: {message}" if message else str(reason))
    return chosen


def retry(
    workspace: Workspace, ids: Sequence[str], note: str = "", *, force: bool = False, fidelity: str | None = None
) -> list[QueueEntryRecord]:
    """Temporary."""
    with workspace.locked(), workspace.store.transaction():
        chosen = [
            e for e in workspace.store.queue([QueueState.FAILED], material_ids=ids) if fidelity in (None, e.fidelity)
        ]
        move_entries(workspace.store, chosen, QueueState.APPROVED, note)
    return chosen


def finish_entries(store: Store, note: str) -> None:
    """Move entries whose label is in the store to done; a label for a proposed entry approves it."""
    entries = store.queue(UNFINISHED)
    if not entries:
        return
    properties = {r.number: RoundManifest.of(r).target for r in store.rounds()}
    known = {(label.material_id, label.property, label.fidelity) for label in store.labels()}
    found = [e for e in entries if (e.material_id, properties[e.round or 0], e.fidelity) in known]
    move_entries(store, [e for e in found if e.state is QueueState.PROPOSED], QueueState.APPROVED, note)
    move_entries(store, found, QueueState.DONE, note)


def unfinished(workspace: Workspace, ids: Sequence[str], fidelity: str | None = None) -> list[QueueEntryRecord]:
    """Find the unfinished entries of these materials, under any id they are known by; a material may have several.

    Raises
    ------
    CampaignError
        If a material has none.
    """
    entries: dict[str, list[QueueEntryRecord]] = {}
    for entry in workspace.store.queue(UNFINISHED, material_ids=ids):
        if fidelity in (None, entry.fidelity):
            entries.setdefault(entry.material_id, []).append(entry)
    owners = workspace.store.resolve_all(ids)
    absent = [id_ for id_ in ids if owners[id_] not in entries]
    if absent:
        raise CampaignError(
            f"not in the queue, or finished: {', '.join(absent)}; `kappascout queue list {workspace.directory}` shows "
            "it"
        )
    return [e for material_id in dict.fromkeys(owners[id_] for id_ in ids) for e in entries[material_id]]


def move_entries(store: Store, entries: Sequence[QueueEntryRecord], to: QueueState, note: str = "") -> None:
    """Move entries in the name of the user."""
    store.move([e.id for e in entries if e.id is not None], to, author(), note)


def with_formula(store: Store, entries: Sequence[QueueEntryRecord]) -> list[tuple[QueueEntryRecord, str]]:
    """Entries with the formula of their material."""
    ids = dict.fromkeys(e.material_id for e in entries)
    formulas = {key.material_id: key.formula for key in store.material_index(ids)}
    return [(e, formulas[e.material_id]) for e in entries]


def queue_rows(store: Store, entries: Sequence[QueueEntryRecord]) -> list[dict[str, Cell]]:
    """Queue entries as flat rows for display, with the stability of their materials as it is known now."""
    stability = stability_of(store, dict.fromkeys(entry.material_id for entry in entries))
    return [queue_row(e, formula, stability.get(e.material_id)) for e, formula in with_formula(store, entries)]


def queue_row(entry: QueueEntryRecord, formula: str, stability: str | None = None) -> dict[str, Cell]:
    """A queue entry as one flat row for display."""
    return {
        "round": entry.round,
        "rank": entry.rank,
        "id": entry.material_id,
        "formula": formula,
        "state": str(entry.state),
        "mean": entry.predicted_mean,
        "lower": entry.predicted_lower,
        "upper": entry.predicted_upper,
        "log10_mean": entry.log10_mean,
        "log10_std": entry.log10_std,
        "acquisition": entry.acquisition_value,
        "cost": entry.expected_cost,
        "fidelity": entry.fidelity,
        "stability": stability,
        "reason": entry.reason,
    }


def author() -> str:
    """Name of the user, stored with each move and withdrawal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
