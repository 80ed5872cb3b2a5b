"""A study by name: run, or gone on with, and written."""

from __future__ import annotations

from pathlib import Path

from campaigns.exceptions import CampaignError
from campaigns.studies.data import Say
from campaigns.studies.results import Result

STUDIES = ("paraisite", "pairwise", "multiproperty", "fidelity")


def run_study(
    name: str, data: Path, out: Path, say: Say, *, quick: bool = False, start: str = ""
) -> tuple[Result, Path]:
    """Run a study on the files in ``data``; returns what it found, and the table written under ``out``.

    ``start`` is a backbone in place of the study's own: for ``paraisite`` one that has learned formation energies, for
    ``fidelity`` one that has seen no conductivity.
    """
    from campaigns.studies import fidelity, paraisite, properties

    work = out / ("work-quick" if quick else "work")
    if name == "paraisite":
        result = paraisite.run(data, work, say, paraisite.QUICK if quick else None, start)
    elif name == "fidelity":
        result = fidelity.run(data, work, say, fidelity.QUICK if quick else None, start)
    elif name in properties.STUDIES:
        if start:
            raise CampaignError(f"study {name} trains its own bodies; leave out --from")
        result = properties.run(name, data, work, say, properties.QUICK if quick else None)
    else:
        raise CampaignError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    options = "".join([" --quick" if quick else "", f" --from {start}" if start else ""])
    return result, result.write(out, f"kappascout study {name} --data {data}{options}")
