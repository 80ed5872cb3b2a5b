"""Verbs that have approved entries calculated on a cluster."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from campaigns.cli.options import Dir, OutFormat, Quiet, open_campaign
from campaigns.output import Format, Progress, emit, message
from db.states import FailureKind

if TYPE_CHECKING:
    from campaigns.cluster.collecting import Collected
    from campaigns.cluster.submitting import Submitted
    from campaigns.cluster.watching import Done, Seen
    from db.records import JobRecord


Yes = Annotated[bool, typer.Option("--yes", help=r"Submit without a question beyond \[dft] confirm_core_hours, too.")]


def submit(directory: Dir, yes: Yes = False, format: OutFormat = Format.TABLE, quiet: Quiet = False) -> None:
    """Export approved entries and submit them to the queueing system of campaign.toml; what is submitted runs once."""
    from campaigns.cluster.submitting import require_entries, submit_approved

    with open_campaign(directory) as campaign:
        with Progress(quiet) as progress:
            submitted = submit_approved(
                campaign.workspace, progress.say, lambda bill: yes or progress.ask(bill.lines(), "submit them?")
            )
        require_entries(campaign.workspace, submitted)
    _emit_jobs(submitted.jobs, format, "no job was submitted")
    _say_submitted(submitted)
    if submitted.waiting:
        message(f"{submitted.waiting} entries wait for their turn")
    if submitted.jobs:
        message(f"`kappascout watch {directory}` follows them and takes their results in")


def watch(
    directory: Dir,
    once: Annotated[bool, typer.Option("--once", help="Look once and end, as for cron.")] = False,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Start the next round when the results of the last are in.")
    ] = False,
    approve: Annotated[
        bool, typer.Option("--approve", help="Approve what rounds propose, so that it is submitted unseen.")
    ] = False,
    yes: Yes = False,
    every: Annotated[
        float | None, typer.Option("--every", min=0.1, help=r"Seconds between two looks; \[cluster] poll without it.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Follow submitted calculations: import results, repeat what the machine failed, submit what is approved.

    It may be ended and started again at any time; a second one beside it is refused.
    """
    from campaigns.cluster.watching import observe, only_watch, proceed

    with open_campaign(directory) as campaign, only_watch(campaign.workspace):
        pause, said, troubled = every or campaign.configuration.cluster.poll, "", ""
        while True:
            seen = observe(campaign)
            _say_seen(seen, directory)
            with Progress(quiet) as progress:
                done = proceed(campaign, seen, progress.say, go_on=go_on, approve=approve, accept=lambda bill: yes)
            _say_done(done, directory)
            trouble = seen.trouble or done.trouble
            if trouble and trouble != troubled:
                message(f"nothing was submitted: {trouble}")
            troubled = trouble
            # with --go-on, what a round proposes is waited for
            if once or (done.is_idle and not trouble and not (go_on and done.proposed)):
                break
            waits = f"{done.pending} jobs wait or run"
            waits += f", {done.submitted.waiting} entries wait for their turn" if done.submitted.waiting else ""
            if waits != said and not quiet:
                message(waits)
            said = waits
            time.sleep(pause)
    if once and trouble:
        raise typer.Exit(1)
    if not once:
        message(f"no job is left; `kappascout status {directory}` shows where the campaign stands")


