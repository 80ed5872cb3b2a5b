"""How much processor time the command line takes to answer."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from campaigns.campaign import Campaign
from tests.benchmarks.measure import Measure

REPEATS = 5
CRYSTALS = 300
LABELS = 10
LIBRARIES = "import sqlalchemy, pydantic, numpy"
"""What a command that reads the store and the settings cannot do without, as a measure of the machine."""


def measure() -> list[Measure]:
    """Processor time (user and system, best of five) of help and of three small commands, against the libraries'."""
    command = str(Path(sys.executable).with_name("kappascout"))
    reference = _seconds([sys.executable, "-c", LIBRARIES])
    with tempfile.TemporaryDirectory() as folder:
        campaign, labels = _campaign(Path(folder))
        commands = (
            ("--help",),
            ("status", campaign),
            ("queue", "list", campaign),
            ("label", "import", campaign, labels),
        )
        return [
            Measure(
                f"kappascout {' '.join(w for w in words if w not in (campaign, labels))}",
                _seconds([command, *words]),
                reference,
                "s",
                "",
                f"processor time against `python -c '{LIBRARIES}'`",
            )
            for words in commands
        ]


def _campaign(folder: Path) -> tuple[str, str]:
    """A campaign of rock salt at :data:`CRYSTALS` lattice constants, and a file of :data:`LABELS` labels for it."""
    crystals, labels = folder / "crystals.jsonl", folder / "labels.csv"
    crystals.write_text("".join(_rock_salt(i) for i in range(CRYSTALS)))
    rows = [f"m{i},kappa_300K,{1 + i},W/(m K),dft\n" for i in range(LABELS)]
    labels.write_text("id,property,value,unit,fidelity\n" + "".join(rows))
    with Campaign.create(folder / "campaign", warm=False) as campaign:
        campaign.ingest([str(crystals)], workers=1)
    return str(folder / "campaign"), str(labels)


def _rock_salt(number: int) -> str:
    half = (4.0 + 0.05 * number) / 2
    lattice = [[0.0, half, half], [half, 0.0, half], [half, half, 0.0]]
    sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    record = {"id": f"m{number}", "lattice": lattice, "species": ["Na", "Cl"], "frac_coords": sites}
    return json.dumps(record) + "\n"


def _seconds(command: list[str]) -> float:
    """Least processor time of a command in seconds."""
    taken = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(taken)
