"""Conformal intervals: coverage for any model where new rows are exchangeable with the labelled ones.

Split conformal: residuals of held-out rows give a quantile (Papadopoulos et al., ECML 2002; Lei, G'Sell,
Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018), sections 2.2 and 5.2 for residuals normalised by a
predicted spread); coverage is at least the level.

Rows chosen by an acquisition function are not exchangeable with the labels, so that the guarantee does not hold; the
prospective coverage of each round measures it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from engine.exceptions import TooFewLabelsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def split_quantile(residuals: ArrayLike, level: float, spread: ArrayLike | None = None) -> float:
    """Half-width of the split-conformal interval, or with ``spread`` the factor that makes spreads half-widths.

    Parameters
    ----------
    residuals
        ``true - mean`` of n rows that the model was not trained on, in learned units.
    level
        Coverage to guarantee for a new exchangeable row.
    spread
        Predicted standard deviations of the same rows; a new row's half-width is the result times its own.

    Raises
    ------
    TooFewLabelsError
        With fewer rows than ``level / (1 - level)``: only an infinite interval would hold then.
    """
    scores = _scores(residuals, spread)
    _require(len(scores), level)
    return float(np.sort(scores)[_rank(len(scores), level) - 1])


def adaptive_factor(
    rounds: Sequence[ArrayLike], level: float, *, prior: float = 1.0, prior_rows: float = 20.0, memory: float = 0.7
) -> float:
    """Factor for the predicted spreads of rows about to be chosen, learned from rows that earlier rounds chose.

    Chosen rows lie where the model is most optimistic, so that intervals calibrated on held-out labels are too narrow
    for them while labels are few, and often too wide later. As adaptive conformal inference (Gibbs and Candes, NeurIPS
    2021, arXiv:2106.00170) does, the width follows the coverage seen so far: it is the weighted quantile of the
    standardised errors of earlier choices, the most recent with the largest weight.

    Parameters
    ----------
    rounds
        ``(true - mean) / std`` of the rows that each earlier round chose, the oldest round first.
    level
        Coverage to reach.
    prior, prior_rows
        Factor before any round has been judged, and the number of imagined rows with normal errors of that size that
        the errors seen are pooled with.
    memory
        Weight of a round relative to the next one.

    Returns
    -------
    float
        What standard deviations are to be multiplied by, so that a central Gaussian interval has this coverage.
    """
    imagined = 101
    sizes = [prior * norm.ppf(0.5 + (np.arange(imagined) + 0.5) / (2 * imagined))]
    weights = [np.full(imagined, prior_rows / imagined)]
    for age, errors in enumerate(reversed(rounds)):
        size = _scores(errors, None)
        sizes.append(size)
        weights.append(np.full(len(size), memory**age))
    size, weight = np.concatenate(sizes), np.concatenate(weights)
    order = np.argsort(size, kind="stable")
    share = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    return float(np.interp(level, share, size[order]) / norm.ppf(0.5 + level / 2))


def minimum_count(level: float) -> int:
    """Fewest residuals whose finite-sample quantile exists: ``level / (1 - level)``, 9 for 90 %."""
    if not 0 < level < 1:
        raise ValueError(f"the level is {level}; choose one between 0 and 1")
    return max(1, math.ceil(level / (1 - level) - 1e-9))


def _rank(n: int, level: float) -> int:
    return math.ceil((n + 1) * level - 1e-9)  # 0.9 is not exact in binary


def _scores(residuals: ArrayLike, spread: ArrayLike | None) -> NDArray[np.float64]:
    size = np.abs(np.asarray(residuals, dtype=np.float64))
    if not np.isfinite(size).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(size))} of {len(size)} residuals are not finite; drop them")
    if spread is None:
        return size
    own = np.asarray(spread, dtype=np.float64)
    if own.shape != size.shape or not (own > 0).all():
        raise ValueError(f"expected {len(size)} positive standard deviations, received shape {own.shape}")
    return size / own


def _require(n: int, level: float) -> None:
    if n < minimum_count(level):
        raise TooFewLabelsError(
            f"{n} held-out residuals cannot guarantee a {level:.0%} interval, it takes {minimum_count(level)}; "
            "add labels or ask for a lower level"
        )
