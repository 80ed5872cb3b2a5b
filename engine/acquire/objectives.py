"""Objectives of a property: low, high, near a target, inside a window; and the chance to meet a limit.

All values are on the model's scale. A window's utility is minus the distance outside it, a target is a
window of no width; its moments under a Gaussian are those of a censored normal (Greene, Econometric Analysis, 8th ed.,
2018, theorem 19.3, taken at both ends).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from engine.posteriors.posterior import PoolPosterior

_Array = TypeVar("_Array", "NDArray[np.float32]", "NDArray[np.float64]")


@dataclass(frozen=True)
class Objective:
    """Conversion of values to a utility to be maximised; build it with :meth:`of`, :meth:`target` or :meth:`window`."""

    kind: Literal["min", "max", "window"]
    low: float = 0.0
    """Lower end of the window, on the model's scale."""
    high: float = 0.0
    """Upper end of the window; a target has equal ends."""

    def __post_init__(self) -> None:
        """Refuse unknown kinds and empty windows."""
        if self.kind not in ("min", "max", "window"):
            raise AcquisitionError(f"unknown goal {self.kind!r}; use 'min' or 'max', or Objective.target or .window")
        if not self.low <= self.high or math.isinf(self.low) or math.isinf(self.high):
            raise AcquisitionError(
                f"the window from {self.low:g} to {self.high:g} is empty or infinite; give two finite ends, "
                "the lower first, or goal 'min' or 'max'"
            )

    @classmethod
    def of(cls, goal: str | Objective) -> Objective:
        """Objective from ``min``, ``max``, or an objective."""
        return goal if isinstance(goal, Objective) else cls(goal)  # type: ignore[arg-type]  # checked just above

    @classmethod
    def target(cls, value: float) -> Objective:
        """Nearest to ``value``."""
        return cls("window", value, value)

    @classmethod
    def window(cls, low: float, high: float) -> Objective:
        """Inside ``low`` to ``high``, both included; outside, the nearer the better."""
        return cls("window", low, high)

    @property
    def sign(self) -> float:
        """1 or -1 where utility is the value itself or its negative; an error for a window."""
        if self.kind == "window":
            raise AcquisitionError("a target or a window is not linear in the value; use goal 'min' or 'max' here")
        return 1.0 if self.kind == "max" else -1.0

    def utility(self, values: _Array) -> _Array:
        """Turn values of any shape into utilities."""
        if self.kind == "window":
            import numpy as np

            return -np.maximum(np.maximum(self.low - values, values - self.high), 0)
        return values if self.kind == "max" else -values

    def moments(
        self, mean: NDArray[np.float64], std: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the utility of Gaussian values, each n."""
        if self.kind != "window":
            return self.utility(mean), std
        import numpy as np
        from scipy.stats import norm

        width = np.where(std > 0, std, 1.0)
        first, second = np.zeros((2, len(mean)))
        for z in ((self.low - mean) / width, (mean - self.high) / width):
            below, density = norm.cdf(z), norm.pdf(z)
            first += width * (z * below + density)
            second += width**2 * ((z**2 + 1) * below + z * density)
        certain = std == 0
        return (
            np.where(certain, self.utility(mean), -first),
            np.where(certain, 0.0, np.sqrt(np.maximum(second - first**2, 0.0))),
        )

    def __str__(self) -> str:
        if self.kind != "window":
            return self.kind
        return f"target {self.low:g}" if self.low == self.high else f"window {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class ChanceConstraint:
    """Constraint that a predicted property lies between two limits, with the probability of the prediction.

    Gardner et al., Bayesian optimization with inequality constraints, ICML 2014: the probability multiplies the
    acquisition function.
    """

    name: str
    low: float | None = None
    high: float | None = None
    at_least: float = 0.0
    """Rows less likely than this to meet the limits are left out."""

    def __post_init__(self) -> None:
        """Refuse limits that no value can meet."""
        if self.low is None and self.high is None:
            raise AcquisitionError(f"the chance constraint on {self.name} has no limit; give low or high")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise AcquisitionError(
                f"the chance constraint on {self.name} has the limits {self.low:g} to {self.high:g}; swap or widen them"
            )
        if not 0 <= self.at_least <= 1:
            raise AcquisitionError(f"the chance constraint on {self.name}: {self.at_least:g} is not a probability")

    def probability(
        self, posterior: PoolPosterior, rows: NDArray[np.int64], chunk: int = 65_536
    ) -> NDArray[np.float64]:
        """Probability of each row to meet the limits; 0 below ``at_least``.

        Raises
        ------
        AcquisitionError
            If no row is left.
        """
        import numpy as np

        parts = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
        chance = np.concatenate([probability_inside(*posterior.mean_std(part), self.low, self.high) for part in parts])
        best = float(chance.max(initial=0.0))
        chance[chance < self.at_least] = 0.0
        if not chance.any():
            raise AcquisitionError(
                f"no row meets the chance constraint on {self.name}: the most likely has probability {best:.2g}, "
                f"at_least is {self.at_least:g}; widen the limits or lower it"
            )
        return chance


def probability_inside(
    mean: ArrayLike, std: ArrayLike, low: float | None = None, high: float | None = None
) -> NDArray[np.float64]:
    """Gaussian probability to lie between two limits (``None`` is none); where ``std`` is 0 the mean decides."""
    import numpy as np
    from scipy.stats import norm

    mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    width = np.where(std > 0, std, 1e-300)
    with np.errstate(over="ignore"):
        below = 1.0 if high is None else norm.cdf((high - mean) / width)
        under = 0.0 if low is None else norm.cdf((low - mean) / width)
    certain = (mean <= (np.inf if high is None else high)) & (mean >= (-np.inf if low is None else low))
    return np.where(std > 0, np.clip(below - under, 0.0, 1.0), certain)
