"""A lower fidelity of the campaign's property, queued where its label is more informative per core-hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.pool.costs import is_priced_by_dft
from campaigns.pool.labels import training_labels
from campaigns.pool.pool import queued_ids
from campaigns.round.manifest import QueuedCheaper
from engine.learning.ensemble.settings import minimum_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from campaigns.workspace import Workspace
    from db.records import LabelRecord


MOST_ENTRIES_BY_BATCH = 10
"""Most entries of a batch, in units of ``[campaign] batch``, which counts the target fidelity."""


@dataclass(frozen=True, eq=False)
class CheaperFidelity:
    """What a round may query at the lower fidelity."""

    name: str
    core_hours: float
    """Core-hours of one calculation."""
    labels: dict[str, LabelRecord]
    """Labels by material id that train in this round."""
    candidates: NDArray[np.int64]
    """Rows of the pool that may be queued at it: not labelled at it, and candidates at the target fidelity, or
    labelled there, since materials with both determine how they differ (nested designs, Kennedy and O'Hagan 2000)."""
    pending: NDArray[np.int64]
    """Rows with a pending label of it."""
    is_cheapest: bool = True
    """Whether it is the first that ``[acquisition] fidelities`` names."""

    def is_wanted_first(self, context: RoundContext) -> bool:
        """Whether it has too few labels to train on, and more cost less than those of the target fidelity."""
        section = context.settings.campaign
        few = len(self.labels) < minimum_labels(context.settings.model.members)
        return (
            few and len(self.candidates) > 0 and self.core_hours < context.settings.costs.get(section.fidelity, np.inf)
        )

    def first_batch(self, context: RoundContext) -> int:
        """Entries of a batch of this fidelity alone, at the cost of a batch of the target fidelity.

        Of one that is not the cheapest, no more than a model needs: with a model, labels of either can be compared.
        """
        if not self.is_cheapest:
            return min(minimum_labels(context.settings.model.members) - len(self.labels), len(self.candidates))
        batch, own = context.manifest.batch, context.settings.costs.get(context.settings.campaign.fidelity, np.inf)
        return int(min(MOST_ENTRIES_BY_BATCH * batch, max(batch * own / self.core_hours, batch), len(self.candidates)))


def cheaper_fidelities(context: RoundContext) -> list[CheaperFidelity]:
    """The lower fidelities that ``[acquisition] fidelities`` names, as they were when the round began."""
    return [_cheaper(context, place) for place in range(len(context.settings.acquisition.fidelities))]


def _cheaper(context: RoundContext, place: int) -> CheaperFidelity:
    settings = context.settings
    name = settings.acquisition.fidelities[place]
    queued = context.manifest.further.get(name, QueuedCheaper()) if place else context.manifest.cheaper
    labels = training_labels(context.store, settings, context.manifest.moment, name)
    closed = context.pool.rows_of({*labels, *queued.pending, *queued.spent})
    return CheaperFidelity(
        name=name,
        core_hours=settings.costs[name],
        labels=labels,
        candidates=np.setdiff1d(np.union1d(context.candidates, context.pool.rows_of(context.labels)), closed),
        pending=context.pool.rows_of(queued.pending),
        is_cheapest=place == 0,
    )


def queued_cheaper(workspace: Workspace, labels: dict[str, LabelRecord]) -> dict[str, Any]:
    """Record in a round's manifest what is pending at each lower fidelity, and what failed or was withdrawn.

    Raises
    ------
    CampaignError
        If a model will compare both fidelities, and the cost of the target fidelity is unknown.
    """
    settings = workspace.configuration
    if not settings.acquisition.fidelities:
        return {}
    own = settings.campaign.fidelity
    enough = len(labels) >= minimum_labels(settings.model.members)
    is_priced = own in settings.costs or is_priced_by_dft(settings)
    if enough and not is_priced and not any(label.cost for label in labels.values()):
        raise CampaignError(
            f"choosing between {settings.acquisition.fidelities[0]} and {own} takes the cost of {own}, and no label "
            f"of {own} has a cost; give [costs] {own} = CORE_HOURS, or import labels with a cost"
        )
    queued = {}
    for name in settings.acquisition.fidelities:
        pending, spent = queued_ids(workspace.store, name)
        queued[name] = QueuedCheaper(pending=sorted(pending), spent=sorted(spent))
    first, *others = settings.acquisition.fidelities
    return {"cheaper": queued[first]} | ({"further": {name: queued[name] for name in others}} if others else {})
