"""Verbs that bring crystals and labels in."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from campaigns.cli.options import Dir, NewProperty, OutFormat, Quiet, Workers, open_campaign
from campaigns.output import Format, Progress, emit, emit_one, message
from engine.materials.sources.kinds import described

if TYPE_CHECKING:
    from campaigns.intake.doubts import Doubt

app = typer.Typer(no_args_is_help=True, help="Import labels, list them, or withdraw them.")

_SHOWN = 20
_REJECTION_COLUMNS = ["source", "record_id", "reason", "message", "remedy"]


def ingest(
    directory: Dir,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help=f"Files, folders, archives, {described()}.",
        ),
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            help="Field of the records that holds labels: FIELD=PROPERTY@FIDELITY[:UNIT], "
            "such as kappa_agl_300K_W_mK=kappa_300K@agl (kappa is in W/(m K) unless UNIT is given); may be repeated.",
        ),
    ] = None,
    new_property: NewProperty = False,
    format: OutFormat = Format.TABLE,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Add candidate crystals; prints how many were added, duplicate or rejected, and why."""
    from campaigns.intake.label_fields import LabelField

    fields = [LabelField.parse(text) for text in label or ()]
    with open_campaign(directory) as campaign, Progress(quiet) as progress:
        report = campaign.ingest(sources, fields, workers, progress.say, new_property)
    counts = {
        "read": report.read,
        "added": report.added,
        "duplicate": report.duplicate,
        "unchanged": report.unchanged,
        "rejected": report.rejected,
        "labels": report.labels,
        "noted": report.noted,
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
        detail |= {"versions": report.versions, "notes": report.all_notes()}
        detail |= _doubtful(report.doubtful)
        emit_one(counts | {"reasons": dict(report.reasons.most_common())} | detail, format)
    else:
        emit([counts], format)
    for before, now in report.versions[:_SHOWN]:
        message(f"another version: {before} has another structure now, kept as {now}")
    if report.version > _SHOWN:
        message(f"... and {report.version - _SHOWN} more other versions")
    for note in report.all_notes():
        message(f"note: {note}")
    if report.noted:
        message(f"`kappascout rejections {directory} --notes` lists the crystals with a note")
    _say_doubtful(report.doubtful, directory)
    if report.rejected == report.read:
        message(
            f"error: all records were rejected ({report.rejected}), and nothing was added; correct what `kappascout "
            f"rejections {directory}` lists and ingest again"
        )
        raise typer.Exit(1)


def rejections(
    directory: Dir,
    notes: Annotated[bool, typer.Option("--notes", help="List notes on crystals that were added instead.")] = False,
    format: OutFormat = Format.TABLE,
) -> None:
    """List the crystals that were rejected: file, reason, and how to correct it."""
    from db.records import SourceNote

    with open_campaign(directory) as campaign:
        if notes:
            rows = [note._asdict() for note in campaign.store.source_notes()]
        else:
            rows = [vars(record) for record in campaign.store.rejections()]
    columns = list(SourceNote._fields) if notes else _REJECTION_COLUMNS
    emit(rows, format, columns=columns, empty="no crystal has a note" if notes else "no crystal was rejected")


@app.command("import")
def label_import(
    directory: Dir,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="CSV, JSON lines, kappa-*.hdf5, or an exported queue's folder or archive."),
    ],
    material: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Material that the given kappa-*.hdf5 belong to.")
    ] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature", min=0, help="Temperature in kelvin to keep besides that of the property; may be repeated."
        ),
    ] = None,
    as_method: Annotated[
        str,
        typer.Option(
            "--as-method",
            metavar="NAME",
            help="Accept kappa of another method than exported, as labels of this method.",
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Accept kappa that seems to belong to another crystal; the label says so.")
    ] = False,
    new_property: NewProperty = False,
    again: Annotated[
        bool, typer.Option("--again", help="Accept labels again that were withdrawn with the same value.")
    ] = False,
    format: OutFormat = Format.TABLE,
) -> None:
    """Import labels and results: all files or none, and of an exported queue whatever has ended."""
    from campaigns.exchange.comparison import compared

    with open_campaign(directory) as campaign:
        report = campaign.import_labels(
            paths, material, temperature or (), as_method, force, new_property=new_property, again=again
        )
        note = campaign.fidelity_note()
        beside = [each.row() for each in compared(campaign.workspace, report.added)]
    counts: dict[str, object] = {
        "added": len(report.added),
        "unchanged": len(report.unchanged),
        "superseded": len(report.superseded),
    }
    entries = [vars(outcome) for outcome in report.entries]
    if format is Format.JSON:
        detail: dict[str, object] = {"entries": entries} if entries else {}
        detail |= {"compared": beside} if beside else {}
        emit_one(counts | detail | _doubtful(report.doubtful), format)
    else:
        emit([counts | Counter(outcome.state for outcome in report.entries)], format)
        if beside and format is Format.TABLE:
            emit(beside, format, "found beside predicted")
    for outcome in report.entries:
        if outcome.message:
            message(f"{outcome.folder}: {outcome.state}: {outcome.message}")
    if note:
        message(note)
    _say_doubtful(report.doubtful, directory)
    for label in report.withdrawn[:_SHOWN]:
        message(f"unchanged: {label.material_id}: label {label.id} stays withdrawn ({label.withdrawn_reason})")
    if report.withdrawn:
        message(f"{len(report.withdrawn)} withdrawn labels were skipped; `--again` accepts those of files again")
    if any(outcome.state == "refused" for outcome in report.entries):
        message("error: some folders were refused (above); everything else was imported")
        raise typer.Exit(1)


