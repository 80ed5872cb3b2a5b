"""Stopping: expected hits left, the probability that the best is found, rounds without improvement, the budget.

Expected hits left are the probabilities of unlabelled rows summed (the efficient nonmyopic search of Jiang, Malkomes,
Converse, Shofner, Moseley, Garnett, ICML 2017, sums the same ones). That the best is found concerns all rows
jointly: its probability is the share of joint draws in which no unlabelled row beats the best label, in the spirit
of the regret bounds of Makarova et al., AutoML 2022, arXiv:2104.08166, and Wilson, NeurIPS 2024, arXiv:2402.16811.
Both depend on the model's calibration, so that a rule gives advice and only a budget is binding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

CONTENDERS = 4000
"""Most rows whose joint draws are searched for the best; the others are too unlikely to matter."""
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class StoppingRule:
    """Thresholds at which stopping is advised; None leaves a criterion out."""

    undiscovered_hits: float | None = 0.5
    """Fewer hits than this are expected among the unlabelled."""
    best_found: float | None = 0.95
    """The best label is the best of the pool with at least this probability."""
    idle_rounds: int | None = 3
    """This many rounds in a row have not improved the best label."""
    budget_core_hours: float | None = None
    """Core-hours that all calculations together may take."""

    def __post_init__(self) -> None:
        """Refuse thresholds that could never be met, or always."""
        if self.best_found is not None and not 0 < self.best_found <= 1:
            raise ValueError(f"best_found is {self.best_found}; give a probability above 0, at most 1")
        for name, value in (
            ("undiscovered_hits", self.undiscovered_hits),
            ("idle_rounds", self.idle_rounds),
            ("budget_core_hours", self.budget_core_hours),
        ):
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; give a value above 0, or None to leave the criterion out")


@dataclass(frozen=True)
class Outlook:
    """Figures of a campaign for the stopping criteria; None where a figure is not known."""

    labels: int
    """Labels queried so far."""
    budget_labels: int
    core_hours: float = 0.0
    """Core-hours spent on finished and failed calculations so far."""
    undiscovered_hits: float | None = None
    """Hits expected among the unlabelled."""
    best_found: float | None = None
    """Probability that no unlabelled row beats the best label."""
    idle_rounds: int | None = None
    """Finished rounds in a row that have not improved the best label."""


@dataclass(frozen=True)
class StoppingCheck:
    """One criterion: whether it is met (None: not known, or left out), and the reason in words."""

    name: str
    met: bool | None
    words: str


@dataclass(frozen=True)
class StoppingAdvice:
    """Advice on stopping, with reasons."""

    checks: tuple[StoppingCheck, ...]

    @property
    def stop(self) -> bool:
        """Whether any criterion is met."""
        return any(check.met for check in self.checks)

    @property
    def words(self) -> str:
        """The advice with its reasons, as text."""
        met = [check.words for check in self.checks if check.met]
        if met:
            return f"stop: {'; '.join(met)}"
        known = [check.words for check in self.checks if check.met is False]
        return f"go on: {'; '.join(known)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"stop": self.stop, "checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StoppingAdvice:
        """Inverse of :meth:`to_dict`."""
        return cls(tuple(StoppingCheck(**check) for check in data["checks"]))


def advise(outlook: Outlook, rule: StoppingRule | None = None) -> StoppingAdvice:
    """Evaluate every criterion of a rule (the default one if not given); the budget in labels always counts."""
    rule = rule or StoppingRule()
    return StoppingAdvice(
        (
            _budget(outlook),
            _core_hours(outlook, rule),
            _hits(outlook, rule),
            _best(outlook, rule),
            _idle(outlook, rule),
        )
    )


def contenders(chance: ArrayLike, at_most: int = CONTENDERS) -> NDArray[np.int64]:
    """Positions, ascending, of the rows that may beat the best label, the likeliest where there are too many.

    ``chance`` holds the probability of each of N rows to beat it.
    """
    import numpy as np

    chance = np.asarray(chance, dtype=np.float64)
    likely = np.flatnonzero(chance > _NEGLIGIBLE)
    if len(likely) > at_most:
        likely = np.sort(likely[np.argpartition(-chance[likely], at_most)[:at_most]])
    return likely


def best_found_probability(draws: NDArray[np.float32], best: float, goal: str, tolerance: float = 0.0) -> float:
    """Share of D joint draws (D x N unlabelled rows, learned units) in which no row beats the best label.

    With a ``tolerance`` a row must beat it by more than that to count. With N = 0 the result is 1.
    """
    import numpy as np

    if not draws.shape[1]:
        return 1.0
    sign = _sign(goal)
    return float(np.mean((sign * draws).min(axis=1) >= sign * best - tolerance))


def idle_rounds(bests: Sequence[float | None], goal: str) -> int | None:
    """Count the last rounds that did not improve; ``bests`` are the best label before the first and after each round.

    None before any round has brought a label.
    """
    import numpy as np

    sign = _sign(goal)
    values = [np.inf if best is None else sign * best for best in bests]
    if len(values) < 2 or not np.isfinite(values[-1]):
        return None
    improved = [i for i in range(1, len(values)) if values[i] < min(values[:i])]
    return len(values) - 1 - max(improved, default=0)


def _sign(goal: str) -> int:
    if goal not in {"min", "max"}:
        raise ValueError(f"unknown goal {goal!r}; use 'min' or 'max'")
    return 1 if goal == "min" else -1


def _budget(outlook: Outlook) -> StoppingCheck:
    spent = outlook.labels >= outlook.budget_labels
    words = f"{outlook.labels} of {outlook.budget_labels} labels of the budget are queried"
    return StoppingCheck("budget", spent, words)


def _core_hours(outlook: Outlook, rule: StoppingRule) -> StoppingCheck:
    spent = f"{outlook.core_hours:,.0f} core-hours are spent"
    if rule.budget_core_hours is None:
        return StoppingCheck("core_hours", None, spent if outlook.core_hours else "no cost in core-hours is known")
    words = f"{outlook.core_hours:,.0f} of {rule.budget_core_hours:,.0f} core-hours are spent"
    return StoppingCheck("core_hours", outlook.core_hours >= rule.budget_core_hours, words)


def _hits(outlook: Outlook, rule: StoppingRule) -> StoppingCheck:
    left = outlook.undiscovered_hits
    if left is None:
        return StoppingCheck("undiscovered_hits", None, "how many hits are left is known only with a model and a hit")
    expected = f"{left:.3g}" if left < 100 else f"{left:,.0f}"
    met = None if rule.undiscovered_hits is None else left < rule.undiscovered_hits
    limit = "" if met is None else f" (the limit is {rule.undiscovered_hits:g})"
    return StoppingCheck("undiscovered_hits", met, f"{expected} undiscovered hits are expected{limit}")


def _best(outlook: Outlook, rule: StoppingRule) -> StoppingCheck:
    if outlook.best_found is None:
        return StoppingCheck(
            "best_found", None, "whether the best is found is known only after a round with a model and labels"
        )
    met = None if rule.best_found is None else outlook.best_found >= rule.best_found
    return StoppingCheck("best_found", met, f"the best is found with a probability of {outlook.best_found:.0%}")


def _idle(outlook: Outlook, rule: StoppingRule) -> StoppingCheck:
    idle = outlook.idle_rounds
    if idle is None:
        return StoppingCheck("idle_rounds", None, "no round has brought a label yet")
    met = None if rule.idle_rounds is None else idle >= rule.idle_rounds
    last = "the last round improved the best" if idle == 0 else f"no improvement for {idle} round{'s'[: idle > 1]}"
    return StoppingCheck("idle_rounds", met, last)
