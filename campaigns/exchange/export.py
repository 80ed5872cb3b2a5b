"""Export of the queue: calculations for phono3py or VASP, structures as CIF, or a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import CampaignError, ExchangeError, TooLargeError
from campaigns.exchange.bill import Bill
from campaigns.exchange.comparability import method_remarks
from campaigns.exchange.manifest import ENTRY, MANIFEST, Entry, text_sha256, write_manifest
from campaigns.exchange.scripts import submit_script
from campaigns.files import replaced, write_whole
from campaigns.output import Count
from campaigns.pool.exported_work import EXPORTS
from campaigns.queue import move, queue_row, with_formula
from db.states import JobState, QueueState
from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    from campaigns.configuration import DftSection
    from campaigns.exchange.calculation import Calculation, Plan
    from campaigns.workspace import Workspace
    from db.records import Json, QueueEntryRecord

FORMATS = ("cif", "csv", "json", "phono3py", "vasp")
_EXPORTABLE = (QueueState.APPROVED, QueueState.EXPORTED, QueueState.RUNNING)
_NAME_LENGTH = 50
"""Most characters of an id in a file name; a name may have 255 bytes."""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export."""

    written: tuple[QueueEntryRecord, ...]
    """Entries that are on disk now, those of an earlier export included."""
    passed_over: tuple[tuple[QueueEntryRecord, str], ...] = ()
    """Entries that were left out, and the reason; they stay approved."""
    bill: Bill | None = None
    """What the calculations take; None for structures alone, and for relaxations, which have no price."""


class NothingToExportError(TooLargeError):
    """None of the entries can be calculated within the limits."""

    def __init__(self, passed_over: tuple[tuple[QueueEntryRecord, str], ...]):
        self.passed_over = passed_over
        reasons = "\n".join(f"  {entry.material_id}: {reason}" for entry, reason in passed_over)
        super().__init__(f"no entry can be exported:\n{reasons}")


def export_queue(
    workspace: Workspace,
    to: Path,
    format: str,
    round: int | None = None,
    max_supercells: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    accept: Callable[[Bill], bool] = lambda bill: False,
) -> ExportReport:
    """Write every approved entry (and again those exported before) to ``to``; approved ones become exported.

    ``phono3py`` and ``vasp``: a folder with one folder for each entry, ``manifest.json``, and a Slurm script; one that
    exists already is not changed. ``cif``: a folder with a file for each entry and ``queue.csv``; ``csv`` and ``json``:
    one file. An entry becomes exported only when all its files are on disk; writing again gives the same bytes.

    Parameters
    ----------
    max_supercells
        In place of ``[dft] max_supercells``.
    say
        Receives progress.
    accept
        Asked before anything is written where the new calculations take more than ``[dft] confirm_core_hours``.

    Raises
    ------
    CampaignError
        If nothing is approved, nothing can be written, ``to`` holds other calculations under the same names, or their
        core-hours are not accepted.
    """
    if format not in FORMATS:
        raise CampaignError(f"format {format!r} is not known; choose one of {', '.join(FORMATS)}")
    with workspace.locked():
        entries = [e for e in workspace.store.queue(_EXPORTABLE, round) if _is_for_export(workspace, e, format)]
        if entries and format in ("phono3py", "vasp"):
            entries = _without_jobs(workspace, entries, say)
        if not entries:
            proposed = len(workspace.store.queue([QueueState.PROPOSED], round))
            approve = f"approve some first: `kappascout queue approve {workspace.directory}`"
            hint = approve if proposed else f"do a round first: `kappascout run {workspace.directory}`"
            raise CampaignError(f"no approved entry to export ({proposed} proposed); {hint}")
        try:
            if format in ("phono3py", "vasp"):
                report = _write_calculations(workspace, entries, to, format, max_supercells, say, accept)
            else:
                _write_listing(workspace, entries, to, format)
                report = ExportReport(tuple(entries))
        except OSError as error:
            raise CampaignError(f"cannot write to {to} ({error.strerror}); no entry was marked as exported") from error
        for fidelity in sorted({e.fidelity for e in report.written}):
            own = [e for e in report.written if e.fidelity == fidelity]
            if approved := [e.material_id for e in own if e.state is QueueState.APPROVED]:
                move(workspace, approved, QueueState.EXPORTED, f"written to {to} as {format}", fidelity)
    return report


