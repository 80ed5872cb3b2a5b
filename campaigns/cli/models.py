"""Verbs on models: train them and predict outside a campaign, list those of one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from campaigns.cli.options import (
    Dir,
    Field,
    OutFormat,
    PotentialPython,
    Quiet,
    Scale,
    Split,
    Start,
    TailAbove,
    TailBelow,
    Workers,
    one_start,
    open_campaign,
    say_files_report,
    split_settings,
    starts,
)
from campaigns.output import Format, Progress, emit, emit_one, message
from engine.learning.heads.kinds import GAUSSIAN_PROCESS, KINDS, described, head_kind

if TYPE_CHECKING:
    from db.records import ModelRecord

app = typer.Typer(no_args_is_help=True, help="Models of a campaign: versions, lineage, metrics and checkpoints.")


def _strategy(text: str) -> str:
    """Strategy under the engine's name; one that does not exist is wrong usage."""
    from engine.exceptions import TrainingError
    from engine.learning.networks.strategies import parse

    try:
        return {"none": "frozen", "auto": "auto"}.get(text) or str(parse(text))
    except TrainingError as error:
        raise typer.BadParameter(str(error)) from error


def _head(name: str) -> str:
    """Name of a head; one that does not exist is wrong usage."""
    from engine.exceptions import TrainingError

    try:
        return head_kind(name).name
    except TrainingError as error:
        raise typer.BadParameter(str(error)) from error


