"""Why an entry is in the queue, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

INTERVAL = 0.90


def reason(
    *,
    goal: str,
    rule: str,
    mean: float,
    std: float,
    best: float | None,
    beta: float = 1.0,
    scale: str = "log10",
    unit: str = "W/(m K)",
) -> str:
    """Say why a row was chosen.

    ``predicted 0.8 (0.4-1.5) W/(m K), best known 1.3; probability to improve 0.71; qLogEI``: the predicted median and
    90 % interval in true units, the best known value, the Gaussian probability to be better than it, and the rule.

    Parameters
    ----------
    goal
        ``min`` or ``max``.
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
    """
    half = norm.ppf(0.5 + INTERVAL / 2) * std
    middle, low, high = (_shown(value, scale) for value in (mean, mean - half, mean + half))
    known = "no value known yet"
    if best is not None:
        improves = float(probability_to_improve(mean, std, best=best, goal=goal))
        known = f"best known {_shown(best, scale)}; probability to improve {_probability(improves)}"
    return f"predicted {middle} ({low}-{high}) {unit}, {known}; {_rule_in_words(rule, goal, mean, std, beta, scale)}"


def probability_to_improve(mean: ArrayLike, std: ArrayLike, *, best: float, goal: str) -> NDArray[np.float64]:
    """Gaussian probability to be below (goal ``min``) or above (``max``) the best, element by element.

    Kushner, J. Basic Eng. 86, 97 (1964). Where ``std`` is 0 the mean decides.
    """
    gain = (best - np.asarray(mean, dtype=np.float64)) * (1 if goal == "min" else -1)
    std = np.broadcast_to(np.asarray(std, dtype=np.float64), gain.shape)
    certain = (gain > 0).astype(np.float64)
    return np.where(std > 0, norm.cdf(gain / np.where(std > 0, std, 1.0)), certain)


def _rule_in_words(rule: str, goal: str, mean: float, std: float, beta: float, scale: str) -> str:
    if rule == "random":
        return "drawn at random"
    if rule == "greedy":
        return f"{'lowest' if goal == 'min' else 'highest'} predicted value (greedy)"
    if rule == "thompson":
        return "best of a draw from the posterior (thompson)"
    if rule == "ucb":
        bound = mean + (-1 if goal == "min" else 1) * np.sqrt(beta) * std
        return f"may be as {'low' if goal == 'min' else 'high'} as {_shown(bound, scale)} (ucb)"
    return f"chosen jointly with the rest of the batch ({rule})"


def _probability(value: float) -> str:
    """Two digits; a small chance is never shown as none."""
    return "< 0.01" if value < 0.005 else f"{value:.2f}"


def _shown(value: float, scale: str) -> str:
    """Three significant digits in true units."""
    true = 10.0**value if scale == "log10" else value
    if true != 0 and not 1e-4 <= abs(true) < 1e7:
        return f"{true:.2e}"
    return np.format_float_positional(float(f"{true:.2e}"), trim="-")
