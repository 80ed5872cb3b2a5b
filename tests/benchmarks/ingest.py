"""The whole ingest (read, check, standardise, hash, link copies, store) against spglib alone on the same crystals.

Beside the time on the wall stands the processor time of all processes, which tells as much on a shared machine.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import spglib

from engine.execution import cores
from tests.benchmarks.crystals import large_pool_files, pool_files, write_substituted
from tests.benchmarks.measure import REPEATS, Measure, peak_gigabytes

SYMPREC = 0.01
CHUNK = 256
SMALL, LARGE = 10_000, 100_000
Cell = tuple[Any, Any, Any]


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float
    """Seconds."""
    processor: float
    """Seconds of all processes together."""
    gigabytes: float
    """Peak of the process that writes to the store."""


def measure() -> list[Measure]:
    """Rates in crystals a second, on as many processes as there are cores, and the memory of two sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = pool_files(folder), large_pool_files(folder)
        measures = compare(small, REPEATS)[0]
        if large != small:
            measures += compare(large, 2)[0]
        few, peak = compare([write_substituted(folder / "few.jsonl", SMALL)], 1)
        many, peak_of_many = compare([write_substituted(folder / "many.jsonl", LARGE)], 1)
        return [
            *measures,
            *few,
            *many,
            Measure(
                f"memory of ingest, {LARGE} crystals to {SMALL}",
                peak_of_many,
                peak,
                "GB",
                "<= 1.2",
                "peak of the process that writes; each worker holds a chunk",
            ),
        ]


def standardise_cells(cells: Sequence[Cell]) -> None:
    """Do the reference's work on one chunk."""
    for cell in cells:
        spglib.standardize_cell(cell, to_primitive=True, symprec=SYMPREC)


def compare(files: Sequence[Path], repeats: int) -> tuple[list[Measure], float]:
    """Rates of both, and the peak memory of ours in gigabytes."""
    workers = cores()
    cells = _cells(files)
    chunks = [cells[i : i + CHUNK] for i in range(0, len(cells), CHUNK)]
    ours, reference = [], []
    for _ in range(repeats):
        reference.append(_cost(partial(_spglib, chunks, workers)))
        ours.append(_ingested(files, workers))
    n = len(cells)
    rates = [
        Measure(
            f"ingest {n:,} crystals{words}",
            n / min(getattr(cost, kind) for cost in ours),
            n / min(getattr(cost, kind) for cost in reference),
            "crystals/s",
            ">= 0.80",
            note,
        )
        for kind, words, note in (
            ("wall", "", f"{workers} processes, starting them included"),
            ("processor", ", processor time", "of all processes together"),
        )
    ]
    return rates, min(cost.gigabytes for cost in ours)


def _cells(files: Sequence[Path]) -> list[Cell]:
    from engine.materials.formats import RawRecord, Record, parse
    from engine.materials.readers import read

    records = (parse(raw) for raw in read(files) if isinstance(raw, RawRecord))
    return [(r.crystal.lattice, r.crystal.frac_coords, r.crystal.numbers) for r in records if isinstance(r, Record)]


def _ingested(files: Sequence[Path], workers: int) -> Cost:
    """In a process of its own, whose peak memory is that of this ingest."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(_ingest, [str(path) for path in files], workers).result()


def _ingest(files: list[str], workers: int) -> Cost:
    from campaigns.campaign import Campaign

    with tempfile.TemporaryDirectory() as folder, Campaign.create(Path(folder) / "c", warm=False) as campaign:
        return _cost(partial(campaign.ingest, files, workers=workers))


def _spglib(chunks: Sequence[Any], workers: int) -> None:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        for _ in executor.map(standardise_cells, chunks):
            pass


def _cost(work: Callable[[], Any]) -> Cost:
    start, before = time.perf_counter(), _processor()
    work()
    return Cost(time.perf_counter() - start, _processor() - before, peak_gigabytes())


def _processor() -> float:
    """Seconds of this process and of its ended children."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)
