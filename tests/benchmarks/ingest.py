"""The whole ingest (read, check, standardise, hash, link copies, store) against spglib alone on the same crystals."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import spglib

from tests.benchmarks.crystals import large_pool_files, pool_files
from tests.benchmarks.measure import REPEATS, Measure, seconds

SYMPREC = 0.01
CHUNK = 256
Cell = tuple[Any, Any, Any]


def measure() -> list[Measure]:
    """Rates in crystals a second, on as many processes as there are cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = pool_files(folder), large_pool_files(folder)
        measures = _compare(small, repeats=REPEATS)
        if large != small:
            measures += _compare(large, repeats=2)
        return measures


def standardise_cells(cells: Sequence[Cell]) -> None:
    """Do the reference's work on one chunk."""
    for cell in cells:
        spglib.standardize_cell(cell, to_primitive=True, symprec=SYMPREC)


def _compare(files: Sequence[Path], repeats: int) -> list[Measure]:
    from engine.materials.loading import process

    workers = len(os.sched_getaffinity(0))
    cells = _cells(files)
    chunks = [cells[i : i + CHUNK] for i in range(0, len(cells), CHUNK)]
    ours, reference = [], []
    for _ in range(repeats):
        reference.append(_pool_seconds(standardise_cells, chunks, workers))
        ours.append(seconds(partial(_ingest, files, workers)))
    ours_start = min(_pool_seconds(process, [[]] * workers, workers) for _ in range(repeats))
    reference_start = min(_pool_seconds(standardise_cells, [[]] * workers, workers) for _ in range(repeats))
    n = len(cells)
    told = f"{workers} processes, starting them takes {ours_start:.1f} s, spglib's {reference_start:.1f} s"
    return [
        Measure(f"ingest {n} crystals", n / min(ours), n / min(reference), "crystals/s", ">= 0.70", told),
        Measure(
            f"ingest {n} crystals, processes started",
            n / (min(ours) - ours_start),
            n / (min(reference) - reference_start),
            "crystals/s",
            ">= 0.70",
        ),
    ]


def _cells(files: Sequence[Path]) -> list[Cell]:
    from engine.materials.formats import RawRecord, Record, parse
    from engine.materials.readers import read

    records = [parse(raw) for raw in read(files) if isinstance(raw, RawRecord)]
    return [(r.crystal.lattice, r.crystal.frac_coords, r.crystal.numbers) for r in records if isinstance(r, Record)]


def _ingest(files: Sequence[Path], workers: int) -> None:
    from campaigns.campaign import Campaign

    with tempfile.TemporaryDirectory() as folder, Campaign.create(Path(folder) / "c") as campaign:
        campaign.ingest([str(path) for path in files], workers=workers)


def _pool_seconds(work: Callable[[Any], Any], chunks: Sequence[Any], workers: int) -> float:
    """Start the processes, do the chunks, end the processes."""

    def run() -> None:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
            for _ in executor.map(work, chunks):
                pass

    return seconds(run)
