"""What ``kappascout relax`` is asked for, and what became of the materials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RelaxRequest:
    """What is to be calculated."""

    potential: str
    """As of :func:`engine.physics.potentials.load_potential`."""
    references: Sequence[Path] = ()
    """Files of reference phases; without any there are no energies above the hull."""
    given_energies: bool = False
    """Whether energies in those files were calculated with this potential, and are used as they are."""
    replace: bool = False
    """Whether energies above the hull that materials came with give way to the calculated ones."""
    phonons: bool = False
    """Whether to compute the lowest phonon frequency of each relaxed crystal."""
    queued: bool = False
    """Whether to take only materials with an unfinished queue entry."""
    retry: bool = False
    """Whether calculations that failed with the same potential and settings are done again."""
    workers: int | None = None
    """Processes; one a core if None."""
    time_limit: float = 600.0
    """Wall seconds for each calculation of a crystal."""


@dataclass
class RelaxReport:
    """What became of the materials."""

    materials: int
    before: int = 0
    """Materials whose relaxation was there already."""
    relaxed: int = 0
    """Materials with a relaxed crystal, those from before too."""
    failures: Counter[str] = field(default_factory=Counter)
    """Materials without one, by reason."""
    with_phonons: int = 0
    """Materials with a lowest frequency."""
    imaginary: int = 0
    """Those of them whose lowest frequency is imaginary."""
    phonon_failures: Counter[str] = field(default_factory=Counter)
    """Relaxed materials without a lowest frequency, by reason."""
    references: int = 0
    """Reference phases that the hulls are made of."""
    above_hull: int = 0
    """Materials with a calculated energy above the hull."""
    kept: int = 0
    """Materials whose energy above the hull came from elsewhere and stays."""
    removed: int = 0
    """Materials whose energy above the hull, of earlier references, is gone: these references lack their elements."""
    without_reference: dict[str, list[str]] = field(default_factory=dict)
    """Chemical systems without a hull, with the elements that lack a reference."""
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    """Figures of a few materials for a table, those that failed first."""
    core_seconds: float = 0.0
    """Processor time of this run."""

    def row(self) -> dict[str, object]:
        """The counts as one row."""
        return {
            "materials": self.materials,
            "before": self.before,
            "relaxed": self.relaxed,
            "failures": dict(self.failures.most_common()),
            "phonons": self.with_phonons,
            "imaginary": self.imaginary,
            "phonon_failures": dict(self.phonon_failures.most_common()),
            "references": self.references,
            "above_hull": self.above_hull,
            "kept": self.kept,
            "removed": self.removed,
            "core_seconds": round(self.core_seconds, 1),
        }
