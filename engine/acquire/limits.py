"""Limits of a batch: rows of each group (chemical system, prototype), and core-hours in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

GroupLimits = Mapping[str, tuple["ArrayLike", int]]
"""Name of a grouping -> (group of each row of the pool, N; most rows of one group in a batch)."""
Relatives = Callable[[int], "NDArray[np.int64]"]
"""Row of the pool -> rows that may not be in a batch with it."""


class BatchLimits:
    """Which candidates are still allowed as a batch grows.

    Parameters
    ----------
    rows
        Rows of the candidates in the pool.
    limits
        Groupings over the whole pool.
    cost
        Expected core-hours of each row of the pool, N.
    budget
        Core-hours that the batch may cost in all.
    relatives
        Rows that may not be in a batch with a row; called for chosen and pending rows only.
    pending
        Pending rows of the pool: their relatives are not allowed.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        limits: GroupLimits | None = None,
        cost: NDArray[np.float64] | None = None,
        budget: float | None = None,
        relatives: Relatives | None = None,
        pending: NDArray[np.int64] | None = None,
    ):
        self._groups, self._left = {}, {}
        for name, (labels, most) in (limits or {}).items():
            if most < 1:
                raise AcquisitionError(
                    f"the limit of {most} rows for each {name} forbids every row; use 1 or more, or a constraint"
                )
            groups, codes = np.unique(np.asarray(labels)[rows], return_inverse=True)
            self._groups[name], self._left[name] = codes, np.full(len(groups), most)
        if budget is not None and cost is None:
            raise AcquisitionError(f"a budget of {budget:g} core-hours needs the cost of each row; pass cost")
        self._cost = None if cost is None else np.asarray(cost, dtype=np.float64)[rows]
        self._remaining = np.inf if budget is None else float(budget)
        self.spent = 0.0
        self.open = np.ones(len(rows), dtype=bool)
        if budget is not None and self._cost is not None:
            self.open &= self._cost <= self._remaining
            if len(rows) and not self.open.any():
                raise AcquisitionError(
                    f"no candidate fits the budget of {budget:g} core-hours, the cheapest costs "
                    f"{self._cost.min():g}; raise the budget"
                )
        self._rows, self._relatives = rows, relatives
        if relatives is not None:
            for row in [] if pending is None else pending.tolist():
                self.open &= ~self._related(row)
        self.left = int(np.count_nonzero(self.open))

    @property
    def unlimited(self) -> bool:
        """Whether only the number of candidates limits the batch."""
        return not self._groups and np.isinf(self._remaining) and self._relatives is None

    def exclude(self, mask: NDArray[np.bool_]) -> None:
        """Exclude these candidates."""
        self.open &= ~mask
        self.left = int(np.count_nonzero(self.open))

    def take(self, position: int) -> NDArray[np.int64]:
        """Count a chosen candidate; returns the candidates that are no longer allowed."""
        if self._cost is not None:
            self.spent += self._cost[position]
        if self.unlimited:
            self.open[position] = False
            self.left -= 1
            return np.array([position])
        closed = np.zeros(len(self.open), dtype=bool)
        closed[position] = True
        for name, codes in self._groups.items():
            group = codes[position]
            self._left[name][group] -= 1
            if self._left[name][group] == 0:
                closed |= codes == group
        if self._cost is not None and np.isfinite(self._remaining):
            self._remaining -= self._cost[position]
            closed |= self._cost > self._remaining
        closed |= self._related(int(self._rows[position]))
        closed &= self.open
        self.exclude(closed)
        return np.flatnonzero(closed)

    def _related(self, row: int) -> NDArray[np.bool_]:
        """Mask of the candidates that may not be in a batch with a row of the pool."""
        related = np.empty(0, dtype=np.int64) if self._relatives is None else self._relatives(row)
        return np.isin(self._rows, related) if len(related) else np.zeros(len(self._rows), dtype=bool)
