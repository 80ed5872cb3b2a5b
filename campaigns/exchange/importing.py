"""Results of an export into the store: labels, failures, moves of the queue; every time anew, never twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.exceptions import ExchangeError
from campaigns.exchange.archives import is_archive, unpacked
from campaigns.exchange.export import export_records
from campaigns.exchange.manifest import ENTRY, Entry, differences
from campaigns.exchange.results import COMPONENTS, Kappa, Reading, Standing, read_folder, read_kappa
from campaigns.property_names import named_temperature
from db.records import KAPPA_UNIT, FailureRecord, LabelRecord, LabelReport, QueueEntryRecord
from db.states import QUEUE_MOVES, FailureReason, QueueState

if TYPE_CHECKING:
    from campaigns.campaign import Campaign

_DEPTHS = (ENTRY, f"[!.]*/{ENTRY}", f"[!.]*/[!.]*/{ENTRY}")
"""One entry, an export, or a folder of exports."""


@dataclass(frozen=True)
class EntryOutcome:
    """What became of one folder."""

    folder: str
    id: str
    state: str
    """``not started``, ``running``, ``done``, ``failed`` or ``refused``."""
    message: str = ""


@dataclass(frozen=True)
class Readings:
    """What folders say, before any of it is kept."""

    accepted: tuple[Reading, ...] = ()
    refused: tuple[EntryOutcome, ...] = ()


def is_export(path: Path) -> bool:
    """Whether a path is a folder or an archive of results, rather than a file of labels."""
    return path.is_dir() or is_archive(path)


def read_exports(campaign: Campaign, paths: Iterable[Path]) -> Readings:
    """Read every folder of exports; what is not the result of one of this campaign's is refused by name.

    Raises
    ------
    ExchangeError
        If a path holds no export at all.
    """
    known = _known(campaign)
    accepted, refused = [], []
    for path in paths:
        for folder in _folders(path):
            try:
                reading = read_folder(folder)
                _require_known(reading.entry, known, folder.name)
                accepted.append(reading)
            except ExchangeError as error:
                refused.append(EntryOutcome(folder.name, "", "refused", str(error)))
    return Readings(tuple(accepted), tuple(refused))


def record_results(
    campaign: Campaign, readings: Readings, report: LabelReport, temperatures: Sequence[float] = ()
) -> list[EntryOutcome]:
    """Keep what was read: labels at the property's temperature and at ``temperatures`` (Kelvin), failures, moves.

    Must run inside one transaction of the campaign. What became of the labels is added to ``report``; entries whose
    label came in are left for the campaign to finish.
    """
    outcomes = list(readings.refused)
    entries = {(e.material_id, e.round, e.fidelity): e for e in campaign.store.queue()}
    for reading in sorted(readings.accepted, key=_time):
        material_id = campaign.store.resolve_all([reading.entry.id])[reading.entry.id]
        entry = entries.get((material_id, reading.entry.round, reading.entry.fidelity))
        if entry is None:
            message = f"round {reading.entry.round} of this campaign has no queue entry {reading.entry.id}"
            outcomes.append(EntryOutcome(reading.folder, reading.entry.id, "refused", message))
            continue
        try:
            outcomes.append(_record(campaign, reading, entry, temperatures, report))
        except ExchangeError as error:
            outcomes.append(EntryOutcome(reading.folder, reading.entry.id, "refused", str(error)))
    return sorted(outcomes, key=lambda o: o.folder)


def kappa_labels(campaign: Campaign, path: Path, material_id: str, temperatures: Sequence[float]) -> list[LabelRecord]:
    """Give the labels of one ``kappa-*.hdf5`` of a material, at the fidelity of the campaign.

    Raises
    ------
    ExchangeError
        If the file cannot be read, or lacks a temperature.
    """
    kappa = read_kappa(path)
    fidelity = campaign.configuration.campaign.fidelity
    return list(_labels(campaign, kappa, material_id, fidelity, temperatures, {"source": str(path)}))


def add_newest(campaign: Campaign, labels: Iterable[LabelRecord], report: LabelReport) -> None:
    """Keep labels so that the newest of a kind is the current one, in whichever order they come in."""
    store = campaign.store
    for label in labels:
        known = store.labels(label.property, label.fidelity, current_only=False, material_ids=[label.material_id])
        same = [k for k in known if k.provenance.get("kappa_sha256") == label.provenance["kappa_sha256"]]
        if same:
            report.unchanged.append(max(k.id or 0 for k in same))
            continue
        alike = [
            k for k in known if (k.method, k.source, k.temperature) == (label.method, label.source, label.temperature)
        ]
        newer = [
            k for k in alike if k.is_current and k.provenance.get("finished_at", "") > label.provenance["finished_at"]
        ]
        for each in (label, *(replace(k, material_id=k.record_id) for k in newer)):
            added = store.add_labels([each])
            report.added.extend(added.added)
            report.unchanged.extend(added.unchanged)
            report.superseded.extend(added.superseded)


# -- reading ----------------------------------------------------------------------------------------------------------


def _folders(path: Path) -> Iterator[Path]:
    """Folders of entries; those of an archive exist until the next is asked for."""
    with ExitStack() as stack:
        root = stack.enter_context(unpacked(path)) if is_archive(path) and path.is_file() else path
        found = sorted(entry.parent for pattern in _DEPTHS for entry in root.glob(pattern))
        if not found:
            raise ExchangeError(
                f"{path} holds no exported entry (a folder with {ENTRY}); give what `kappascout queue export --format "
                "phono3py` wrote, or files of labels"
            )
        yield from found


def _known(campaign: Campaign) -> dict[str, list[Entry]]:
    """Everything the campaign ever exported, by material."""
    known: dict[str, list[Entry]] = {}
    folder = export_records(campaign)
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        entry = Entry.from_json(path.read_text(encoding="utf-8"), str(path))
        known.setdefault(entry.id, []).append(entry)
    return known


def _require_known(entry: Entry, known: dict[str, list[Entry]], folder: str) -> None:
    exported = known.get(entry.id, [])
    if entry in exported:
        return
    if not exported:
        raise ExchangeError(f"{folder} ({entry.id}) was not exported by this campaign; import it into the one it is of")
    closest = min((differences(one, entry) for one in exported), key=len)
    raise ExchangeError(
        f"{folder} ({entry.id}) is not as it was exported, {ENTRY} differs in {', '.join(closest[:5])}; restore it"
    )


def _time(reading: Reading) -> str:
    return reading.kappas[-1].written_at if reading.kappas else ""


# -- keeping ----------------------------------------------------------------------------------------------------------


def _record(
    campaign: Campaign, reading: Reading, entry: QueueEntryRecord, temperatures: Sequence[float], report: LabelReport
) -> EntryOutcome:
    state, message = str(reading.standing), reading.message
    failure = reading.failure
    labels: list[LabelRecord] = []
    if reading.standing is Standing.DONE:
        labels, failure, message = _judge(campaign, reading, entry, temperatures)
    if failure:
        state = str(Standing.FAILED)
        _fail(campaign, reading, entry, failure, message)
        message = f"{failure}: {message}" if message else str(failure)
    elif labels:
        add_newest(campaign, labels, report)
        if entry.state in (QueueState.FAILED, QueueState.WITHDRAWN):
            message = f"its queue entry stays {entry.state}; the label is kept"
    elif reading.standing is Standing.RUNNING and QueueState.RUNNING in QUEUE_MOVES[entry.state]:
        campaign.move([entry.material_id], QueueState.RUNNING, f"{reading.folder} has started", entry.fidelity)
    return EntryOutcome(reading.folder, reading.entry.id, state, message)


def _judge(
    campaign: Campaign, reading: Reading, entry: QueueEntryRecord, temperatures: Sequence[float]
) -> tuple[list[LabelRecord], FailureReason | None, str]:
    """Labels of a finished calculation, oldest first, or why its newest value is none; and a warning."""
    shared = {
        "source": f"round {entry.round}, exported",
        "cost": reading.core_hours,
        "provenance": _origin(reading),
    }
    labels: list[LabelRecord] = []
    for kappa in reading.kappas:
        made = list(_labels(campaign, kappa, entry.material_id, entry.fidelity, temperatures, shared))
        bad = [label for label in made if not np.isfinite(label.value)]
        low = [label for label in made if label.value <= 0]
        if kappa is reading.kappas[-1] and bad:
            return [], FailureReason.BAD_OUTPUT, f"{kappa.name}: kappa is {bad[0].value} at {bad[0].temperature:g} K"
        if kappa is reading.kappas[-1] and low:
            return [], FailureReason.BELOW_FLOOR, f"{kappa.name}: kappa is {low[0].value} at {low[0].temperature:g} K"
        labels += made if not (bad or low) else []
    newest = reading.kappas[-1]
    warning = f"phono3py {newest.version} had an error in third order; compute kappa anew" if newest.is_suspect else ""
    return labels, None, warning


def _labels(
    campaign: Campaign,
    kappa: Kappa,
    material_id: str,
    fidelity: str,
    temperatures: Sequence[float],
    shared: dict[str, Any],
) -> Iterator[LabelRecord]:
    """One label a temperature, that of the campaign's property first: the isotropic mean, the tensor beside it."""
    property_ = campaign.configuration.campaign.property
    named = named_temperature(property_)
    for temperature in dict.fromkeys([named, *temperatures]):
        tensor = kappa.at(temperature)
        if tensor is None:
            has = ", ".join(f"{t:g}" for t in kappa.temperatures[:12]) or "none"
            raise ExchangeError(
                f"{kappa.name} has no value at {temperature:g} K (it has {has}); run phono3py with --ts {temperature:g}"
            )
        yield LabelRecord(
            material_id=material_id,
            property=property_ if temperature == named else f"kappa_{temperature:g}K",
            value=float(np.mean(tensor[:3])),
            unit=KAPPA_UNIT,
            fidelity=fidelity,
            temperature=temperature,
            method=f"phono3py {kappa.solver}",
            **shared | {"provenance": _provenance(kappa, tensor) | shared.get("provenance", {})},
        )


