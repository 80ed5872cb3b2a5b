"""Construction of a batch, to which acquisition functions add rows one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.acquire.diversity import Diversity, diversity
from engine.acquire.explanation import shown, shown_ends
from engine.acquire.limits import BatchLimits
from engine.acquire.marginal import ConfidenceBound, MarginalRule
from engine.acquire.pool import CandidatePool, top
from engine.acquire.request import BatchRequest
from engine.acquire.sequential import Acquisition, GreedyContext, Kind, LazyGreedy, weighed
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SORTED_PER_PICK = 32
"""Rows that are sorted for each requested row, before all are, where limits exclude some."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Chosen rows in order; the value of each when it was chosen; the function that chose it; notes for the user.

    Values are those of the function, to be maximised: qLogEI the natural logarithm of the conditional expected
    improvement, top_share that of each row beyond its threshold; qUCB and qPI the joint value of pending and chosen
    rows; ucb, greedy and thompson values on the model's scale, negated when the goal is ``min``; random zero. With
    feasibility, cost or diversity they are what ranked the rows.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    rules: tuple[str, ...]
    notes: tuple[str, ...]


class BatchBuilder:
    """The rows chosen so far, and methods to add more.

    Parameters
    ----------
    pool
        The candidates.
    request
        The request.
    limits
        Limits on the candidates that may still be chosen.
    log_weights
        Natural logarithm of feasibility over cost of each candidate, N; ``None`` where neither is known.
    """

    def __init__(
        self,
        pool: CandidatePool,
        request: BatchRequest,
        limits: BatchLimits,
        log_weights: NDArray[np.float64] | None,
    ):
        self.pool, self.limits, self.log_weights = pool, limits, log_weights
        self._asked = request
        self.positions: list[int] = []
        self.values: list[float] = []
        self.rules: list[str] = []
        self.notes: list[str] = []
        best = request.best_utility(pool.objective)
        self.diversity: Diversity = diversity(request.diverse, pool, request.embeddings, best, request.rng)
        if len(request.pending_rows):
            self.diversity.take(request.pending_rows)
        if (note := _outside_predictions(pool, request.scale)) is not None:
            self.notes.append(note)
        if log_weights is not None:
            limits.exclude(np.isneginf(log_weights))

    @property
    def request(self) -> BatchRequest:
        """The request, with the rows chosen so far."""
        return replace(self._asked, chosen=self.rows) if self.positions else self._asked

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the pool chosen so far, in order."""
        return self.pool.rows[np.array(self.positions, dtype=np.int64)]

    def maximise(self, acquisition: Acquisition, name: str, q: int) -> int:
        """Add up to q rows of the largest values; returns the number of rows without any gain left."""
        if isinstance(acquisition, MarginalRule) and self._asked.diverse == "none":
            return self._sort(acquisition, name, q)
        return self._greedy(acquisition, name, q)

    def fall_back(self, name: str, fallback: str, q: int, missing: int) -> None:
        """Add the rows of q that function ``name`` could not choose by the upper confidence bound, with a note."""
        beta = self._asked.beta
        self.notes.append(
            f"{name}: from pick {q - missing + 1} on no candidate adds anything that the {self.pool.posterior.n_draws} "
            f"joint draws resolve; those picks are ranked by {fallback} (beta {beta:g})"
        )
        self._greedy(MarginalRule(ConfidenceBound(beta), self.pool.objective), fallback, missing)

    def take_in_order(self, order: NDArray[np.int64], values: NDArray[np.float64], name: str, q: int) -> int:
        """Add up to q rows in the order of these positions, within the limits; returns the number that is missing."""
        for position in order:
            if q == 0 or not self.limits.left:
                break
            if self.limits.open[position]:
                self.keep(int(position), float(values[position]), name)
                q -= 1
        return q

    def keep(self, position: int, value: float, name: str) -> None:
        """Add one candidate."""
        self.limits.take(position)
        self.diversity.take(self.pool.rows[[position]])
        self.positions.append(position)
        self.values.append(value)
        self.rules.append(name)

    def batch(self, q: int, notes: Sequence[str]) -> Batch:
        """The chosen batch, with a note where it has fewer than q rows.

        Raises
        ------
        AcquisitionError
            If nothing could be chosen.
        """
        if not self.positions:
            raise AcquisitionError(
                "nothing can be chosen: feasibility, limits, budget and pending rows leave no row; relax one"
            )
        n, budget = len(self.positions), self._asked.budget
        if budget is not None:
            self.notes.append(f"{self.limits.spent:.4g} of {budget:g} core-hours for {n} rows")
        elif n < q:
            self.notes.append(f"limits and feasibility leave {n} of {q} rows; relax one for more")
        return Batch(self.rows, np.array(self.values, dtype=np.float64), tuple(self.rules), (*notes, *self.notes))

    def _sort(self, acquisition: MarginalRule, name: str, q: int) -> int:
        """Choose the q best rows by a rule that does not depend on earlier picks."""
        values = acquisition.bound(self.pool)
        if self.log_weights is not None:
            values = weighed(acquisition.kind, values, self.log_weights, float(np.median(values)))
        left = self.limits.left
        if left < len(self.pool):
            values = np.where(self.limits.open, values, -np.inf)
        order = top(values, self.pool.priority, min(q if self.limits.unlimited else SORTED_PER_PICK * q, left))
        self.notes += _tie_notes(values, order[:q], name)
        missing = self.take_in_order(order, values, name, q)
        if not missing or len(order) == left:
            return missing
        return self.take_in_order(top(values, self.pool.priority, left), values, name, missing)

    def _greedy(self, acquisition: Acquisition, name: str, q: int) -> int:
        """Choose one row after the other, each the best given those before it."""
        context = GreedyContext(self.pool, self.limits, self.diversity, self.log_weights)
        greedy = LazyGreedy(acquisition, context, self.request.taken)
        ties = 0
        while len(greedy.chosen) < q and self.limits.left:
            tied = greedy.advance()
            if tied is None:
                break
            ties += tied > 0
        self.positions += greedy.chosen
        self.values += greedy.values
        self.rules += [name] * len(greedy.chosen)
        if ties:
            self.notes.append(f"{name}: {ties} of {q} picks tied exactly; broken by a seeded permutation")
        return q - len(greedy.chosen)


def best_of_each_draw(
    pool: CandidatePool, k: int, log_weights: NDArray[np.float64] | None
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Values and positions of the k best candidates of every joint draw, best first, over the streamed pool."""
    ranked = [(np.empty(0), np.empty(0, dtype=np.int64))] * pool.posterior.n_draws
    middle = 0.0 if log_weights is None else float(np.median(pool.marginal(0.0)))
    for part in pool.chunks():
        positions = np.arange(len(pool))[part]
        utility = pool.read(pool.rows[part], drawn=True).utility.astype(np.float64)
        if log_weights is not None:
            utility = weighed(Kind.FREE, utility, np.broadcast_to(log_weights[part], utility.shape), middle)
        for d, draw in enumerate(utility):
            keep = top(draw, pool.priority[part], k)
            values = np.concatenate([ranked[d][0], draw[keep]])
            where = np.concatenate([ranked[d][1], positions[keep]])
            best = top(values, pool.priority[where], k)
            ranked[d] = (values[best], where[best])
    return ranked


def _outside_predictions(pool: CandidatePool, scale: str) -> str | None:
    """Note on a target or a window outside all predictions."""
    objective = pool.objective
    if objective.kind != "window":
        return None
    mean, std = pool.mean_std
    low, high = float((mean - 3 * std).min()), float((mean + 3 * std).max())
    if low <= objective.high and objective.low <= high:
        return None
    return (
        f"the {'target' if objective.low == objective.high else 'window'} {shown_ends(objective, scale)} lies outside "
        f"all predictions, which end at {shown(low, scale)} and {shown(high, scale)}; the nearest are taken"
    )


def _tie_notes(values: NDArray[np.float64], best: NDArray[np.int64], name: str) -> tuple[str, ...]:
    """Note on chosen rows with exactly the value of another row."""
    if not len(best):
        return ()
    contenders, counts = np.unique(values[values >= values[best[-1]]], return_counts=True)
    tied = np.count_nonzero(np.isin(values[best], contenders[counts > 1]))
    if not tied:
        return ()
    return (f"{name}: {tied} of {len(best)} picks tie exactly with another row; broken by a seeded permutation",)
