"""Limits on known properties, elements and sites, applied to the pool before it is ranked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import AcquisitionError
from engine.materials.elements import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Missing(StrEnum):
    """What happens to a row whose property is not known (NaN)."""

    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True)
class Columns:
    """Known properties of the pool, row by row.

    ``values`` holds one array of N numbers for each property, NaN where it is missing (``n_sites`` is one of them);
    ``chemical_systems`` are N strings such as ``Mg-Si``.
    """

    values: Mapping[str, NDArray[np.float64]]
    chemical_systems: Sequence[str] = ()


@dataclass(frozen=True)
class PropertyRange:
    """Mask of rows whose property lies between ``minimum`` and ``maximum``, both included; ``None`` is no limit."""

    name: str
    minimum: float | None = None
    maximum: float | None = None
    missing: Missing = Missing.DROP

    def __post_init__(self) -> None:
        """Refuse limits that no value can meet."""
        object.__setattr__(self, "missing", Missing(self.missing))
        if self.minimum is None and self.maximum is None:
            raise AcquisitionError(f"the constraint on {self.name} has no limit; give a minimum or a maximum")
        if self.minimum is not None and self.maximum is not None and not self.minimum <= self.maximum:
            raise AcquisitionError(
                f"the constraint on {self.name} has minimum {self.minimum:g} above maximum {self.maximum:g}; "
                "swap or widen the limits"
            )

    def __str__(self) -> str:
        low = "" if self.minimum is None else f"{self.minimum:g} <= "
        high = "" if self.maximum is None else f" <= {self.maximum:g}"
        return f"{low}{self.name}{high}"

    def allows(self, columns: Columns) -> NDArray[np.bool_]:
        """Mask of the rows that meet it."""
        if self.name not in columns.values:
            near = difflib.get_close_matches(self.name, columns.values, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise AcquisitionError(
                f"no row has the property {self.name!r}; {hint}known are {', '.join(sorted(columns.values)) or 'none'}"
            )
        values = np.asarray(columns.values[self.name], dtype=np.float64)
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        return np.where(np.isnan(values), self.missing is Missing.KEEP, (values >= low) & (values <= high))


@dataclass(frozen=True)
class Elements:
    """Mask of rows by elements: all of ``include``, none of ``exclude``, nothing but ``only`` (empty: no limit)."""

    include: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse unknown symbols and sets that contradict each other."""
        for name in ("include", "exclude", "only"):
            object.__setattr__(self, name, frozenset(vars(self)[name]))
        unknown = sorted((self.include | self.exclude | self.only) - ATOMIC_NUMBERS.keys())
        if unknown:
            raise AcquisitionError(f"unknown element {unknown[0]!r} in a constraint; use symbols such as Mg or Si")
        if not self.include | self.exclude | self.only:
            raise AcquisitionError("the constraint on elements names none; give include, exclude or only")
        never = self.include & self.exclude or (self.include - self.only if self.only else frozenset())
        if never:
            raise AcquisitionError(f"the constraint on elements both requires and excludes {sorted(never)[0]}")

    def __str__(self) -> str:
        parts = (("with", self.include), ("without", self.exclude), ("only", self.only))
        return "elements " + "; ".join(f"{word} {', '.join(sorted(symbols))}" for word, symbols in parts if symbols)

    def allows(self, columns: Columns) -> NDArray[np.bool_]:
        """Mask of the rows that meet it."""
        systems, inverse = np.unique(np.asarray(columns.chemical_systems, dtype=np.str_), return_inverse=True)
        kept = np.array([self._allows_system(set(system.split("-"))) for system in systems.tolist()], dtype=bool)
        return kept[inverse]

    def _allows_system(self, elements: set[str]) -> bool:
        return self.include <= elements and not self.exclude & elements and (not self.only or elements <= self.only)


Constraint = PropertyRange | Elements


@dataclass(frozen=True, eq=False)
class Selection:
    """Mask of the N rows that meet the constraints, and the number that each constraint removed, in order."""

    mask: NDArray[np.bool_]
    removed: tuple[tuple[str, int], ...]


def apply_constraints(constraints: Sequence[Constraint], columns: Columns, n_rows: int) -> Selection:
    """Apply the constraints one after the other; each counts the rows that it removes after the ones before."""
    mask = np.ones(n_rows, dtype=bool)
    removed = []
    for constraint in constraints:
        allowed = constraint.allows(columns)
        if len(allowed) != n_rows:
            raise AcquisitionError(
                f"{constraint}: the column has {len(allowed)} rows, the pool {n_rows}; pass all rows"
            )
        removed.append((str(constraint), int(np.count_nonzero(mask & ~allowed))))
        mask &= allowed
    return Selection(mask, tuple(removed))
