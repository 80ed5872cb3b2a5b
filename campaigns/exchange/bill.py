"""What the calculations of an export take: supercells, atoms and core-hours, entry by entry and in all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from campaigns.exchange.manifest import Entry


@dataclass(frozen=True)
class BillRow:
    """Size and expected core-hours of one calculation."""

    id: str
    formula: str
    supercells: int
    atoms: int
    """Atoms of the largest supercell."""
    core_hours: float
    when_queued: float | None
    """Core-hours that were expected when it was queued; None where no cost was known then."""

    @property
    def has_changed(self) -> bool:
        """Whether another number was expected when it was queued."""
        return self.when_queued is not None and not math.isclose(self.core_hours, self.when_queued, rel_tol=1e-6)


@dataclass(frozen=True)
class Bill:
    """Calculations of an export with their price."""

    rows: tuple[BillRow, ...]
    basis: str
    """Where the core-hours come from, as text."""

    @classmethod
    def of(cls, entries: Sequence[Entry], basis: str) -> Bill | None:
        """Bill of entries; None where they have no price, as relaxations alone."""
        rows = [
            BillRow(e.id, e.formula, e.work.supercells, e.work.atoms, e.work.core_hours, e.expected_cost)
            for e in entries
            if e.work
        ]
        return cls(tuple(rows), basis) if rows else None

    @property
    def core_hours(self) -> float:
        """Core-hours of all calculations together."""
        return sum(row.core_hours for row in self.rows)

    @property
    def columns(self) -> list[str]:
        """Columns of the table; what was expected earlier is one where it differs."""
        shown = ["id", "formula", "supercells", "atoms", "core_hours"]
        return [*shown, "when_queued"] if any(row.has_changed for row in self.rows) else shown

    def lines(self) -> list[str]:
        """The sum and its basis as text, and how many were queued at another price."""
        noun = "calculation takes" if len(self.rows) == 1 else "calculations take"
        found = [f"{len(self.rows)} {noun} about {hours(self.core_hours)} core-hours together; {self.basis}"]
        if changed := [row for row in self.rows if row.has_changed]:
            before = sum(row.when_queued or 0.0 for row in changed)
            now = sum(row.core_hours for row in changed)
            found.append(
                f"{len(changed)} of them were queued at {hours(before)} core-hours, and are expected to take "
                f"{hours(now)} now: calculations have finished, or settings changed, since then"
            )
        return found


def hours(value: float) -> str:
    """Core-hours as text: whole ones, two digits of few."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
