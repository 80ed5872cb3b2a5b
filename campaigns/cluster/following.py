"""What became of submitted jobs: one question to the queueing system, then the records that the jobs wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from campaigns.cluster.cluster import Cluster
from campaigns.cluster.jobs import JobEnd, job_end
from campaigns.cluster.schedulers import JobExit, Listed, seconds_since
from campaigns.cluster.submitting import PENDING
from db.records import JobRecord, utc_now
from db.states import FailureReason, JobState

if TYPE_CHECKING:
    from campaigns.workspace import Workspace

LOCKED = 75
"""Exit code of ``run.sh`` where another run works on the folder (EX_TEMPFAIL)."""
TERMINATED = 143
"""Exit code after SIGTERM."""
_SLACK = 120.0
"""Seconds by which a process may seem older than its job, for clocks and start-up."""


def follow(workspace: Workspace, cluster: Cluster) -> list[JobRecord]:
    """Bring the records of pending jobs up to date, and return those that have changed.

    Raises
    ------
    ClusterError
        If the queueing system does not answer: nothing is changed then.
    """
    pending = workspace.store.jobs(PENDING)
    if not pending:
        return []
    ids = [job.job_id for job in pending if job.job_id]
    listed = cluster.scheduler.listed(cluster.any_folder, ids)
    gone = [job for job in pending if _listed(job, listed) is None]
    cluster.fetch(sorted({job.folder for job in gone}))
    ends = {job.id: job_end(cluster.root / job.folder, job.name, job.tasks) for job in gone}
    # those that a signal ended: at the time limit, or because somebody cancelled them
    asked = [job for job in gone if ends[job.id].missing or ends[job.id].exit_code == TERMINATED]
    silent = {job.job_id: job.name for job in asked if job.job_id}
    words = cluster.scheduler.exits(silent, cluster.any_folder)
    changed = []
    for job in pending:
        told = words.get(job.job_id or "")
        if told is not None and not told.state.is_finished:
            # on its way back into the queue, as after preemption
            now = replace(job, state=told.state, missing_since=None)
        elif job.id not in ends:
            now = _alive(cluster, job, listed)
        elif not ends[job.id].missing:
            now = _ended(job, ends[job.id], told)
        else:
            now = _missing(cluster, job, ends[job.id], told)
        if now != job:
            changed.append(now)
    workspace.store.update_jobs(changed)
    return changed


def _listed(job: JobRecord, listed: Mapping[str, Listed]) -> tuple[str, Listed] | None:
    """The job as the queueing system lists it, with its id there; another job of the same id is none."""
    if job.job_id is None:
        return next(((id_, found) for id_, found in listed.items() if found.name == job.name), None)
    id_ = re.split(r"[_\[.]", job.job_id)[0]
    found = listed.get(id_)
    if found is None:
        return None
    if job.queue.startswith("shell"):
        # processes have no names of ours: an older one than the job took its number later or before
        age = seconds_since(job.submitted_at or job.written_at)
        is_ours = found.seconds is None or abs(found.seconds - age) < _SLACK
        return (id_, found) if is_ours else None
    return (id_, found) if found.name == job.name else None


def _alive(cluster: Cluster, job: JobRecord, listed: Mapping[str, Listed]) -> JobRecord:
    """A job that the queueing system lists."""
    found = _listed(job, listed)
    assert found is not None
    id_, entry = found
    state = JobState.RUNNING if entry.is_running else JobState.QUEUED
    # without an id: its submission was interrupted after the queueing system had taken it
    known = (job.job_id, job.submitted_at) if job.job_id else (id_, utc_now())
    now = replace(job, state=state, missing_since=None, job_id=known[0], submitted_at=known[1])
    if state is JobState.RUNNING and job.started_at is None:
        end = job_end(cluster.root / job.folder, job.name, job.tasks)
        now = replace(now, started_at=end.started_at or utc_now(), nodes=end.nodes)
    return now


def _ended(job: JobRecord, end: JobEnd, words: JobExit | None) -> JobRecord:
    """A job that wrote how it ended; by ``words`` somebody cancelled it."""
    code = end.exit_code or 0
    state = JobState.FAILED if code else JobState.ENDED
    reason, message = None, ""
    if code == TERMINATED and words is not None and words.state is JobState.CANCELLED:
        state, reason, message = words.state, FailureReason.CANCELLED, words.message
    if code == LOCKED:
        state, message = JobState.REFUSED, "another run works on the folder (.locks there names it)"
    return replace(
        job,
        state=state,
        started_at=end.started_at,
        ended_at=end.ended_at,
        missing_since=None,
        nodes=end.nodes,
        exit_code=code,
        core_hours=end.core_hours,
        reason=reason,
        message=message,
    )


def _missing(cluster: Cluster, job: JobRecord, end: JobEnd, words: JobExit | None) -> JobRecord:
    """A job that is not listed and did not write how it ended: the queueing system may still know."""
    since = job.missing_since or utc_now()
    known = replace(
        job,
        started_at=end.started_at or job.started_at,
        nodes=end.nodes or job.nodes,
        core_hours=end.core_hours or job.core_hours,
        missing_since=since,
    )
    patience = cluster.lost_after
    if words is not None and (words.reason is not None or seconds_since(since) >= patience):
        message = words.message
        if words.state is JobState.CANCELLED and not end.begun:
            message = "it never began"
        elif words.reason is None:  # its records were on the way, over a slow file system
            message = "it ended, but its record never came"
        state = words.state if words.reason else JobState.VANISHED
        reason = words.reason or FailureReason.VANISHED
        return replace(
            known, state=state, ended_at=utc_now(), exit_code=words.exit_code, reason=reason, message=message
        )
    if seconds_since(since) < patience:
        return known
    message = "the submission was interrupted before the queueing system took it"
    if job.job_id is not None:
        last = end.started_at or job.submitted_at or job.written_at
        message = f"{job.queue} does not know job {job.job_id} any more, and it wrote no end; last sign of life {last}"
    gone = FailureReason.VANISHED
    return replace(known, state=JobState.VANISHED, ended_at=utc_now(), reason=gone, message=message)


def machine_failure(jobs: Sequence[JobRecord]) -> tuple[FailureReason, str]:
    """Why the jobs of one attempt came to nothing, where the calculation itself does not say."""
    for job in jobs:
        # a later stage that never began was cancelled because one before it failed
        if job.reason and (job.state is not JobState.CANCELLED or job.started_at or job is jobs[0]):
            return job.reason, f"job {job.job_id or job.name} ({job.stage}): {job.message}"
    for job in jobs:
        if job.exit_code:
            words = f"job {job.job_id} ({job.stage}) ended with exit code {job.exit_code}"
            return FailureReason.CALCULATOR_ERROR, words
    last = jobs[-1]
    return FailureReason.VANISHED, f"its jobs ended, the last ({last.stage}) {last.state}, without a result"


def last_attempt(jobs: Iterable[JobRecord]) -> list[JobRecord]:
    """Jobs of the last attempt at an entry, in their order."""
    found = list(jobs)
    newest = max((job.attempt for job in found), default=0)
    return [job for job in found if job.attempt == newest]


def core_hours_of(jobs: Iterable[JobRecord]) -> float | None:
    """Core-hours of all attempts together, as far as they are known."""
    known = [job.core_hours for job in jobs if job.core_hours is not None]
    return sum(known) if known else None