def train(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Labelled crystals.")],
    property: Field,
    out: Annotated[Path, typer.Option("--out", metavar="MODELDIR", help="Folder to write.")],
    start: Start = None,
    potential_python: PotentialPython = "",
    strategy: Annotated[
        str,
        typer.Option(
            callback=_strategy,
            help="Networks that are fine-tuned: auto, none (heads on embeddings only), full, last, head, blocks:K, "
            "embedding_frozen, gradual.",
        ),
    ] = "auto",
    head: Annotated[
        str, typer.Option(callback=_head, metavar=f"[{'|'.join(KINDS)}]", help=f"What predicts: {described()}.")
    ] = GAUSSIAN_PROCESS.name,
    members: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    scale: Scale = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of networks that are fine-tuned.")] = 30,
    auxiliaries: Annotated[
        bool,
        typer.Option("--auxiliaries/--no-auxiliaries", help="Networks also learn the other numbers of the records."),
    ] = True,
    split: Split = None,
    tail_above: TailAbove = None,
    tail_below: TailBelow = None,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Train a model outside a campaign; prints cross-validated metrics beside the baselines.

    With --split a model is trained on one side first and tested on the other; the one written is trained on all rows.
    """
    from campaigns.goals import Scale
    from campaigns.property_names import Property
    from campaigns.standalone.models import TrainRequest, train_model

    request = TrainRequest(
        files, property, out, starts(start), strategy, head, members, seed, scale, epochs, auxiliaries,
        potential_python, split_settings(split, tail_above, tail_below),
    )  # fmt: skip
    with Progress(quiet) as progress:
        record = train_model(request, progress.say)
    rows = [{"predictor": name, **record["metrics"][name]} for name in ("model", "constant", "extra_trees")]
    columns = ["predictor", "rows", "mae", "rmse", "r2", "spearman", "nll", "coverage_50", "coverage_90"]
    errors = Scale(record["scale"]).unit_of_errors(Property(property).unit) or "the property's unit"
    if tested := record["metrics"].get("split"):
        own = [{"predictor": name, **figures} for name, figures in tested["predictors"].items()]
        if format is Format.TABLE:
            shown = ["predictor", "rows", "mae", "mae_ln", "rmse", "r2", "spearman", "coverage_90"]
            title = f"held-out {property}, {tested['description']}, errors in {errors}"
            emit(own, format, title, [name for name in shown if errors == "log10" or name != "mae_ln"])
        else:  # one report
            rows = [{"evaluation": split, **r} for r in own] + [{"evaluation": "cross-validated", **r} for r in rows]
    emit(rows, format, f"cross-validated {property}, errors in {errors}", columns)
    message(f"members: {record['metrics']['chosen']}")
    message(f"model written to {out}")


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Shipped model, e.g. kappa-300K (W/(m K) at 300 K), a folder that `train` wrote, or a campaign: its "
            "latest model, with the intervals of its queue.",
        ),
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Crystals: CIF, POSCAR, JSON, ...")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="Table to write: .csv or .parquet; without it a table is printed."),
    ] = None,
    potential_python: PotentialPython = "",
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Predict the property of crystals, with 90 % intervals, by a shipped or a trained model."""
    from campaigns.standalone.predictions import predict_files

    with Progress(quiet) as progress:
        outcome = predict_files(model, files, out, progress.say, potential_python)
    for line in outcome.refused:
        message(line)
    if out is None:
        emit(outcome.rows, format, outcome.title, list(outcome.columns))
    else:
        message(f"{outcome.predicted} predictions written to {out}, {len(outcome.refused)} records refused")
        message(outcome.title)


def estimate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Crystals.")],
    potential: Annotated[
        str,
        typer.Option(
            "--potential",
            metavar="SPEC",
            help="Folder or name of a MatGL potential, a classical one such as rigid-ion:NaCl, a model of a library of "
            "potentials such as sevennet:7net-0 or mace:medium-mpa-0, or an ASE calculator, package.module:Callable; "
            "options of the last two as JSON after a question mark.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="PATH", help="File to write: .jsonl or .jsonl.gz; a second run continues it."),
    ],
    potential_python: PotentialPython = "",
    workers: Workers = None,
    time_limit: Annotated[float, typer.Option("--time-limit", min=1, help="Seconds for one crystal.")] = 300.0,
    quiet: Quiet = False,
) -> None:
    """Estimate kappa of many crystals in seconds each, by the quasi-harmonic Debye model (AGL)."""
    from campaigns.standalone.estimates import KAPPA, estimate_files
    from engine.physics.calculator_specs import with_python

    spec = with_python(potential, potential_python)
    with Progress(quiet) as progress:
        report = estimate_files(files, spec, out, workers=workers, time_limit=time_limit, say=progress.say)
    say_files_report(report, "estimated", out)
    message(f"`kappascout ingest DIR {out} --label {KAPPA}=kappa_300K@agl` adds them to a campaign")


def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Shipped recipe or JSON file.")],
    out: Annotated[Path, typer.Option("--out", metavar="BACKBONEDIR", help="Folder to write.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Crystals with the recipe's properties.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="ROLE=FILE[:FIELD[@FIDELITY]]",
            help="Crystals of one data set of the recipe; may be repeated.",
        ),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Backbone to start from, or scratch:megnet|m3gnet|tensornet|composition.",
        ),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="STAGE", help="Stage to leave out.")] = None,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Pre-train a backbone stage by stage, continuing where it stopped; prints errors on held-out formulas."""
    from campaigns.standalone.models import PretrainRequest, pretrain_backbone

    request = PretrainRequest(recipe, out, files or (), data or (), one_start(start), skip or ())
    with Progress(quiet) as progress:
        rows = pretrain_backbone(request, progress.say)
    emit(rows, format, "held-out formulas")
    message(f"backbone written to {out}")


@app.command("list")
def models_list(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """List models, oldest first: those of rounds, then those that they were made from."""
    from campaigns.models.lineage import ROUND, kind_of

    with open_campaign(directory) as campaign:
        records = sorted(campaign.store.models(), key=lambda record: kind_of(record) != ROUND)
    none = f"no model yet; `kappascout run {directory}` trains one in a round"
    emit([_model_row(record) for record in records], format, empty=none)


@app.command("show")
def models_show(
    directory: Dir,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id of a model.")],
    format: OutFormat = Format.TABLE,
) -> None:
    """Show one model: settings, metrics, members, and its lineage stage by stage."""
    from dataclasses import asdict

    from campaigns.models.lineage import stage_row, whole_lineage

    with open_campaign(directory) as campaign:
        stages = whole_lineage(campaign.store, model)
    rows = [stage_row(stage) for stage in stages]
    record = asdict(stages[-1])
    emit_one(record | {"lineage": rows} if format is Format.JSON else record, format)
    if format is Format.TABLE:
        emit(rows, format, "lineage, oldest first")


@app.command("verify")
def models_verify(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """Check the hash of every checkpoint; exit code 1 if one is missing or changed."""
    from campaigns.standalone.models import verify_models

    with open_campaign(directory) as campaign:
        rows = verify_models(campaign)
    emit(rows, format)
    bad = [row for row in rows if row["state"] != "intact"]
    if bad:
        named = ", ".join(row["checkpoint"] for row in bad[:3]) + (", ..." if len(bad) > 3 else "")
        message(
            f"error: {len(bad)} of {len(rows)} checkpoints are missing or changed ({named}); restore them from a copy"
        )
        raise typer.Exit(1)


def _model_row(record: "ModelRecord") -> dict[str, object]:
    from campaigns.models.lineage import kind_of, stage_row

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
