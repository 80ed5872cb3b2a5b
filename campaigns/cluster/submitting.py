"""Submission of calculations: written, recorded, then handed over, so that no interruption submits one twice."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from campaigns.cluster.cluster import Cluster
from campaigns.cluster.jobs import RECORDS, Stage, resources, script, stages_of
from campaigns.cluster.schedulers import seconds_since
from campaigns.exceptions import CampaignError, ClusterError
from campaigns.files import write_whole
from db.records import JobRecord, utc_now
from db.states import FailureReason, JobState, QueueState

if TYPE_CHECKING:
    from campaigns.exchange.bill import Bill
    from campaigns.exchange.manifest import Entry
    from campaigns.workspace import Workspace
    from db.records import QueueEntryRecord

PENDING = tuple(state for state in JobState if not state.is_finished)


@dataclass
class Submitted:
    """What a submission did."""

    jobs: list[JobRecord] = field(default_factory=list)
    """Jobs that the queueing system has taken."""
    entries: list[QueueEntryRecord] = field(default_factory=list)
    """Entries that they compute."""
    passed_over: list[tuple[QueueEntryRecord, str]] = field(default_factory=list)
    """Entries that cannot be exported, and why; they stay approved."""
    waiting: int = 0
    """Entries that wait until ``[cluster] max_jobs`` allows them."""
    bill: Bill | None = None
    """What the calculations take that were exported now."""
    refusal: str = ""
    """The queueing system's words, where it took no more; submitted again later."""


def submit_approved(
    workspace: Workspace, say: Callable[[str], None], accept: Callable[[Bill], bool], patience: float = 0.0
) -> Submitted:
    """Export approved entries into the folder of calculations and submit all that have no job yet.

    Parameters
    ----------
    workspace
        The campaign's.
    say
        Receives progress.
    accept
        Asked before anything is written where the calculations take more than ``[dft] confirm_core_hours``.
    patience
        Seconds before an entry is submitted again that the queueing system refused, or whose folder was held.

    Raises
    ------
    ClusterError
        If the queueing system cannot be reached, or an option is missing that the site needs.
    ExchangeError
        If inputs cannot be written, or the core-hours are not accepted.
    """
    with workspace.locked():
        cluster = Cluster.of(workspace)
        done = Submitted()
        _export(workspace, cluster, done, say, accept)
        busy = {job.entry_id for job in workspace.store.jobs(PENDING)}
        ready, early = _ready(workspace, patience)
        found = cluster.entries(ready)
        ready = [entry for entry in ready if entry.id in found]
        limit = workspace.configuration.cluster.max_jobs or (1 if cluster.scheduler.kind == "shell" else None)
        room = len(ready) if limit is None else max(0, limit - len(busy))
        done.waiting = early + max(0, len(ready) - room)
        ready = ready[:room]
        if not ready:
            return done
        # whether the queueing system is there at all, before anything is written
        largest = cluster.scheduler.largest_array(workspace.configuration.cluster.max_array, cluster.any_folder)
        cluster.scheduler.listed(cluster.any_folder)
        submission = _Submission(workspace, cluster, largest, jobs_of(workspace, ready))
        for i, entry in enumerate(ready):
            name, manifest = found[entry.id or 0]
            try:
                done.jobs += submission.submit(entry, name, manifest)
            except ClusterError as error:
                if not done.jobs:
                    raise
                done.refusal = str(error)
                done.waiting += len(ready) - i
                break
            done.entries.append(entry)
            say(f"{name}: submitted to {cluster.scheduler}")
    return done


def jobs_of(workspace: Workspace, entries: Iterable[QueueEntryRecord]) -> dict[int, list[JobRecord]]:
    """Jobs of entries by entry, those of all attempts, in the order they were written."""
    found: dict[int, list[JobRecord]] = {}
    for job in workspace.store.jobs(entry_ids=[e.id for e in entries if e.id is not None]):
        found.setdefault(job.entry_id, []).append(job)
    return found


