"""Results of submitted calculations into the store; those of the machine's failures are repeated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from campaigns.cluster.cluster import Cluster
from campaigns.cluster.following import core_hours_of, last_attempt, machine_failure
from campaigns.cluster.submitting import jobs_of
from campaigns.exchange.comparison import Compared, compared
from campaigns.exchange.import_labels import Given, ImportReport, import_labels
from campaigns.exchange.wanted import EntryOutcome, Wanted
from campaigns.queue import Failed, move_entries, retries, retry
from db.records import FailureRecord, JobRecord, QueueEntryRecord
from db.states import FailureReason, JobState, QueueState

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
    jobs = jobs_of(workspace, entries.values())
    names = {entry.id: jobs[entry.id or 0][-1].folder for entry in entries.values()}
    there = sorted(name for name in names.values() if (cluster.root / name).is_dir())
    # its mark says that a signal stopped it, as at the time limit; the queueing system knows that somebody did
    stopped = {
        names[entry.id]
        for entry in entries.values()
        if any(j.state is JobState.CANCELLED and j.started_at for j in last_attempt(jobs[entry.id or 0]))
        and not (cluster.root / names[entry.id] / "DONE").exists()
    }
    collected = _imported(workspace, cluster, [name for name in there if name not in stopped])
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
        _fail(workspace, entry, reason, words, own, cluster)
    _repeat(workspace, collected, wanted)
    return collected


def _repeat(workspace: Workspace, collected: Collected, wanted: set[int]) -> None:
    """List entries that failed, and approve again those that the machine failed, within the limit of retries."""
    failures = Failed.of(workspace)
    for entry in workspace.store.queue([QueueState.FAILED]):
        known = failures.all_of(entry)
        if entry.id not in wanted or not known:
            continue
        reason = known[-1].reason
        collected.failed.append((entry, reason, known[-1].message))
        by_itself = failures.is_by_machine(entry) and reason not in NOT_REPEATED
        if by_itself and retries(entry) < failures.limit(entry):
            retry(workspace, [entry.material_id], f"after {reason}", fidelity=entry.fidelity)
            collected.repeated.append(entry)


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


def _fail(
    workspace: Workspace,
    entry: QueueEntryRecord,
    reason: FailureReason,
    words: str,
    jobs: Sequence[JobRecord],
    cluster: Cluster,
) -> None:
    # as the import of its folder names it, so that core-hours of one calculation count once
    _, manifest = cluster.entries([entry]).get(entry.id or 0, ("", None))
    origin = {"folder": jobs[0].folder, "settings_sha256": manifest.settings_sha256} if manifest else {}
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
                    source=f"round {entry.round}, exported",
                    provenance=origin,
                    cost=core_hours_of(jobs),
                )
            ]
        )
        move_entries(store, [entry], QueueState.FAILED, f"{reason}: {words}")
