"""Run the benchmarks, each in a process of its own, and print one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.measure import Measure

NAMES = ("start", "store", "ingest", "scoring", "ranking", "demo", "agl", "phonons", "other_environment")
LONG = ("backtests", "scale", "labels", "mode_gruneisen")
"""Of half an hour to hours; only when named."""


def main() -> None:
    """Measure what was asked for; the exit code is 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (all of these if none is given), {', '.join(LONG)} (long)",
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="also write the table to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*NAMES, *LONG}:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join((*NAMES, *LONG))}")
    measures = []
    for name in arguments.names or NAMES:
        sys.stderr.write(f"{name} ...\n")
        measures += _in_own_process(name)
        if arguments.out:
            arguments.out.write_text(
                json.dumps(_machine() | {"measures": [m.row() for m in measures]}, indent=1) + "\n"
            )
    _print(measures)
    sys.exit(1 if any(m.met is False for m in measures) else 0)


def _in_own_process(name: str) -> list[Measure]:
    """So that its peak memory and its imports are its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(import_module(f"tests.benchmarks.{name}").measure).result()


def _machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }


def _print(measures: list[Measure]) -> None:
    from rich.console import Console
    from rich.table import Table

    machine = _machine()
    table = Table(title=", ".join(f"{name} {value}" for name, value in machine.items()), title_justify="left", box=None)
    for column in ("measure", "ours", "reference", "unit", "ratio", "goal", "met", "note"):
        table.add_column(column, justify="right" if column in ("ours", "reference", "ratio") else "left")
    for m in measures:
        met = {None: "", True: "yes", False: "NO"}[m.met]
        table.add_row(m.name, _number(m.ours), _number(m.reference), m.unit, _number(m.ratio), m.goal, met, m.note)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
