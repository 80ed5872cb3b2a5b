"""Objectives of a round beside the campaign's own property: known values of the pool, or other models' predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from campaigns.goals import Scale
from campaigns.models.predictors import load_predictor
from engine.acquire.explanation import shown
from engine.acquire.pool import Criterion
from engine.posteriors.posterior import KnownValues

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext

_SECTION = "[[objectives]]"


@dataclass(frozen=True, eq=False)
class FurtherObjective:
    """A further objective: its criterion, and its values or predicted means row by row in the property's unit."""

    name: str
    criterion: Criterion
    scale: Scale

    def shown(self, rows: NDArray[np.int64]) -> list[float]:
        """Its values or predicted means of these rows, in the property's unit."""
        return self.scale.true(self.criterion.posterior.mean_std(rows)[0]).tolist()

    def words(self, value: float) -> str:
        """A row's value of it and the limit, as text."""
        objective = self.criterion.objective
        wanted = {"min": "low", "max": "high"}.get(objective.kind, "")
        if not wanted:
            ends = (shown(end, self.scale.name) for end in (objective.low, objective.high))
            wanted = " to ".join(dict.fromkeys(ends))
        return f"{self.name} {shown(value, 'linear')} (wanted {wanted})"


def further_objectives(context: RoundContext, n_draws: int) -> list[FurtherObjective]:
    """Objectives of ``[[objectives]]``, known with ``n_draws`` equal draws, or predicted."""
    found = []
    sections = context.settings.objectives
    names = [section.property for section in sections if not section.model]
    known = context.pool.known(context.store, names, _SECTION)
    for k, section in enumerate(sections):
        if section.model:
            seed = context.seed + 101 + k
            predictor = load_predictor(context, section.model, context.settings.acquisition.draws, seed)
            posterior, scale = predictor.posterior, predictor.scale
        else:
            scale = Scale(section.learned_scale)
            values = known[section.property]
            # rows without a value are not candidates; any number serves as their value
            learned = scale.learned(np.where(np.isnan(values), np.nanmedian(values), values))
            posterior = KnownValues(learned, n_draws)
        criterion = Criterion(posterior, section.sought_on(scale).objective)
        found.append(FurtherObjective(section.property, criterion, scale))
    return found


def with_known_objectives(context: RoundContext, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of some rows of the pool whose further objectives are all known."""
    names = [section.property for section in context.settings.objectives if not section.model]
    known = context.pool.known(context.store, names, _SECTION)
    whole = [np.isfinite(known[name][rows]) for name in names]
    return rows[np.logical_and.reduce(whole)] if whole else rows
