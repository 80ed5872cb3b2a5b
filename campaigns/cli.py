"""The ``kappascout`` command: thin verbs over the Python interface.

Reports go to standard output, progress and messages to standard error. Exit codes: 0 done, 1 the request cannot be met
(the message says what to do), 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from campaigns.output import Format, Progress, emit, emit_one, message
from db.states import FailureReason, QueueState

if TYPE_CHECKING:
    from campaigns.campaign import Campaign

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
archive_app = typer.Typer(no_args_is_help=True, help="A whole campaign as one file, checked by hash.")
for name, sub in (
    ("label", label_app),
    ("queue", queue_app),
    ("models", models_app),
    ("db", db_app),
    ("archive", archive_app),
):
    app.add_typer(sub, name=name)

_SHOWN = 20
_REJECTION_COLUMNS = ["source", "record_id", "reason", "message", "remedy"]

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Campaign directory.")]
Archive = Annotated[Path, typer.Argument(metavar="FILE", help="Archive that `archive create` wrote.")]
OutFormat = Annotated[Format, typer.Option("--format", help="How to report.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Goal = Annotated[Literal["min", "max"], typer.Option("--goal", help="Whether low or high values are wanted.")]
Field = Annotated[str, typer.Option("--property", help="Field of the records' properties.")]
Scale = Annotated[
    Literal["log10", "linear"] | None,
    typer.Option("--scale", help="Scale it is learned on; log10 for kappa* and linear otherwise if not given."),
]
Start = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Backbone or trained model to start from; the shipped one if not given. Several, each with its own "
        "--from, are read side by side: --from megnet-multiproperty --from TENSORNETDIR.",
    ),
]
Note = Annotated[str, typer.Option("--note", help="Kept with the change.")]
OfRound = Annotated[int | None, typer.Option("--round", help="Only this round.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one a core if not given.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what goes wrong in the domain becomes one message and exit code 1."""
    try:
        app(arguments)
    except OSError as error:
        _fail(error)
    except Exception as error:
        from campaigns.exceptions import CampaignError
        from db.exceptions import StoreError
        from engine.exceptions import EngineError

        if isinstance(error, CampaignError | EngineError | StoreError):
            _fail(error)
        raise


def _fail(error: Exception) -> None:
    message(f"error: {error}")
    sys.exit(1)


def _strategy(text: str) -> str:
    """Refuse a strategy of training that does not exist as wrong usage."""
    from engine.exceptions import TrainingError
    from engine.learning.strategies import parse

    try:
        return text if text == "auto" else str(parse(text))
    except TrainingError as error:
        raise typer.BadParameter(str(error)) from error


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
    goal: Goal = "min",
    property: Annotated[str, typer.Option("--property", help="Property to learn and rank.")] = "kappa_300K",
    template: Annotated[str, typer.Option(help="Template of campaign.toml.")] = "default",
) -> None:
    """Make a new campaign with a commented campaign.toml."""
    from campaigns.campaign import Campaign

    with Campaign.create(directory, goal, property, template) as campaign:
        unit = campaign.configuration.campaign.unit
    fill = "" if unit else f", give the unit of {property} in it"
    message(f"made {directory / 'campaign.toml'}; look through it{fill}, then `kappascout ingest {directory} FILE...`")


