"""Verbs on the queue: what is computed next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from campaigns.cli.cluster import jobs
from campaigns.cli.options import Dir, OutFormat, Quiet, open_campaign
from campaigns.output import Format, Progress, emit, message
from db.states import FailureReason, JobState, QueueState

app = typer.Typer(no_args_is_help=True, help="See and decide what is computed next.")

app.command("jobs")(jobs)

Note = Annotated[str, typer.Option("--note", help="Note that is kept with the change.")]
OfRound = Annotated[int | None, typer.Option("--round", help="Only this round.")]


@app.command("list")
def queue_list(
    directory: Dir,
    round: OfRound = None,
    state: Annotated[
        list[QueueState] | None,
        typer.Option("--state", metavar="STATE", help=f"Only this state ({', '.join(QueueState)}); may be repeated."),
    ] = None,
    format: OutFormat = Format.TABLE,
) -> None:
    """List queue entries with the reason for each."""
    from campaigns.queue import queue_rows

    with open_campaign(directory) as campaign:
        rows = queue_rows(campaign.workspace, campaign.queue_entries(state or None, round))
        counts = campaign.store.queue_counts()
    columns = ["round", "rank", "id", "formula", "state", "mean", "lower", "upper", "reason"]
    if state == [QueueState.FAILED]:
        columns = ["round", "rank", "id", "formula", "failed_by", "failure", "remedy"]
    if len({row["fidelity"] for row in rows}) > 1:
        columns.insert(5, "fidelity")
    if any(row["cost"] is not None for row in rows):
        columns.insert(-1, "cost")
    if any(row["stability"] for row in rows):
        columns.insert(-1, "stability")
    emit(rows, format, columns=columns, empty=_empty_queue(directory, counts))


@app.command("approve")
def queue_approve(
    directory: Dir,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of materials; without any, all that are proposed.")
    ] = None,
    note: Note = "",
) -> None:
    """Approve entries for calculation."""
    _move(directory, ids, QueueState.APPROVED, note)


@app.command("withdraw")
def queue_withdraw(
    directory: Dir,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of materials.")],
    note: Note = "",
) -> None:
    """Take entries off the queue; their materials are not proposed again, unless `queue reopen` undoes it."""
    with open_campaign(directory) as campaign:
        moved = campaign.move(ids, QueueState.WITHDRAWN, note)
        pending = campaign.store.jobs([JobState.QUEUED, JobState.RUNNING], [e.id for e in moved if e.id is not None])
    message(f"{len(moved)} entries withdrawn")
    if pending:
        message(f"{len(pending)} of their jobs wait or run; `kappascout watch {directory} --once` cancels them")


@app.command("fail")
def queue_fail(
    directory: Dir,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of materials.")],
    reason: Annotated[
        FailureReason,
        typer.Option("--reason", metavar="REASON", help=f"Why there is no label: {', '.join(FailureReason)}."),
    ],
    note: Note = "",
) -> None:
    """Record calculations that gave no label; their materials wait for `queue retry` or `queue reopen`."""
    with open_campaign(directory) as campaign:
        failed = campaign.fail(ids, reason, note)
    message(f"{len(failed)} entries failed")


@app.command("retry")
def queue_retry(
    directory: Dir,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of materials; with --all, all that may be retried.")
    ] = None,
    note: Note = "",
    every: Annotated[
        bool, typer.Option("--all", help="All entries that failed by the machine, within the limit.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help=r"Go beyond \[labeler] max_retries.")] = False,
) -> None:
    """Approve again entries that failed by the machine (time limit, node, memory, disk, setup)."""
    if every == bool(ids):
        raise typer.BadParameter("give either the ids of materials, or --all")
    with open_campaign(directory) as campaign:
        moved = campaign.retry(None if every else ids, note, force=force)
    message(f"{len(moved)} entries approved again")


@app.command("reopen")
def queue_reopen(
    directory: Dir,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of materials.")],
    note: Note = "",
    approve: Annotated[bool, typer.Option("--approve", help="Approve them at once.")] = False,
) -> None:
    """Propose again what failed by its crystal, was withdrawn or deferred; such failures are voided."""
    with open_campaign(directory) as campaign:
        moved = campaign.reopen(ids, note, approve=approve)
    message(f"{len(moved)} entries {QueueState.APPROVED if approve else QueueState.PROPOSED} again")


@app.command("defer")
def queue_defer(
    directory: Dir,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of materials.")],
    note: Note = "",
) -> None:
    """Leave proposed or approved entries out of this round; the next one may choose their materials again."""
    with open_campaign(directory) as campaign:
        moved = campaign.defer(ids, note)
    message(f"{len(moved)} entries {QueueState.DEFERRED}")


@app.command("export")
def queue_export(
    directory: Dir,
    to: Annotated[Path, typer.Option("--to", help="Folder (phono3py, vasp, cif) or file (csv, json) to write.")],
    format: Annotated[
        Literal["phono3py", "vasp", "cif", "csv", "json"],
        typer.Option(
            "--format", help="phono3py: all inputs up to kappa; vasp: relaxation; cif, csv, json: structures only."
        ),
    ] = "cif",
    round: OfRound = None,
    max_supercells: Annotated[
        int | None,
        typer.Option(
            "--max-supercells",
            min=1,
            help=r"Used in place of \[dft] max_supercells; entries that need more are "
            "left out.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help=r"Export without a question beyond \[dft] confirm_core_hours, too.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write the inputs of approved entries and mark these exported; exporting again changes nothing."""
    from campaigns.exchange.export import export_queue

    with open_campaign(directory) as campaign, Progress(quiet) as progress:
        report = export_queue(
            campaign.workspace,
            to,
            format,
            round,
            max_supercells,
            progress.say,
            lambda bill: yes or progress.ask(bill.lines(), "export them?"),
        )
    for entry, reason in report.passed_over:
        message(f"left out: {entry.material_id}: {reason}")
    if report.bill:
        emit([vars(row) for row in report.bill.rows], Format.TABLE, columns=report.bill.columns)
        for line in report.bill.lines():
            message(line)
    message(f"{len(report.written)} entries written to {to}")
    if format in ("phono3py", "vasp"):
        message(f"copy {to} to the cluster, `sbatch submit.sh` in it, then `kappascout label import {directory} {to}`")


def _empty_queue(directory: Path, counts: Mapping[QueueState, int]) -> str:
    """What is printed where no entry was found: nothing was queued yet, or what there is has other states or rounds."""
    there = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    if there:
        return f"no queue entry of this round and state; there are {there}: `kappascout queue list {directory}`"
    return (
        f"the queue is empty: no round has queued a material yet; `kappascout ingest {directory} FILE...` adds "
        f"candidates, `kappascout run {directory}` ranks and queues them"
    )


def _move(directory: Path, ids: list[str] | None, to: QueueState, note: str) -> None:
    with open_campaign(directory) as campaign:
        moved = campaign.move(ids or [], to, note)
    message(f"{len(moved)} entries {to}")
