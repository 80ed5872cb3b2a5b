"""Labelers turn queue entries into labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from campaigns.exceptions import ConfigurationError
from campaigns.goals import flaw
from db.labels import beyond
from db.records import FailureRecord, LabelRecord, QueueEntryRecord
from db.states import FailureReason, QueueState

if TYPE_CHECKING:
    from campaigns.configuration import CampaignSection, Configuration
    from campaigns.goals import Goal
    from db.store import Store

REFERENCE = "reference"


class Labeler(Protocol):
    """Interface of a labeler."""

    def work(self, store: Store, entries: Sequence[QueueEntryRecord], say: Callable[[str], None]) -> None:
        """Process unfinished entries; labels and failures go to the store, progress to ``say``."""

    def hit_rate(self, hit: float, goal: Goal) -> float | None:
        """Share of the pool as good as ``hit``, where the labeler knows every answer."""


class Dft:
    """Calculations done elsewhere: entries wait, and results are imported by ``label import``."""

    def work(self, store: Store, entries: Sequence[QueueEntryRecord], say: Callable[[str], None]) -> None:
        """Do nothing."""

    def hit_rate(self, hit: float, goal: Goal) -> float | None:
        """None: not known."""
        return None


class Replay:
    """Answers from labelled records, to rehearse a campaign; a material without an answer fails."""

    def __init__(
        self,
        settings: CampaignSection,
        answers: Mapping[str, float],
        source: str,
        core_hours: float | Mapping[str, float] | None = None,
    ):
        """``answers`` are values by any id of a material; ``core_hours`` the cost of each label, or by material id."""
        self._settings = settings
        self._answers = answers
        self._source = source
        self._core_hours = core_hours

    def work(self, store: Store, entries: Sequence[QueueEntryRecord], say: Callable[[str], None]) -> None:
        """Approve, answer and finish every entry, in one transaction."""
        answers = self._of_store(store, entries)
        refused = {
            id_: f"its answer {value:g} is {limit}"
            for id_, value in answers.items()
            if (limit := beyond(self._settings.property, value, store.label_limits))
        }
        done = [e for e in entries if e.material_id in answers and e.material_id not in refused]
        unanswered = f"{self._source} has no answer for it"
        failed = [
            (e, refused.get(e.material_id, unanswered))
            for e in entries
            if e.material_id in refused or e.material_id not in answers
        ]
        with store.transaction():
            _move(store, [e for e in entries if e.state is QueueState.PROPOSED], QueueState.APPROVED)
            # a query after a withdrawal is answered again
            store.add_labels((self._label(e, answers[e.material_id]) for e in done), again=True)
            _move(store, done, QueueState.DONE)
            store.add_failures(self._failure(e, message) for e, message in failed)
            _move(store, [e for e, _ in failed if e.material_id not in refused], QueueState.FAILED, "no answer")
            _move(store, [e for e, _ in failed if e.material_id in refused], QueueState.FAILED, "beyond the limits")

    def hit_rate(self, hit: float, goal: Goal) -> float | None:
        """Share of all answers as good as ``hit``."""
        return float(goal.is_hit(list(self._answers.values()), hit).mean())

    def _of_store(self, store: Store, entries: Sequence[QueueEntryRecord]) -> dict[str, float]:
        """Answer by material id; an answer may have any id the material was ever added with."""
        found = {}
        for record in store.materials([e.material_id for e in entries]):
            names = [record.material_id, *(s.record_id for s in record.sources)]
            value = next((self._answers[name] for name in names if name in self._answers), None)
            if value is not None:
                found[record.material_id] = value
        return found

    def _label(self, entry: QueueEntryRecord, value: float) -> LabelRecord:
        hours = self._core_hours
        return LabelRecord(
            material_id=entry.material_id,
            property=self._settings.property,
            value=value,
            unit=self._settings.unit,
            fidelity=entry.fidelity,
            method="replay",
            source=self._source,
            cost=hours.get(entry.material_id) if isinstance(hours, Mapping) else hours,
        )

    def _failure(self, entry: QueueEntryRecord, message: str) -> FailureRecord:
        return FailureRecord(
            material_id=entry.material_id,
            property=self._settings.property,
            fidelity=entry.fidelity,
            reason=FailureReason.REJECTED,
            message=message,
            method="replay",
        )


class ByFidelity:
    """A labeler for each fidelity."""

    def __init__(self, labelers: Mapping[str, Labeler]):
        """``labelers`` by fidelity; the first is that of the campaign."""
        self._labelers = labelers

    def work(self, store: Store, entries: Sequence[QueueEntryRecord], say: Callable[[str], None]) -> None:
        """Entries by labeler: each gets those of its fidelity, lower fidelities first."""
        for fidelity, labeler in reversed(list(self._labelers.items())):
            if own := [e for e in entries if e.fidelity == fidelity]:
                labeler.work(store, own, say)

    def hit_rate(self, hit: float, goal: Goal) -> float | None:
        """Hit rate from the labeler of the target fidelity."""
        return next(iter(self._labelers.values())).hit_rate(hit, goal)


def make_labeler(configuration: Configuration, directory: Path) -> Labeler:
    """Make the labeler that ``campaign.toml`` names, or one of several.

    Raises
    ------
    ConfigurationError
        For a fidelity that may be queued and that has no labeler.
    """
    for name in configuration.acquisition.fidelities:
        if name not in configuration.labeler.fidelities:
            raise ConfigurationError(
                f"[acquisition] fidelities names {name}, which has no labeler; give [labeler.{name}] "
                f"kind = 'agl', for example (or 'dft': results are imported)"
            )
    labelers = {name: _make_labeler(settings, directory) for name, settings in configuration.labelers().items()}
    return labelers[configuration.campaign.fidelity] if len(labelers) == 1 else ByFidelity(labelers)


def _make_labeler(configuration: Configuration, directory: Path) -> Labeler:
    if configuration.labeler.kind == "dft":
        return Dft()
    if configuration.labeler.kind in ("agl", "phonons"):
        from campaigns.labelers.calculators import make_calculator

        return make_calculator(configuration, directory)
    source = configuration.labeler.source
    read = _reference_answers if source == REFERENCE else _file_answers
    section = configuration.campaign
    return Replay(section, read(configuration, directory), source, configuration.costs.get(section.fidelity))


def _reference_answers(configuration: Configuration, directory: Path) -> dict[str, float]:
    from engine.materials.reference import PROPERTY, reference_labels

    section = configuration.campaign
    known = sorted({label["fidelity"] for label in reference_labels()})
    if section.property != PROPERTY or section.fidelity not in known:
        raise ConfigurationError(
            f"the reference table answers {PROPERTY} at fidelity {' or '.join(known)}, not {section.property} at "
            f"{section.fidelity!r}; change [campaign] property or fidelity, or give another [labeler] source"
        )
    return {label["id"]: label["value"] for label in reference_labels(section.fidelity)}


def _file_answers(configuration: Configuration, directory: Path) -> dict[str, float]:
    """Usable values of the field by record id; values that cannot be labels are left out."""
    from engine.materials.crystal import Material
    from engine.materials.loading import load

    section = configuration.campaign
    path = (directory / configuration.labeler.source).resolve()
    if not path.exists():
        raise ConfigurationError(f"[labeler] source = {configuration.labeler.source!r}: {path} does not exist")
    field = configuration.labeler.field or section.property
    records = [m for part in load([path]) for m in part if isinstance(m, Material)]
    answers = {
        m.id: float(m.properties[field])
        for m in records
        if field in m.properties and not flaw(m.properties[field], section.learned_scale)
    }
    if not answers:
        fields = sorted({name for m in records for name in m.properties})
        raise ConfigurationError(
            f"no record of {path} has a usable {field!r} (there are: {', '.join(fields) or 'no properties'}); "
            "set [labeler] field"
        )
    return answers


def _move(store: Store, entries: Sequence[QueueEntryRecord], to: QueueState, note: str = "") -> None:
    store.move([e.id for e in entries if e.id is not None], to, "replay", note)