@app.command()
def ingest(
    directory: Dir,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files, folders, archives, builtin:reference, builtin:candidates; databases: "
            "mp:is_stable=true,nelements=2-4 or mp:mp-149,mp-13 (key in MP_API_KEY), optimade:NAME:FILTER or "
            "optimade:https://HOST/PATH?filter=..., aflow:species(Na,Cl),nspecies(2).",
        ),
    ],
    label: Annotated[
        list[str] | None, typer.Option("--label", help="FIELD=PROPERTY@FIDELITY[:UNIT]; may be repeated.")
    ] = None,
    format: OutFormat = Format.TABLE,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Add candidates; prints how many were added, duplicate or rejected, and why."""
    from campaigns.ingestion import LabelField

    fields = [LabelField.parse(text) for text in label or ()]
    with _open(directory) as campaign, Progress(quiet) as progress:
        report = campaign.ingest(sources, fields, workers, progress.say)
    counts = {
        "read": report.read,
        "added": report.added,
        "duplicate": report.duplicate,
        "unchanged": report.unchanged,
        "rejected": report.rejected,
        "labels": report.labels,
    }
    if format is Format.TABLE:
        emit([counts], format)
        if report.rejected:
            left = report.rejected - _SHOWN
            title = f"rejected (`kappascout rejections {directory}` lists {left} more)" if left > 0 else "rejected"
            emit([vars(r) for r in report.rejections[:_SHOWN]], format, title, _REJECTION_COLUMNS)
        for copy, original in report.duplicates[:_SHOWN]:
            message(f"duplicate: {copy} is the same crystal as {original}")
        if report.duplicate > _SHOWN:
            message(f"... and {report.duplicate - _SHOWN} more duplicates")
    elif format is Format.JSON:
        detail = {"duplicates": report.duplicates, "rejections": [vars(r) for r in report.rejections]}
        detail |= {"versions": report.versions, "notes": report.notes}
        emit_one(counts | {"reasons": dict(report.reasons.most_common())} | detail, format)
    else:
        emit([counts], format)
    for before, now in report.versions[:_SHOWN]:
        message(f"another version: {before} has another structure now, kept as {now}")
    if report.version > _SHOWN:
        message(f"... and {report.version - _SHOWN} more other versions")
    for note in report.notes:
        message(f"note: {note}")


@app.command()
def rejections(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """List what was refused on the way in: file, reason, and how to mend it."""
    with _open(directory) as campaign:
        rows = [vars(record) for record in campaign.store.rejections()]
    emit(rows, format, columns=_REJECTION_COLUMNS)


@label_app.command("import")
def label_import(
    directory: Dir,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="CSV, JSON lines, kappa-*.hdf5, or an exported queue's folder or archive."
        ),
    ],
    material: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Material that kappa-*.hdf5 given by name belong to.")
    ] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option("--temperature", min=0, help="Kelvin, beside that of the property; may be repeated."),
    ] = None,
    format: OutFormat = Format.TABLE,
) -> None:
    """Bring in labels and results: every file or none, and of an exported queue what has ended by now."""
    with _open(directory) as campaign:
        report = campaign.import_labels(paths, material, temperature or ())
        note = campaign.fidelity_note()
    counts: dict[str, Any] = {
        "added": len(report.added),
        "unchanged": len(report.unchanged),
        "superseded": len(report.superseded),
    }
    entries = [vars(outcome) for outcome in report.entries]
    if format is Format.JSON:
        emit_one(counts | ({"entries": entries} if entries else {}), format)
    else:
        emit([counts | Counter(outcome.state for outcome in report.entries)], format)
    for outcome in report.entries:
        if outcome.message:
            message(f"{outcome.folder}: {outcome.state}: {outcome.message}")
    if note:
        message(note)
    if any(outcome.state == "refused" for outcome in report.entries):
        message("error: some folders were refused (above); everything else was imported")
        raise typer.Exit(1)


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
    go_on: Annotated[bool, typer.Option("--go-on", help="Start another round although stopping is advised.")] = False,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Do as many rounds as the labeler allows, going on where an earlier run ended."""
    from campaigns.campaign import round_row

    with _open(directory) as campaign, Progress(quiet) as progress:
        outcome = campaign.run(rounds, progress.say, wait=wait, go_on=go_on)
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
    round: OfRound = None,
    state: Annotated[list[QueueState] | None, typer.Option("--state", help="Only this state; may be repeated.")] = None,
    format: OutFormat = Format.TABLE,
) -> None:
    """List queue entries with the reason for each."""
    from campaigns.campaign import queue_row

    with _open(directory) as campaign:
        rows = [queue_row(e, f) for e, f in campaign.with_formula(campaign.queue_entries(state or None, round))]
    columns = ["round", "rank", "id", "formula", "state", "mean", "lower", "upper", "reason"]
    if len({row["fidelity"] for row in rows}) > 1:
        columns.insert(5, "fidelity")
    emit(rows, format, columns=columns)


@queue_app.command("approve")
def queue_approve(
    directory: Dir,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Materials; all proposed if none.")] = None,
    note: Note = "",
) -> None:
    """Agree that entries are computed."""
    _move(directory, ids, QueueState.APPROVED, note)


@queue_app.command("withdraw")
def queue_withdraw(
    directory: Dir,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Materials.")],
    note: Note = "",
) -> None:
    """Take entries off the queue; their materials are not proposed again."""
    _move(directory, ids, QueueState.WITHDRAWN, note)


@queue_app.command("fail")
def queue_fail(
    directory: Dir,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Materials.")],
    reason: Annotated[FailureReason, typer.Option("--reason", help="Why there is no label.")],
    note: Note = "",
) -> None:
    """Record that calculations gave no label; a round whose entries are all done, failed or withdrawn is judged."""
    with _open(directory) as campaign:
        failed = campaign.fail(ids, reason, note)
    message(f"{len(failed)} entries failed")


