"""Choice between calculations of a material at the target fidelity and at a lower one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.round.cheaper_fidelity import MOST_ENTRIES_BY_BATCH, CheaperFidelity, cheaper_fidelity
from db.records import QueueEntryRecord
from engine.posteriors.posterior import Fidelities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from campaigns.round.scored_posterior import ScoredPosterior


@dataclass(frozen=True, eq=False)
class FidelityChoice:
    """The pool at the target fidelity, followed by the same rows at a lower one."""

    context: RoundContext
    fidelity: CheaperFidelity
    posterior: Fidelities

    @classmethod
    def of(cls, context: RoundContext, posterior: ScoredPosterior) -> FidelityChoice | None:
        """The choice, where a lower fidelity may be queued and the members are trained on top of it; else None."""
        fidelity = cheaper_fidelity(context)
        if fidelity is None or context.ensemble.lower_fidelity is None:
            return None
        return cls(context, fidelity, Fidelities((posterior, posterior.cheaper)))

    @property
    def core_hours(self) -> float:
        """Core-hours of a calculation at the lower fidelity."""
        return self.fidelity.core_hours

    def widened(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a request that change when the pool has rows at both fidelities.

        A material may be queued at the lower one if that costs less. The batch holds as many entries of the
        target fidelity as allowed, and as many of the other as keep the total cost below that of a whole target batch.
        """
        n, fidelity, cost = len(self.context.pool), self.fidelity, request["cost"]
        batch, own = self.context.manifest.batch, request["candidates"]
        hours = batch * float(cost[own].max())
        dearest = cost.copy()
        dearest[np.setdiff1d(fidelity.candidates, own)] = hours / batch  # those with a label at the lower fidelity
        candidates = fidelity.candidates[fidelity.core_hours < dearest[fidelity.candidates]]
        both = np.concatenate([own, n + candidates])
        limits = {name: (np.tile(groups, 2), most) for name, (groups, most) in request["limits"].items()}
        # each row of the lower fidelity is its own group, so that limits by group do not apply
        limits["batch"] = (np.concatenate([np.zeros(n, dtype=np.int64), 1 + np.arange(n)]), batch)
        embeddings, feasible, relatives = request["embeddings"], request["feasibility"], request["relatives"]
        return {
            "q": min(MOST_ENTRIES_BY_BATCH * batch, len(both)),
            "budget": hours if request["budget"] is None else min(hours, request["budget"]),
            "candidates": both,
            "pending": np.concatenate([request["pending"], n + fidelity.pending]),
            "cost": np.concatenate([cost, np.full(n, fidelity.core_hours)]),
            "feasibility": None if feasible is None else np.tile(feasible, 2),
            "limits": limits,
            "relatives": None if relatives is None else lambda row: np.add.outer([0, n], relatives(row % n)).ravel(),
            "embeddings": lambda rows: embeddings(rows % n),
            "target_of": np.tile(np.arange(n), 2),
        }

    def named(
        self,
        entries: Sequence[QueueEntryRecord],
        level: NDArray[np.int64],
        rows: NDArray[np.int64],
        cost: NDArray[np.float64],
    ) -> list[QueueEntryRecord]:
        """Entries with their fidelity and the reason for it.

        ``level`` is 1 for the lower one; ``cost`` is that of the pool's rows at the target fidelity.
        """
        context, own = self.context, self.context.settings.campaign.fidelity
        told = context.ensemble.information_ratio(context.featuriser, context.hashes(rows))
        known = {*self.fidelity.labels, *(context.pool.rows[row].material_id for row in self.fidelity.pending)}
        found = []
        name = self.fidelity.name
        shares = zip(told.tolist(), (self.core_hours / cost[rows]).tolist(), strict=True)
        for entry, cheaper, (share, price) in zip(entries, level.tolist(), shares, strict=True):
            tells = f"{share:.0%} of what {own} would, for {price:.2g} of its core-hours"
            if entry.material_id in context.labels:
                words = f"{name} beside its {own}: tells how they differ"
            elif cheaper:
                words = f"{name} first: it tells {tells}"
            elif entry.material_id in known:
                words = f"{own}: {name} of it is there or awaited"
            else:
                words = f"{own} at once: {name} would tell {tells}"
            found.append(replace(entry, fidelity=name if cheaper else own, reason=f"{entry.reason}; {words}"))
        return found
