"""Will this calculation fail? The chance that a crystal's calculation ends with a label, learned from those that did.

Multiplied into an improvement it is the constrained expected improvement of Gardner et al., ICML 2014, and Gelbart,
Snoek, Adams, UAI 2014, arXiv:1403.5607; a classifier for unknown constraints as in Hickman et al., Digit. Discov. 4,
2104 (2025). Logistic regression, because failures are few and columns many. It is used only where it predicts held-out
calculations better than their failure rate, by log loss and by Brier score (both proper: Gneiting and Raftery, J. Am.
Stat. Assoc. 102, 359 (2007)).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from engine.exceptions import TrainingError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PRIOR_FAILURES, PRIOR_CALCULATIONS = 0.5, 5.0
"""What the failure rate is shrunk to: one in ten, worth five calculations."""
FEWEST = 5
"""Failures, and successes, below which no classifier is tried."""
FOLDS = 5
PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths of the quadratic penalty on standardised columns that are tried."""


@dataclass(frozen=True)
class FeasibilityScores:
    """How a predictor of failures does on n held-out calculations; smaller is better, both in natural units."""

    log_loss: float
    brier: float


@dataclass(frozen=True)
class Feasibility:
    """Probability that a calculation succeeds: one rate for all crystals, or a logistic model where it is better."""

    calculations: int
    failures: int
    rate: float
    """Shrunk failure rate: the answer for every crystal where there is no classifier."""
    intercept: float = 0.0
    weights: tuple[float, ...] = ()
    """Of each column as given, d; the standardisation is folded in. Empty: no classifier."""
    constant: FeasibilityScores | None = None
    """The rate, cross-validated; None with too few calculations to cross-validate."""
    classifier: FeasibilityScores | None = None
    """The classifier on the same folds, whether it was taken or not."""

    @classmethod
    def fit(cls, columns: NDArray[np.float32], failed: ArrayLike, seed: int = 0) -> Feasibility:
        """Learn from n calculations.

        Parameters
        ----------
        columns
            n x d, composition statistics or embeddings; any units.
        failed
            n booleans: True for a calculation that gave no label, for a reason that lies in the crystal.
        seed
            Of the folds.
        """
        x, y = np.asarray(columns, dtype=np.float64), np.asarray(failed, dtype=bool)
        if x.ndim != 2 or len(x) != len(y):
            raise TrainingError(f"expected n x d columns and n outcomes, received {x.shape} and {y.shape}")
        if not np.isfinite(x).all():
            raise TrainingError(f"{np.count_nonzero(~np.isfinite(x).all(axis=1))} of {len(x)} rows are not finite")
        n, failures = len(y), int(y.sum())
        without = cls(calculations=n, failures=failures, rate=_rate(y))
        if min(failures, n - failures) < FEWEST:
            return without
        folds = _folds(y, seed)
        constant = np.array([_rate(y[folds != k]) for k in range(FOLDS)])[folds]
        tried = {penalty: _held_out(x, y, folds, penalty) for penalty in PENALTIES}
        best = min(tried, key=lambda penalty: _losses(y, tried[penalty]).mean())
        compared = replace(without, constant=_scores(y, constant), classifier=_scores(y, tried[best]))
        if not _is_better(y, tried[best], constant):
            return compared
        intercept, weights = _logistic(x, y, best)
        return replace(compared, intercept=intercept, weights=tuple(weights.tolist()))

    @property
    def discriminates(self) -> bool:
        """Whether it tells crystals apart, or gives all the same rate."""
        return bool(self.weights)

    def success(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability that the calculation of each of N crystals (N x d) ends with a label, N."""
        if not self.discriminates:
            return np.full(len(columns), 1 - self.rate)
        if columns.shape[1] != len(self.weights):
            raise TrainingError(f"expected N x {len(self.weights)} columns as in training, received {columns.shape}")
        return expit(-(np.asarray(columns, dtype=np.float64) @ np.array(self.weights) + self.intercept))

    def __str__(self) -> str:
        """What is known of failures, in a sentence."""
        known = f"{self.failures} of {self.calculations} calculations failed"
        if self.constant is None or self.classifier is None:
            return f"{known}, too few to tell which will: {self.rate:.0%} for every crystal"
        losses = f"held-out log loss {self.classifier.log_loss:.3f}, of the rate alone {self.constant.log_loss:.3f}"
        if not self.discriminates:
            return f"{known}; a classifier is no better than the rate ({losses}): {self.rate:.0%} for every crystal"
        return f"{known}; a classifier tells which are likely to ({losses})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"weights": list(self.weights)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Feasibility:
        """Inverse of :meth:`to_dict`."""
        scores = {name: data[name] and FeasibilityScores(**data[name]) for name in ("constant", "classifier")}
        return cls(**data | scores | {"weights": tuple(data["weights"])})


def _rate(failed: NDArray[np.bool_]) -> float:
    return float((failed.sum() + PRIOR_FAILURES) / (len(failed) + PRIOR_CALCULATIONS))


def _folds(failed: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Fold of each row, failures spread evenly over them."""
    order = np.random.default_rng(seed).permutation(len(failed))
    order = order[np.argsort(failed[order], kind="stable")]
    folds = np.empty(len(failed), dtype=np.int64)
    folds[order] = np.arange(len(failed)) % FOLDS
    return folds


def _held_out(
    x: NDArray[np.float64], failed: NDArray[np.bool_], folds: NDArray[np.int64], penalty: float
) -> NDArray[np.float64]:
    """Probability of failure of each row from the rows of the other folds."""
    found = np.empty(len(x))
    for k in range(FOLDS):
        intercept, weights = _logistic(x[folds != k], failed[folds != k], penalty)
        found[folds == k] = expit(x[folds == k] @ weights + intercept)
    return found


def _logistic(x: NDArray[np.float64], failed: NDArray[np.bool_], penalty: float) -> tuple[float, NDArray[np.float64]]:
    """Intercept and weights (d) of the columns as given, fitted on standardised ones."""
    from sklearn.linear_model import LogisticRegression

    centre, scale = x.mean(axis=0), x.std(axis=0)
    varies = scale > 1e-9 * np.maximum(1.0, np.abs(centre))
    model = LogisticRegression(C=penalty, max_iter=1000)
    model.fit((x[:, varies] - centre[varies]) / scale[varies], failed)
    weights = np.zeros(x.shape[1])
    weights[varies] = model.coef_[0] / scale[varies]
    return float(model.intercept_[0] - weights @ centre), weights


def _losses(failed: NDArray[np.bool_], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Negative log likelihood of each outcome."""
    return -np.log(np.clip(np.where(failed, probability, 1 - probability), 1e-12, 1.0))


def _scores(failed: NDArray[np.bool_], probability: NDArray[np.float64]) -> FeasibilityScores:
    return FeasibilityScores(
        log_loss=float(_losses(failed, probability).mean()), brier=float(np.square(probability - failed).mean())
    )


def _is_better(failed: NDArray[np.bool_], classifier: NDArray[np.float64], constant: NDArray[np.float64]) -> bool:
    """Better by both scores, by log loss by more than its standard error: the penalty was chosen on the same rows."""
    gain = _losses(failed, constant) - _losses(failed, classifier)
    by_brier = _scores(failed, classifier).brier < _scores(failed, constant).brier
    return bool(by_brier and gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))
