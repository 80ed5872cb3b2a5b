"""What an ingest reports: counts, and the first of the duplicates, rejections and versions by name."""

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
"""How many duplicates, rejections and versions a report names; the store keeps them all."""

_Item = TypeVar("_Item")


@dataclass
class IngestReport:
    """What became of everything that came in; lists hold the first :data:`EXAMPLES`, so that memory is bounded."""

    added: int = 0
    duplicate: int = 0
    unchanged: int = 0
    rejected: int = 0
    labels: int = 0
    label_ids: list[int] = field(default_factory=list)
    """Of the labels written."""
    unchanged_label_ids: list[int] = field(default_factory=list)
    """Of labels that were there already, withdrawn ones too."""
    doubtful: list[Doubt] = field(default_factory=list)
    """Labels that were written and are doubtful."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Id that came in, id of the material it is a copy of."""
    rejections: list[RejectionRecord] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """How many records were refused for each reason."""
    version: int = 0
    versions: list[tuple[str, str]] = field(default_factory=list)
    """Id under which another structure was known, id under which the one that came now is kept."""
    relaxation: int = 0
    relaxations: list[tuple[str, str]] = field(default_factory=list)
    """Id of a new material, id of the one that is the same compound, relaxed otherwise."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, e.g. that a database announced more than it sent."""
    noted: int = 0
    """Crystals that came in with a note; ``rejections --notes`` lists them."""
    note_kinds: dict[str, tuple[int, str]] = field(default_factory=dict)
    """How many notes of each kind, which is a note without its numbers and names, and the first of them."""

    @property
    def read(self) -> int:
        """Records read."""
        return self.added + self.unchanged + self.duplicate + self.rejected

    def add_duplicates(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count copies."""
        self.duplicate += len(pairs)
        _extend(self.duplicates, pairs)

    def add_rejections(self, records: Sequence[RejectionRecord]) -> None:
        """Count what was refused."""
        self.rejected += len(records)
        self.reasons.update(record.reason for record in records)
        _extend(self.rejections, records)

    def add_notes(self, materials: Sequence[Material]) -> None:
        """Count what readers noticed of crystals that came in."""
        for material in materials:
            self.noted += bool(material.notes)
            for note in material.notes:
                kind = re.sub(r"'[^']*'|[-+]?\d[\d.eE+-]*", "*", note).split(": ")[0]
                count, first = self.note_kinds.get(kind, (0, f"{material.id}: {note}"))
                self.note_kinds[kind] = count + 1, first

    def all_notes(self) -> list[str]:
        """One line a note of a database, and one a kind of note on crystals."""
        return [*self.notes, *(f"{first} ({n} of the kind)" for n, first in self.note_kinds.values())]

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
