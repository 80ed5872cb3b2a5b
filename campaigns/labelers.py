"""Labelers: whatever turns queue entries into labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from campaigns.exceptions import ConfigurationError
from db.records import FailureRecord, LabelRecord, QueueEntryRecord
from db.states import FailureReason, QueueState
from engine.metrics.discovery import count_hits

if TYPE_CHECKING:
    from campaigns.configuration import Configuration
    from db.store import Store


class Labeler(Protocol):
    """What a campaign asks of a labeler."""

    def work(self, store: Store, entries: Sequence[QueueEntryRecord]) -> None:
        """Bring unfinished entries as far as possible; labels and failures go to the store."""

    def hit_rate(self, hit: float, goal: str) -> float | None:
        """Share of the pool beyond ``hit``, where the labeler knows every answer."""


class Dft:
    """Calculations done by people and clusters: nothing happens here, results come in by ``label import``."""

    def work(self, store: Store, entries: Sequence[QueueEntryRecord]) -> None:
        """Wait."""

    def hit_rate(self, hit: float, goal: str) -> float | None:
        """Not known."""
        return None


class Replay:
    """Answers from labelled records, to rehearse a campaign; a material without an answer fails."""

    def __init__(self, configuration: Configuration, directory: Path, answers: Mapping[str, float] | None = None):
        """``answers`` (value by record id) are read from ``[labeler] source`` when first needed, unless given."""
        self._settings = configuration.campaign
        self._section = configuration.labeler
        self._directory = directory
        if answers is not None:
            self.answers = answers

    def work(self, store: Store, entries: Sequence[QueueEntryRecord]) -> None:
        """Approve, answer and finish every entry."""
        answers = self._of_store(store, entries)
        self._move(store, entries, QueueState.PROPOSED, QueueState.APPROVED)
        labels = [self._label(e.material_id, answers[e.material_id]) for e in entries if e.material_id in answers]
        store.add_labels(labels)
        done = [e for e in entries if e.material_id in answers]
        failed = [e for e in entries if e.material_id not in answers]
        store.add_failures(
            FailureRecord(
                e.material_id,
                self._settings.property,
                self._settings.fidelity,
                FailureReason.REJECTED,
                f"{self._section.source} has no answer for it",
                method="replay",
            )
            for e in failed
        )
        store.move([e.id for e in done if e.id], QueueState.DONE, "replay")
        store.move([e.id for e in failed if e.id], QueueState.FAILED, "replay", "no answer")

    def hit_rate(self, hit: float, goal: str) -> float | None:
        """Share of all answers beyond ``hit``."""
        values = np.array(list(self.answers.values()))
        return count_hits(values, goal, hit) / len(values)

    @cached_property
    def answers(self) -> Mapping[str, float]:
        """Value by record id."""
        if self._section.source == "reference":
            from engine.materials.reference import reference_labels

            return {label["id"]: label["value"] for label in reference_labels(self._settings.fidelity)}
        from engine.materials.crystal import Material
        from engine.materials.loading import load

        path = (self._directory / self._section.source).resolve()
        if not path.exists():
            raise ConfigurationError(f"[labeler] source = {self._section.source!r}: {path} does not exist")
        field = self._section.field or self._settings.property
        found = {
            m.id: float(m.properties[field])
            for part in load([path])
            for m in part
            if isinstance(m, Material) and isinstance(m.properties.get(field), int | float)
        }
        if not found:
            raise ConfigurationError(f"no record of {path} has the property {field!r}; set [labeler] field")
        return found

    def _of_store(self, store: Store, entries: Sequence[QueueEntryRecord]) -> dict[str, float]:
        """Answer by material id; an answer may be kept under any id the material ever came in by."""
        found = {}
        for record in store.materials([e.material_id for e in entries]):
            names = [record.material_id, *(s.record_id for s in record.sources)]
            value = next((self.answers[name] for name in names if name in self.answers), None)
            if value is not None:
                found[record.material_id] = value
        return found

    def _label(self, material_id: str, value: float) -> LabelRecord:
        return LabelRecord(
            material_id=material_id,
            property=self._settings.property,
            value=value,
            unit=self._settings.unit,
            fidelity=self._settings.fidelity,
            method="replay",
            source=self._section.source,
        )

    @staticmethod
    def _move(store: Store, entries: Sequence[QueueEntryRecord], before: QueueState, after: QueueState) -> None:
        store.move([e.id for e in entries if e.state is before and e.id], after, "replay")


def make_labeler(configuration: Configuration, directory: Path) -> Labeler:
    """The labeler that ``campaign.toml`` names."""
    return Replay(configuration, directory) if configuration.labeler.kind == "replay" else Dft()
