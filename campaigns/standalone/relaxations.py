"""Relaxation of the crystals of some files with a potential, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from campaigns.exceptions import CampaignError
from campaigns.lines import GrowingLines
from campaigns.output import Count
from campaigns.stability.calculations import FAILURE, FIGURES, Method, result_of
from campaigns.stability.names import RELAXED_WITH
from campaigns.stability.properties import relaxation_properties
from campaigns.standalone.files_report import FilesReport, unfinished_crystals
from engine.execution import cores
from engine.materials.crystal import Crystal, Material

if TYPE_CHECKING:
    from db.records import Json
    from engine.physics.outcome import Failed
    from engine.physics.stability import Figures
    from engine.physics.workers import Calculation


def relax_files(
    files: Sequence[Path],
    potential: str,
    out: Path,
    workers: int | None = None,
    time_limit: float = 600.0,
    say: Callable[[str], None] = lambda _: None,
) -> FilesReport:
    """Relax the crystals of ``files`` and append them to ``out``; what is there already is not done again.

    Parameters
    ----------
    files
        Crystals in any format that is read.
    potential
        As of :func:`engine.physics.potentials.load_potential`.
    out
        ``.jsonl`` or ``.jsonl.gz``: the relaxed crystals, with the properties they had and those of a relaxation. One
        that could not be relaxed is there as it was, with the reason as ``relaxation_failure``.
    workers
        Processes; one a core if None.
    time_limit
        Wall seconds for each crystal.
    say
        Takes lines of progress.

    Raises
    ------
    CampaignError
        If ``out`` has another ending, or holds crystals that were relaxed otherwise.
    """
    from engine.physics.potentials import load_potential
    from engine.physics.relaxation import RelaxationSettings
    from engine.physics.stability import relaxation_figures
    from engine.physics.workers import calculate_all

    settings = RelaxationSettings()
    lines = GrowingLines.open(out)
    method = Method.of(potential, load_potential(potential), {"relaxation": asdict(settings)})
    report = FilesReport(before=0)
    materials: dict[str, Material] = {}
    crystals = unfinished_crystals(files, _done_before(lines, str(method), report), materials, report.refused)
    calculation = partial(relaxation_figures, settings=settings)
    try:
        for finished in calculate_all(
            crystals, cast("Calculation", calculation), potential, workers or cores(), time_limit
        ):
            result = result_of(cast("Figures | Failed", finished.outcome))
            lines.add(_record(materials.pop(finished.key), result, method))
            if FAILURE in result:
                report.failures.append(f"{finished.key}: {result[FAILURE]['reason']}: {result[FAILURE]['message']}")
            else:
                report.calculated += 1
            say(Count(report.progress))
    finally:
        lines.flush()
    return report


def _record(material: Material, result: Json, method: Method) -> dict[str, object]:
    crystal = Crystal.from_dict(result[FIGURES]["crystal"]) if FIGURES in result else material.crystal
    found = {name: value for name, value in relaxation_properties(result, method).items() if value is not None}
    return {
        "id": material.id,
        "formula": material.formula,
        "lattice": crystal.lattice.tolist(),
        "species": crystal.symbols,
        "frac_coords": crystal.frac_coords.tolist(),
        "properties": material.properties | found | {RELAXED_WITH: str(method)},
    }


def _done_before(lines: GrowingLines, how: str, report: FilesReport) -> set[str]:
    ids = set()
    try:
        for record in lines.read():
            if (made := record["properties"][RELAXED_WITH]) != how:
                raise CampaignError(f"{lines.path} holds crystals relaxed with {made}, not {how}; choose another file")
            ids.add(record["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CampaignError(f"{lines.path} holds other lines than `relax` writes; choose another file") from error
    report.before = len(ids)
    return ids
