"""Chunks of crystals from files, built-in sets and databases; an interrupted reading of a database continues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from campaigns.exceptions import CampaignError
from campaigns.intake.adding import Provenance
from campaigns.intake.checkpoints import Cursor
from campaigns.intake.ingest_report import IngestReport
from campaigns.output import Count
from engine.exceptions import RefusedRequestError, SourceError
from engine.materials.checks import Rejection
from engine.materials.crystal import Crystal, Material
from engine.materials.sources.kinds import BUILT_IN, CANDIDATES, REFERENCE
from engine.materials.sources.registry import check_source, open_source
from engine.materials.sources.source import DatabaseSource, Page

BATCH = 2048
"""Records of files that are stored together; a killed ingest loses at most as many."""


def open_sources(sources: Sequence[str], workers: int | None = None) -> Iterator[list[Material | Rejection]]:
    """Materials and rejections of files and of the built-in sets, in chunks."""
    from engine.materials.loading import load

    files = [s for s in sources if s not in BUILT_IN]
    if files:
        yield from load(files, workers)
    for source in sources:
        if source == REFERENCE:
            from engine.materials.reference import reference_crystals, reference_labels

            values: dict[str, dict[str, Any]] = {}
            for label in reference_labels():
                values.setdefault(label["id"], {})[f"{label['property']}_{label['fidelity']}"] = label["value"]
            yield _generated(source, ((id_, crystal, values[id_]) for id_, crystal in reference_crystals().items()))
        elif source == CANDIDATES:
            from engine.materials.candidates import generate_candidates

            yield _generated(source, ((c.id, c.crystal, c.properties) for c in generate_candidates()))


def gathered(lists: Iterable[list[Material | Rejection]]) -> Iterator[list[Material | Rejection]]:
    """Join lists until they hold :data:`BATCH` outcomes."""
    batch: list[Material | Rejection] = []
    for outcomes in lists:
        batch += outcomes
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def check_sources(sources: Sequence[str]) -> None:
    """Refuse a mistyped prefix or built-in set before anything is read.

    Raises
    ------
    CampaignError
        With the names that there are.
    """
    for text in sources:
        try:
            check_source(text)
        except SourceError as error:
            raise CampaignError(str(error)) from error


def opened(text: str, say: Callable[[str], None]) -> DatabaseSource:
    """Database of a source; a CampaignError if it cannot be opened, before anything is read from anywhere."""
    try:
        return open_source(text, say)
    except SourceError as error:
        raise CampaignError(str(error)) from error


def read_database(
    text: str, source: DatabaseSource, report: IngestReport, say: Callable[[str], None], folder: Path | None
) -> Iterator[tuple[list[Material | Rejection], Provenance]]:
    """Pages of a database, from where an earlier ingest of the same source was interrupted.

    The position is written when the caller requests the next page, so that a page counts when it is in the store.
    """
    from engine.materials.loading import process

    cursor = Cursor.load(folder, text)
    try:
        cursor, pages = _resumed(source, cursor, say)
        for page in fetched_ahead(pages):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            yield process(page.records), Provenance(source.query, now, page.version, page.row_versions)
            read = cursor.read + len(page.records)
            cursor = Cursor(text, page.next, cursor.page + 1, read, page.version)
            cursor.write(folder)
            of = f" of {page.total}" if page.total else ""
            say(Count(f"{text}: page {cursor.page}, {read}{of} records read"))
            report.notes += page.notes
            if page.next is None and page.total is not None and page.total != read:
                report.notes.append(f"{source.origin} announced {page.total} records and sent {read}")
    except SourceError as error:
        raise CampaignError(f"{text}, page {cursor.page + 1}: {error}") from error


def fetched_ahead(pages: Iterator[Page]) -> Iterator[Page]:
    """Each page, while the next one is being fetched."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = thread.submit(next, pages, None)
            yield page


def _resumed(source: DatabaseSource, cursor: Cursor, say: Callable[[str], None]) -> tuple[Cursor, Iterator[Page]]:
    """Pages from the cursor on; from the first where the position is gone or the database has another version."""
    if cursor.next is None:
        return cursor, source.pages()
    pages = source.pages(cursor.next)
    try:
        first = next(pages)
    except RefusedRequestError as error:
        why = f"its page {cursor.page + 1} no longer exists ({error})"
    else:
        if first.version == cursor.database_version:
            say(f"{cursor.source}: continuing at page {cursor.page + 1}; {cursor.read} records were read before")
            return cursor, chain([first], pages)
        why = f"the database was {cursor.database_version} and is {first.version} now"
    say(f"{cursor.source}: {why}; starting over, what is there already is skipped")
    return Cursor(cursor.source), source.pages()


def _generated(source: str, entries: Iterable[tuple[str, Crystal, dict[str, Any]]]) -> list[Material | Rejection]:
    from engine.materials.identity import identify

    return [identify(id_, crystal, properties, source) for id_, crystal, properties in entries]
