"""Request for a batch: number of rows, candidates, acquisition function and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.acquire.diversity import DiversityName, Embeddings
from engine.acquire.limits import GroupLimits, Relatives
from engine.acquire.objectives import Objective
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionOptions:
    """Parameters of single acquisition functions; the others ignore them.

    Raises
    ------
    AcquisitionError
        If one lies outside its range.
    """

    beta: float | Literal["schedule"] = 1.0
    """Weight of the variance in ucb and qUCB; ``schedule`` lets it grow with ``round_number``."""
    round_number: int = 1
    """Number of the round, from 1."""
    threshold: float | None = None
    """Value on the model's scale whose level set ``level_set`` searches."""
    share: float = 0.05
    """Share of the pool (candidates, labelled and pending rows) that ``top_share`` searches for."""
    epsilon: float = 0.1
    """Share of random picks in ``epsilon_greedy``."""
    portfolio: Mapping[str, float] | None = None
    """Gain of each member of ``portfolio`` (:mod:`engine.acquire.portfolio`); ``None``: the usual members, all 0."""
    reference: NDArray[np.float64] | None = None
    """Utilities (m, one per objective) that every useful row beats, for ``qLogNEHVI``: negated for ``min``, minus the
    distance for a window; ``None``: a tenth of the range below the worst of the labelled rows' Pareto front."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.beta != "schedule" and not self.beta >= 0:
            raise AcquisitionError(f"beta is {float(self.beta)}, a weight of the variance; use 0 or more")
        if not 0 <= self.epsilon <= 1:
            raise AcquisitionError(f"epsilon is {self.epsilon}, a share of the batch; use 0 to 1")
        if not 0 < self.share < 1:
            raise AcquisitionError(f"share is {self.share}, a part of the pool; use a number between 0 and 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchRequest:
    """A batch to be chosen from a pool of N rows; checked at construction.

    Raises
    ------
    AcquisitionError
        If no pool can meet it.
    """

    acquisition: str
    """Name of an acquisition function (:data:`engine.acquire.functions.FUNCTIONS`)."""
    q: int | None
    """Number of rows to choose; ``None`` with a budget: as many as it covers."""
    scale: str
    """``log10`` or ``linear``: the model's scale; with ``log10`` notes show 10 to the power of its values."""
    candidates: NDArray[np.int64]
    """Rows that may be chosen: those that meet the constraints and have no label."""
    rng: np.random.Generator
    """Breaks exact ties; also draws the rows of ``random`` and the order of ``thompson``'s draws."""
    pending: NDArray[np.int64] | None = None
    """Rows queued or running, never chosen. Joint and Gaussian functions condition on them, ``ucb`` and ``top_share``
    on the spread that their labels will leave, ``thompson`` skips draws that have their best there; ``greedy``
    avoids them only with a diversity, since a label at its mean does not change the means."""
    observed: NDArray[np.int64] | None = None
    """Labelled rows: the incumbents of ``qLogNEI``, the Pareto front that several objectives improve on."""
    best: float | None = None
    """Best known value on the model's scale (for a target or a window the one with the best utility), the incumbent of
    ``qLogEI`` and ``qPI``; ``None``: the best predicted mean, which a note says."""
    options: FunctionOptions = field(default_factory=FunctionOptions)
    """Parameters of single functions."""
    feasibility: NDArray[np.float64] | None = None
    """Probability that each row of the pool (N) is useful: the calculation succeeds, chance constraints are met."""
    cost: NDArray[np.float64] | None = None
    """Expected core-hours of each row of the pool (N): value is counted per core-hour."""
    budget: float | None = None
    """Core-hours that the batch may cost in all."""
    limits: GroupLimits | None = None
    """Most rows of one group, by name of the grouping."""
    relatives: Relatives | None = None
    """Rows that are the same compound as a row: a batch holds one of them at most, and none with a pending one."""
    diverse: DiversityName = "none"
    """Diversity of the batch: ``hallucinate`` conditions ``ucb`` or ``top_share`` on its own picks; ``penalise``
    and ``determinant`` work in embedding space with any function but ``thompson`` and ``random``."""
    embeddings: Embeddings | None = None
    """Rows of the pool -> ``n x d``."""
    target_of: NDArray[np.int64] | None = None
    """For each row of the pool (N), of which several may be one material at several fidelities, the row at the target
    fidelity: top_share, GIBBON, qMES, qKG and ``variance`` then use the information of a label about those."""
    chunk: int = 16_384
    """Rows of a chunk of draws; chunks beyond the processor's cache are slower."""
    chosen: NDArray[np.int64] | None = None
    """Rows that another function has already chosen for the same batch, in order."""

    def __post_init__(self) -> None:
        """Refuse what no pool can meet."""
        if self.q is None and self.budget is None:
            raise AcquisitionError("neither a number of rows nor a budget was given; pass q, budget or both")
        if self.q is not None and self.q < 1:
            raise AcquisitionError(f"a batch of {self.q} rows cannot be chosen; give at least 1")
        if self.budget is not None and not self.budget > 0:
            raise AcquisitionError(f"a budget of {self.budget:g} core-hours covers no calculation; give more than 0")
        if self.best is not None and not np.isfinite(self.best):
            raise AcquisitionError(
                f"the best known value (on the model's scale) is {self.best}; pass a finite number, or None"
            )
        for name in ("candidates", "chosen"):
            object.__setattr__(self, name, _rows(self.__dict__[name]))
        for name in ("pending", "observed"):
            object.__setattr__(self, name, np.unique(_rows(self.__dict__[name])))

    @cached_property
    def free(self) -> NDArray[np.int64]:
        """Candidates that are not pending, sorted, each once."""
        rows, pending = self.candidates, self.pending_rows
        if not len(pending) and (rows[1:] > rows[:-1]).all():
            return rows
        return np.setdiff1d(rows, pending)

    @property
    def pending_rows(self) -> NDArray[np.int64]:
        """Pending rows, sorted, each once; empty where none were given."""
        return _rows(self.pending)

    @property
    def observed_rows(self) -> NDArray[np.int64]:
        """Labelled rows, sorted, each once; empty where none were given."""
        return _rows(self.observed)

    @property
    def taken(self) -> NDArray[np.int64]:
        """Rows to condition on: the pending ones, then those chosen so far."""
        return np.concatenate([self.pending_rows, _rows(self.chosen)])

    @cached_property
    def beta(self) -> float:
        """Weight of the variance, as scheduled for the candidates where it is."""
        beta = self.options.beta
        return scheduled_beta(max(len(self.free), 1), self.options.round_number) if beta == "schedule" else float(beta)

    @property
    def is_weighted(self) -> bool:
        """Whether rows have weights (feasibility, cost, diversity) besides their acquisition value."""
        return self.feasibility is not None or self.cost is not None or self.diverse != "none"

    def best_utility(self, objective: Objective) -> float | None:
        """Utility of the best known value."""
        return None if self.best is None else float(objective.utility(np.asarray(self.best, dtype=np.float64)))

    def check_pool(self, n_rows: int) -> None:
        """Refuse what a pool of N rows cannot meet.

        Raises
        ------
        AcquisitionError
            For rows outside the pool, and for too few candidates.
        """
        for rows in (self.free, self.pending_rows, self.observed_rows):
            if len(rows) and not 0 <= rows[0] <= rows[-1] < n_rows:
                raise AcquisitionError(f"rows {rows[0]} to {rows[-1]} are outside the pool of {n_rows} rows")
        n_free, n_candidates, q = len(self.free), len(self.candidates), 1 if self.q is None else self.q
        if n_free < q:
            raise AcquisitionError(
                f"pool smaller than the batch: {q} requested, {n_free} can be chosen ({n_candidates} candidates, "
                f"{n_candidates - n_free} of them pending or named twice); request a smaller batch, add candidates or "
                "relax a constraint"
            )

    def log_weights(self, n_rows: int) -> NDArray[np.float64] | None:
        """Natural logarithm of feasibility over cost of each free candidate; ``None`` where neither is given.

        Raises
        ------
        AcquisitionError
            For values that are not probabilities or core-hours, or if all rows have feasibility 0.
        """
        if self.feasibility is None and self.cost is None:
            return None
        total = np.zeros(len(self.free))
        for name, values in (("feasibility", self.feasibility), ("cost", self.cost)):
            if values is None:
                continue
            if np.shape(values) != (n_rows,):
                raise AcquisitionError(
                    f"{name} has shape {np.shape(values)}, the pool {n_rows} rows; give a number for each row"
                )
            mine = np.asarray(values, dtype=np.float64)[self.free]
            good = (mine >= 0) & (mine <= 1) if name == "feasibility" else (mine > 0) & np.isfinite(mine)
            if not good.all():
                raise AcquisitionError(
                    f"the {name} of row {self.free[~good][0]} is {mine[~good][0]:g}; "
                    + ("a probability lies between 0 and 1" if name == "feasibility" else "core-hours are above 0")
                )
            with np.errstate(divide="ignore"):
                total += np.log(mine) if name == "feasibility" else -np.log(mine / np.median(mine))
        if np.isneginf(total).all():
            raise AcquisitionError(f"all {len(self.free)} candidates have feasibility 0; widen the limits behind it")
        return total

    def targets(self, n_rows: int) -> NDArray[np.int64] | None:
        """Row at the target fidelity of each of the pool's N rows; ``None`` where there is one fidelity.

        Raises
        ------
        AcquisitionError
            If it does not name a row of the pool for each row.
        """
        if self.target_of is None:
            return None
        targets = np.asarray(self.target_of, dtype=np.int64)
        if targets.shape != (n_rows,) or targets.min() < 0 or targets.max() >= n_rows:
            raise AcquisitionError(f"target_of has to name a row of the pool for each of its {n_rows} rows")
        return targets


def scheduled_beta(n_rows: int, round_number: int, delta: float = 0.1) -> float:
    """Weight of the variance that grows with the rounds: ``2 log(n t^2 pi^2 / (6 delta))`` for n rows in round t.

    Srinivas, Krause, Kakade, Seeger, ICML 2010, arXiv:0912.3995, theorem 1: with it the regret of ucb on n rows is
    sublinear with probability ``1 - delta``. As in their section 6, it is divided by 5, since it is too conservative.
    """
    if n_rows < 1 or round_number < 1 or not 0 < delta < 1:
        raise AcquisitionError(
            f"no schedule of beta for {n_rows} rows, round {round_number} and delta {delta:g}; rows and rounds count "
            "from 1, delta lies between 0 and 1"
        )
    return 2 * math.log(n_rows * round_number**2 * math.pi**2 / (6 * delta)) / 5


def _rows(rows: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.asarray([] if rows is None else rows, dtype=np.int64)
