"""Data for the reason of a queue entry: the chosen row, what all rows of its batch share, and numbers as text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from engine.acquire.objectives import Objective

HALF_WIDTH = float(norm.ppf(0.95))
"""Half width of a Gaussian 90 % interval, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class ChosenRow:
    """A row of a batch, with its prediction on the model's scale."""

    rule: str
    """Name of the acquisition function that chose it (:attr:`engine.acquire.batch.Batch.rules`)."""
    mean: float
    std: float
    """Calibrated standard deviation."""
    feasibility: float | None = None
    """Probability that the calculation is useful: it succeeds and meets the constraints."""
    cost: float | None = None
    """Expected core-hours."""


@dataclass(frozen=True, kw_only=True)
class ReasonContext:
    """Data shared by the reasons of a batch; values are on the model's scale."""

    objective: Objective
    best: float | None
    """Best known value."""
    beta: float = 1.0
    """Weight of the variance, for the bound that ``ucb`` ranks by."""
    scale: str
    """``log10`` or ``linear``: the model's scale."""
    unit: str
    """Unit of the property; may be empty."""
    half_width: float = HALF_WIDTH
    """Half width of the printed interval, in standard deviations."""
    hit: float | None = None
    """Value beyond which a row is a hit."""
    threshold: float | None = None
    """Value whose level set is searched."""

    def shown(self, value: float) -> str:
        """Write a value of the model's scale with three significant digits in the property's unit."""
        return shown(value, self.scale)


def shown(value: float, scale: str) -> str:
    """Write a value of the model's scale (``log10`` or ``linear``) with three significant digits in true units."""
    true = 10.0**value if scale == "log10" else value
    if true != 0 and not 1e-4 <= abs(true) < 1e7:
        return f"{true:.2e}"
    return np.format_float_positional(float(f"{true:.2e}"), trim="-")


def with_unit(numbers: str, unit: str) -> str:
    """Numbers followed by the unit, where there is one."""
    return f"{numbers} {unit}" if unit else numbers


def shown_ends(objective: Objective, scale: str) -> str:
    """Write the ends of a window, or the one value of a target."""
    return " to ".join(dict.fromkeys(shown(end, scale) for end in (objective.low, objective.high)))
