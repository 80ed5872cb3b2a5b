"""The loop between approval and labels: follow, collect, repeat, cancel, submit, evaluate, go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from campaigns.cluster.cluster import Cluster
from campaigns.cluster.collecting import OPEN, Collected, settle
from campaigns.cluster.following import follow
from campaigns.cluster.submitting import PENDING, Submitted, current_jobs, submit_approved, withdrawn_jobs
from campaigns.exceptions import CampaignBusyError, CampaignError, ClusterError, NoCandidatesError
from campaigns.loop import RunReport
from campaigns.queue import move_entries
from db.records import JobRecord
from db.states import JobState, QueueState

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from campaigns.exchange.bill import Bill
    from campaigns.workspace import Workspace


@dataclass
class Seen:
    """What has become of submitted calculations."""

    collected: Collected = field(default_factory=Collected)
    cancelled: list[JobRecord] = field(default_factory=list)
    trouble: str = ""
    """Why the queueing system could not be asked; everything is left as it was."""


@dataclass
class Done:
    """What was done next."""

    run: RunReport | None = None
    """What evaluation, and with ``go_on`` the next round, came to."""
    submitted: Submitted = field(default_factory=Submitted)
    proposed: int = 0
    """Entries that wait for approval."""
    pending: int = 0
    """Jobs that wait or run."""
    trouble: str = ""
    """Why the queueing system took nothing."""

    @property
    def is_idle(self) -> bool:
        """Whether no job is left, and none will be submitted by itself."""
        return not (self.pending or self.submitted.waiting or self.trouble)


@contextmanager
def only_watch(workspace: Workspace) -> Iterator[None]:
    """Keep other processes from watching this campaign.

    Raises
    ------
    CampaignBusyError
        If another one does.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(workspace.directory / ".watch.lock").acquire(timeout=0):
            yield
    except Timeout as error:
        raise CampaignBusyError(
            f"another `kappascout watch` follows {workspace.directory}; leave it to that one, or end it first"
        ) from error


def observe(campaign: Campaign) -> Seen:
    """Follow jobs: what has ended comes in, what the machine failed is to be repeated, what is unwanted is cancelled.

    Raises
    ------
    CampaignError
        If results cannot be read or written; that the queueing system does not answer, or another command works on the
        campaign, is in the result.
    """
    workspace = campaign.workspace
    cluster = Cluster.of(workspace)
    seen = Seen()
    try:
        with workspace.locked():
            _begun(workspace, follow(workspace, cluster))
            seen.collected = settle(workspace, cluster, _over(workspace))
            seen.cancelled = withdrawn_jobs(workspace, cluster)
    except (ClusterError, CampaignBusyError) as error:
        seen.trouble = str(error)
    return seen


def proceed(
    campaign: Campaign,
    seen: Seen,
    say: Callable[[str], None] = lambda _: None,
    *,
    go_on: bool = False,
    approve: bool = False,
    accept: Callable[[Bill], bool] = lambda bill: False,
) -> Done:
    """Do what follows from what was seen: evaluate the round, begin the next, submit what is approved.

    Parameters
    ----------
    campaign
        The campaign.
    seen
        What :func:`observe` found.
    say
        Receives progress.
    go_on
        Start the next round when the results of the last are in.
    approve
        Approve what rounds propose.
    accept
        Asked where calculations take more core-hours than are submitted without a question.

    Raises
    ------
    CampaignError
        If a round cannot go on; why nothing could be submitted is in the result.
    """
    store = campaign.store
    done = Done()
    if not seen.trouble:
        try:
            done.run = _rounds(campaign, seen, say, go_on=go_on)
            if approve and store.queue([QueueState.PROPOSED]):
                campaign.move([], QueueState.APPROVED, "by watch")
        except CampaignBusyError as error:
            done.trouble = str(error)
        if not done.trouble and store.queue([QueueState.APPROVED, QueueState.EXPORTED]):
            try:
                patience = campaign.configuration.cluster.lost_after
                done.submitted = submit_approved(campaign.workspace, say, accept, patience)
            except CampaignError as error:
                done.trouble = str(error)
    done.pending = len(store.jobs(PENDING))
    done.proposed = store.queue_counts()[QueueState.PROPOSED]
    return done


def _begun(workspace: Workspace, changed: Sequence[JobRecord]) -> None:
    """Entries whose first job runs are running."""
    running = {job.entry_id for job in changed if job.state is JobState.RUNNING}
    if running:
        entries = [e for e in workspace.store.queue([QueueState.EXPORTED]) if e.id in running]
        move_entries(workspace.store, entries, QueueState.RUNNING, "its job runs")


def _over(workspace: Workspace) -> list[int]:
    """Open entries all of whose jobs are over, also where an earlier look was interrupted."""
    entries = workspace.store.queue(OPEN)
    jobs = current_jobs(workspace, entries)
    return [id_ for id_, own in jobs.items() if all(job.state.is_finished for job in own)]


def _rounds(campaign: Campaign, seen: Seen, say: Callable[[str], None], *, go_on: bool) -> RunReport | None:
    """Evaluate a round whose results are in; with ``go_on`` do the next."""
    came_in = seen.collected.outcomes or seen.collected.failed
    waits = campaign.workspace.store.queue([QueueState.PROPOSED, QueueState.APPROVED, *OPEN])
    if not go_on:
        return campaign.run(0, say) if came_in else None
    try:
        return None if waits else campaign.run(1, say)
    except NoCandidatesError as error:
        return RunReport((), "candidates", str(error))
