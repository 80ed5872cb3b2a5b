"""Intervals that cover by construction, whatever the model, where new rows are exchangeable with the labelled ones.

Split conformal: residuals of rows the model never saw give one quantile (Papadopoulos et al., ECML 2002; Lei, G'Sell,
Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018), sections 2.2 and 5.2 for residuals normalised by a
predicted spread); coverage is at least the level. CV+: every labelled row is held out by one member, which predicts the
new row too; coverage is at least ``2 level - 1`` and in practice the level, jackknife+ being one fold a row (Barber,
Candes, Ramdas, Tibshirani, Ann. Stat. 49, 486 (2021), arXiv:1905.02928, eqs. 5 and 11, theorems 1 and 4).

Rows that an acquisition function chose are not exchangeable with the labels: there the guarantee ends, and the
prospective coverage of each round tells what is left of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import TooFewLabelsError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_BLOCK = 2048


def split_quantile(residuals: ArrayLike, level: float, spread: ArrayLike | None = None) -> float:
    """Half-width of the split-conformal interval, or with ``spread`` the factor that makes spreads half-widths.

    Parameters
    ----------
    residuals
        ``true - mean`` of n rows that the model had no part of, in learned units.
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


def cross_interval(
    member_mean: NDArray[np.float64],
    residuals: ArrayLike,
    folds: NDArray[np.int64],
    level: float,
    *,
    member_spread: NDArray[np.float64] | None = None,
    spread: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CV+ interval of N new rows: lower and upper ends, each N, in learned units.

    Parameters
    ----------
    member_mean
        K x N predictions of the new rows; member k was trained without fold k.
    residuals, folds
        ``true - mean`` of n labelled rows, each from the member that had not seen it, and the number of its fold.
    level
        Nominal coverage. At least ``2 level - 1`` is guaranteed, less about the root of ``2 / n`` with few folds.
    member_spread, spread
        Standard deviations of the new rows (K x N) and of the labelled ones (n): residuals are then counted in them.

    Raises
    ------
    TooFewLabelsError
        With fewer rows than ``level / (1 - level)``.
    """
    if (member_spread is None) != (spread is None):
        raise ValueError("give the spread of both the labelled and the new rows, or of neither")
    scores, folds = _scores(residuals, spread), np.asarray(folds, dtype=np.int64)
    if len(folds) != len(scores) or folds.max() >= len(member_mean):
        raise ValueError(
            f"expected the fold of each of {len(scores)} residuals, below the {len(member_mean)} members, "
            f"received {len(folds)} up to {folds.max()}"
        )
    _require(len(scores), level)
    rank = _rank(len(scores), level) - 1
    lower, upper = np.empty((2, member_mean.shape[1]))
    for start in range(0, member_mean.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        centre = member_mean[:, part].T[:, folds]
        reach = scores if member_spread is None else scores * member_spread[:, part].T[:, folds]
        upper[part] = np.partition(centre + reach, rank, axis=1)[:, rank]
        lower[part] = -np.partition(reach - centre, rank, axis=1)[:, rank]
    return lower, upper


def minimum_count(level: float) -> int:
    """Fewest residuals whose finite-sample quantile exists: ``level / (1 - level)``, 9 for 90 %."""
    if not 0 < level < 1:
        raise ValueError(f"the level is {level}; choose one between 0 and 1")
    return max(1, math.ceil(level / (1 - level) - 1e-9))


def _rank(n: int, level: float) -> int:
    return math.ceil((n + 1) * level - 1e-9)  # .9 is not exact in binary


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
