"""Results of submitted calculations into the store; those of the machine's failures are repeated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from campaigns.cluster.cluster import Cluster
from campaigns.cluster.following import core_hours_of, last_attempt, machine_failure
from campaigns.exchange.comparison import Compared, compared
from campaigns.exchange.import_labels import Given, ImportReport, import_labels
from campaigns.exchange.wanted import EntryOutcome, Wanted
from campaigns.queue import move_entries, retry
from db.records import FailureRecord, JobRecord, QueueEntryRecord
from db.states import FailureKind, FailureReason, JobState, QueueState

if TYPE_CHECKING:
    from campaigns.workspace import Workspace

NOT_REPEATED = (FailureReason.MISSING_SETUP, FailureReason.CANCELLED)
"""Failures of the machine that would come again, or that a person wanted."""
OPEN = (QueueState.EXPORTED, QueueState.RUNNING)


@dataclass
class Collected:
    """What came in."""

    outcomes: list[EntryOutcome] = field(default_factory=list)
    """Folders that were read."""
    compared: list[Compared] = field(default_factory=list)
    """New values beside what was predicted for them."""
    doubtful: list[str] = field(default_factory=list)
    failed: list[tuple[QueueEntryRecord, FailureReason, str]] = field(default_factory=list)
    """Entries that failed, of either kind."""
    repeated: list[QueueEntryRecord] = field(default_factory=list)
    """Entries that are submitted again."""


def collect_folders(workspace: Workspace, cluster: Cluster) -> Collected:
    """Import what is finished of all open calculations in the folder; nothing is failed for want of a result."""
    entries = workspace.store.queue(OPEN)
    found = cluster.entries(entries)
    cluster.fetch(sorted(name for name, _ in found.values()))
    return _imported(workspace, cluster, sorted(name for name, _ in found.values()))


def settle(workspace: Workspace, cluster: Cluster, entry_ids: Iterable[int]) -> Collected:
    """Import what these entries came to, whose jobs are all over, and repeat those that the machine failed."""
    wanted = set(entry_ids)
    entries = {e.id: e for e in workspace.store.queue(OPEN) if e.id in wanted}
    if not entries:
        return Collected()
    jobs = _jobs_of(workspace, list(entries.values()))
    names = {entry.id: jobs[entry.id or 0][-1].folder for entry in entries.values()}
    there = sorted(name for name in names.values() if (cluster.root / name).is_dir())
    collected = _imported(workspace, cluster, there)
    refused = {outcome.folder: outcome for outcome in collected.outcomes if outcome.state == "refused"}
    left = [e for e in workspace.store.queue(OPEN) if e.id in wanted]
    for entry in left:
        own = last_attempt(jobs[entry.id or 0])
        name = names[entry.id]
        if name in refused:
            reason, words = FailureReason.BAD_OUTPUT, refused[name].message
        elif name not in there:
            reason, words = FailureReason.BAD_OUTPUT, f"the folder {cluster.root / name} is gone"
        else:
            reason, words = machine_failure(own)
        _fail(workspace, entry, reason, words, own)
    failed = [e for e in workspace.store.queue([QueueState.FAILED]) if e.id in wanted]
    collected.failed += [(e, *_last_failure(workspace, e)) for e in failed]
    again = [
        entry
        for entry, reason, _ in collected.failed
        if reason.kind is FailureKind.MACHINE
        and reason not in NOT_REPEATED
        and len({job.attempt for job in jobs[entry.id or 0]}) <= workspace.configuration.cluster.retries
    ]
    for entry in again:
        note = f"attempt {1 + max(job.attempt for job in jobs[entry.id or 0])}"
        retry(workspace, [entry.material_id], note=note, force=True, fidelity=entry.fidelity)
    collected.repeated += again
    return collected


def _imported(workspace: Workspace, cluster: Cluster, names: Sequence[str]) -> Collected:
    if not names:
        return Collected()
    paths = [cluster.root / name for name in names]
    report: ImportReport = import_labels(workspace, Given.of(paths, None, Wanted()), new_property=False, again=False)
    return Collected(
        outcomes=list(report.entries),
        compared=compared(workspace, report.added),
        doubtful=[str(doubt) for doubt in report.doubtful],
    )


def _jobs_of(workspace: Workspace, entries: Sequence[QueueEntryRecord]) -> Mapping[int, list[JobRecord]]:
    found: dict[int, list[JobRecord]] = {}
    for job in workspace.store.jobs(entry_ids=[e.id for e in entries if e.id is not None]):
        found.setdefault(job.entry_id, []).append(job)
    return found


def _fail(
    workspace: Workspace, entry: QueueEntryRecord, reason: FailureReason, words: str, jobs: Sequence[JobRecord]
) -> None:
    store, section = workspace.store, workspace.configuration.campaign
    with workspace.locked(), store.transaction():
        store.add_failures(
            [
                FailureRecord(
                    entry.material_id,
                    section.property,
                    entry.fidelity,
                    reason,
                    words,
                    source=f"round {entry.round}, {jobs[0].queue}" if jobs else f"round {entry.round}",
                    cost=core_hours_of(jobs),
                )
            ]
        )
        move_entries(store, [entry], QueueState.FAILED, f"{reason}: {words}")


def _last_failure(workspace: Workspace, entry: QueueEntryRecord) -> tuple[FailureReason, str]:
    """Why an entry failed, as its last move says."""
    name, _, words = entry.history[-1].note.partition(": ")
    reasons = {str(reason): reason for reason in FailureReason}
    return reasons.get(name, FailureReason.CALCULATOR_ERROR), words


def still_running(jobs: Iterable[JobRecord]) -> dict[str, int]:
    """Number of jobs in each state, those that are over left out."""
    counts = dict.fromkeys((JobState.QUEUED, JobState.RUNNING), 0)
    for job in jobs:
        if job.state in counts:
            counts[job.state] += 1
    return {str(state): count for state, count in counts.items()}
