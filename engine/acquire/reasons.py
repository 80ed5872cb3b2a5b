"""Reason of a queue entry, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from engine.acquire.explanation import ChosenRow, ReasonContext, shown, shown_ends, with_unit
from engine.acquire.functions import FUNCTIONS
from engine.acquire.objectives import Objective, probability_inside

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def reason(row: ChosenRow, context: ReasonContext) -> str:
    """Reason why a row was chosen.

    ``predicted 0.8 (0.4-1.5) W/(m K), best known 1.3; probability to improve 0.71, to be a hit (below 2) 0.95``: the
    predicted median and 90 % interval in true units, the best known value, the Gaussian probabilities to be better
    than it and than the hit threshold (with one extreme label, the first says little), and the rule.
    """
    half = context.half_width * row.std
    middle, low_end, high_end = (context.shown(value) for value in (row.mean, row.mean - half, row.mean + half))
    rule = FUNCTIONS[row.rule].reason(row, context) if row.rule in FUNCTIONS else row.rule
    if row.cost is not None:
        rule += f"; about {shown(row.cost, 'linear')} core-hours"
    dash = " to " if low_end.startswith("-") else "-"
    predicted = with_unit(f"{middle} ({low_end}{dash}{high_end})", context.unit)
    return f"predicted {predicted}, {', '.join(_chances(row, context))}; {rule}"


def _chances(row: ChosenRow, context: ReasonContext) -> list[str]:
    """Best known value, and the probabilities to improve on it, to be a hit, and to be useful."""
    objective, mean, std = context.objective, row.mean, row.std
    known = "no value known yet"
    if context.best is not None:
        improves = float(probability_to_improve(mean, std, best=context.best, goal=objective))
        known = f"best known {context.shown(context.best)}; probability to improve {_probability(improves)}"
    chances = [known]
    if objective.kind == "window":
        inside = float(probability_inside(mean, std, objective.low, objective.high))
        likely = f" ({_probability(inside)} likely)" if objective.low < objective.high else ""
        chances.append(f"wanted {shown_ends(objective, context.scale)}{likely}")
    elif context.hit is not None:
        low, high = (None, context.hit) if objective.kind == "min" else (context.hit, None)
        chance = _probability(float(probability_inside(mean, std, low, high)))
        chances.append(f"to be a hit ({'below' if low is None else 'above'} {context.shown(context.hit)}) {chance}")
    if row.feasibility is not None:
        chances.append(f"to be of use {_probability(row.feasibility)}")
    return chances


def probability_to_improve(
    mean: ArrayLike, std: ArrayLike, *, best: float, goal: str | Objective
) -> NDArray[np.float64]:
    """Gaussian probability to be below (goal ``min``), above (``max``) or nearer than the best, element by element.

    Kushner, J. Basic Eng. 86, 97 (1964). Where ``std`` is 0 the mean decides.
    """
    objective = Objective.of(goal)
    if objective.kind == "window":
        off = -float(objective.utility(np.asarray(best, dtype=np.float64)))
        return (
            probability_inside(mean, std, objective.low - off, objective.high + off)
            if off > 0
            else np.zeros(np.broadcast(mean, std).shape)
        )
    gain = (best - np.asarray(mean, dtype=np.float64)) * (1 if objective.kind == "min" else -1)
    std = np.broadcast_to(np.asarray(std, dtype=np.float64), gain.shape)
    certain = (gain > 0).astype(np.float64)
    return np.where(std > 0, norm.cdf(gain / np.where(std > 0, std, 1.0)), certain)


def _probability(value: float) -> str:
    """Probability with two digits; a small one is not shown as 0."""
    return "< 0.01" if value < 0.005 else f"{value:.2f}"
