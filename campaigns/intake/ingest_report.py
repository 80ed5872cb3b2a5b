"""Report of an ingest: counts, and the first of the duplicates, rejections and versions by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from db.records import RejectionRecord
from engine.materials.crystal import Material

if TYPE_CHECKING:
    from campaigns.intake.doubts import Doubt

EXAMPLES = 1000
"""Number of duplicates, rejections and versions that a report names; the store has all."""

_Item = TypeVar("_Item")


@dataclass
class IngestReport:
    """Result of an ingest; lists hold the first :data:`EXAMPLES`, so that memory is bounded."""

    added: int = 0
    duplicate: int = 0
    unchanged: int = 0
    rejected: int = 0
    labels: int = 0
    label_ids: list[int] = field(default_factory=list)
    """Ids of the labels written."""
    unchanged_label_ids: list[int] = field(default_factory=list)
    """Ids of labels that were there already, withdrawn ones too."""
    doubtful: list[Doubt] = field(default_factory=list)
    """Labels that were written and are doubtful."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Id of the record, id of the material it is a copy of."""
    rejections: list[RejectionRecord] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of records refused for each reason."""
    version: int = 0
    versions: list[tuple[str, str]] = field(default_factory=list)
    """Id under which another structure was known, id under which the new one is stored."""
    relaxation: int = 0
    relaxations: list[tuple[str, str]] = field(default_factory=list)
    """Id of a new material, id of the same compound in another relaxation."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user, e.g. that a database announced more than it sent."""
    noted: int = 0
    """Number of crystals added with a note; ``rejections --notes`` lists them."""
    note_kinds: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Number of notes of each kind (a note without its numbers and names), and the first of each."""

    @property
    def read(self) -> int:
        """Number of records read."""
        return self.added + self.unchanged + self.duplicate + self.rejected

    def add_duplicates(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count copies."""
        self.duplicate += len(pairs)
        _extend(self.duplicates, pairs)

    def add_rejections(self, records: Sequence[RejectionRecord]) -> None:
        """Count refused records."""
        self.rejected += len(records)
        self.reasons.update(record.reason for record in records)
        _extend(self.rejections, records)

    def add_notes(self, materials: Sequence[Material]) -> None:
        """Count notes of the readers on crystals that were added."""
        for material in materials:
            self.noted += bool(material.notes)
            for note in material.notes:
                kind = re.sub(r"'[^']*'|[-+]?\d[\d.eE+-]*", "*", note).split(": ")[0]
                count, first = self.note_kinds.get(kind, (0, f"{material.id}: {note}"))
                self.note_kinds[kind] = count + 1, first

    def all_notes(self) -> list[str]:
        """One line for each note of a database, and one for each kind of note on crystals."""
        return [*self.notes, *(f"{first} ({n} of this kind)" for n, first in self.note_kinds.values())]

    def add_versions(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count other structures of known ids."""
        self.version += len(pairs)
        _extend(self.versions, pairs)

    def add_relaxations(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count materials of one compound."""
        self.relaxation += len(pairs)
        _extend(self.relaxations, pairs)


def _extend(examples: list[_Item], more: Sequence[_Item]) -> None:
    examples += more[: max(0, EXAMPLES - len(examples))]