@app.command("list")
def label_list(
    directory: Dir,
    every: Annotated[bool, typer.Option("--all", help="Include corrected and withdrawn labels.")] = False,
    doubtful: Annotated[bool, typer.Option("--doubtful", help="List only doubtful labels, with the reason.")] = False,
    format: OutFormat = Format.TABLE,
) -> None:
    """List current labels: which of them train the campaign's models, and which are doubtful."""
    from campaigns.status import label_rows

    with open_campaign(directory) as campaign:
        rows = label_rows(campaign.workspace, every, doubtful)
    columns = ["id", "material_id", "property", "value", "unit", "fidelity", "method", "source", "trains"]
    columns += ["state"] * every + ["doubtful"] * doubtful
    if format is Format.TABLE:
        rows = [row | {"doubtful": "; ".join(row["doubtful"])} for row in rows]
    none = f"no label yet; `kappascout label import {directory} FILE` imports them"
    emit(rows, format, columns=columns, empty="no label is doubtful" if doubtful else none)


@app.command("withdraw")
def label_withdraw(
    directory: Dir,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Ids of labels; with --property or --fidelity, ids of materials."),
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why the labels are withdrawn.")],
    property: Annotated[
        str | None, typer.Option("--property", help="Withdraw the materials' labels of this property.")
    ] = None,
    fidelity: Annotated[
        str | None, typer.Option("--fidelity", help="Withdraw the materials' labels of this fidelity.")
    ] = None,
    format: OutFormat = Format.TABLE,
) -> None:
    """Withdraw labels: they stay in the store, with who, when and why, and no longer train a model."""
    with open_campaign(directory) as campaign:
        labels = campaign.withdraw_labels(ids, reason, property, fidelity)
        again = campaign.candidates_again(labels)
    columns = ["id", "material_id", "property", "value", "unit", "fidelity", "withdrawn_by", "withdrawn_reason"]
    emit([vars(label) for label in labels], format, columns=columns)
    if again:
        shown = ", ".join(again[:_SHOWN]) + (", ..." if len(again) > _SHOWN else "")
        message(f"candidates again, since they have no label of the campaign's property and fidelity: {shown}")


def _doubtful(doubts: "Sequence[Doubt]") -> dict[str, object]:
    return {"doubtful": [doubt.row() for doubt in doubts]} if doubts else {}


def _say_doubtful(doubts: "Sequence[Doubt]", directory: Path) -> None:
    for doubt in doubts[:_SHOWN]:
        message(f"doubtful: {doubt}")
    if doubts:
        message(
            f"{len(doubts)} doubtful labels were accepted; `kappascout label list {directory} --doubtful` shows them, "
            "`kappascout label withdraw` withdraws labels"
        )
