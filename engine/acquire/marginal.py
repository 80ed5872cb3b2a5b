"""Rules that rank a row by its mean and standard deviation alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from scipy.special import erfcx
from scipy.stats import norm

from engine.acquire.sequential import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.acquire.objectives import Objective
    from engine.acquire.pool import CandidatePool, Rows


class Rule(Protocol):
    """A value of each row from the mean and standard deviation of its utility, to be maximised."""

    @property
    def kind(self) -> Kind:
        """How factors (feasibility, cost, diversity) enter the value."""

    def __call__(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
        """Value of n rows."""


@dataclass(frozen=True)
class ConfidenceBound:
    """``mean + sqrt(beta) std``; with beta 0 the mean."""

    beta: float
    kind: ClassVar[Kind] = Kind.FREE

    def __call__(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
        """Value of n rows."""
        return mean + np.sqrt(self.beta) * std if self.beta else mean


@dataclass(frozen=True)
class ExpectedExcess:
    """Natural logarithm of the expected improvement beyond a threshold of the utility."""

    threshold: float
    kind: ClassVar[Kind] = Kind.LOG

    def __call__(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
        """Value of n rows; -inf where both spread and excess are zero."""
        over = mean - self.threshold
        uncertain = std > 0
        spread = np.where(uncertain, std, 1.0)
        with np.errstate(divide="ignore"):
            certain = np.log(np.maximum(over, 0.0))
        return np.where(uncertain, np.log(spread) + log_expected_excess(over / spread), certain)

    @classmethod
    def of_best(cls, share: float, pool: CandidatePool, others: NDArray[np.int64]) -> ExpectedExcess:
        """Beyond the predicted bound of the best ``share`` of the candidates and ``others`` (labelled, pending)."""
        utilities = [pool.marginal(0.0)]
        if len(others):
            rows = pool.read(others, drawn=False)
            utilities.append(pool.objective.moments(rows.mean, rows.std)[0])
        return cls(float(np.quantile(np.concatenate(utilities), 1 - share)))

    @classmethod
    def of_rows(cls, share: float, pool: CandidatePool, rows: NDArray[np.int64]) -> ExpectedExcess:
        """Beyond the predicted bound of the best ``share`` of these rows of the pool."""
        read = pool.read(rows, drawn=False, target=False)
        return cls(float(np.quantile(pool.objective.moments(read.mean, read.std)[0], 1 - share)))


def log_expected_excess(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log(phi(z) + z Phi(z))``, the expected excess of a standard normal over ``-z``, without loss for small values.

    Ament et al., NeurIPS 2023, arXiv:2310.20708, eq. 9.
    """
    z = np.asarray(z, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        near = np.log(norm.pdf(z) + z * norm.cdf(z))
        size = -np.minimum(z, -1.0)
        tail = np.where(size < 1e4, np.log1p(-np.sqrt(np.pi / 2) * size * erfcx(size / np.sqrt(2))), -2 * np.log(size))
    return np.where(z > -1, near, norm.logpdf(size) + tail)


class MarginalRule:
    """A rule as an acquisition function that does not depend on the chosen rows."""

    needs_draws = False
    keeps_bounds = True
    only_orders = False

    def __init__(self, rule: Rule, objective: Objective):
        self.rule, self.objective, self.kind = rule, objective, rule.kind

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Return the values themselves."""
        return self.rule(*pool.moments[0])

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Return the values themselves."""
        return self.rule(*self.objective.moments(rows.mean, rows.std))

    def take(self, rows: Rows) -> None:
        """Do nothing."""

    def nil(self) -> float:
        """Every value counts."""
        return -np.inf

    def value(self, gain: float) -> float:
        """Return the value itself."""
        return gain