def export_approved(
    workspace: Workspace, to: Path, say: Callable[[str], None], accept: Callable[[Bill], bool]
) -> ExportReport:
    """Write the calculations of approved entries alone, for submission; none that can be written is no error.

    Raises
    ------
    CampaignError
        If ``to`` holds other calculations under the same names or cannot be written, or the core-hours are not
        accepted.
    """
    with workspace.locked():
        approved = workspace.store.queue([QueueState.APPROVED])
        entries = [e for e in approved if _is_for_export(workspace, e, "phono3py")]
        if not entries:
            return ExportReport(())
        try:
            report = _write_calculations(workspace, entries, to, "phono3py", None, say, accept)
        except NothingToExportError as error:
            return ExportReport((), error.passed_over)
        except OSError as error:
            raise CampaignError(f"cannot write to {to} ({error.strerror}); no entry was marked as exported") from error
        for fidelity in sorted({e.fidelity for e in report.written}):
            own = [e.material_id for e in report.written if e.fidelity == fidelity]
            move(workspace, own, QueueState.EXPORTED, f"written to {to} for submission", fidelity)
    return report


def _without_jobs(
    workspace: Workspace, entries: list[QueueEntryRecord], say: Callable[[str], None]
) -> list[QueueEntryRecord]:
    """Entries that no job of a queueing system works on: those would be calculated twice.

    Raises
    ------
    CampaignError
        If all have jobs.
    """
    pending = workspace.store.jobs([s for s in JobState if not s.is_finished], [e.id for e in entries if e.id])
    busy = {job.entry_id for job in pending}
    left = [entry for entry in entries if entry.id not in busy]
    if busy and not left:
        raise CampaignError(
            f"all {len(entries)} approved entries were submitted, and have jobs; `kappascout watch "
            f"{workspace.directory}` follows them"
        )
    if busy:
        ids = sorted(entry.material_id for entry in entries if entry.id in busy)
        say(f"left out, because they were submitted and have jobs: {', '.join(ids)}")
    return left


def export_records(workspace: Workspace) -> Path:
    """Folder with one file for each exported calculation, which results are compared with."""
    return workspace.artifacts / EXPORTS


def _is_for_export(workspace: Workspace, entry: QueueEntryRecord, format: str) -> bool:
    """Whether an entry is exported; inputs are written for the target fidelity only."""
    cheaper = workspace.configuration.labeler.fidelities.get(entry.fidelity)
    return cheaper is None or (cheaper.kind == "dft" and format not in ("phono3py", "vasp"))


# -- calculations -----------------------------------------------------------------------------------------------------


def _write_calculations(
    workspace: Workspace,
    entries: Sequence[QueueEntryRecord],
    to: Path,
    format: Any,
    max_supercells: int | None,
    say: Callable[[str], None],
    accept: Callable[[Bill], bool],
) -> ExportReport:
    from campaigns.exchange.calculation import Plan
    from campaigns.pool.costs import Costs

    section, dft = workspace.configuration.campaign, workspace.configuration.dft
    if max_supercells is not None:
        dft = dft.model_copy(update={"max_supercells": max_supercells})
    costs = Costs.now(workspace, say, exported=True)
    planned, passed_over = _planned(workspace, entries, Plan(section, dft, format, costs), say)
    if not planned:
        raise NothingToExportError(tuple(passed_over))
    present = _present(to)
    _refuse_others(to, {name: c.entry for name, (_, c) in planned.items()}, present)
    for note in method_remarks(workspace, [calculation.entry for _, calculation in planned.values()]):
        say(note)
    # before anything slow is written
    listed = "".join(f"{name}\n" for name in sorted(planned))
    # a list of its own for each export, since tasks of an array that is queued read theirs later
    list_name = f"entries-{text_sha256(listed)[:8]}.txt"
    submit = submit_script(section.name, sorted(planned), list_name, dft, workspace.directory)
    bill = Bill.of([c.entry for _, c in planned.values()], str(costs))
    _require_accepted(
        Bill.of([c.entry for name, (_, c) in planned.items() if name not in present], str(costs)), dft, accept
    )
    for i, (name, (_, calculation)) in enumerate(planned.items(), start=1):
        if name not in present:
            to.mkdir(parents=True, exist_ok=True)
            calculation.write(to / name)
            present[name] = calculation.entry
        text = present[name].to_json()
        write_whole(export_records(workspace) / f"{text_sha256(text)}.json", text)
        say(Count(f"{i} of {len(planned)} calculations written"))
    write_whole(to / list_name, listed)
    write_whole(to / "submit.sh", submit)
    write_whole(to / MANIFEST, write_manifest(present))
    return ExportReport(tuple(entry for entry, _ in planned.values()), tuple(passed_over), bill)


