"""Sequential greedy optimisation over a whole pool, in memory of a chunk and a few numbers for each row.

An earlier gain of a row is a bound of its gain now (joint acquisition functions are monotone submodular, and
a Gaussian's spread only falls as rows are conditioned on): lazy greedy (Minoux, Optimization Techniques, 234, 1978)
re-evaluates only rows whose bound could still be the largest. First bounds come from marginals: joint draws are made
for promising rows only. Functions without a bound evaluate only the rows with the best marginals.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.acquire.pool import CandidatePool, Rows, top

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.acquire.diversity import Diversity
    from engine.acquire.limits import BatchLimits

SHORTLIST_ROWS = 512
"""Rows whose draws are in memory; four times as many when a row outside could be the best."""
LAZY_BLOCK = 64
"""Rows re-evaluated at a time."""
SCREENED_ROWS = 2048
"""Larger pools are screened by marginal bounds before draws are made; functions without bounds use this many."""
MOST_DRAWN = 32_768
"""Most rows of a larger pool with draws: those with the largest bounds."""
TIE = 1e-12
"""Relative difference of gains below which they are equal within rounding."""


class Kind(StrEnum):
    """How a factor (feasibility, diversity, one over the cost) enters an acquisition value."""

    LOG = "log"  # the value is a logarithm: log factor is added
    POSITIVE = "positive"  # the value is multiplied by the factor
    FREE = "free"  # the value has no natural zero: its excess over the candidates' median is multiplied by the factor
    NONE = "none"  # factors do not enter, except that 0 excludes


class Acquisition(Protocol):
    """An acquisition function for sequential greedy optimisation, to be maximised."""

    kind: Kind
    needs_draws: bool
    keeps_bounds: bool
    """Whether the gain of a row never increases (submodularity)."""
    only_orders: bool
    """Whether :meth:`bound` is not a bound but only the order in which rows are evaluated."""

    def bound(self, pool: CandidatePool) -> NDArray[np.float64] | None:
        """Bound on each row's gain from its marginals, N; None where there is none."""

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Gain of each of n rows given the chosen ones; of all rows that may be chosen if there are no bounds."""

    def take(self, rows: Rows) -> None:
        """Condition on these rows."""

    def nil(self) -> float:
        """Gain below the numerical resolution."""

    def value(self, gain: float) -> float:
        """Acquisition value to report for a row with this gain."""


@dataclass(frozen=True, eq=False)
class GreedyContext:
    """Candidates, limits and factors of a greedy batch."""

    pool: CandidatePool
    limits: BatchLimits
    """Limits on the candidates that may still be chosen."""
    diversity: Diversity
    """Factors that fall near chosen rows."""
    log_weights: NDArray[np.float64] | None
    """Natural logarithm of feasibility over cost of each candidate, N."""


class LazyGreedy:
    """Lazy greedy maximisation with earlier gains as upper bounds: ``bounds`` for all N, draws for a shortlist only."""

    def __init__(self, acquisition: Acquisition, context: GreedyContext, taken: NDArray[np.int64]):
        self.acquisition = acquisition
        self.pool, self.limits, self.diversity = context.pool, context.limits, context.diversity
        self.log_weights = context.log_weights
        self.chosen: list[int] = []
        self.values: list[float] = []
        for start in range(0, len(taken), self.pool.chunk):
            part = taken[start : start + self.pool.chunk]
            acquisition.take(self.pool.read(part, acquisition.needs_draws))
        self._start_bounds()

    def advance(self) -> int | None:
        """Choose one more row; returns the number of rows that tied with it, or ``None`` when all gains are zero."""
        if not self.acquisition.keeps_bounds:
            hopeful = self.shortlist[self.bounds[self.shortlist] > -np.inf]
            self.bounds[hopeful] = np.inf
        gain, winners = self._winners()
        if gain == -np.inf or gain < self._nil:
            return None
        winner = winners[np.argmin(self.pool.priority[self.shortlist[winners]])]
        position = int(self.shortlist[winner])
        self.chosen.append(position)
        self.values.append(self.acquisition.value(gain))
        self.acquisition.take(self.near[np.array([winner])])
        self.diversity.take(self.pool.rows[[position]])
        self.bounds[self.limits.take(position)] = -np.inf
        self.current = False
        return len(winners) - 1

    @property
    def _nil(self) -> float:
        return self.acquisition.nil() if self.log_weights is None else -np.inf

    def _winners(self) -> tuple[float, NDArray[np.int64]]:
        """Find the largest gain in the whole pool and its shortlist positions (several when they tie)."""
        while True:
            gain, winners = self._evaluate_shortlist()
            rival = max(gain - TIE, self._nil)
            if self.outside < rival or self.current or self.outside == -np.inf:
                return gain, winners
            if 0 < len(self.shortlist) <= self.pool.chunk // 4:
                self._shortlist(4 * len(self.shortlist))
            else:
                self._stream(rival)

    def _evaluate_shortlist(self) -> tuple[float, NDArray[np.int64]]:
        """Re-evaluate rows in the order of their bounds until no earlier bound could be the largest."""
        stale = self.bounds[self.shortlist] > -np.inf
        fresh = np.zeros(len(stale), dtype=bool)
        block, gain = LAZY_BLOCK if self.acquisition.keeps_bounds else len(stale), -np.inf
        while True:
            bounds = self.bounds[self.shortlist]
            hopeful = np.flatnonzero(stale & (bounds >= max(gain - TIE, self._nil)))
            if len(hopeful) == 0:
                return gain, np.flatnonzero(fresh & (bounds >= gain - TIE))
            todo = hopeful[np.argsort(-bounds[hopeful], kind="stable")[:block]]
            gains = self._gain(self.near[todo], self.shortlist[todo])
            self.bounds[self.shortlist[todo]] = gains
            stale[todo], fresh[todo] = False, True
            gain, block = max(gain, float(gains.max())), 2 * block

    def _gain(self, rows: Rows, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        factor = self.diversity.log_factor(rows.rows)
        if self.log_weights is not None:
            factor = factor + self.log_weights[positions]
        gain = self.acquisition.gain(rows)
        return self._weighed(np.where(gain < self.acquisition.nil(), -np.inf, gain), factor)

    def _weighed(self, gain: NDArray[np.float64], log_factor: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighed(self.acquisition.kind, gain, log_factor, self.middle)

    def _start_bounds(self) -> None:
        """Bound every row by its marginals, or by infinity."""
        self.middle, acquisition, pool = 0.0, self.acquisition, self.pool
        screened = len(pool) > SCREENED_ROWS or not acquisition.needs_draws
        marginal = acquisition.bound(pool) if screened or acquisition.kind is Kind.FREE else None
        if marginal is not None and acquisition.kind is Kind.FREE:
            self.middle = float(np.median(marginal))
        factor = np.zeros(len(pool)) if self.log_weights is None else self.log_weights
        closed = ~self.limits.open | np.isneginf(factor)
        self.bounds = np.full(len(pool), np.inf)
        if marginal is not None and screened:
            most = SCREENED_ROWS if acquisition.only_orders else MOST_DRAWN
            promise = self._weighed(marginal, factor)
            if acquisition.only_orders and pool.target_of is not None:
                promise = marginal  # all fidelities of a material are evaluated together, whatever they cost
            promise = np.where(closed, -np.inf, promise)
            if acquisition.needs_draws and len(pool) > most:
                closed |= promise < np.partition(promise, len(pool) - most)[len(pool) - most]
            if not acquisition.only_orders:
                self.bounds = promise
        self.bounds[closed] = -np.inf
        self.shortlist, self.outside, self.current = np.empty(0, dtype=np.int64), np.inf, False
        if acquisition.only_orders:
            self._shortlist(SCREENED_ROWS)
            self.outside = -np.inf
        elif marginal is not None and screened:
            self._shortlist(SHORTLIST_ROWS)

    def _stream(self, rival: float) -> None:
        """Update every bound that could be the largest, chunk by chunk; then make a new shortlist."""
        hopeful = np.flatnonzero((self.bounds >= rival) & (self.bounds > -np.inf))
        for start in range(0, len(hopeful), self.pool.chunk):
            part = hopeful[start : start + self.pool.chunk]
            self.bounds[part] = self._gain(self._read(part), part)
        self._shortlist(SHORTLIST_ROWS)
        self.current = True

    def _shortlist(self, size: int) -> None:
        """Read the rows with the largest bounds."""
        best = top(self.bounds, self.pool.priority, size + 1)
        self.shortlist = best[:size]
        self.outside = float(self.bounds[best[size]]) if len(best) > size else -np.inf
        self.near = self._read(self.shortlist)

    def _read(self, positions: NDArray[np.int64]) -> Rows:
        return self.pool.read(self.pool.rows[positions], self.acquisition.needs_draws)


def weighed(
    kind: Kind, gain: NDArray[np.float64], log_factor: NDArray[np.float64], middle: float = 0.0
) -> NDArray[np.float64]:
    """Acquisition values times their factors (feasibility, diversity, one over the cost), as their kind asks."""
    if not log_factor.any():
        return gain
    excluded = np.isneginf(log_factor)
    excluded |= np.isneginf(gain)
    if kind is Kind.LOG:
        return np.where(excluded, -np.inf, gain + log_factor)
    if kind is Kind.NONE:
        return np.where(excluded, -np.inf, gain)
    gain = np.where(excluded, middle, gain)
    above = gain - middle if kind is Kind.FREE else gain
    size = np.log(np.maximum(np.abs(above), 1e-300)) + np.where(above >= 0, 1.0, -1.0) * np.maximum(log_factor, -600.0)
    return np.where(excluded, -np.inf, np.sign(above) * np.exp(np.minimum(size, 600.0)) + (gain - above))
