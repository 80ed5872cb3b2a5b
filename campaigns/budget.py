"""Labels queried and core-hours spent by a campaign, and what is left of its budget."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from db.states import UNFINISHED, QueueState

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.records import FailureRecord, LabelRecord


_NOT_ASKED = (QueueState.WITHDRAWN, QueueState.DEFERRED)


def asked(workspace: Workspace) -> int:
    """Number of labels the campaign has queried.

    Withdrawn and deferred entries and those of a lower fidelity do not count; failed ones do, and once if retried.
    """
    if cheaper := workspace.configuration.acquisition.fidelities:
        entries = workspace.store.queue([state for state in QueueState if state not in _NOT_ASKED])
        return sum(e.fidelity not in cheaper for e in entries)
    counts = workspace.store.queue_counts()
    return sum(counts.values()) - sum(counts[state] for state in _NOT_ASKED)


def batch_within_budget(workspace: Workspace) -> int:
    """Number of labels the next round may query: the batch, limited by what is left of the budget."""
    section = workspace.configuration.campaign
    return min(section.batch, section.budget - asked(workspace))


def spent(workspace: Workspace) -> str:
    """Name of the budget that is exhausted; empty if none is."""
    section = workspace.configuration.campaign
    if batch_within_budget(workspace) < 1:
        return f"the budget of {section.budget} labels"
    left = core_hours_left(workspace)
    return f"the budget of {section.budget_core_hours:,.0f} core-hours" if left is not None and left <= 0 else ""


def core_hours(workspace: Workspace) -> float:
    """Core-hours of all queried calculations, finished or failed, voided ones too, where the cost is known."""
    store, section = workspace.store, workspace.configuration.campaign
    queued = {(e.material_id, e.fidelity) for e in store.queue()}
    # the cost of a withdrawn label counts; a corrected label's is given by the one that replaces it
    labels = [label for label in store.labels(section.property, current_only=False) if label.superseded_by is None]
    ended: list[LabelRecord | FailureRecord] = [*labels, *store.failures(section.property, current_only=False)]
    return total_cost(r for r in ended if (r.material_id, r.fidelity) in queued)


def total_cost(ended: Iterable[LabelRecord | FailureRecord]) -> float:
    """Core-hours of calculations together; of one exported job, which counts all its runs, the highest count."""
    highest: dict[Hashable, float] = {}
    for number, record in enumerate(ended):
        job: Hashable = number
        if settings := record.provenance.get("settings_sha256"):
            job = record.material_id, record.fidelity, record.source, record.provenance.get("folder"), settings
        highest[job] = max(highest.get(job, 0.0), record.cost or 0.0)
    return sum(highest.values())


def core_hours_left(workspace: Workspace) -> float | None:
    """Core-hours of the budget that are neither spent nor expected of what is queued; None without such a budget."""
    budget = workspace.configuration.campaign.budget_core_hours
    if budget is None:
        return None
    return budget - core_hours(workspace) - sum(e.expected_cost or 0.0 for e in workspace.store.queue(UNFINISHED))