def _provenance(kappa: Kappa, tensor: Any) -> dict[str, Any]:
    lowest, highest = kappa.frequencies or (None, None)
    return {
        "tensor": {name: float(v) if np.isfinite(v) else None for name, v in zip(COMPONENTS, tensor, strict=True)},
        "mesh": list(kappa.mesh),
        "isotope": kappa.isotope,
        "interband": kappa.interband,
        "phono3py": kappa.version,
        "lowest_frequency_THz": lowest,
        "highest_frequency_THz": highest,
        "kappa_file": kappa.name,
        "kappa_sha256": kappa.sha256,
        "finished_at": kappa.written_at,
    }


def _origin(reading: Reading) -> dict[str, Any]:
    settings = reading.entry.settings
    found: dict[str, Any] = {
        "folder": reading.folder,
        "settings_sha256": reading.entry.settings_sha256,
        "supercell": [list(row) for row in settings.phonons.supercell] if settings.phonons else None,
        "born": settings.born,
    }
    return found | ({"relaxed": reading.relaxed.to_dict()} if reading.relaxed else {})


def _fail(campaign: Campaign, reading: Reading, entry: QueueEntryRecord, reason: FailureReason, message: str) -> None:
    """Record a failure once; an entry that has ended already stays as it is."""
    if QueueState.FAILED not in QUEUE_MOVES[entry.state]:
        return
    campaign.store.add_failures(
        [
            FailureRecord(
                entry.material_id,
                campaign.configuration.campaign.property,
                entry.fidelity,
                reason,
                message,
                method="phono3py",
                source=f"round {entry.round}, exported",
                provenance=_origin(reading),
                cost=reading.core_hours,
            )
        ]
    )
    words = f"{reason}: {message}" if message else str(reason)
    campaign.move([entry.material_id], QueueState.FAILED, words, entry.fidelity)
