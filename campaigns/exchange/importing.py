"""Results of an export into the store: labels, failures and states of the queue; repeating it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import ExchangeError
from campaigns.exchange.archives import is_archive, unpacked
from campaigns.exchange.comparability import Comparability
from campaigns.exchange.export import export_records
from campaigns.exchange.judgement import Problem, Subject, judge, remarks
from campaigns.exchange.kappa_files import Kappa, first_line
from campaigns.exchange.kappa_labels import (
    in_words,
    labels_of,
    overridden,
    require_conductivity,
    sorted_out,
    wanted_temperatures,
)
from campaigns.exchange.manifest import ENTRY, Entry, differences
from campaigns.exchange.relaxed_cells import keep_relaxed
from campaigns.exchange.results import Reading, Standing, read_folder
from campaigns.exchange.wanted import EntryOutcome, Wanted
from campaigns.queue import approve_finished, move_entries
from db.exceptions import InvalidRecordError, LabelError
from db.records import FailureRecord, LabelRecord, LabelReport, QueueEntryRecord
from db.states import QUEUE_MOVES, FailureKind, FailureReason, QueueState
from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.store import Store

_AGAIN = {FailureKind.MACHINE: "retried", FailureKind.CRYSTAL: "reopened"}
_DEPTHS = (ENTRY, f"[!.]*/{ENTRY}", f"[!.]*/[!.]*/{ENTRY}")
"""One entry, an export, or a folder of exports."""


@dataclass(frozen=True)
class Readings:
    """Contents of folders, before anything is stored."""

    accepted: tuple[Reading, ...] = ()
    refused: tuple[EntryOutcome, ...] = ()


def read_exports(workspace: Workspace, paths: Iterable[Path], wanted: Wanted | None = None) -> Readings:
    """Read every folder of exports; a folder that is not the result of this campaign's export is refused by name.

    Raises
    ------
    ExchangeError
        If a path holds no export at all.
    """
    wanted = wanted or Wanted()
    temperatures = wanted_temperatures(workspace, wanted)
    known = _known(workspace)
    accepted, refused = [], []
    for path in paths:
        for folder in _folders(path):
            try:
                reading = read_folder(folder, temperatures, wanted.as_method)
                if reading.kappas or reading.entry.settings.phonons:
                    require_conductivity(workspace, folder.name)
                _require_known(reading.entry, known, folder.name)
                accepted.append(reading)
            except MemoryError:
                raise
            except ExchangeError as error:
                refused.append(EntryOutcome(folder.name, "", "refused", str(error)))
            except Exception as error:  # any damage of files that others wrote; the other folders are imported
                refused.append(EntryOutcome(folder.name, "", "refused", _unreadable(folder.name, error)))
    return Readings(tuple(accepted), tuple(refused))


def record_results(
    workspace: Workspace, readings: Readings, report: LabelReport, wanted: Wanted | None = None
) -> list[EntryOutcome]:
    """Store what was read: labels at the property's temperature and those wanted, failures, moves.

    Must run inside one transaction of the campaign. Counts of labels are added to ``report``; entries whose
    label was imported are moved to done by the campaign.
    """
    wanted = wanted or Wanted()
    outcomes = list(readings.refused)
    owners = workspace.store.resolve_all(reading.entry.id for reading in readings.accepted)
    of_these = workspace.store.queue(material_ids=list(owners.values()))
    entries = {(e.material_id, e.round, e.fidelity): e for e in of_these}
    known = KnownLabels(workspace.store, owners.values())
    property_ = workspace.configuration.campaign.property
    comparable = {
        fidelity: Comparability(workspace.store, property_, fidelity) for fidelity in {e.fidelity for e in of_these}
    }
    for reading in sorted(readings.accepted, key=_time):
        material_id = owners[reading.entry.id]
        entry = entries.get((material_id, reading.entry.round, reading.entry.fidelity))
        if entry is None:
            message = f"round {reading.entry.round} of this campaign has no queue entry {reading.entry.id}"
            outcomes.append(EntryOutcome(reading.folder, reading.entry.id, "refused", message))
            continue
        try:
            outcome, labels = _record(workspace, reading, entry, wanted, report, known)
            notes = [note for label in labels[-1:] for note in comparable[entry.fidelity].remarks(label)]
            outcomes.append(replace(outcome, message="; ".join(filter(None, [outcome.message, *notes]))))
        except (ExchangeError, InvalidRecordError, LabelError) as error:
            outcomes.append(EntryOutcome(reading.folder, reading.entry.id, "refused", str(error)))
    return sorted(outcomes, key=lambda o: o.folder)


class KnownLabels:
    """All labels of some materials, read together; those of a material are read again after a write."""

    def __init__(self, store: Store, material_ids: Iterable[str] = ()):
        self._store = store
        self._of: dict[str, list[LabelRecord]] = {id_: [] for id_ in material_ids}
        for label in store.labels(current_only=False, material_ids=list(self._of)) if self._of else ():
            self._of[label.material_id].append(label)

    def like(self, label: LabelRecord) -> list[LabelRecord]:
        """Labels of the same material, property, fidelity and method, in the order they were written."""
        if label.material_id not in self._of:
            self._of[label.material_id] = self._store.labels(current_only=False, material_ids=[label.material_id])
        kind = label.property, label.fidelity, label.method
        return [k for k in self._of[label.material_id] if (k.property, k.fidelity, k.method) == kind]

    def forget(self, material_id: str) -> None:
        """Have the labels of this material read again at the next access."""
        self._of.pop(material_id, None)


def add_newest(
    workspace: Workspace, labels: Iterable[LabelRecord], report: LabelReport, known: KnownLabels | None = None
) -> None:
    """Store labels so that the newest of a kind is the current one, in whichever order they are imported."""
    store = workspace.store
    known = known or KnownLabels(store)
    for label in labels:
        of_method = known.like(label)
        same = [k for k in of_method if k.provenance.get("kappa_sha256") == label.provenance["kappa_sha256"]]
        if same:
            report.unchanged.append(max(k.id or 0 for k in same))
            continue
        alike = [k for k in of_method if (k.source, k.temperature) == (label.source, label.temperature)]
        newer = [
            k for k in alike if k.is_current and k.provenance.get("finished_at", "") > label.provenance["finished_at"]
        ]
        known.forget(label.material_id)
        for each in (label, *(replace(k, material_id=k.record_id) for k in newer)):
            added = store.add_labels([each])
            report.added.extend(added.added)
            report.unchanged.extend(added.unchanged)
            report.superseded.extend(added.superseded)


# -- reading ----------------------------------------------------------------------------------------------------------


def _folders(path: Path) -> Iterator[Path]:
    """Folders of entries; those of an archive exist until the next is read."""
    with ExitStack() as stack:
        root = stack.enter_context(unpacked(path)) if is_archive(path) and path.is_file() else path
        found = sorted(entry.parent for pattern in _DEPTHS for entry in root.glob(pattern))
        if not found:
            raise ExchangeError(
                f"{path} holds no exported entry (a folder with {ENTRY}); give what `kappascout queue export --format "
                "phono3py` wrote, or files of labels"
            )
        yield from found


def _known(workspace: Workspace) -> dict[str, list[Entry]]:
    """All entries the campaign has exported, by material."""
    known: dict[str, list[Entry]] = {}
    folder = export_records(workspace)
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        entry = Entry.from_json(path.read_text(encoding="utf-8"), str(path))
        known.setdefault(entry.id, []).append(entry)
    return known


def _require_known(entry: Entry, known: dict[str, list[Entry]], folder: str) -> None:
    exported = known.get(entry.id, [])
    if entry in exported:
        return
    if not exported:
        raise ExchangeError(f"{folder} ({entry.id}) was not exported by this campaign; import it into the one that did")
    closest = min((differences(one, entry) for one in exported), key=len)
    raise ExchangeError(
        f"{folder} ({entry.id}) is not as it was exported, {ENTRY} differs in {', '.join(closest[:5])}; restore it"
    )


def _unreadable(name: str, error: Exception) -> str:
    return f"{name} cannot be read ({type(error).__name__}: {first_line(error)}); copy it again"


def _time(reading: Reading) -> str:
    return max((kappa.written_at for kappa in reading.kappas), default="")


# -- keeping ----------------------------------------------------------------------------------------------------------


def _record(
    workspace: Workspace,
    reading: Reading,
    entry: QueueEntryRecord,
    wanted: Wanted,
    report: LabelReport,
    known: KnownLabels,
) -> tuple[EntryOutcome, list[LabelRecord]]:
    state, message = str(reading.standing), reading.message
    failure = reading.failure
    labels: list[LabelRecord] = []
    if reading.standing is Standing.DONE:
        labels, problem, said = _judged(workspace, reading, entry, wanted)
        message = "; ".join(filter(None, [message, *said]))
        if problem:
            failure, message = problem.reason, "; ".join(filter(None, [problem.message, message]))
    if failure and (before := _voided(workspace, reading, entry)):
        state = str(Standing.NOT_STARTED)
        message = f"its failure ({before.reason}) is from before it was {_AGAIN[before.reason.kind]}; run it again"
    elif failure:
        state = str(Standing.FAILED)
        _fail(workspace, reading, entry, failure, message)
        message = f"{failure}: {message}" if message else str(failure)
    elif labels:
        add_newest(workspace, labels, report, known)
        if entry.state in (QueueState.FAILED, QueueState.WITHDRAWN, QueueState.DEFERRED) and not approve_finished(
            workspace, entry, f"{reading.folder} has its result"
        ):
            message = "; ".join(filter(None, [f"its queue entry stays {entry.state}; the label is kept", message]))
    elif reading.standing is Standing.RUNNING and QueueState.RUNNING in QUEUE_MOVES[entry.state]:
        move_entries(workspace.store, [entry], QueueState.RUNNING, f"{reading.folder} has started")
    elif reading.standing is Standing.DONE and reading.relaxed:
        message = "; ".join(filter(None, [_relaxed_alone(workspace, reading, entry), message]))
    return EntryOutcome(reading.folder, reading.entry.id, state, message), [] if failure else labels


def _relaxed_alone(workspace: Workspace, reading: Reading, entry: QueueEntryRecord) -> str:
    """Keep the cell of an entry that was only relaxed, which is done without a label; a note for the user."""
    path = keep_relaxed(workspace, reading, _origin(reading))
    if QueueState.DONE in QUEUE_MOVES[entry.state]:
        move_entries(workspace.store, [entry], QueueState.DONE, f"{reading.folder} is relaxed; it has no label")
    return f"relaxed, without a label; its cell is in {path}"


def _judged(
    workspace: Workspace, reading: Reading, entry: QueueEntryRecord, wanted: Wanted
) -> tuple[list[LabelRecord], Problem | None, list[str]]:
    """Labels of a finished calculation, oldest first, or why its newest value is not valid; and notes.

    Raises
    ------
    ExchangeError
        If the newest file of a method does not belong to the calculation.
    """
    subject = _subject(workspace, reading, entry)
    temperatures = wanted_temperatures(workspace, wanted)
    labels: list[LabelRecord] = []
    said: list[str] = []
    newest = {kappa.method: kappa for kappa in reading.kappas}
    for kappa in reading.kappas:
        standing, forced = sorted_out(judge(kappa, temperatures, subject), wanted)
        if standing and kappa is newest[kappa.method]:
            if any(p.reason is None for p in standing) or kappa.given_method:
                raise ExchangeError(f"{reading.folder} ({reading.entry.id}): {in_words(standing)}")
            return [], standing[0], []
        if standing:
            continue
        shared = {
            "source": f"round {entry.round}, exported",
            "cost": reading.core_hours,
            "provenance": _origin(reading) | overridden(forced),
        }
        of_kappa = labels_of(workspace, kappa, entry.material_id, entry.fidelity, wanted, shared)
        labels += [replace(label, method=_method(kappa, reading)) for label in of_kappa]
        if kappa is newest[kappa.method]:
            said += [*(f"forced: {words}" for words in forced), *remarks(kappa, temperatures)]
    return labels, None, said


def _method(kappa: Kappa, reading: Reading) -> str:
    """Name of the method, with the functional where the settings record it; a name that the user gave stays."""
    method = reading.entry.settings.method
    return kappa.method if kappa.given_method or method is None else f"{kappa.method}, {method.functional}"


def _subject(workspace: Workspace, reading: Reading, entry: QueueEntryRecord) -> Subject:
    phonons = reading.entry.settings.phonons
    tolerance = (phonons or workspace.configuration.dft).imaginary_tolerance
    if reading.exported is not None:
        return Subject(reading.exported, True, tolerance)
    (material,) = workspace.store.materials([entry.material_id])
    return Subject(Crystal.from_dict(material.structure), False, tolerance)


def _origin(reading: Reading) -> dict[str, Any]:
    settings = reading.entry.settings
    found: dict[str, Any] = {
        "folder": reading.folder,
        "settings_sha256": reading.entry.settings_sha256,
        "supercell": [list(row) for row in settings.phonons.supercell] if settings.phonons else None,
        "born": settings.born,
    }
    found |= {"dft": settings.method.model_dump(mode="json")} if settings.method else {}
    found |= reading.job
    return found | ({"relaxed": reading.relaxed.to_dict()} if reading.relaxed else {})


def _voided(workspace: Workspace, reading: Reading, entry: QueueEntryRecord) -> FailureRecord | None:
    """The failure that this folder still shows, of a time before the entry was retried or reopened."""
    failures = workspace.store.failures(material_ids=[entry.material_id], current_only=False)
    void = (f for f in failures if not f.is_current and f.fidelity == entry.fidelity)
    return next((f for f in void if reading.failed_at and f.provenance.get("failed_at") == reading.failed_at), None)


def _fail(workspace: Workspace, reading: Reading, entry: QueueEntryRecord, reason: FailureReason, message: str) -> None:
    """Record a failure once; an entry that has ended already stays as it is."""
    if QueueState.FAILED not in QUEUE_MOVES[entry.state]:
        return
    workspace.store.add_failures(
        [
            FailureRecord(
                entry.material_id,
                workspace.configuration.campaign.property,
                entry.fidelity,
                reason,
                message,
                method="phono3py",
                source=f"round {entry.round}, exported",
                provenance=_origin(reading) | {"failed_at": reading.failed_at},
                cost=reading.core_hours,
            )
        ]
    )
    words = f"{reason}: {message}" if message else str(reason)
    move_entries(workspace.store, [entry], QueueState.FAILED, words)
