"""Candidates whose calculation is too large are not queued: the limits of ``[dft]`` hold in the choice of a batch.

Only what would be queued is counted exactly, since a count takes half a second. A batch is chosen first as if there
were no limits, so that they change nothing where none is exceeded. Where some of it is too large, that is left out, and
so is what an estimate puts far beyond the limits; then the next best are chosen and counted, until all fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from campaigns.output import Count
from engine.acquire.explanation import shown
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.pool.costs import Costs
    from campaigns.round.context import RoundContext
    from db.records import QueueEntryRecord
    from engine.acquire.batch import Batch
    from engine.acquire.limits import BatchLimits

FAR = 4.0
"""Estimates this many times beyond a limit leave a candidate out without a count: they are within 0.56 to 3.1 of the
counts of supercells and atoms of 53 crystals."""
_FEWEST = 20
"""Candidates with the smallest estimates that are kept whatever these are, for each entry of the batch."""
_MOST_COUNTED = 50
"""Most candidates that are counted, for each entry of the batch."""


class SizeCheck:
    """Which candidates of a round are too large, as far as this is known."""

    def __init__(self, context: RoundContext, costs: Costs):
        self._context = context
        self._costs = costs
        self._counted: set[int] = set()
        self._too_large: list[int] = []
        self._far: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    @property
    def left_out(self) -> NDArray[np.int64]:
        """Rows of the pool that are too large: by their count, or far beyond the limits by an estimate."""
        return np.union1d(np.array(self._too_large, dtype=np.int64), self._far)

    @property
    def has_counted_enough(self) -> bool:
        """Whether so many have been counted that the batch is to end with what fits."""
        return len(self._counted) >= _MOST_COUNTED * self._context.manifest.batch

    def too_large(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of a few rows are too large, by their exact count."""
        keys = [self._context.pool.rows[row] for row in rows]
        found = np.array(self._costs.too_large(keys), dtype=bool)
        self._counted.update(rows.tolist())
        self._too_large += rows[found].tolist()
        if found.any():
            self._context.say(Count(f"{len(self._counted)} candidates counted, {len(self._too_large)} too large"))
        return found

    def leave_out_far(self, candidates: NDArray[np.int64]) -> None:
        """Leave out those of the candidates that an estimate puts far beyond the limits."""
        excess = self._costs.estimated_excess([self._context.pool.rows[row] for row in candidates])
        far = excess > FAR
        far[np.argsort(excess, kind="stable")[: _FEWEST * self._context.manifest.batch]] = False
        self._far = np.union1d(self._far, candidates[far])

    def report(self) -> None:
        """Report how many were left out, and the limits."""
        known = self._context.manifest.too_large
        parts = [f"{len(self._too_large)} of {len(self._counted)} counted candidates"] if self._too_large else []
        parts += [f"{len(self._far)} by an estimate"] if len(self._far) else []
        parts += [f"{known} known from earlier rounds"] if known else []
        if parts:
            self._context.say(f"left out as too large: {', '.join(parts)}; {self._costs.limits}")


def choose_within_limits(
    choose: Callable[[NDArray[np.int64]], Batch], candidates: NDArray[np.int64], context: RoundContext, costs: Costs
) -> tuple[Batch, NDArray[np.bool_]]:
    """Choose a batch whose calculations are within the limits.

    Parameters
    ----------
    choose
        Chooses a batch without the rows of the pool that are given.
    candidates
        Rows of the pool that may be chosen.
    context, costs
        The round, and its costs.

    Returns
    -------
    batch
        Rows beyond those of the pool are of lower fidelities, and have no limits.
    fits
        Which of its rows are within the limits: all, unless too many had to be counted.

    Raises
    ------
    AcquisitionError
        If no candidate is left.
    """
    check = SizeCheck(context, costs)
    batch = choose(check.left_out)
    is_first = True
    while costs.limits is not None:
        own = batch.rows < len(context.pool)
        found = np.zeros(len(batch.rows), dtype=bool)
        found[own] = check.too_large(batch.rows[own])
        if not found.any():
            break
        left = np.setdiff1d(candidates, check.left_out)
        if len(left) and is_first:
            is_first = False
            check.leave_out_far(left)
            left = np.setdiff1d(left, check.left_out)
        if not len(left) or (check.has_counted_enough and found.all()):
            check.report()
            raise AcquisitionError(_none_fits(costs))
        if check.has_counted_enough:
            check.report()
            return batch, ~found
        try:
            batch = choose(check.left_out)
        except AcquisitionError:
            check.report()
            raise
    check.report()
    return batch, np.ones(len(batch.rows), dtype=bool)


class FirstBatchPrices:
    """Prices and limits of the entries of a batch that is chosen without a model, one after the other."""

    def __init__(self, context: RoundContext, costs: Costs):
        self._context = context
        self._costs = costs
        self._check = SizeCheck(context, costs)
        self._left = context.manifest.core_hours_left
        self._dearest = 0.0
        self._core_hours: list[float] = []

    def take(self, row: int, candidates: NDArray[np.int64], limits: BatchLimits) -> bool:
        """Whether a row of the pool fits; one that does not is closed in the limits of the batch."""
        first = not len(self._check.left_out)
        if self._check.too_large(np.array([row]))[0]:
            if first:
                self._check.leave_out_far(candidates[limits.open])
            limits.exclude(np.isin(candidates, self._check.left_out))
            if self._check.has_counted_enough:
                limits.exclude(np.ones(len(candidates), dtype=bool))
            return False
        (price,) = self._costs.counted([self._context.pool.rows[row]])
        if self._left is not None and sum(self._core_hours) + price > self._left:
            limits.exclude(candidates == row)
            self._dearest = max(self._dearest, price)
            return False
        self._core_hours.append(price)
        return True

    def priced(self, entries: list[QueueEntryRecord]) -> list[QueueEntryRecord]:
        """The entries with their expected cost, in the order in which their rows were taken.

        Raises
        ------
        AcquisitionError
            If none is left.
        """
        self._check.report()
        if not entries and len(self._check.left_out):
            raise AcquisitionError(_none_fits(self._costs))
        if not entries and self._dearest:
            raise AcquisitionError(
                f"no candidate fits the {self._left:,.0f} core-hours that are left of the budget; raise [campaign] "
                "budget_core_hours"
            )
        return [
            replace(entry, expected_cost=hours, reason=f"{entry.reason}; about {shown(hours, 'linear')} core-hours")
            for entry, hours in zip(entries, self._core_hours, strict=True)
        ]


def _none_fits(costs: Costs) -> str:
    return (
        f"every candidate that was counted is too large for {costs.limits}; raise a limit, lower [dft] min_length, or "
        "use displacements = 'random'"
    )