@queue_app.command("export")
def queue_export(
    directory: Dir,
    to: Annotated[Path, typer.Option("--to", help="Folder (phono3py, vasp, cif) or file (csv, json) to write.")],
    format: Annotated[
        Literal["phono3py", "vasp", "cif", "csv", "json"],
        typer.Option("--format", help="phono3py: everything down to kappa; vasp: relaxation; or structures alone."),
    ] = "cif",
    round: OfRound = None,
    max_supercells: Annotated[
        int | None,
        typer.Option("--max-supercells", min=1, help="In place of [dft] max_supercells; larger entries are left out."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write approved entries for the calculation, and mark them exported; writing again changes nothing."""
    from campaigns.exchange.export import export_queue

    with _open(directory) as campaign, Progress(quiet) as progress:
        report = export_queue(campaign, to, format, round, max_supercells, progress.say)
    for entry, reason in report.passed_over:
        message(f"left out: {entry.material_id}: {reason}")
    message(f"{len(report.written)} entries written to {to}")
    if format in ("phono3py", "vasp"):
        message(f"copy {to} to the cluster, `sbatch submit.sh` in it, then `kappascout label import {directory} {to}`")


@app.command()
def train(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Labelled crystals.")],
    property: Field,
    out: Annotated[Path, typer.Option("--out", metavar="MODELDIR", help="Folder to write.")],
    start: Start = None,
    strategy: Annotated[
        str,
        typer.Option(
            callback=_strategy, help="What learns: auto, frozen, full, last, head, blocks:K, embedding_frozen, gradual."
        ),
    ] = "auto",
    head: Annotated[
        Literal["gp", "mlp", "network"],
        typer.Option(help="gp or mlp on embeddings (gp reads fine-tuned networks too), or the network's own."),
    ] = "gp",
    members: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Root of every random choice.")] = 0,
    scale: Scale = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of strategies that train a network.")] = 30,
    auxiliaries: Annotated[
        bool, typer.Option("--auxiliaries/--no-auxiliaries", help="Networks learn the records' other numbers too.")
    ] = True,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Train a model outside a campaign; prints cross-validated metrics beside the baselines."""
    from campaigns.standalone import TrainRequest, train_model

    request = TrainRequest(
        files, property, out, _starts(start), strategy, head, members, seed, scale, epochs, auxiliaries
    )
    with Progress(quiet) as progress:
        record = train_model(request, progress.say)
    rows = [{"predictor": name, **record["metrics"][name]} for name in ("model", "constant", "extra_trees")]
    columns = ["predictor", "rows", "mae", "rmse", "r2", "spearman", "nll", "coverage_50", "coverage_90"]
    emit(rows, format, f"cross-validated, {record['scale']} {property}", columns)
    message(f"members are {record['metrics']['chosen']}")
    message(f"model written to {out}")


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
def estimate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Crystals.")],
    potential: Annotated[
        str,
        typer.Option(
            "--potential",
            metavar="SPEC",
            help="Folder or name of a MatGL potential, or a classical one: rigid-ion:NaCl.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help=".jsonl or .jsonl.gz; a second run goes on.")],
    workers: Workers = None,
    time_limit: Annotated[float, typer.Option("--time-limit", min=1, help="Seconds a crystal.")] = 300.0,
    quiet: Quiet = False,
) -> None:
    """Estimate kappa of many crystals in seconds each, by the quasi-harmonic Debye model (AGL)."""
    from campaigns.estimates import KAPPA, estimate_files

    with Progress(quiet) as progress:
        report = estimate_files(files, potential, out, workers=workers, time_limit=time_limit, say=progress.say)
    for line in report.refused:
        message(line)
    message(
        f"{report.estimated} crystals estimated, {report.failed} without a value, {len(report.refused)} refused, "
        f"{report.before} in {out} before; `kappascout ingest DIR {out} --label {KAPPA}=kappa_300K@agl` takes them in"
    )


@app.command()
def backtest(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Labelled crystals.")],
    property: Field,
    goal: Goal,
    initial: Annotated[int, typer.Option(min=1, help="Labels before the first round.")],
    batch: Annotated[int, typer.Option(min=1, help="Labels a round.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")],
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0",
    strategy: Annotated[
        str,
        typer.Option(
            help="Comma-separated: default (a new campaign's settings), gp-ucb, gp-qLogEI, mlp-ucb, full-ucb, ..., "
            "a campaign.toml ([model] and [acquisition] count), random, extra-trees."
        ),
    ] = "default",
    against: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated peers on the same embedding: random, trees, forest, gp, botorch-qlognei, "
            "baybe, baybe-pca, physbo."
        ),
    ] = None,
    initial_ids: Annotated[Path | None, typer.Option(help='JSON file of initial ids: {"SEED": ["ID", ...]}.')] = None,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Strategies of ours choose their initial materials themselves.")
    ] = False,
    cost: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Field with the cost of each label; adds curves by cost.")
    ] = None,
    start: Start = None,
    scale: Scale = None,
    members: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 5,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Start from a model that has seen answers; its runs are marked.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write; it grows with every finished run, and a second start goes on.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Curves with confidence bands.")] = None,
    workers: Workers = None,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Replay labelled data with the production code; prints what each strategy finds, mean and spread over seeds."""
    import campaigns.backtest as bt
    from campaigns.training_set import default_scale
    from engine.learning.backbone import DEFAULT_BACKBONE

    protocol = bt.Protocol(
        files=tuple(files),
        property=property,
        goal=goal,
        initial=initial,
        batch=batch,
        rounds=rounds,
        seeds=bt.parse_seeds(seeds),
        scale=scale or default_scale(property),
        start=_starts(start) or DEFAULT_BACKBONE,
        members=members,
        initial_ids=bt.read_initial_ids(initial_ids) if initial_ids else None,
        cold_start=cold_start,
        cost=cost,
    )
    strategies = bt.join(bt.parse_strategies(strategy), bt.parse_against(against) if against else [])
    with Progress(quiet) as progress:
        runs = bt.backtest(
            protocol, strategies, out=out, workers=workers, allow_seen=allow_seen, report=report, say=progress.say
        )
    rows = bt.summarise(runs)
    emit(bt.readable(rows) if format is Format.TABLE else rows, format, "at the end, mean ± deviation over seeds")
    if report:
        message(f"curves in {report}")


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Shipped name or JSON file.")],
    out: Annotated[Path, typer.Option("--out", metavar="BACKBONEDIR", help="Folder to write.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Crystals with the recipe's properties.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="ROLE=FILE[:FIELD[@FIDELITY]]", help="Crystals of one of its data sets; may be repeated."
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Backbone to start from, or scratch:megnet|m3gnet|tensornet.",
        ),
    ] = "",
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="STAGE", help="Stage to leave out.")] = None,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Pre-train a backbone stage by stage; goes on where it was interrupted; prints errors on held-out formulas."""
    from campaigns.standalone import PretrainRequest, pretrain_backbone

    request = PretrainRequest(recipe, out, files or (), data or (), start, skip or ())
    with Progress(quiet) as progress:
        rows = pretrain_backbone(request, progress.say)
    emit(rows, format, "held-out formulas")
    message(f"backbone written to {out}")


@app.command()
def study(
    name: Annotated[
        Literal["paraisite", "pairwise", "multiproperty", "fidelity"], typer.Argument(metavar="NAME", help="Which.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Labelled crystals, files found by the beginning of their names: aflow_agl, ltc_l96, ltc_hh143, "
            "tl_formation_energy, tl_band_gap, tl_shear_modulus, tl_phonon_peak.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where NAME.md, NAME.json and the work are kept.")
    ] = Path("studies"),
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="paraisite: a backbone that has learned formation energies, in place of that file; "
            "fidelity: one that has seen no conductivity.",
        ),
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Minutes instead of an hour; rough figures.")] = False,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Measure transfer on your data: paraisite, pairwise, multiproperty, fidelity; goes on where it stopped."""
    from campaigns.studies.study import run_study

    with Progress(quiet) as progress:
        result, path = run_study(name, data, out, progress.say, quick=quick, start=start)
    emit(result.summary(), format, "mean over splits")
    message(f"tables written to {path}")


@models_app.command("list")
def models_list(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """List models, oldest first: those of rounds, then what they were made from."""
    from campaigns.lineage import ROUND, kind_of

    with _open(directory) as campaign:
        records = sorted(campaign.store.models(), key=lambda record: kind_of(record) != ROUND)
    emit([_model_row(record) for record in records], format)


@models_app.command("show")
def models_show(
    directory: Dir,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id of a model.")],
    format: OutFormat = Format.TABLE,
) -> None:
    """Show one model: settings, metrics, members, and its lineage stage by stage."""
    from dataclasses import asdict

    from campaigns.lineage import stage_row, whole_lineage

    with _open(directory) as campaign:
        stages = whole_lineage(campaign.store, model)
    rows = [stage_row(stage) for stage in stages]
    record = asdict(stages[-1])
    emit_one(record | {"lineage": rows} if format is Format.JSON else record, format)
    if format is Format.TABLE:
        emit(rows, format, "lineage, the first weights first")


@models_app.command("verify")
def models_verify(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """Hash every checkpoint again; exit code 1 if one is missing or changed."""
    from campaigns.standalone import verify_models

    with _open(directory) as campaign:
        rows = verify_models(campaign)
    emit(rows, format)
    bad = [row for row in rows if row["state"] != "intact"]
    if bad:
        named = ", ".join(row["checkpoint"] for row in bad[:3]) + (", ..." if len(bad) > 3 else "")
        message(
            f"error: {len(bad)} of {len(rows)} checkpoints are missing or changed ({named}); restore them from a copy"
        )
        raise typer.Exit(1)


@db_app.command("upgrade")
def db_upgrade(directory: Dir) -> None:
    """Bring the store of a campaign to this program's version."""
    from campaigns.campaign import upgrade_store

    before, after = upgrade_store(directory)
    message(f"store of {directory}: version {before} -> {after}" if before != after else "the store is up to date")


@archive_app.command("create")
def archive_create(
    directory: Dir,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="File to write: .tar.zst or .tar.gz.")],
    caches: Annotated[
        bool, typer.Option("--caches", help="With graphs and embeddings, which can be made again.")
    ] = False,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Write a campaign, its store and artifacts into one file."""
    from campaigns.archive import create_archive

    with _open(directory) as campaign, Progress(quiet) as progress:
        manifest = create_archive(campaign, to, caches, progress.say)
    emit_one(manifest.summary(), format)
    message(f"{directory} written to {to}")


@archive_app.command("verify")
def archive_verify(file: Archive, format: OutFormat = Format.TABLE, quiet: Quiet = False) -> None:
    """Hash every file of an archive; exit code 1 if one is missing or changed."""
    from campaigns.archive import verify_archive

    with Progress(quiet) as progress:
        manifest = verify_archive(file, progress.say)
    emit_one(manifest.summary(), format)
    message(f"{file} is intact")


@archive_app.command("extract")
def archive_extract(
    file: Archive,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New campaign directory.")],
    store: Annotated[
        str, typer.Option("--store", metavar="URL", help="Database for the store; store.sqlite in DIR if not given.")
    ] = "",
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Make a campaign directory from an archive, whichever database the store was in."""
    from campaigns.archive import extract_archive

    with Progress(quiet) as progress:
        manifest = extract_archive(file, directory, store, progress.say)
    emit_one(manifest.summary(), format)
    message(f"{file} extracted to {directory}; go on with `kappascout status {directory}`")


def _starts(names: list[str] | None) -> str | tuple[str, ...]:
    """Give the one name as it is, several together, and an empty one for none."""
    return tuple(names) if names and len(names) > 1 else next(iter(names or ()), "")


def _open(directory: Path) -> Campaign:
    from campaigns.campaign import Campaign

    return Campaign.open(directory)


def _move(directory: Path, ids: list[str] | None, to: QueueState, note: str) -> None:
    with _open(directory) as campaign:
        moved = campaign.move(ids or [], to, note)
    message(f"{len(moved)} entries {to}")


def _show_rounds(rows: list[dict[str, Any]], format: Format) -> None:
    cheaper = ["cheaper_labels"] if any(row["cheaper_labels"] for row in rows) else []
    columns = [
        "round", "state", "labels", "cv_mae", "cv_mae_trees", "cv_spearman", "cv_crps", "new_labels", *cheaper, "mae",
        "crps", "coverage_90", "calibration_error", "spearman", "hits", "enhancement", "best", "cost",
    ]  # fmt: skip
    emit(rows, format, columns=columns)


def _model_row(record: Any) -> dict[str, Any]:
    from campaigns.lineage import kind_of, stage_row

    model = record.metrics.get("model", {})
    return {
        "model": record.model_id,
        "kind": kind_of(record),
        "parent": record.parent_id,
        "backbone": record.stage.get("backbone"),
        "strategy": record.settings.get("strategy"),
        "head": record.settings.get("head"),
        "members": len(record.members),
        "labels": stage_row(record)["labels"],
        "cv_mae": model.get("mae"),
        "cv_spearman": model.get("spearman"),
        "data_hash": record.data_hash[:12],
        "created_at": record.created_at,
    }
