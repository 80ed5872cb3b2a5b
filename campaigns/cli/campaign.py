"""Verbs on a whole campaign: begin it, run it, see its status."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from campaigns.cli.options import Dir, Goal, NewProperty, OutFormat, Quiet, open_campaign
from campaigns.output import Format, Progress, Row, emit, emit_one, message


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the demo campaign.")] = Path("demo"),
    quiet: Quiet = False,
) -> None:
    """Rehearse a whole campaign on shipped data, offline, and rank new candidates."""
    from campaigns.demo import run_demo

    with Progress(quiet) as progress:
        outcome = run_demo(directory, progress.say)
    typer.echo(outcome.describe())


def init(
    directory: Dir,
    goal: Goal = "min",
    property: Annotated[
        str, typer.Option("--property", help="Property to learn and rank by; kappa_300K is in W/(m K).")
    ] = "kappa_300K",
    new_property: NewProperty = False,
    template: Annotated[str, typer.Option(help="Template of campaign.toml; there is one, default.")] = "default",
    cold: Annotated[
        bool,
        typer.Option(
            "--cold", help="Begin without the shipped model of first-principles kappa(300 K): a spread-out first batch."
        ),
    ] = False,
) -> None:
    """Make a new campaign with a commented campaign.toml; one for kappa at 300 K begins with a shipped model."""
    from campaigns.campaign import Campaign

    with Campaign.create(directory, goal, property, template, warm=not cold, new_property=new_property) as campaign:
        unit = campaign.configuration.campaign.unit
        warm = campaign.configuration.model.lower_fidelity
    if warm:
        message(f"the first batch is ranked by {warm}, a model of published first-principles values; or use --cold")
    fill = "" if unit else f", give the unit of {property} in it"
    message(f"made {directory / 'campaign.toml'}; look through it{fill}, then `kappascout ingest {directory} FILE...`")


def run(
    directory: Dir,
    rounds: Annotated[int | None, typer.Option(min=1, help="At most this many rounds.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for all results of a round before the next round.")] = True,
    go_on: Annotated[bool, typer.Option("--go-on", help="Start another round even where stopping is advised.")] = False,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Run as many rounds as the labeler allows, continuing where an earlier run ended."""
    from campaigns.status import round_row

    with open_campaign(directory) as campaign, Progress(quiet) as progress:
        outcome = campaign.run(rounds, progress.say, wait=wait, go_on=go_on)
        rows = [round_row(r) for r in campaign.store.rounds() if r.number in outcome.rounds]
    _show_rounds(rows, format, "no round was worked on")
    message(outcome.message)


def status(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """Show the status of the campaign: materials, labels, budget, queue, best value."""
    from campaigns.status import STATUS_WORDS
    from campaigns.status import status as campaign_status

    with open_campaign(directory) as campaign:
        found = campaign_status(campaign.workspace)
    if format is Format.TABLE:
        found = {STATUS_WORDS.get(name, name): value for name, value in found.items()}
    emit_one(found, format)


def rounds(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """List the rounds: labels, errors before and after results, coverage, hits, best value, cost."""
    from campaigns.status import round_row

    with open_campaign(directory) as campaign:
        rows = [round_row(record) for record in campaign.store.rounds()]
    _show_rounds(rows, format, f"no round yet; `kappascout run {directory}` begins the first")


def report(
    directory: Dir,
    out: Annotated[Path | None, typer.Option(help="File to write; report.html in the campaign by default.")] = None,
) -> None:
    """Write the campaign's report: one self-contained HTML page."""
    from campaigns.report import write_report

    with open_campaign(directory) as campaign:
        typer.echo(str(write_report(campaign, out or directory / "report.html")))


def _show_rounds(rows: Sequence[Row], format: Format, empty: str) -> None:
    cheaper = ["cheaper_labels"] if any(row["cheaper_labels"] for row in rows) else []
    columns = [
        "round", "state", "labels", "cv_mae", "cv_mae_trees", "cv_spearman", "cv_crps", "new_labels", *cheaper, "mae",
        "crps", "coverage_90", "calibration_error", "spearman", "hits", "enhancement", "best", "cost",
    ]  # fmt: skip
    emit(rows, format, columns=columns, empty=empty)
