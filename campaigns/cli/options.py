"""Arguments and options that several verbs share, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from campaigns.output import Format

if TYPE_CHECKING:
    from campaigns.campaign import Campaign

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Campaign directory.")]
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
        help="Backbone or trained model to start from, shipped ones if not given. Several, each with its own "
        "--from, are read side by side: --from megnet-multiproperty --from TENSORNETDIR.",
    ),
]
NewProperty = Annotated[
    bool,
    typer.Option("--new-property", help="A property or fidelity that is nearly a known one is meant as it stands."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one a core if not given.")]


def open_campaign(directory: Path) -> Campaign:
    """Open the campaign of a directory."""
    from campaigns.campaign import Campaign

    return Campaign.open(directory)


def starts(names: list[str] | None) -> str | tuple[str, ...]:
    """Give the one name as it is, several together, and an empty one for none."""
    return tuple(names) if names and len(names) > 1 else next(iter(names or ()), "")


def one_start(names: list[str] | None) -> str:
    """Give the one name, an empty one for none; several are wrong usage where a single network goes on from them."""
    if names and len(names) > 1:
        raise typer.BadParameter(
            f"--from is given {len(names)} times ({', '.join(names)}), and one network goes on from one; keep one "
            "(`train` reads several side by side)"
        )
    return next(iter(names or ()), "")
