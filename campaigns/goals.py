"""Scale that a property is learned on, goal of a campaign, and which values can be labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from campaigns.exceptions import CampaignError
from campaigns.property_names import Property

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from engine.acquire.objectives import Objective

_ROUNDING = 1e-12
_DECADES = 300
_LARGEST = 1e30
"""Largest label; squares of larger ones, needed for a spread, exceed the range of single precision."""


@dataclass(frozen=True)
class Scale:
    """Conversion between values of labels and learned units."""

    name: str
    """``log10`` or ``linear``."""

    def unit_of_errors(self, unit: str) -> str:
        """Unit of errors and spreads of a property in ``unit``: ``log10`` or ``unit``, which may be empty."""
        return "log10" if self.name == "log10" else unit

    def learned(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values in learned units."""
        import numpy as np

        values = np.asarray(values, dtype=np.float64)
        if self.name == "linear":
            return values
        if (values <= 0).any():
            raise CampaignError(f"{values.min():g} has no logarithm; learn this property with scale = 'linear'")
        return np.log10(values)

    def true(self, learned: ArrayLike) -> NDArray[np.float64]:
        """Learned units back to values."""
        import numpy as np

        learned = np.asarray(learned, dtype=np.float64)
        # a very wide interval could exceed the range of floating point, which no store accepts
        return learned if self.name == "linear" else 10.0 ** np.clip(learned, -_DECADES, _DECADES)


@dataclass(frozen=True)
class Goal:
    """Which values of a property are wanted, in its own unit; better values have the larger utility."""

    objective: Objective
    """Lower and upper end of the window, in learned units."""
    scale: Scale

    def utility(self, values: ArrayLike) -> NDArray[np.float64]:
        """Utilities of values: the value, its negative, or minus the distance (learned units) to the window."""
        import numpy as np

        values = np.asarray(values, dtype=np.float64)
        return self.objective.utility(self.scale.learned(values) if self.objective.kind == "window" else values)

    def best(self, values: ArrayLike) -> float | None:
        """Best of the values."""
        import numpy as np

        values = np.asarray(values, dtype=np.float64)
        return float(values[np.argmax(self.utility(values))]) if len(values) else None

    def is_hit(self, values: ArrayLike, hit: float) -> NDArray[np.bool_]:
        """Mask of the values that are as good as ``hit`` or better."""
        return self.utility(values) >= self.utility(hit) - _ROUNDING * abs(self.utility(hit))

    def hit_probability(self, mean: NDArray[np.float64], std: NDArray[np.float64], hit: float) -> NDArray[np.float64]:
        """Probability of predictions (N, learned units) to be as good as a value ``hit`` or better."""
        from engine.acquire.objectives import probability_inside

        objective, learned = self.objective, float(self.scale.learned(hit))
        if objective.kind == "window":
            off = -float(self.utility(hit))
            return probability_inside(mean, std, objective.low - off, objective.high + off)
        return probability_inside(mean, std, *((None, learned) if objective.kind == "min" else (learned, None)))

    def best_tenth(self, values: ArrayLike) -> float:
        """Value that a tenth of the values equal or exceed in utility."""
        import numpy as np

        values = np.asarray(values, dtype=np.float64)
        if self.objective.kind != "window":
            return float(np.quantile(values, 0.1 if self.objective.kind == "min" else 0.9, method="nearest"))
        ranked = values[np.argsort(-self.utility(values), kind="stable")]
        return float(ranked[round(0.1 * (len(ranked) - 1))])


def flaw(value: object, scale: str) -> str:
    """Why a value cannot be a label, as text; empty if it can."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is not a number"
    if not math.isfinite(value):
        return "is not finite"
    if scale == "log10":
        return "is not above zero and has no logarithm" if value <= 0 else ""
    return f"is beyond {_LARGEST:g} and cannot be learned" if abs(value) > _LARGEST else ""


def default_scale(property: str) -> Literal["log10", "linear"]:
    """Default scale that a property is learned on."""
    return Property(property).scale
