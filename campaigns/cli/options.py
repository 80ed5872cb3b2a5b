"""Arguments and options that several verbs share, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from campaigns.output import Format, message

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from campaigns.standalone.files_report import FilesReport
    from engine.metrics.splits import SplitSettings

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Campaign directory.")]
OutFormat = Annotated[Format, typer.Option("--format", help="Format of the report on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Goal = Annotated[Literal["min", "max"], typer.Option("--goal", help="min: low values are wanted; max: high ones.")]
Field = Annotated[str, typer.Option("--property", help="Field of the records' properties that is learned.")]
Scale = Annotated[
    Literal["log10", "linear"] | None,
    typer.Option("--scale", help="Scale it is learned on; without it log10 for kappa* and linear otherwise."),
]
Start = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Backbone or trained model to start from; without it the shipped ones. Several, each with its own "
        "--from, are used side by side: --from megnet-multiproperty --from TENSORNETDIR. A potential of another "
        "library, such as sevennet:7net-0, gives embeddings only.",
    ),
]
NewProperty = Annotated[
    bool,
    typer.Option("--new-property", help="Accept a property or fidelity although its name is close to a known one."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Number of processes; without it one for each core.")
]
PotentialPython = Annotated[
    str,
    typer.Option(
        "--potential-python",
        metavar="PYTHON",
        help="Python of another environment, in which the library of the potential is installed.",
    ),
]
Split = Annotated[
    Literal["formula", "space_group", "tail"] | None,
    typer.Option(
        "--split",
        help="Rows apart for a test: formula or space_group, a fifth of the rows with formulas or space groups that no "
        "training row has; tail, those below a threshold of the property, training rows above it.",
    ),
]
TailAbove = Annotated[
    float | None,
    typer.Option(
        "--tail-above",
        metavar="VALUE",
        help="Train on values above this one in --split tail, test the others; without it the lowest fifth is tested.",
    ),
]
TailBelow = Annotated[
    float | None,
    typer.Option("--tail-below", metavar="VALUE", help="The other direction: train below this value, test the others."),
]


def split_settings(
    kind: Literal["formula", "space_group", "tail"] | None,
    above: float | None,
    below: float | None,
    goal: Literal["min", "max"] = "min",
) -> SplitSettings | None:
    """Read the options of a split; those that contradict each other are wrong usage.

    A tail without a threshold is at the low end for the goal ``min``, at the high end for ``max``.
    """
    from engine.metrics.splits import SplitSettings

    if kind != "tail" and (above, below) != (None, None):
        raise typer.BadParameter("--tail-above and --tail-below are thresholds of --split tail; add it")
    if above is not None and below is not None:
        raise typer.BadParameter("--tail-above tests low values and --tail-below high ones; keep one")
    if kind is None:
        return None
    high = below is not None or (above is None and goal == "max")
    return SplitSettings(kind, tail="high" if high else "low", threshold=above if below is None else below)


def open_campaign(directory: Path) -> Campaign:
    """Open the campaign of a directory."""
    from campaigns.campaign import Campaign

    return Campaign.open(directory)


def starts(names: list[str] | None) -> str | tuple[str, ...]:
    """One name as it is, several as a tuple, and an empty text for none."""
    return tuple(names) if names and len(names) > 1 else next(iter(names or ()), "")


def one_start(names: list[str] | None) -> str:
    """One name, or an empty text for none; several are wrong usage, since a network starts from one backbone."""
    if names and len(names) > 1:
        raise typer.BadParameter(
            f"--from is given {len(names)} times ({', '.join(names)}), a network starts from one backbone; keep one "
            "(`train` reads several side by side)"
        )
    return next(iter(names or ()), "")


def say_files_report(report: FilesReport, calculated: str, out: Path) -> None:
    """Say what became of the crystals of files; exit code 1 if nothing did."""
    for line in report.lines(calculated, out):
        message(line)
    if not report.calculated + report.before:
        raise typer.Exit(1)
