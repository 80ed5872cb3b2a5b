"""Labels queried and core-hours spent by a campaign, and what is left of its budget."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from campaigns.configuration import FILE
from db.states import UNFINISHED, QueueState

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.records import FailureRecord, LabelRecord


_BEING_CALCULATED = tuple(state for state in UNFINISHED if state is not QueueState.PROPOSED)
_UNASKED = (QueueState.PROPOSED, QueueState.WITHDRAWN, QueueState.DEFERRED)
"""States of entries that query no label: not approved yet, taken off the queue, or left out of their round."""


def asked(workspace: Workspace) -> int:
    """Number of labels the campaign has queried.

    Entries that are only proposed, withdrawn or deferred, and those of a lower fidelity, do not count; failed ones do,
    and once if retried.
    """
    return _entries(workspace, *(state for state in QueueState if state not in _UNASKED))


def batch_within_budget(workspace: Workspace) -> int:
    """Number of labels the next round may query: the batch, limited by what is left of the budget.

    Entries that are still proposed are set aside: they may all be approved.
    """
    section = workspace.configuration.campaign
    return min(section.batch, section.budget - asked(workspace) - _entries(workspace, QueueState.PROPOSED))


def spent(workspace: Workspace) -> str:
    """Why no further label may be queried, as a clause; empty if one may be."""
    section = workspace.configuration.campaign
    budget = f"the budget of {section.budget} labels"
    if asked(workspace) >= section.budget:
        return f"{budget} is spent; raise it in {FILE} to go on"
    if batch_within_budget(workspace) < 1:
        return f"{budget} leaves room for the proposed entries alone; {_decide(workspace)}"
    if section.budget_core_hours is None:
        return ""
    budget = f"the budget of {section.budget_core_hours:,.0f} core-hours"
    if section.budget_core_hours - core_hours(workspace) - _expected(workspace, _BEING_CALCULATED) <= 0:
        return f"{budget} is spent; raise it in {FILE} to go on"
    if (core_hours_left(workspace) or 0.0) <= 0:
        return f"{budget} leaves room for the proposed entries alone; {_decide(workspace)}"
    return ""


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
    """Core-hours of the budget that are neither spent nor expected of what is queued; None without such a budget.

    Those of entries that are still proposed are set aside: they may all be approved.
    """
    budget = workspace.configuration.campaign.budget_core_hours
    return None if budget is None else budget - core_hours(workspace) - _expected(workspace, UNFINISHED)


def _expected(workspace: Workspace, states: Sequence[QueueState]) -> float:
    """Expected core-hours of the entries in these states."""
    return sum(e.expected_cost or 0.0 for e in workspace.store.queue(states))


def _entries(workspace: Workspace, *states: QueueState) -> int:
    """Number of entries of the target fidelity in these states."""
    if cheaper := workspace.configuration.acquisition.fidelities:
        return sum(e.fidelity not in cheaper for e in workspace.store.queue(states))
    counts = workspace.store.queue_counts()
    return sum(counts[state] for state in states)


def _decide(workspace: Workspace) -> str:
    where = workspace.directory
    return f"`kappascout queue approve {where}` or `queue withdraw {where} ID...`, or raise it in {FILE}"
