"""A study by name: run, or gone on with, and written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from campaigns.exceptions import CampaignError
from campaigns.studies.data import Say
from campaigns.studies.results import Result
from engine.metrics.splits import SplitKind

STUDIES = ("paraisite", "pairwise", "multiproperty", "fidelity", "phonix", "srme")


def run_study(
    name: str,
    data: Path,
    out: Path,
    say: Say,
    *,
    quick: bool = False,
    start: str = "",
    split: SplitKind | None = None,
    potential: str = "",
) -> tuple[Result, Path]:
    """Run a study on the files in ``data``; returns what it found, and the table written under ``out``.

    ``start`` is a backbone in place of the study's own: for ``paraisite`` one that has learned formation energies, for
    ``fidelity`` one that has seen no conductivity, for ``phonix`` one that has seen none of first principles.
    ``split`` says what the test rows of ``pairwise`` and ``multiproperty`` have that no training row has: a reduced
    formula if not given, a space group, or a value below all training values; then files are called
    ``multiproperty-tail`` and the like. ``potential`` is the interatomic potential that ``srme`` measures, as of
    :func:`engine.physics.potentials.load_potential`.

    Raises
    ------
    CampaignError
        If there is no such study, or it does not take what is given.
    """
    from campaigns.studies import fidelity, paraisite, phonix, properties, srme

    if split and name not in properties.STUDIES:
        raise CampaignError(
            f"study {name} has splits of its own; leave out --split, which is for {' and '.join(properties.STUDIES)}"
        )
    if potential and name != srme.NAME:
        raise CampaignError(f"study {name} needs no potential; leave out --potential, which is for {srme.NAME}")
    work = out / ("work-quick" if quick else "work")
    if name == "paraisite":
        result = paraisite.run(data, work, say, paraisite.QUICK if quick else None, start)
    elif name == "fidelity":
        result = fidelity.run(data, work, say, fidelity.QUICK if quick else None, start)
    elif name == "phonix":
        result = phonix.run(data, work, say, phonix.QUICK if quick else None, start)
    elif name == srme.NAME:
        if start:
            raise CampaignError(f"study {name} trains no model; leave out --from")
        result = srme.run(data, work, say, potential, srme.QUICK if quick else None)
    elif name in properties.STUDIES:
        if start:
            raise CampaignError(f"study {name} trains its own bodies; leave out --from")
        settings = properties.QUICK if quick else properties.PropertiesSettings()
        result = properties.run(name, data, work, say, replace(settings, split=split or "formula"))
    else:
        raise CampaignError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    given = [" --quick" if quick else "", f" --from {start}" if start else "", f" --split {split}" if split else ""]
    given += [f" --potential {potential}" if potential else ""]
    options = "".join(given)
    return result, result.write(out, f"kappascout study {name} --data {data}{options}")