def current_jobs(workspace: Workspace, entries: Sequence[QueueEntryRecord]) -> dict[int, list[JobRecord]]:
    """Jobs of entries since these were last exported, by entry; attempts that were refused are left out."""
    found = {}
    for id_, own in _since_export(workspace, entries).items():
        refused = {job.attempt for job in own if job.state is JobState.REFUSED}
        if left := [job for job in own if job.attempt not in refused]:
            found[id_] = left
    return found


def _since_export(workspace: Workspace, entries: Sequence[QueueEntryRecord]) -> dict[int, list[JobRecord]]:
    at = {e.id: max((c.at for c in e.history if c.to_state is QueueState.EXPORTED), default="") for e in entries}
    since = {id_: [j for j in own if j.written_at >= at[id_]] for id_, own in jobs_of(workspace, entries).items()}
    return {id_: own for id_, own in since.items() if own}


def _ready(workspace: Workspace, patience: float) -> tuple[list[QueueEntryRecord], int]:
    """Entries without a job at work, and how many of them wait because they were refused less than ``patience`` ago."""
    entries = workspace.store.queue([QueueState.EXPORTED, QueueState.RUNNING])
    jobs, working = _since_export(workspace, entries), current_jobs(workspace, entries)
    ready, early = [], 0
    for entry in entries:
        own = jobs.get(entry.id or 0, [])
        # one that runs without a job was begun by hand
        if (entry.id or 0) in working or (not own and entry.state is QueueState.RUNNING):
            continue
        if own and seconds_since(max(job.ended_at or job.written_at for job in own)) < patience:
            early += 1
        else:
            ready.append(entry)
    return ready, early


def withdrawn_jobs(workspace: Workspace, cluster: Cluster) -> list[JobRecord]:
    """Cancel jobs whose entries were withdrawn, deferred or failed; entries that are done keep nothing either."""
    pending = workspace.store.jobs(PENDING)
    if not pending:
        return []
    wanted = {e.id for e in workspace.store.queue([QueueState.EXPORTED, QueueState.RUNNING, QueueState.APPROVED])}
    unwanted = [job for job in pending if job.entry_id not in wanted]
    if unwanted:
        cluster.scheduler.cancel([job.job_id for job in unwanted if job.job_id], cluster.any_folder)
        over = [replace(job, state=JobState.CANCELLED, ended_at=utc_now()) for job in unwanted]
        workspace.store.update_jobs(over)
    return unwanted


def _export(
    workspace: Workspace,
    cluster: Cluster,
    done: Submitted,
    say: Callable[[str], None],
    accept: Callable[[Bill], bool],
) -> None:
    from campaigns.exchange.export import export_approved

    approved = workspace.store.queue([QueueState.APPROVED])
    if not approved:
        return
    report = export_approved(workspace, cluster.root, say, accept)
    done.passed_over += report.passed_over
    done.bill = report.bill


