"""A first batch without a model: crystals spread over the pool, far from the known ones; or the best of an estimate.

Farthest-point traversal (Gonzalez, Theor. Comput. Sci. 38, 293 (1985)): each pick is the candidate farthest from all
picks and known rows before it, a two-approximation of the smallest covering radius. Columns are standardised over the
candidates; with no known rows the first pick is the one nearest the centre, so that it does not depend on one odd
crystal. Families (prototypes, chemical systems) take turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from engine.acquire.explanation import shown, with_unit
from engine.acquire.objectives import Objective
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EXPLORE = 0.25
"""Share of a first batch chosen by distance where an estimate ranks the rest, since the estimate may be wrong."""
_FARTHEST = "unlike all known and chosen crystals (space filling)"


@dataclass(frozen=True, eq=False)
class FirstBatch:
    """Candidates in order; for each its distance to all before (or its estimate), and the reason."""

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimated property of each candidate: another model's prediction, or a label of a lower fidelity.

    Raises
    ------
    AcquisitionError
        If ``explore`` is outside 0 to 1.
    """

    values: NDArray[np.float64]
    """Estimates on the model's scale, N; NaN where there is none."""
    scale: str
    """``log10`` or ``linear``: the model's scale."""
    unit: str
    """Unit of the property; may be empty."""
    objective: Objective = field(default_factory=lambda: Objective("min"))
    """Goal: low, high, a target or a window."""
    explore: float = EXPLORE
    """Share of the batch chosen by distance; the rest are the best by the estimate, from as many families as there
    are."""

    def __post_init__(self) -> None:
        """Refuse a share outside 0 to 1."""
        if not 0 <= self.explore <= 1:
            raise AcquisitionError(f"explore is {self.explore:g}, a share of the batch; use 0 to 1")


@dataclass(frozen=True, eq=False)
class FirstBatchRequest:
    """A first batch of q candidates.

    Raises
    ------
    AcquisitionError
        If the pool is smaller than the batch, or arrays do not belong to the same candidates.
    """

    embeddings: NDArray[np.float32]
    """Embeddings of the N candidates, ``N x d``."""
    q: int
    """Number of candidates to choose."""
    known: NDArray[np.float32] | None = None
    """Embeddings (``M x d``) of materials that are labelled or pending."""
    families: ArrayLike | None = None
    """Family of each candidate, N; those with fewer picks go first."""
    known_families: ArrayLike | None = None
    """Family of each known material, M."""
    estimate: Estimate | None = None
    """Estimate that ranks most of the batch, if any."""

    def __post_init__(self) -> None:
        """Refuse a request that cannot be met."""
        n = len(self.embeddings)
        if self.q > n:
            raise AcquisitionError(
                f"the pool has {n} candidates, fewer than the batch of {self.q}; lower the batch or ingest more"
            )
        estimates = None if self.estimate is None else self.estimate.values
        for name, array in (("families", self.families), ("estimate", estimates)):
            if array is not None and len(np.asarray(array)) != n:
                raise AcquisitionError(f"{name} has {len(np.asarray(array))} rows for {n} candidates; give as many")


def first_batch(request: FirstBatchRequest, rng: np.random.Generator) -> FirstBatch:
    """Choose a first batch, with a reason for each row; ``rng`` breaks ties."""
    n = len(request.embeddings)
    order = rng.permutation(n)
    turns = RoundRobin(n, request.families, request.known_families, order)
    rows, values, reasons = _best_estimates(request.estimate, request.q, turns)
    spread = FarthestPoint(np.asarray(request.embeddings)[order], request.known)
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    for row in rows:
        spread.take(int(place[row]))
    while len(rows) < request.q:
        pick, value = spread.next(turns.allowed)
        spread.take(pick)
        rows.append(int(order[pick]))
        values.append(value)
        reasons.append(_FARTHEST)
        turns.take(pick)
    return FirstBatch(np.array(rows, dtype=np.int64), np.array(values), tuple(reasons))


class FarthestPoint:
    """Candidates in a seeded order, standardised, with the distance of each to the nearest taken or known one."""

    def __init__(self, embeddings: NDArray[np.float32], known: NDArray[np.float32] | None):
        spread, centre = embeddings.std(0), embeddings.mean(0)
        scale = np.where(spread > 1e-8, spread, 1.0)
        self.x = (embeddings - centre) / scale
        self.distance = np.full(len(self.x), np.inf)
        for row in () if known is None else (known - centre) / scale:
            self.distance = np.minimum(self.distance, np.linalg.norm(self.x - row, axis=1))

    def next(self, allowed: NDArray[np.bool_]) -> tuple[int, float]:
        """Best allowed candidate, and its distance to all before (0 for the first)."""
        score = self.distance if np.isfinite(self.distance).all() else -np.linalg.norm(self.x, axis=1)
        pick = int(np.argmax(np.where(allowed, score, -np.inf)))
        return pick, float(self.distance[pick]) if np.isfinite(self.distance[pick]) else 0.0

    def take(self, pick: int) -> None:
        """Update the distances with this candidate."""
        self.distance = np.minimum(self.distance, np.linalg.norm(self.x - self.x[pick], axis=1))


class RoundRobin:
    """Candidates that may be picked: not picked yet, and of a family with the fewest picks."""

    def __init__(self, n: int, families: ArrayLike | None, known_families: ArrayLike | None, order: NDArray[np.int64]):
        labels = np.zeros(n, dtype=np.int64) if families is None else np.asarray(families)
        self.names, codes = np.unique(labels, return_inverse=True)
        self.named = families is not None
        self.order = order
        self.codes = codes[order]
        self.free = np.ones(n, dtype=bool)
        known = np.asarray([] if known_families is None else known_families)
        self.count = np.array([np.count_nonzero(known == name) for name in self.names])

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Mask over the candidates in their seeded order."""
        left = np.bincount(self.codes[self.free], minlength=len(self.names)) > 0
        fewest = self.count[left].min()
        return self.free & (self.count[self.codes] == fewest)

    def take(self, pick: int) -> None:
        """Count a pick."""
        self.free[pick] = False
        self.count[self.codes[pick]] += 1


def _best_estimates(estimate: Estimate | None, q: int, turns: RoundRobin) -> tuple[list[int], list[float], list[str]]:
    """Best candidates by the estimate, of each family at most its share: rows, estimates and reasons."""
    rows: list[int] = []
    values: list[float] = []
    reasons: list[str] = []
    if estimate is None:
        return rows, values, reasons
    ordered = np.asarray(estimate.values, dtype=np.float64)[turns.order]
    ranked = np.argsort(-estimate.objective.utility(ordered), kind="stable")
    ranked = ranked[np.isfinite(ordered[ranked])]
    wanted = min(q - round(estimate.explore * q), len(ranked))
    share = 1 + wanted // len(turns.names) if turns.named else wanted
    taken = np.zeros(len(turns.names), dtype=np.int64)
    for place, pick in enumerate(ranked.tolist(), start=1):
        family = turns.codes[pick]
        if len(rows) == wanted:
            break
        if taken[family] == share:
            continue
        taken[family] += 1
        turns.take(pick)
        rows.append(int(turns.order[pick]))
        values.append(float(ordered[pick]))
        of_family = f", number {taken[family]} of {turns.names[family]}" if turns.named else ""
        value = with_unit(shown(ordered[pick], estimate.scale), estimate.unit)
        reasons.append(f"estimated {value} without a model of its own, number {place} of {len(ranked)}{of_family}")
    return rows, values, reasons
