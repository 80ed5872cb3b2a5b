"""Verb on the stability of materials."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from campaigns.cli.options import OutFormat, PotentialPython, Quiet, Workers, open_campaign, say_files_report
from campaigns.output import Format, Progress, emit, emit_one, message

if TYPE_CHECKING:
    from campaigns.stability.request import RelaxReport

_SHOWN = 10


def relax(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DIR|FILE...", help="Campaign directory; or files of crystals, with --out."),
    ],
    potential: Annotated[
        str,
        typer.Option(
            "--potential",
            metavar="SPEC",
            help="Folder or name of a potential, or an ASE calculator, package.module:Callable with options as JSON "
            "after a question mark; as for `estimate`.",
        ),
    ],
    potential_python: PotentialPython = "",
    references: Annotated[
        list[Path] | None,
        typer.Option(
            "--references",
            metavar="FILE",
            help="Reference phases for energies above the hull: crystals or pymatgen entries, relaxed with the same "
            "potential, or formulas with energies; may be repeated. The hull is that of these phases alone.",
        ),
    ] = None,
    given_energies: Annotated[
        bool,
        typer.Option(
            "--given-energies",
            help="Energies of the references were calculated with this potential: they are used as they are.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace energies above the hull that materials came with.")
    ] = False,
    phonons: Annotated[
        bool,
        typer.Option("--phonons", help="Also compute the lowest frequency at the zone centre and the zone boundary."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="File for relaxed crystals of files: .jsonl or .jsonl.gz; a second run continues it.",
        ),
    ] = None,
    queued: Annotated[bool, typer.Option("--queued", help="Only materials with an unfinished queue entry.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Calculate again what failed with the same potential before.")
    ] = False,
    workers: Workers = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=1, help="Seconds for one calculation of a crystal.")
    ] = 600.0,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Relax candidates with a potential: energies and lowest frequencies become properties to limit candidates by."""
    from engine.physics.calculator_specs import with_python

    spec = with_python(potential, potential_python)
    if out is not None:
        if references or given_energies or replace or phonons or queued or retry:
            raise typer.BadParameter(
                "--out takes no option but --workers and --time-limit; references, phonons and the queue are for the "
                "materials of a campaign"
            )
        _relax_files(paths, spec, out, workers, time_limit, quiet)
        return
    if len(paths) != 1 or paths[0].is_file():
        raise typer.BadParameter("give one campaign directory; files of crystals need --out PATH.jsonl")
    (directory,) = paths
    from campaigns.stability.names import ENERGY_ABOVE_HULL, LOWEST_FREQUENCY, RELAXED_ENERGY
    from campaigns.stability.request import RelaxRequest

    request = RelaxRequest(
        spec, tuple(references or ()), given_energies, replace, phonons, queued, retry, workers, time_limit
    )
    if (given_energies or replace) and not references:
        raise typer.BadParameter("--given-energies and --replace are about --references FILE; add it")
    with open_campaign(directory) as campaign, Progress(quiet) as progress:
        report = campaign.relax(request, progress.say)
    _emit(report, format)
    for note in report.notes:
        message(f"note: {note}")
    for system, elements in list(report.without_reference.items())[:_SHOWN]:
        message(f"no energy above the hull in {system}: no reference of {', '.join(elements)}")
    if len(report.without_reference) > _SHOWN:
        message(f"... and {len(report.without_reference) - _SHOWN} more systems; give the pure phases too")
    if report.kept:
        message(
            f"{report.kept} energies above the hull came with their materials and were kept; --replace replaces them"
        )
    if not report.relaxed:
        message("no material could be relaxed; `failures` has the reasons")
        raise typer.Exit(1)
    columns = [RELAXED_ENERGY, *[ENERGY_ABOVE_HULL] * bool(report.above_hull), *[LOWEST_FREQUENCY] * phonons]
    message(f"[constraints] properties may limit {', '.join(columns)}")


def _emit(report: "RelaxReport", format: Format) -> None:
    if format is Format.JSON:
        emit_one(report.row() | {"without_reference": report.without_reference, "notes": report.notes}, format)
        return
    emit([report.row()], format)
    if format is Format.TABLE:
        emit(report.rows, format)
        if report.materials > len(report.rows):
            message(f"... and {report.materials - len(report.rows)} more materials")


def _relax_files(
    files: list[Path], potential: str, out: Path, workers: int | None, time_limit: float, quiet: bool
) -> None:
    from campaigns.configuration import FILE
    from campaigns.standalone.relaxations import relax_files

    if campaign := next((path for path in files if (path / FILE).is_file()), None):
        raise typer.BadParameter(f"{campaign} is a campaign; leave out --out, or give files of crystals")
    with Progress(quiet) as progress:
        report = relax_files(files, potential, out, workers, time_limit, progress.say)
    say_files_report(report, "relaxed", out)
