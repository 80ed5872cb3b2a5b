"""Choice between calculations of a material at the target fidelity and at lower ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.models.lower_fidelity import learned_fidelities
from campaigns.round.cheaper_fidelity import MOST_ENTRIES_BY_BATCH, CheaperFidelity, cheaper_fidelities
from db.records import QueueEntryRecord
from engine.learning.heads.members import fidelity_beneath
from engine.posteriors.posterior import Fidelities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from campaigns.round.scored_posterior import ScoredPosterior


@dataclass(frozen=True, eq=False)
class FidelityChoice:
    """The pool of N rows at the target fidelity, followed by the same rows at each lower one, from the cheapest."""

    context: RoundContext
    fidelities: tuple[CheaperFidelity, ...]
    """The lower ones, that of level 1 first."""
    posterior: Fidelities

    @classmethod
    def of(cls, context: RoundContext, posterior: ScoredPosterior) -> FidelityChoice | None:
        """The choice, where lower fidelities may be queued and the members are trained on top of them; else None."""
        learned = learned_fidelities(context)
        if not learned or context.ensemble.lower_fidelity is None:
            return None
        found = tuple(fidelity for fidelity in cheaper_fidelities(context) if fidelity.name in learned)
        parts = [posterior.at(_name(level, len(found))) for level in range(1, len(found) + 1)]
        return cls(context, found, Fidelities((posterior, *parts)))

    def core_hours(self, level: int) -> float:
        """Core-hours of a calculation at a lower fidelity, from level 1."""
        return self.fidelities[level - 1].core_hours

    def widened(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a request that change when the pool has rows at all fidelities.

        A material may be queued at a lower one if that costs less. The batch holds as many entries of the target
        fidelity as allowed, and as many of the others as keep the total cost below that of a whole target batch.
        """
        n, levels, cost = len(self.context.pool), 1 + len(self.fidelities), request["cost"]
        batch, own = self.context.manifest.batch, request["candidates"]
        hours = batch * float(cost[own].max())
        rows, pending = [own], [request["pending"]]
        for level, fidelity in enumerate(self.fidelities, start=1):
            dearest = cost.copy()
            dearest[np.setdiff1d(fidelity.candidates, own)] = hours / batch  # those with a label at the target fidelity
            candidates = fidelity.candidates[fidelity.core_hours < dearest[fidelity.candidates]]
            rows.append(level * n + candidates)
            pending.append(level * n + fidelity.pending)
        limits = {name: (np.tile(groups, levels), most) for name, (groups, most) in request["limits"].items()}
        # each row of a lower fidelity is its own group, so that limits by group do not apply
        limits["batch"] = (np.concatenate([np.zeros(n, dtype=np.int64), 1 + np.arange(n * (levels - 1))]), batch)
        embeddings, feasible, relatives = request["embeddings"], request["feasibility"], request["relatives"]
        starts = n * np.arange(levels)
        return {
            "q": min(MOST_ENTRIES_BY_BATCH * batch, sum(map(len, rows))),
            "budget": hours if request["budget"] is None else min(hours, request["budget"]),
            "candidates": np.concatenate(rows),
            "pending": np.concatenate(pending),
            "cost": np.concatenate([cost, *(np.full(n, fidelity.core_hours) for fidelity in self.fidelities)]),
            "feasibility": None if feasible is None else np.tile(feasible, levels),
            "limits": limits,
            "relatives": None if relatives is None else lambda row: np.add.outer(starts, relatives(row % n)).ravel(),
            "embeddings": lambda rows: embeddings(rows % n),
            "target_of": np.tile(np.arange(n), levels),
        }

    def without(self, candidates: NDArray[np.int64], left_out: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidates of all fidelities without some rows of the pool."""
        return candidates[~np.isin(candidates % len(self.context.pool), left_out)] if len(left_out) else candidates

    def named(
        self,
        entries: Sequence[QueueEntryRecord],
        level: NDArray[np.int64],
        rows: NDArray[np.int64],
        cost: NDArray[np.float64],
    ) -> list[QueueEntryRecord]:
        """Entries with their fidelity and the reason for it.

        ``level`` is 0 for the target fidelity and 1 for the cheapest; ``cost`` is that of the pool's rows at the target
        fidelity.
        """
        context, own = self.context, self.context.settings.campaign.fidelity
        told = [self._told(rows, k, cost) for k in range(1, 1 + len(self.fidelities))]
        known = {fidelity.name: self._known_ids(fidelity) for fidelity in self.fidelities}
        found = []
        for place, (entry, number) in enumerate(zip(entries, level.tolist(), strict=True)):
            name = self.fidelities[max(number, 1) - 1].name
            tells = told[max(number, 1) - 1][place]
            if entry.material_id in context.labels:
                words = f"{name} beside its {own}: tells how they differ"
            elif number:
                words = f"{name} first: it tells {tells}"
            elif there := [name for name, ids in known.items() if entry.material_id in ids]:
                words = f"{own}: {' and '.join(there)} of it is there or awaited"
            else:
                words = f"{own} at once: {name} would tell {tells}"
            found.append(replace(entry, fidelity=name if number else own, reason=f"{entry.reason}; {words}"))
        return found

    def _told(self, rows: NDArray[np.int64], level: int, cost: NDArray[np.float64]) -> list[str]:
        """What a label of a lower fidelity tells of each row, and for which share of the cost."""
        context, own = self.context, self.context.settings.campaign.fidelity
        name = _name(level, len(self.fidelities))
        told = context.ensemble.information_ratio(context.featuriser, context.hashes(rows), name)
        shares = zip(told.tolist(), (self.core_hours(level) / cost[rows]).tolist(), strict=True)
        return [f"{share:.0%} of what {own} would, for {price:.2g} of its core-hours" for share, price in shares]

    def _known_ids(self, fidelity: CheaperFidelity) -> set[str]:
        """Materials that have a label of a lower fidelity, or will have."""
        return {*fidelity.labels, *(self.context.pool.rows[row].material_id for row in fidelity.pending)}


def _name(level: int, levels: int) -> str:
    """Name of a level in the ensemble, which counts from the target fidelity downwards."""
    return fidelity_beneath(levels + 1 - level)
