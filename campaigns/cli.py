"""The ``kappascout`` command: thin verbs over the Python interface.

Reports go to standard output, progress and messages to standard error. Exit codes: 0 done, 1 the request cannot be met
(the message says what to do), 2 wrong usage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from campaigns.output import Format, Progress, emit, emit_one, message

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from db.states import QueueState

app = typer.Typer(
    name="kappascout",
    help="Choose which crystals are worth a first-principles calculation of lattice thermal conductivity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
label_app = typer.Typer(no_args_is_help=True, help="Bring labels in and list them.")
queue_app = typer.Typer(no_args_is_help=True, help="See and steer what is computed next.")
models_app = typer.Typer(no_args_is_help=True, help="Versions, lineage, metrics and checkpoints.")
db_app = typer.Typer(no_args_is_help=True, help="Look after the store.")
for name, sub in (("label", label_app), ("queue", queue_app), ("models", models_app), ("db", db_app)):
    app.add_typer(sub, name=name)

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Campaign directory.")]
OutFormat = Annotated[Format, typer.Option("--format", help="How to report.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def main() -> None:
    """Run the command line; errors of the domain become one message and exit code 1."""
    from engine.exceptions import EngineError

    try:
        app()
    except EngineError as error:
        _fail(error)
    except (FileNotFoundError, PermissionError) as error:
        _fail(error)
    except Exception as error:
        from campaigns.exceptions import CampaignError
        from db.exceptions import StoreError

        if isinstance(error, CampaignError | StoreError):
            _fail(error)
        raise


def _fail(error: BaseException) -> None:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    message(f"error: {text}")
    sys.exit(1)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put it.")] = Path("demo"),
    quiet: Quiet = False,
) -> None:
    """Rehearse a whole campaign on shipped data, offline, and rank new candidates."""
    from campaigns.demo import run_demo

    with Progress(quiet) as progress:
        outcome = run_demo(directory, progress.say)
    typer.echo(outcome.describe())


@app.command()
def init(
    directory: Dir,
    goal: Annotated[str, typer.Option(help="min or max.")] = "min",
    property: Annotated[str, typer.Option("--property", help="Property to learn and rank.")] = "kappa_300K",
    template: Annotated[str, typer.Option(help="Template of campaign.toml.")] = "default",
) -> None:
    """Make a new campaign with a commented campaign.toml."""
    from campaigns.campaign import Campaign

    if goal not in ("min", "max"):
        raise typer.BadParameter(f"{goal!r} is neither min nor max", param_hint="--goal")
    with Campaign.create(directory, goal, property, template):  # type: ignore[arg-type]
        pass
    message(f"made {directory / 'campaign.toml'}; look through it, then `kappascout ingest {directory} FILE...`")


@app.command()
def ingest(
    directory: Dir,
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Files, folders, archives, builtin:reference, builtin:candidates.")
    ],
    label: Annotated[
        list[str] | None, typer.Option("--label", help="FIELD=PROPERTY@FIDELITY[:UNIT]; may be repeated.")
    ] = None,
    format: OutFormat = Format.TABLE,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Add candidates; prints how many were added, duplicate or rejected, and why."""
    from campaigns.ingestion import LabelField

    fields = [LabelField.parse(text) for text in label or ()]
    with _open(directory) as campaign, Progress(quiet) as progress:
        report = campaign.ingest(sources, fields, workers, lambda n: progress.say(f"{n} records read"))
    counts = {
        "read": report.read,
        "added": report.added,
        "duplicate": len(report.duplicates),
        "unchanged": report.unchanged,
        "rejected": len(report.rejected),
        "labels": report.labels,
    }
    if format is Format.TABLE:
        emit([counts], format)
        if report.rejected:
            columns = ["source", "record_id", "reason", "message", "remedy"]
            emit([vars(r) for r in report.rejected[:20]], format, "rejected (the first 20)", columns)
        for copy, original in report.duplicates[:20]:
            message(f"duplicate: {copy} is the same crystal as {original}")
    elif format is Format.JSON:
        detail = {"duplicates": report.duplicates, "rejections": [vars(r) for r in report.rejected]}
        emit_one(counts | {"reasons": report.reasons()} | detail, format)
    else:
        emit([counts], format)


