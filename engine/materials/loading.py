"""Files to materials: read, check, standardise and hash, on all cores, in input order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

from engine.exceptions import CrystalError, EngineError
from engine.execution import cores, single_threaded_children
from engine.materials.checks import Rejection, check
from engine.materials.crystal import Material
from engine.materials.dimensionality import vacuum_note
from engine.materials.formats import RawRecord, Record, parse, rejection
from engine.materials.identity import identify
from engine.materials.readers import read

Outcome = Material | Rejection


def load(
    paths: Iterable[str | Path] | str | Path,
    workers: int | None = None,
    allowed_elements: Collection[str] | None = None,
    max_sites: int | None = None,
    chunk: int = 256,
) -> Iterator[list[Outcome]]:
    """Every record of ``paths`` as a standardised, hashed material or a rejection, in lists of at most ``chunk``.

    Parameters
    ----------
    paths
        Files, folders and archives; one that does not exist raises ``FileNotFoundError`` at once.
    workers
        Number of processes; None: one for each core. With 1, or fewer records than a chunk, this process does all.
    allowed_elements
        Symbols that are allowed, e.g. those of the backbone; None: Z = 1 to 103.
    max_sites
        Largest number of sites in a cell as given; None: any.
    chunk
        Records of a list; two lists for each worker are in flight, which bounds the memory.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; give at least 1")
    work = partial(
        process, allowed_elements=None if allowed_elements is None else frozenset(allowed_elements), max_sites=max_sites
    )
    return _load(_chunks(read(paths), chunk), work, workers or cores())


def process(
    records: list[RawRecord | Rejection],
    allowed_elements: Collection[str] | None = None,
    max_sites: int | None = None,
) -> list[Outcome]:
    """Process one chunk; rejections of the reader are passed through."""
    return [
        record if isinstance(record, Rejection) else _material(parse(record), allowed_elements, max_sites)
        for record in records
    ]


def _material(record: Record | Rejection, allowed_elements: Collection[str] | None, max_sites: int | None) -> Outcome:
    if isinstance(record, Rejection):
        return record
    try:
        check(record.crystal, allowed_elements, max_sites)
    except CrystalError as error:
        return rejection(error, record.source, record.id)
    material = identify(record.id, record.crystal, record.properties, record.source, record.notes, record.isotopes)
    note = vacuum_note(material.crystal)
    return replace(material, notes=(*material.notes, note)) if note else material


def _load(
    chunks: Iterator[list[RawRecord | Rejection]], work: partial[list[Outcome]], workers: int
) -> Iterator[list[Outcome]]:
    start = list(islice(chunks, 2))
    rest = chain(start, chunks)
    if workers == 1 or len(start) < 2:
        yield from map(work, rest)
        return
    # spawned, because a fork of a process that runs torch's threads can deadlock
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    waiting: deque[Future[list[Outcome]]] = deque()
    try:
        for records in rest:
            with single_threaded_children():
                waiting.append(executor.submit(work, records))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise EngineError(
            "a process that read crystals died (out of memory, or a script whose start is not under "
            "`if __name__ == '__main__':`); use workers=1 to stay in one process"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _chunks(records: Iterator[RawRecord | Rejection], size: int) -> Iterator[list[RawRecord | Rejection]]:
    while chunk := list(islice(records, size)):
        yield chunk