def _planned(
    workspace: Workspace, entries: Sequence[QueueEntryRecord], plan: Plan, say: Callable[[str], None]
) -> tuple[dict[str, tuple[QueueEntryRecord, Calculation]], list[tuple[QueueEntryRecord, str]]]:
    """Entries with their calculation by the name of their folder, and the others with the reason."""
    from campaigns.exchange.calculation import plan_calculation

    materials = {m.material_id: m for m in workspace.store.materials([e.material_id for e in entries])}
    planned: dict[str, tuple[QueueEntryRecord, Calculation]] = {}
    passed_over = []
    for i, entry in enumerate(entries, start=1):
        try:
            planned[folder_name(entry)] = entry, plan_calculation(entry, materials[entry.material_id], plan)
        except ExchangeError as error:
            passed_over.append((entry, str(error)))
        say(Count(f"{i} of {len(entries)} calculations planned"))
    return planned, passed_over


def _require_accepted(bill: Bill | None, dft: DftSection, accept: Callable[[Bill], bool]) -> None:
    """Refuse calculations that take more core-hours than are exported without a question, unless they are accepted."""
    if bill is None or bill.core_hours <= dft.confirm_core_hours or accept(bill):
        return
    raise ExchangeError(
        f"{len(bill.rows)} new calculations take about {bill.core_hours:,.0f} core-hours, above [dft] "
        f"confirm_core_hours = {dft.confirm_core_hours:,.6g}; nothing was written: add --yes, raise it, or withdraw "
        "some entries"
    )


def _present(to: Path) -> dict[str, Entry]:
    """Entries of an earlier export in this folder, by the names of their folders."""
    paths = sorted(to.glob(f"[!.]*/{ENTRY}")) if to.is_dir() else []
    return {path.parent.name: Entry.from_json(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def _refuse_others(to: Path, planned: dict[str, Entry], present: dict[str, Entry]) -> None:
    """Refuse to overwrite a different calculation under the same name."""
    other = [name for name, entry in planned.items() if name in present and present[name].identity != entry.identity]
    other += [name for name in planned if name not in present and (to / name).exists()]
    if other:
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        raise ExchangeError(
            f"{to} holds calculations with other settings or crystals under the same names ({', '.join(other[:5])}"
            f"{more}); export to another folder, or remove those that are not wanted"
        )


# -- listings ---------------------------------------------------------------------------------------------------------


def _write_listing(workspace: Workspace, entries: Sequence[QueueEntryRecord], to: Path, format: str) -> None:
    # without the state, which the export changes, and the stability, which later calculations do
    rows = [queue_row(e, f) for e, f in with_formula(workspace.store, entries)]
    rows = [{name: value for name, value in row.items() if name not in ("state", "stability")} for row in rows]
    if format == "csv":
        _write_csv(to, rows)
    elif format == "json":
        write_whole(to, json.dumps(_with_structures(workspace, rows), indent=1) + "\n")
    else:
        for name, text in _cifs(workspace, entries):
            write_whole(to / name, text)
        _write_csv(to / "queue.csv", rows)


def _cifs(workspace: Workspace, entries: Sequence[QueueEntryRecord]) -> Iterator[tuple[str, str]]:
    structures = {m.material_id: m.structure for m in workspace.store.materials([e.material_id for e in entries])}
    for entry in entries:
        crystal = Crystal.from_dict(structures[entry.material_id])
        yield f"{folder_name(entry)}.cif", str(crystal.to_structure().to(fmt="cif"))


def _write_csv(path: Path, rows: list[Json]) -> None:
    with replaced(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _with_structures(workspace: Workspace, rows: list[Json]) -> list[Json]:
    """Rows with the standardised structure in pymatgen's JSON form."""
    structures = {m.material_id: m.structure for m in workspace.store.materials([r["id"] for r in rows])}
    return [r | {"structure": Crystal.from_dict(structures[r["id"]]).to_structure().as_dict()} for r in rows]


def folder_name(entry: QueueEntryRecord) -> str:
    """Name of the folder of an entry: round, rank and id."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in entry.material_id)
    return f"{entry.round:03d}-{entry.rank:04d}-{safe[:_NAME_LENGTH]}"