@label_app.command("import")
def label_import(
    directory: Dir,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="CSV or JSON lines.")],
    format: OutFormat = Format.TABLE,
) -> None:
    """Bring in labels: columns id, property, value, unit, fidelity; every file or none."""
    with _open(directory) as campaign:
        report = campaign.import_labels(paths)
        counts = {
            "added": len(report.added),
            "unchanged": len(report.unchanged),
            "superseded": len(report.superseded),
        }
    emit_one(counts, format) if format is Format.JSON else emit([counts], format)


@label_app.command("list")
def label_list(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """List current labels."""
    with _open(directory) as campaign:
        rows = [vars(label) for label in campaign.store.labels()]
    columns = ["id", "material_id", "property", "value", "unit", "fidelity", "method", "source"]
    emit(rows, format, columns=columns)


@app.command()
def run(
    directory: Dir,
    rounds: Annotated[int | None, typer.Option(min=1, help="At most this many rounds.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for all results of a round before the next one.")] = True,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Do as many rounds as the labeler allows, going on where an earlier run ended."""
    from campaigns.campaign import round_row

    with _open(directory) as campaign, Progress(quiet) as progress:
        outcome = campaign.run(rounds, progress.say, wait=wait)
        rows = [round_row(r) for r in campaign.store.rounds() if r.number in outcome.rounds]
    _show_rounds(rows, format)
    message(outcome.message)


@app.command()
def status(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """Say where the campaign stands."""
    from campaigns.campaign import status as campaign_status

    with _open(directory) as campaign:
        emit_one(campaign_status(campaign), format)


@app.command()
def rounds(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """One line a round: labels, error before and after, coverage, hits, best, cost."""
    from campaigns.campaign import round_row

    with _open(directory) as campaign:
        _show_rounds([round_row(record) for record in campaign.store.rounds()], format)


@app.command()
def report(
    directory: Dir,
    out: Annotated[Path | None, typer.Option(help="File to write; report.html in the campaign by default.")] = None,
) -> None:
    """Write the campaign's report: one self-contained HTML page."""
    from campaigns.report import write_report

    with _open(directory) as campaign:
        typer.echo(str(write_report(campaign, out or directory / "report.html")))


@queue_app.command("list")
def queue_list(
    directory: Dir,
    round: Annotated[int | None, typer.Option("--round", help="Only this round.")] = None,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only these states; may be repeated.")] = None,
    format: OutFormat = Format.TABLE,
) -> None:
    """List queue entries with the reason for each."""
    with _open(directory) as campaign:
        rows = _queue_rows(campaign, round, state)
    columns = ["round", "rank", "id", "formula", "state", "mean", "lower", "upper", "reason"]
    emit(rows, format, columns=columns)


@queue_app.command("approve")
def queue_approve(
    directory: Dir,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Materials; all proposed if none.")] = None,
    note: Annotated[str, typer.Option(help="Kept with the change.")] = "",
) -> None:
    """Agree that entries are computed."""
    from db.states import QueueState

    _move(directory, ids, QueueState.APPROVED, note)


@queue_app.command("withdraw")
def queue_withdraw(
    directory: Dir,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Materials.")],
    note: Annotated[str, typer.Option(help="Kept with the change.")] = "",
) -> None:
    """Take entries off the queue; their materials are not proposed again."""
    from db.states import QueueState

    _move(directory, ids, QueueState.WITHDRAWN, note)


@queue_app.command("export")
def queue_export(
    directory: Dir,
    to: Annotated[Path, typer.Option("--to", help="Folder (cif) or file (csv, json) to write.")],
    format: Annotated[str, typer.Option("--format", help="cif, csv or json.")] = "cif",
    round: Annotated[int | None, typer.Option("--round", help="Only this round.")] = None,
) -> None:
    """Write approved entries for the calculation, and mark them exported."""
    from campaigns.export import export_queue

    with _open(directory) as campaign:
        written = export_queue(campaign, to, format, round)
    message(f"{len(written)} entries written to {to}")


@app.command()
def train(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Labelled crystals.")],
    property: Annotated[str, typer.Option("--property", help="Field of the records' properties.")],
    out: Annotated[Path, typer.Option("--out", metavar="MODELDIR", help="Folder to write.")],
    start: Annotated[str, typer.Option("--from", metavar="MODEL", help="Backbone or trained model to start from.")] = "",
    strategy: Annotated[str, typer.Option(help="frozen or full.")] = "frozen",
    head: Annotated[str, typer.Option(help="gp or mlp, for frozen.")] = "gp",
    members: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scale: Annotated[str, typer.Option(help="log10 or linear; log10 for kappa* if not given.")] = "",
    epochs: Annotated[int, typer.Option(min=1, help="Of the full strategy.")] = 30,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Train a model outside a campaign; prints cross-validated metrics beside the baselines."""
    from campaigns.standalone import TrainRequest, train_model

    request = TrainRequest(files, property, out, start, strategy, head, members, seed, scale, epochs)
    with Progress(quiet) as progress:
        record = train_model(request, progress.say)
    names = ("model", "constant", "extra_trees")
    rows = [{"": name, **record["metrics"][name]} for name in names]
    columns = ["", "rows", "mae", "rmse", "r2", "spearman", "nll", "coverage_50", "coverage_90"]
    emit(rows, format, f"cross-validated, {record['scale']} {property}", columns)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODELDIR", help="Folder that `train` wrote.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Crystals.")],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help=".csv or .parquet.")],
    quiet: Quiet = False,
) -> None:
    """Predict crystals with a trained model."""
    from campaigns.standalone import predict_files

    with Progress(quiet) as progress:
        outcome = predict_files(model, files, out, progress.say)
    for line in outcome.refused:
        message(line)
    message(f"{outcome.predicted} predictions written to {out}, {len(outcome.refused)} records refused")


@app.command()
def backtest(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Labelled crystals.")],
    property: Annotated[str, typer.Option("--property", help="Field of the records' properties.")],
    goal: Annotated[str, typer.Option(help="min or max.")],
    initial: Annotated[int, typer.Option(min=1, help="Labels before the first round.")],
    batch: Annotated[int, typer.Option(min=1, help="Labels a round.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")],
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0",
    strategy: Annotated[
        str, typer.Option(help="Comma-separated: gp-ucb, gp-qLogEI, mlp-ucb, full-ucb, ..., random, extra-trees.")
    ] = "gp-ucb",
    initial_ids: Annotated[Path | None, typer.Option(help="JSON: initial ids by seed.")] = None,
    start: Annotated[str, typer.Option("--from", metavar="MODEL", help="Backbone or trained model to start from.")] = "",
    scale: Annotated[str, typer.Option(help="log10 or linear; log10 for kappa* if not given.")] = "",
    members: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON to write; it grows with every finished run.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core if not given.")] = None,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Replay labelled data with the production code; prints what each strategy finds, mean and spread over seeds."""
    import campaigns.backtest as bt
    from campaigns.standalone import backtest_protocol

    protocol = backtest_protocol(
        files, property, goal, (initial, batch, rounds), seeds, scale=scale, start=start, members=members,
        initial_ids=initial_ids,
    )  # fmt: skip
    with Progress(quiet) as progress:
        runs = bt.backtest(protocol, bt.parse_strategies(strategy), out=out, workers=workers, say=progress.say)
    columns = [
        "strategy", "seeds", "labels", "recall_top1", "recall_top1_std", "recall_top5", "recall_top5_std",
        "enhancement_top5", "regret", "acceleration_80", "seconds_a_round",
    ]  # fmt: skip
    emit(bt.summarise(runs), format, "at the end, mean over seeds", columns)


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Shipped name or JSON file.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Crystals with the recipe's properties.")],
    start: Annotated[str, typer.Option("--from", metavar="MODEL", help="Backbone to start from.")],
    out: Annotated[Path, typer.Option("--out", metavar="BACKBONEDIR", help="Folder to write.")],
    quiet: Quiet = False,
) -> None:
    """Pre-train a backbone on several properties; prints errors on held-out formulas."""
    from campaigns.standalone import pretrain_backbone

    with Progress(quiet) as progress:
        card = pretrain_backbone(recipe, files, start, out, progress.say)
    emit([{"property": name, **row} for name, row in card["held_out"].items()], Format.TABLE, "held-out formulas")


@models_app.command("list")
def models_list(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """List models, oldest first."""
    with _open(directory) as campaign:
        rows = [_model_row(record) for record in campaign.store.models()]
    emit(rows, format)


@models_app.command("show")
def models_show(
    directory: Dir,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id of a model.")],
    format: OutFormat = Format.TABLE,
) -> None:
    """Show one model: settings, lineage, metrics, members."""
    from dataclasses import asdict

    with _open(directory) as campaign:
        record = asdict(campaign.store.model(model))
    emit_one(record, format)


@models_app.command("verify")
def models_verify(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """Hash every checkpoint again; exit code 1 if one is missing or changed."""
    from campaigns.standalone import verify_models

    with _open(directory) as campaign:
        rows = verify_models(campaign)
    emit(rows, format)
    bad = [row for row in rows if row["state"] != "intact"]
    if bad:
        message(f"error: {len(bad)} of {len(rows)} checkpoints are missing or changed; restore them from a copy")
        raise typer.Exit(1)


@db_app.command("upgrade")
def db_upgrade(directory: Dir) -> None:
    """Bring the store of a campaign to this program's version."""
    from campaigns.campaign import upgrade_store

    before, after = upgrade_store(directory)
    message(f"store of {directory}: version {before} -> {after}" if before != after else "the store is up to date")


def _open(directory: Path) -> Campaign:
    from campaigns.campaign import Campaign

    return Campaign.open(directory)


def _queue_rows(campaign: Campaign, round: int | None, states: list[str] | None) -> list[dict[str, Any]]:
    from campaigns.campaign import queue_row
    from db.states import QueueState

    try:
        wanted = [QueueState(name) for name in states] if states else None
    except ValueError as error:
        raise typer.BadParameter(f"{error}; states are {', '.join(QueueState)}", param_hint="--state") from error
    return [queue_row(e, f) for e, f in campaign.with_formula(campaign.queue_entries(wanted, round))]


def _move(directory: Path, ids: list[str] | None, to: QueueState, note: str) -> None:
    with _open(directory) as campaign:
        moved = campaign.move(ids or [], to, note)
    message(f"{len(moved)} entries {to}")


def _show_rounds(rows: list[dict[str, Any]], format: Format) -> None:
    columns = [
        "round", "state", "labels", "cv_mae", "cv_mae_trees", "cv_spearman", "new_labels", "mae", "coverage_90",
        "spearman", "hits", "enhancement", "best", "cost",
    ]  # fmt: skip
    emit(rows, format, columns=columns)


def _model_row(record: Any) -> dict[str, Any]:
    model = record.metrics.get("model", {})
    return {
        "model": record.model_id,
        "backbone": record.stage.get("backbone"),
        "strategy": record.settings.get("strategy"),
        "head": record.settings.get("head"),
        "members": len(record.members),
        "labels": record.metrics.get("labels"),
        "cv_mae": model.get("mae"),
        "cv_spearman": model.get("spearman"),
        "data_hash": record.data_hash[:12],
        "created_at": record.created_at,
    }
