"""Why an entry is in the queue, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from engine.acquire.functions import FUNCTIONS
from engine.acquire.objectives import Objective, probability_inside

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

HALF_WIDTH = float(norm.ppf(0.95))
"""Of a Gaussian 90 % interval, in standard deviations."""


def reason(
    *,
    goal: str | Objective,
    rule: str,
    mean: float,
    std: float,
    best: float | None,
    beta: float = 1.0,
    scale: str = "log10",
    unit: str = "W/(m K)",
    half_width: float = HALF_WIDTH,
    hit: float | None = None,
    threshold: float | None = None,
    feasibility: float | None = None,
    cost: float | None = None,
) -> str:
    """Say why a row was chosen.

    ``predicted 0.8 (0.4-1.5) W/(m K), best known 1.3; probability to improve 0.71, to be a hit (below 2) 0.95``: the
    predicted median and 90 % interval in true units, the best known value, the Gaussian probabilities to be better
    than it and than the hit threshold (with one extreme label, the first says little), and the rule.

    Parameters
    ----------
    goal
        ``min``, ``max``, or an objective on the model's scale.
    rule
        The rule that chose the row (:attr:`engine.acquire.batch.Batch.rules`).
    mean, std, best
        Prediction and best known value on the model's scale (log10 kappa).
    beta
        Weight of the variance, for the bound that ``ucb`` ranks by.
    scale
        ``log10`` or ``linear``: what the model's scale is.
    unit
        Unit of the property.
    half_width
        Of the interval, in standard deviations.
    hit
        Value beyond which a row is a hit, on the model's scale.
    threshold
        Value whose level set is looked for, on the model's scale.
    feasibility
        Probability that the calculation is of use.
    cost
        Expected core-hours.
    """
    objective = Objective.of(goal)
    half = half_width * std
    middle, low_end, high_end = (shown(value, scale) for value in (mean, mean - half, mean + half))
    known = "no value known yet"
    if best is not None:
        improves = float(probability_to_improve(mean, std, best=best, goal=objective))
        known = f"best known {shown(best, scale)}; probability to improve {_probability(improves)}"
    chances = [known]
    if objective.kind == "window":
        ends = " to ".join(dict.fromkeys(shown(end, scale) for end in (objective.low, objective.high)))
        inside = float(probability_inside(mean, std, objective.low, objective.high))
        chances.append(
            f"wanted {ends}" + (f" ({_probability(inside)} likely)" if objective.low < objective.high else "")
        )
    elif hit is not None:
        low, high = (None, hit) if objective.kind == "min" else (hit, None)
        chance = _probability(float(probability_inside(mean, std, low, high)))
        chances.append(f"to be a hit ({'below' if low is None else 'above'} {shown(hit, scale)}) {chance}")
    if feasibility is not None:
        chances.append(f"to be of use {_probability(feasibility)}")
    words = _rule_in_words(rule, objective, mean, std, beta, scale, threshold)
    if cost is not None:
        words += f"; about {shown(cost, 'linear')} core-hours"
    dash = " to " if low_end.startswith("-") else "-"
    return f"predicted {middle} ({low_end}{dash}{high_end}) {unit}, {', '.join(chances)}; {words}"


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


def _rule_in_words(
    rule: str, objective: Objective, mean: float, std: float, beta: float, scale: str, threshold: float | None
) -> str:
    if rule == "random":
        return "drawn at random"
    if rule == "greedy" and objective.kind != "window":
        return f"{'lowest' if objective.kind == 'min' else 'highest'} predicted value (greedy)"
    if rule == "ucb" and objective.kind != "window":
        bound = mean + objective.sign * np.sqrt(beta) * std
        return f"may be as {'low' if objective.kind == 'min' else 'high'} as {shown(bound, scale)} (ucb)"
    if rule == "level_set" and threshold is not None:
        return f"uncertain on which side of {shown(threshold, scale)} it lies (level_set)"
    return f"{FUNCTIONS[rule].words} ({rule})" if rule in FUNCTIONS else rule


def _probability(value: float) -> str:
    """Two digits; a small chance is never shown as none."""
    return "< 0.01" if value < 0.005 else f"{value:.2f}"


def shown(value: float, scale: str) -> str:
    """Write a value of the model's scale with three significant digits in true units."""
    true = 10.0**value if scale == "log10" else value
    if true != 0 and not 1e-4 <= abs(true) < 1e7:
        return f"{true:.2e}"
    return np.format_float_positional(float(f"{true:.2e}"), trim="-")
