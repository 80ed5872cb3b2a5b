"""Sources of crystals into the store: read, check, link copies, record what was refused and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.intake.adding import FILES, Provenance, add_materials
from campaigns.intake.ingest_report import IngestReport
from campaigns.intake.label_fields import LabelField, bad_label, check_fields, labels_of, own_labels
from campaigns.intake.reading import check_sources, gathered, open_sources, opened, read_database
from campaigns.output import Count
from db.records import RejectionRecord
from engine.materials.checks import Rejection
from engine.materials.crystal import Material
from engine.materials.sources.registry import is_remote

if TYPE_CHECKING:
    from db.store import Store

_NAMED = 5
"""Number of relaxations that a note names."""


def ingest(
    store: Store,
    sources: Sequence[str],
    label_fields: Sequence[LabelField] = (),
    workers: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    cursors: Path | None = None,
) -> IngestReport:
    """Add what ``sources`` hold to the store, chunk by chunk; a chunk is stored completely or not at all.

    Parameters
    ----------
    store
        Where to.
    sources
        Files, folders, archives, built-in sets, and databases (``PREFIX:QUERY``), which come last.
    label_fields
        Which properties are also labels.
    workers
        Processes that read files; None takes one a core.
    say
        Called with a line of progress.
    cursors
        Folder with the position in each database, so that an interrupted ingest continues there; None
        starts at the beginning.

    Raises
    ------
    CampaignError
        A source cannot be opened or read, or none holds anything; what was read before stays in the store.
    """
    report = IngestReport()
    found: set[str] = set()
    check_sources(sources)
    remote = [(text, opened(text, say)) for text in sources if is_remote(text)]
    local = [text for text in sources if not is_remote(text)]
    for outcomes in gathered(open_sources(local, workers)) if local else ():
        found |= _keep(store, outcomes, label_fields, report, FILES)
        say(Count(f"{report.read} records read"))
    for text, source in remote:
        fields = [*label_fields, *own_labels(text)]
        for outcomes, provenance in read_database(text, source, report, say, cursors):
            found |= _keep(store, outcomes, fields, report, provenance)
    if sources and not report.read:
        raise CampaignError(
            f"nothing was read: {', '.join(sources)} {'holds' if len(sources) == 1 else 'hold'} no crystal, not even "
            "one to refuse; give files of crystals (tables of properties by id are joined to crystals read with them)"
        )
    if report.relaxation:
        report.notes.append(_relaxation_note(report))
    check_fields(label_fields, found)
    return report


def _relaxation_note(report: IngestReport) -> str:
    shown = ", ".join(f"{new} and {known}" for new, known in report.relaxations[:_NAMED])
    are = (
        "materials are the same compound as another"
        if report.relaxation > 1
        else "material is the same compound as another"
    )
    more = ", ..." if report.relaxation > _NAMED else ""
    return f"{report.relaxation} {are} in the store, other relaxation; a batch holds one of each: {shown}{more}"


def _keep(
    store: Store,
    outcomes: Sequence[Material | Rejection],
    label_fields: Sequence[LabelField],
    report: IngestReport,
    provenance: Provenance,
) -> set[str]:
    """Add one chunk to the store; return the names of the properties in it."""
    materials = [o for o in outcomes if isinstance(o, Material)]
    refused = [_rejection(o) for o in outcomes if isinstance(o, Rejection)]
    bad = {id(m): r for m in materials if (r := bad_label(m, label_fields, store.label_limits))}
    refused += bad.values()
    with store.transaction():
        kept, conflicts = add_materials(store, [m for m in materials if id(m) not in bad], report, provenance)
        refused += conflicts
        store.add_rejections(refused)
        labels = store.add_labels(labels_of(kept, label_fields))
    report.labels += len(labels.added)
    report.label_ids += labels.added
    report.unchanged_label_ids += labels.unchanged
    store.compact_structures()
    report.add_rejections(refused)
    report.add_notes(kept)
    return {name for m in materials for name in m.properties}


def _rejection(rejection: Rejection) -> RejectionRecord:
    return RejectionRecord(
        rejection.source, rejection.record_id, str(rejection.reason), rejection.message, rejection.remedy
    )
