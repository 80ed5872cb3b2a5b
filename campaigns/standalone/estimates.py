"""A cheap label for every crystal of some files: the quasi-harmonic Debye model on a potential, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.lines import GrowingLines
from campaigns.output import Count
from campaigns.standalone.files_report import FilesReport, unfinished_crystals
from engine.execution import cores
from engine.materials.crystal import Material

if TYPE_CHECKING:
    from engine.physics.debye import DebyeSettings
    from engine.physics.outcome import Outcome

KAPPA = "mlip_kappa_agl_300K_W_mK"
METHOD = "mlip_agl_method"
FAILURE = "mlip_agl_failure"
_FIELDS = {
    "debye_temperature": "mlip_debye_temperature_K",
    "gruneisen": "mlip_gruneisen",
    "bulk_modulus": "mlip_bulk_modulus_GPa",
}


def estimate_files(
    files: Sequence[Path],
    potential: str,
    out: Path,
    settings: DebyeSettings | None = None,
    workers: int | None = None,
    time_limit: float = 300.0,
    say: Callable[[str], None] = lambda _: None,
) -> FilesReport:
    """Estimate kappa of the crystals of ``files`` and append them to ``out``; what is there already is not done again.

    Parameters
    ----------
    files
        Crystals in any format that is read.
    potential
        As of :func:`engine.physics.potentials.load_potential`.
    out
        ``.jsonl`` or ``.jsonl.gz``: the records, their properties joined by ``mlip_kappa_agl_300K_W_mK``,
        ``mlip_debye_temperature_K``, ``mlip_gruneisen``, ``mlip_bulk_modulus_GPa``, or ``mlip_agl_failure``.
    settings
        Of the model; the defaults without.
    workers
        Processes; one a core if None.
    time_limit
        Seconds a crystal.
    say
        Takes lines of progress.

    Raises
    ------
    CampaignError
        If ``out`` has another ending, or holds estimates made otherwise.
    """
    from engine.physics.debye import DebyeSettings, calculate_kappa, method
    from engine.physics.outcome import Failed
    from engine.physics.potentials import load_potential
    from engine.physics.workers import calculate_all

    settings = settings or DebyeSettings()
    lines = _Lines.open(out)
    loaded = load_potential(potential)
    how = method(loaded, settings)
    done = _done_before(lines, how, loaded.describe())
    report = FilesReport(before=len(done))
    materials: dict[str, Material] = {}
    crystals = unfinished_crystals(files, done, materials, report.refused)
    calculation = partial(calculate_kappa, settings=settings)
    try:
        for finished in calculate_all(crystals, calculation, potential, workers or cores(), time_limit):
            lines.add(_record(materials.pop(finished.key), finished.outcome, how))
            if isinstance(finished.outcome, Failed):
                report.failures.append(f"{finished.key}: {finished.outcome.reason}: {finished.outcome.message}")
            else:
                report.calculated += 1
            say(Count(report.progress))
    finally:
        lines.flush()
    return report


def _record(material: Material, outcome: Outcome, how: str) -> dict[str, object]:
    from engine.physics.outcome import Calculated

    crystal = material.crystal
    if isinstance(outcome, Calculated):
        result = outcome.provenance["result"]
        found = {KAPPA: outcome.kappa} | {ours: result[name] for name, ours in _FIELDS.items()}
    else:
        found = {FAILURE: f"{outcome.reason}: {outcome.message}"}
    return {
        "id": material.id,
        "formula": material.formula,
        "lattice": crystal.lattice.tolist(),
        "species": crystal.symbols,
        "frac_coords": crystal.frac_coords.tolist(),
        "properties": material.properties | found | {METHOD: how},
    }


def _done_before(lines: _Lines, how: str, described: Mapping[str, str]) -> set[str]:
    version = f" ({described['package']} {described['version']})" if "version" in described else ""
    ids = set()
    for id_, made in lines.estimates():
        if made != how:
            raise CampaignError(
                f"{lines.path} holds estimates by {made!r}, these are by {how!r}{version}; choose another file"
            )
        ids.add(id_)
    return ids


class _Lines(GrowingLines):
    """Lines of records with their estimates."""

    def estimates(self) -> Iterator[tuple[str, str | None]]:
        """Id of each record, and how its estimate was made."""
        try:
            for record in self.read():
                yield record["id"], record["properties"].get(METHOD)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CampaignError(f"{self.path} holds other lines than `estimate` writes; choose another file") from error