def collect(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """Import what has finished in the folder of calculations, without asking the queueing system."""
    from campaigns.cluster.cluster import Cluster
    from campaigns.cluster.collecting import collect_folders

    with open_campaign(directory) as campaign:
        collected = collect_folders(campaign.workspace, Cluster.of(campaign.workspace))
    states: dict[str, int] = {}
    for outcome in collected.outcomes:
        states[outcome.state] = states.get(outcome.state, 0) + 1
    _say_collected(collected, directory, format)
    message(", ".join(f"{n} {state}" for state, n in states.items()) or "no open calculation in the folder")


def jobs(
    directory: Dir,
    all_: Annotated[bool, typer.Option("--all", help="Jobs that are over too.")] = False,
    format: OutFormat = Format.TABLE,
) -> None:
    """List the jobs of queue entries as they were when last looked at: ids, states, nodes, core-hours."""
    from campaigns.cluster.submitting import PENDING

    with open_campaign(directory) as campaign:
        found = campaign.store.jobs(None if all_ else PENDING)
    others = f"`kappascout queue jobs {directory} --all` lists those that are over"
    _emit_jobs(found, format, f"no job waits or runs; {others}")


def _say_seen(seen: "Seen", directory: Path) -> None:
    _say_collected(seen.collected, directory)
    for entry in seen.collected.repeated:
        message(f"{entry.material_id}: will be submitted again")
    for job in seen.cancelled:
        message(f"job {job.job_id or job.name} ({job.folder}) cancelled: its entry is not wanted any more")


def _say_done(done: "Done", directory: Path) -> None:
    if done.run is not None and done.run.stopped in ("budget", "candidates", "advice"):
        message(done.run.message)
    if done.run is not None and done.proposed:
        message(
            f"{done.proposed} entries are proposed; `kappascout queue approve {directory}`, and `watch` submits them"
        )
    if done.submitted.jobs:
        _emit_jobs(done.submitted.jobs, Format.TABLE)
    _say_submitted(done.submitted)


def _say_submitted(submitted: "Submitted") -> None:
    for line in submitted.bill.lines() if submitted.bill else ():
        message(line)
    for entry, reason in submitted.passed_over:
        message(f"left out: {entry.material_id}: {reason}")
    if submitted.refusal:
        message(f"submitted no further: {submitted.refusal}")


def _say_collected(collected: "Collected", directory: Path, format: Format = Format.TABLE) -> None:
    rows = [each.row() for each in collected.compared]
    if rows or format is not Format.TABLE:
        emit(rows, format, "found beside predicted" if format is Format.TABLE else "")
    for outcome in collected.outcomes:
        if outcome.state == "refused" or (outcome.state == "done" and outcome.message):
            message(f"{outcome.folder}: {outcome.state}: {outcome.message}")
    repeated = {entry.id for entry in collected.repeated}
    for entry, reason, words in collected.failed:
        by_hand = reason.kind is FailureKind.MACHINE and entry.id not in repeated
        remedy = f"; `kappascout queue retry {directory} {entry.material_id}` repeats it" if by_hand else ""
        message(f"{entry.material_id}: failed ({reason.kind}): {reason}: {words}{remedy}")
    for doubt in collected.doubtful:
        message(f"doubtful: {doubt}")


def _emit_jobs(jobs: Sequence["JobRecord"], format: Format, empty: str = "") -> None:
    """Print jobs; the table has what there is to see, with times to the minute."""
    rows = _job_rows(jobs)
    if format is Format.TABLE:
        for row in rows:
            for name in ("submitted", "started", "ended"):
                row[name] = str(row[name] or "-")[:16].replace("T", " ")
    columns = ["entry", "stage", "attempt", "tasks", "job", "state"]
    columns += [n for n in ("started", "ended") if any(row[n] not in (None, "-") for row in rows)]
    columns += [n for n in ("nodes", "exit_code", "core_hours", "message") if any(row[n] for row in rows)]
    emit(rows, format, columns=columns, empty=empty)


def _job_rows(jobs: Sequence["JobRecord"]) -> list[dict[str, object]]:
    return [
        {
            "entry": job.folder,
            "stage": job.stage,
            "attempt": job.attempt,
            "tasks": job.tasks,
            "job": job.job_id,
            "state": str(job.state),
            "submitted": job.submitted_at,
            "started": job.started_at,
            "ended": job.ended_at,
            "nodes": job.nodes,
            "exit_code": job.exit_code,
            "core_hours": job.core_hours,
            "message": job.message,
        }
        for job in jobs
    ]