@dataclass(frozen=True)
class _Submission:
    """Submission of one calculation after another."""

    workspace: Workspace
    cluster: Cluster
    largest_array: int
    earlier: Mapping[int, list[JobRecord]]

    def submit(self, entry: QueueEntryRecord, name: str, manifest: Entry) -> list[JobRecord]:
        """Write the scripts of an entry's stages, record them, and hand them over in order.

        Raises
        ------
        ClusterError
            If the queueing system refuses one; those before it are cancelled.
        """
        scheduler, store = self.cluster.scheduler, self.workspace.store
        before = self.earlier.get(entry.id or 0, [])
        attempt = 1 + max((job.attempt for job in before), default=0)
        stages = stages_of(manifest, scheduler.kind, self.largest_array)
        failures = _failures(entry)
        records = [self._record(entry, name, stage, i, attempt, failures) for i, stage in enumerate(stages)]
        folder = self.cluster.place(name)
        self.cluster.send_new(name)
        self._clear(folder)
        records = store.add_jobs(records)
        taken: list[JobRecord] = []
        for stage, record in zip(stages, records, strict=True):
            after = _after(stage, taken)
            options = record.resources
            text = script(stage, record.name, name, options, after, scheduler, self.workspace.configuration)
            path = f"{RECORDS}/{record.name}.sh"
            write_whole(self.cluster.root / name / path, text)
            self.cluster.send([f"{name}/{path}"])
            try:
                id_ = scheduler.submit(path, folder)
            except ClusterError as error:
                self._take_back(records, taken, str(error))
                raise
            taken.append(replace(record, job_id=id_, state=JobState.QUEUED, submitted_at=utc_now()))
            store.update_jobs(taken[-1:])
        return taken

    def _record(
        self, entry: QueueEntryRecord, name: str, stage: Stage, i: int, attempt: int, failures: Sequence[FailureReason]
    ) -> JobRecord:
        campaign = re.sub(r"[^\w.-]", "_", self.workspace.configuration.campaign.name)[:30]
        # unique among all jobs of the user, so that one whose id was never written is found by its name
        unique = f"{campaign}.{name}.{stage.name}{i}.{attempt}.{secrets.token_hex(3)}"
        return JobRecord(
            entry_id=entry.id or 0,
            name=unique,
            stage=stage.name,
            attempt=attempt,
            tasks=stage.tasks,
            queue=str(self.cluster.scheduler),
            folder=name,
            resources=dict(resources(self.workspace.configuration, stage.name, self.cluster.scheduler, failures)),
        )

    def _clear(self, folder: str) -> None:
        """Set the mark of an earlier failure aside, which is no news of this attempt."""
        aside = f"{RECORDS}/FAILED-{utc_now().replace(':', '')}"
        answer = self.cluster.scheduler.machine.run(
            f"mkdir -p {RECORDS} && {{ [ ! -e FAILED ] || mv FAILED {aside}; }}", folder
        )
        if answer.code:
            raise ClusterError(f"{folder} cannot be written: {answer.words}")

    def _take_back(self, records: Iterable[JobRecord], taken: Sequence[JobRecord], words: str) -> None:
        """Cancel what was submitted of an entry whose later stages were refused."""
        self.cluster.scheduler.cancel([job.job_id for job in taken if job.job_id], self.cluster.any_folder)
        known = {job.id: job for job in taken}
        over = [known.get(job.id, job) for job in records]
        self.workspace.store.update_jobs(
            [replace(job, state=JobState.REFUSED, ended_at=utc_now(), message=words) for job in over]
        )


def _after(stage: Stage, taken: Sequence[JobRecord]) -> list[str]:
    """Ids of the jobs that a stage waits for: arrays for the preparation, kappa for all arrays."""
    arrays = [job for job in taken if job.stage == "forces"]
    awaited = arrays if stage.name == "kappa" and arrays else [job for job in taken if job.stage == "prepare"]
    return [job.job_id for job in awaited if job.job_id]


def _failures(entry: QueueEntryRecord) -> list[FailureReason]:
    """Reasons of earlier failures of an entry, as its history tells."""
    reasons = {str(reason): reason for reason in FailureReason}
    notes = [change.note for change in entry.history if change.to_state is QueueState.FAILED]
    return [reasons[name] for note in notes if (name := note.partition(":")[0]) in reasons]


def require_entries(workspace: Workspace, submitted: Submitted) -> None:
    """Refuse to submit nothing without a word.

    Raises
    ------
    CampaignError
        If no entry is approved, exported or waiting.
    """
    if submitted.jobs or submitted.waiting or submitted.passed_over:
        return
    pending = workspace.store.jobs(PENDING)
    where = workspace.directory
    if pending:
        raise CampaignError(f"all approved entries are submitted ({len(pending)} jobs); `kappascout watch {where}`")
    counts = workspace.store.queue_counts()
    proposed, failed = counts[QueueState.PROPOSED], counts[QueueState.FAILED]
    hint = f"`kappascout queue approve {where}`" if proposed else f"`kappascout run {where}`"
    if failed and not proposed:
        hint = f"`kappascout queue list {where} --state failed` says what may be repeated by `queue retry`; or {hint}"
    raise CampaignError(f"no approved entry to submit ({proposed} proposed, {failed} failed); {hint}")
