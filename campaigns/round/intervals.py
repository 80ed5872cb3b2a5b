"""How wide the 90 % intervals of a round are, in predicted standard deviations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from campaigns.configuration import round_settings
from campaigns.goals import Scale
from campaigns.round.manifest import RoundFigures
from engine.exceptions import TooFewLabelsError
from engine.metrics.calibration import Z90
from engine.metrics.conformal import adaptive_factor, split_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from db.records import RoundRecord
    from engine.learning.ensemble.ensemble import Ensemble

LEVEL = 0.9
UNTRIED = 1.3
"""Factor of the first interval of a model that has learned nothing but the campaign's own few labels. Where crystals
were chosen for the most extreme prediction, such intervals were too narrow by 1.1 to 1.5."""


def half_width_of(context: RoundContext, ensemble: Ensemble, values: NDArray[np.float64] | None = None) -> float | None:
    """Half width of the round's 90 % intervals in predicted standard deviations; None: 1.645, those of a Gaussian.

    Parameters
    ----------
    values
        The n labels in learned units that ``ensemble`` was trained on; None for a model given from outside.
    """
    kind = context.settings.model.intervals
    if kind == "adaptive":
        alone = values is not None and ensemble.lower_fidelity is None
        return Z90 * adaptive_factor(_earlier_errors(context), LEVEL, prior=UNTRIED if alone else 1.0)
    if kind == "gaussian" or values is None:
        return None
    mean, std = ensemble.held_out.T
    try:
        return split_quantile(values - mean, LEVEL, std)
    except TooFewLabelsError as error:
        context.say(f"Gaussian intervals in this round: {error}")
        return Z90


def interval_width(record: RoundRecord) -> float:
    """Factor of a round's predicted spreads with which Gaussian intervals are its adaptive ones; 1 for other rounds."""
    half_width = RoundFigures.of(record).half_width
    if half_width is None or round_settings(record).model.intervals != "adaptive":
        return 1.0
    return half_width / Z90


def _earlier_errors(context: RoundContext) -> list[NDArray[np.float64]]:
    """``(found - mean) / std`` of what each earlier round chose and this one has labels of, the oldest first."""
    scale = Scale(context.settings.campaign.learned_scale)
    errors: dict[int, list[float]] = {}
    for entry in context.store.queue():
        label = context.labels.get(entry.material_id)
        known = {"learned_mean", "learned_std"} <= entry.details.keys()
        if label is None or not known or entry.fidelity != context.settings.campaign.fidelity:
            continue
        if entry.round is not None and entry.round < context.record.number:
            found = float(scale.learned(label.value)) - float(entry.details["learned_mean"])
            errors.setdefault(entry.round, []).append(found / float(entry.details["learned_std"]))
    return [np.array(errors[number]) for number in sorted(errors)]
