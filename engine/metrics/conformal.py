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

from engine.exceptions import TooFewLabelsError

if TYPE_CHECKING:
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
